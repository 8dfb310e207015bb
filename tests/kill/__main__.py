"""Kills every command at its writing calls, and prints a table.

`python -m tests.kill [--most N] [--cheap] [--output FILE] [NAME ...]`: N kills a command (0: before each of its calls), of commands
whose names hold one of NAMEs, or that need no model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

from tests.kill.cases import CASES, CHEAP, make_collection, make_models
from tests.kill.harness import FAULTS, Case, Verdict, try_case
from tests.kill.supervisor import forked, is_supported


def import_all(is_cheap: bool) -> None:
    """Children inherit what is imported, so that hundreds of them start at once."""
    import rankdistill.data.scores_clean
    import rankdistill.data.scores_convert
    import rankdistill.data.scores_merge

    if is_cheap:
        return
    import faiss  # noqa: F401
    import sentence_transformers  # noqa: F401
    import torch

    import rankdistill.generation.commands
    import rankdistill.generation.entity_commands
    import rankdistill.retrieval.commands
    import rankdistill.retrieval.score
    import rankdistill.training.genre
    import rankdistill.training.pretrain
    import rankdistill.training.stages
    import rankdistill.training.teacher  # noqa: F401

    torch.set_num_threads(1)


def row(case: Case, verdict: Verdict) -> dict[str, object]:
    """A line of the table, for JSON."""
    faults = {
        kind: {"count": len(calls), "before": sorted({call.splitlines()[0] for call in calls})[:3]}
        for kind, calls in verdict.faults.items()
    }
    return {
        "command": case.name,
        "over_an_older_result": bool(case.old),
        "writing_calls": verdict.num_calls,
        "kills": verdict.num_kills,
        "states": dict(sorted(verdict.states.items())),
        "faults": faults,
        "left_over": len(verdict.left_over),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--most", type=int, default=60)
    parser.add_argument("--cheap", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if not is_supported():
        print("needs Linux on x86_64, and leave to filter system calls (seccomp)", file=sys.stderr)
        return 2
    import_all(options.cheap)
    started, rows, num_failed = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        folder = Path(name).resolve()
        os.environ["RANKDISTILL_CACHE"] = str(folder / "cache")
        inputs, log = folder / "inputs", folder / "log.txt"
        inputs.mkdir()

        def make() -> int:
            make_collection(inputs)
            if not options.cheap:
                make_models(inputs)
            return 0

        if forked(make, log):
            print(log.read_text(), file=sys.stderr)
            return 1
        for number, case in enumerate(CHEAP if options.cheap else CASES):
            if options.names and not any(word in case.name for word in options.names):
                continue
            try:
                verdict = try_case(case, inputs, folder / str(number), options.most or None)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                num_failed += 1
                continue
            rows.append(row(case, verdict))
            faults = ", ".join(f"{len(calls)} {kind}" for kind, calls in verdict.faults.items()) or "none"
            print(
                f"{case.name:32} {verdict.num_calls:5} calls {verdict.num_kills:4} kills  faults: {faults}", flush=True
            )
            for kind in FAULTS:
                for call, count in Counter(verdict.faults.get(kind, [])).most_common(3):
                    print(f"{'':34}{kind} ({count}) before {call}")
            for left in sorted(verdict.left_over)[:3]:
                print(f"{'':34}left over: {left}")
    if options.output:
        seconds = round(time.monotonic() - started)
        facts = {"command": f"python -m tests.kill --most {options.most}", "seconds": seconds, "commands": rows}
        options.output.write_text(json.dumps(facts, indent=1) + "\n")
    return int(num_failed or any(found["faults"] for found in rows))


if __name__ == "__main__":
    sys.exit(main())
