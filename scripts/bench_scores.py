"""Reading speed and memory of teacher score files: ours against polars, pandas, pyarrow, HF datasets and lightning-ir.

    python scripts/bench_scores.py --rows 5000000 --json bench_scores.json

All read the same generated file in one run, each in a process of its own. Memory is the process's peak (VmHWM), imports included.
Who keeps columns in memory is measured with that; who streams is not asked to keep them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ["positive_score", "negative_score", "query", "positive", "negative"]


def generate(path: Path, num_rows: int) -> None:
    """Ids as in MS MARCO (400,000 training queries, 8.8 M passages); scores near those of the published cross-encoders."""
    import polars as pl

    rng = np.random.default_rng(0)
    queries = np.sort(rng.choice(1_185_869, 400_000, replace=False))
    positives, others = rng.integers(0, 8_841_823, num_rows), rng.integers(1, 8_841_823, num_rows)
    columns = {
        NAMES[0]: rng.normal(6, 3, num_rows).astype(np.float32),
        NAMES[1]: rng.normal(-4, 4, num_rows).astype(np.float32),
        NAMES[2]: queries[rng.integers(0, len(queries), num_rows)],
        NAMES[3]: positives,
        NAMES[4]: (positives + others) % 8_841_823,  # another doc than the positive
    }
    pl.DataFrame(columns).write_csv(path, include_header=False, separator="\t")


def ours(path: Path) -> int:
    """Streams blocks of columns."""
    from rankdistill.formats.scores import read_scores

    return sum(len(block.scores) for block in read_scores(path))


def ours_compile(path: Path) -> int:
    """Writes the store."""
    from rankdistill.data.scores import compile_scores

    return compile_scores(path, path.with_suffix(".rdscores"), progress=False).num_rows


def ours_shuffled(path: Path) -> int:
    """One epoch in globally shuffled order, in blocks, from the store."""
    from rankdistill.data.scores import ScoreStore

    store = ScoreStore(path.with_suffix(".rdscores"))
    return sum(len(block.scores) for block in store.shuffled_blocks(seed=0, epoch=0))


def polars_eager(path: Path) -> int:
    """Typed columns, eagerly: its fastest way."""
    import polars as pl

    schema = dict(zip(NAMES, [pl.Float32, pl.Float32, pl.Int64, pl.Int64, pl.Int64], strict=True))
    return len(pl.read_csv(path, has_header=False, separator="\t", schema=schema))


def polars_batches(path: Path) -> int:
    """Typed columns, in batches: its way that needs less memory."""
    import polars as pl

    schema = dict(zip(NAMES, [pl.Float32, pl.Float32, pl.Int64, pl.Int64, pl.Int64], strict=True))
    scan = pl.scan_csv(path, has_header=False, separator="\t", schema=schema)
    return sum(len(batch) for batch in scan.collect_batches(chunk_size=65536))


def pandas_c(path: Path) -> int:
    """Typed columns, the C parser."""
    import pandas as pd

    types = dict(zip(NAMES, ["float32", "float32", "int64", "int64", "int64"], strict=True))
    return len(pd.read_csv(path, sep="\t", header=None, names=NAMES, dtype=types, engine="c"))


def pyarrow_csv(path: Path) -> int:
    """Typed columns."""
    import pyarrow as pa
    from pyarrow import csv

    types = dict(zip(NAMES, [pa.float32(), pa.float32(), pa.int64(), pa.int64(), pa.int64()], strict=True))
    return int(
        csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=NAMES),
            parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=csv.ConvertOptions(column_types=types),
        ).num_rows
    )


def hf_datasets(path: Path) -> int:
    """`load_dataset("csv")` into an empty cache, as on first use."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        options: dict[str, Any] = {"sep": "\t", "header": None, "names": NAMES}
        return len(load_dataset("csv", data_files=str(path), split="train", cache_dir=cache, **options))


