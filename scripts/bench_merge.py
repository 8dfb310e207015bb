"""Time and memory of an ensemble of three teachers' files: ours against the plain way, a dictionary a file.

    python scripts/bench_merge.py --rows 1000000 5000000 --json bench_merge.json

Each size and contender runs in a process of its own; memory is its peak (VmHWM), imports included. The three generated files hold
the same triples, each in an order of its own, with ids as in MS MARCO: one positive for each of the rows / 100 queries.
"""

from __future__ import annotations

import argparse
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

TEACHERS = 3


def generate(folder: Path, num_rows: int) -> list[Path]:
    """Scores near those of the published cross-encoders."""
    import polars as pl

    rng = np.random.default_rng(0)
    num_queries = max(1, num_rows // 100)
    queries = rng.choice(1_185_869, num_queries, replace=False)
    of_query = rng.integers(0, num_queries, num_rows)
    positives = rng.integers(0, 8_841_823, num_queries)[of_query]
    negatives = (positives + rng.integers(1, 8_841_823, num_rows)) % 8_841_823  # another doc than the positive
    paths = []
    for teacher in range(TEACHERS):
        noise = np.random.default_rng(teacher + 1)
        order = noise.permutation(num_rows)
        columns = {
            "positive_score": noise.normal(6, 3, num_queries).astype(np.float32)[of_query][order],
            "negative_score": noise.normal(-4, 4, num_rows).astype(np.float32)[order],
            "query": queries[of_query][order],
            "positive": positives[order],
            "negative": negatives[order],
        }
        paths.append(folder / f"teacher{teacher}.tsv")
        pl.DataFrame(columns).write_csv(paths[-1], include_header=False, separator="\t")
    return paths


def ours(paths: list[Path], output: Path, normalize: Any) -> None:
    """`rankdistill scores merge`."""
    from rankdistill.data.scores_merge import merge_scores

    merge_scores(paths, output, normalize=normalize, progress=False)


def plain(paths: list[Path], output: Path, normalize: Any) -> None:
    """A dictionary of pair scores for each file, the mean over them; everything in memory."""
    dictionaries = []
    for path in paths:
        scores: dict[tuple[str, str], float] = {}
        with path.open() as lines:
            for line in lines:
                positive_score, negative_score, query, positive, negative = line.rstrip("\n").split("\t")
                scores[query, positive] = float(positive_score)
                scores[query, negative] = float(negative_score)
        dictionaries.append(scores)
    with paths[0].open() as lines, output.open("w") as file:
        for line in lines:
            _, _, query, positive, negative = line.rstrip("\n").split("\t")
            means = [sum(scores[query, doc] for scores in dictionaries) / TEACHERS for doc in (positive, negative)]
            file.write(f"{means[0]}\t{means[1]}\t{query}\t{positive}\t{negative}\n")


CONTENDERS: dict[str, tuple[Callable[[list[Path], Path, Any], None], str]] = {
    "rankdistill": (ours, "none"),
    "rankdistill, zscore": (ours, "zscore"),
    "rankdistill, rank": (ours, "rank"),
    "a dictionary a file": (plain, "none"),
}


def peak_mb() -> float:
    """This process's own peak."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def measure(name: str, paths: list[Path], output: Path) -> dict[str, float]:
    """Runs one contender here."""
    function, normalize = CONTENDERS[name]
    start = time.perf_counter()
    function(paths, output, normalize)
    seconds, cpu = time.perf_counter() - start, os.times()
    return {"seconds": seconds, "cpu_seconds": cpu.user + cpu.system, "peak_rss_mb": peak_mb()}


def run_all(sizes: list[int], plain_rows: int, folder: Path | None) -> list[dict[str, Any]]:
    """Every size and contender, but the plain way only up to `plain_rows`."""
    results = []
    for num_rows in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            paths = generate(Path(inside), num_rows)
            for name in CONTENDERS:
                if CONTENDERS[name][0] is plain and num_rows > plain_rows:
                    continue
                output = Path(inside) / "merged.tsv"
                command = [sys.executable, __file__, "--contender", name, "--files", *map(str, [*paths, output])]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                results.append(
                    {"rows": num_rows, "name": name, "rows_per_second": num_rows / found["seconds"], **found}
                )
    return results


def main() -> None:
    """Generates, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000], help="rows of each file")
    parser.add_argument("--plain-rows", type=int, default=1_000_000, help="the most rows for the plain way")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--folder", type=Path, help="where the files are generated (about 140 bytes a row)")
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(measure(options.contender, options.files[:-1], options.files[-1])))
        return
    results = run_all(options.rows, options.plain_rows, options.folder)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| rows x 3 | | seconds | CPU seconds | M rows/s | peak RSS, MB |\n|--:|---|--:|--:|--:|--:|")
    for row in results:
        times = f"{row['seconds']:.1f} | {row['cpu_seconds']:.1f} | {row['rows_per_second'] / 1e6:.2f}"
        print(f"| {row['rows']:,} | {row['name']} | {times} | {row['peak_rss_mb']:.0f} |")
    if options.json:
        facts = {"cores": os.cpu_count(), "load_1min": os.getloadavg()[0], "python": platform.python_version()}
        options.json.write_text(
            json.dumps({**facts, "command": " ".join(sys.argv), "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
