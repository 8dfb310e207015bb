"""Tries generated and damaged inputs on every parser and store, and adds the counts to eval/results/fuzz.json.

`python scripts/fuzz.py [--seeds N] [--inputs N] [--tests NAME ...]`: N seeds of each Rust target, N inputs of each Python target
(0: none); --tests names files of rust_core/tests. A failing target prints the seed that repeats it and keeps its old counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "eval" / "results" / "fuzz.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--inputs", type=int, default=5_000)
    parser.add_argument("--tests", nargs="*", default=["score_files", "stores", "trie"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        codes = []
        if options.seeds and options.tests:
            tests = [word for name in options.tests for word in ("--test", name)]
            command = [
                "cargo",
                "test",
                "--profile",
                "fuzz",
                "--locked",
                "--no-fail-fast",
                "-p",
                "rankdistill-core",
                *tests,
            ]
            settings = {"RANKDISTILL_FUZZ_CASES": str(options.seeds), "RANKDISTILL_FUZZ_REPORT": str(report)}
            command += ["--", "--nocapture", "--test-threads=1"]
            codes.append(subprocess.run(command, cwd=ROOT, env=os.environ | settings).returncode)
        if options.inputs:
            command = [sys.executable, "-m", "tests.mutants", "--inputs", str(options.inputs), "--report", str(report)]
            codes.append(subprocess.run(command, cwd=ROOT).returncode)
        lines = [json.loads(line) for line in report.read_text().splitlines()] if report.is_file() else []
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"targets": []}
    targets = {line["target"]: line for line in [*known["targets"], *lines]}
    facts = {"command": "python scripts/fuzz.py", "targets": sorted(targets.values(), key=lambda line: line["target"])}
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