def lightning_ir(path: Path) -> int:
    """Its own iterator of docpairs, loaded from its file, since its package wants all of lightning."""
    package = importlib.util.find_spec("lightning_ir")
    if package is None or package.origin is None:
        raise ImportError("lightning_ir")
    file = Path(package.origin).parent / "data" / "external_datasets" / "ir_datasets_utils.py"
    spec = importlib.util.spec_from_file_location("lightning_ir_reader", file)
    if spec is None or spec.loader is None:
        raise ImportError("lightning_ir")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Download:
        def path(self) -> Path:
            return path

        def stream(self) -> Any:
            return path.open("rb")

    return sum(1 for _ in module.ScoredDocTuples(Download()).docpairs_iter())


CONTENDERS: dict[str, tuple[Callable[[Path], int], int]] = {
    # name: (what it does, rounds)
    "rankdistill, read": (ours, 3),
    "polars, read_csv": (polars_eager, 3),
    "polars, collect_batches": (polars_batches, 3),
    "pandas, read_csv": (pandas_c, 3),
    "pyarrow, csv": (pyarrow_csv, 3),
    "HF datasets, first load": (hf_datasets, 1),
    "lightning-ir, docpairs": (lightning_ir, 1),
    "rankdistill, compile": (ours_compile, 1),
    "rankdistill, shuffled epoch": (ours_shuffled, 3),
}


def peak_mb() -> float:
    """This process's own peak; getrusage would count the parent's before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(name: str, path: Path, num_rows: int) -> dict[str, Any]:
    """Runs one contender here: twice, unless it has one round only."""
    function, rounds = CONTENDERS[name]
    seconds = []
    for _ in range(min(rounds, 2)):
        start = time.perf_counter()
        found = function(path)
        seconds.append(time.perf_counter() - start)
        if found != num_rows:
            raise SystemExit(f"{name}: expected {num_rows} rows, found {found}")
    return {"seconds": seconds, "peak_rss_mb": peak_mb()}


def run_all(path: Path, num_rows: int) -> list[dict[str, Any]]:
    """Rounds over all contenders, each time in a process of its own; one that can't run is named with its reason.

    The fastest time counts. Rounds instead of repeats, so that a busy minute of the machine hits all alike.
    """
    results: dict[str, dict[str, Any]] = {
        name: {"name": name, "seconds": [], "peak_rss_mb": 0.0} for name in CONTENDERS
    }
    for number in range(max(rounds for _, rounds in CONTENDERS.values())):
        for name, (_, rounds) in CONTENDERS.items():
            result = results[name]
            if number >= rounds or "failed" in result:
                continue
            command = [sys.executable, __file__, "--contender", name, "--file", str(path), "--rows", str(num_rows)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                result["failed"] = done.stderr.strip().rpartition("\n")[2] or f"exit {done.returncode}"
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            result["seconds"] += found["seconds"]
            result["peak_rss_mb"] = max(result["peak_rss_mb"], found["peak_rss_mb"])
            result["rows_per_second"] = num_rows / min(result["seconds"])
    return list(results.values())


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, relative to polars' faster way."""
    speeds = {row["name"]: row.get("rows_per_second", 0.0) for row in results}
    polars = max(speeds["polars, read_csv"], speeds["polars, collect_batches"])
    lines = ["| | M rows/s | x polars | peak RSS, MB |", "|---|--:|--:|--:|"]
    for row in results:
        if "failed" in row:
            lines.append(f"| {row['name']} | failed: {row['failed']} | | |")
        else:
            speed = row["rows_per_second"]
            share = f"{speed / polars:.2f}" if polars else ""
            lines.append(f"| {row['name']} | {speed / 1e6:.2f} | {share} | {row['peak_rss_mb']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Generates, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the generated file")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument(
        "--folder", type=Path, help="where the file is generated (about 45 bytes a row); default: a temporary one"
    )
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(measure(options.contender, options.file, options.rows)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "scores.tsv"
        generate(path, options.rows)
        results = run_all(path, options.rows)
        size = path.stat().st_size
    print(f"{options.rows:,} rows, {size / 1e6:,.0f} MB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print(table(results))
    if options.json:
        facts = {
            "rows": options.rows,
            "bytes": size,
            "cores": os.cpu_count(),
            "load_1min": os.getloadavg()[0],
            "python": platform.python_version(),
            "command": " ".join(sys.argv),
            "results": results,
        }
        options.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
