"""Renders eval/results/fuzz.json and eval/results/kill.json into docs/robustness.md. No number in that page is typed by hand."""

from __future__ import annotations

import json
from typing import Any

from render_experiments import RESULTS, ROOT

# What each target is, by its name in the JSON, and how wrong answers are found.
TARGETS = {
    "score files": (
        "score files of every format, plain, gzip and zstd",
        "a reader without a fast way; a reader that starts again",
    ),
    "damaged archives": ("gzip and zstd archives with changed bytes", "the rows of what the decoder gives"),
    "any bytes as scores": ("any bytes as a score file", "refused, or read"),
    "written score files": ("score files that were written", "the rows that were written"),
    "changed score stores": ("score stores with changed, cut or added bytes", "the store as it was, or a refusal"),
    "crafted score stores": ("score stores changed with all checksums made right", "no harm"),
    "changed token stores": ("token stores with changed, cut or added bytes", "the store as it was, or a refusal"),
    "crafted token stores": ("token stores changed with all checksums made right", "no harm"),
    "torn token builds": ("unfinished token stores with changed bytes", "the bytes of an undisturbed build"),
    "tables of ids": ("tables of ids with changed ends", "every id at its row, or a refusal"),
    "build": ("tries of generated sequences", "an ordered map of sets"),
    "updates": ("tries with additions and removals", "an ordered map of sets; the same trie built anew"),
    "states": ("steps of beams", "walks from the root"),
    "outputs": ("bit masks, lists and logits of what is allowed", "each other"),
    "changed files": ("trie files with changed or cut bytes", "the trie as it was, or a refusal"),
    "crafted files": ("trie files changed with all checksums made right", "a trie built of its sequences, or no harm"),
    "any bytes": ("any bytes as a trie file", "no harm"),
}
PYTHON = "what was read, written and read again"
INTRO = """# Robustness

What was tried to break the readers and writers of rankdistill, and what held. Rendered by `make results` from
`eval/results/fuzz.json` (written by `make fuzz`) and `eval/results/kill.json` (written by `make kill`).

## Generated and damaged inputs

A target makes inputs from seeds, so that every input can be made again. An input fails when the process panics or raises an error
of another kind than ours, takes a minute, holds more than 64 MiB at once, or gives another answer than the twin beside it. "No
harm" means that any answer will do for a file made to deceive, but not a panic, a hang or an allocation beyond the limit.
"""
KILLS = """
## Commands that are killed

Each command runs in a process whose system calls that write below the output folder are handed to a supervisor (seccomp), which
counts them and kills the process with SIGKILL before one of them. Then the result is looked at, and the command runs again.

- **old, new, none**: the earlier result, byte by byte, the new one, or none (only where there was none before).
- **refused**: part of the result is there, and loading it is an error of ours that says so.
- **faults**: a result that loads and is neither (mixture), an error of another kind (traceback), an earlier result that is gone
  (lost), running again fails (no way on), or makes another result than an undisturbed run (other bytes).

A kill ends the process, not the machine: what a power cut leaves depends on the file system, too.
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; all columns but the first are numbers."""
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def fuzz(facts: dict[str, Any]) -> str:
    """The table of targets."""
    rows = []
    for line in sorted(facts["targets"], key=lambda line: [*TARGETS, line["target"]].index(line["target"])):
        what, twin = TARGETS.get(line["target"], (line["target"], PYTHON))
        rows.append([what, twin, f"{line['inputs']:,}", f"{line['seconds']:,.0f}", str(line.get("faults", 0))])
    total = sum(line["inputs"] for line in facts["targets"])
    seconds = sum(line["seconds"] for line in facts["targets"])
    faults = sum(line.get("faults", 0) for line in facts["targets"])
    rows.append(["**all**", "", f"**{total:,}**", f"{seconds:,.0f}", str(faults)])
    return table(["inputs", "compared with", "number", "seconds", "faults"], rows)


def kills(facts: dict[str, Any]) -> str:
    """The table of commands."""
    rows = []
    for line in facts["commands"]:
        states = line["states"]
        counts = [str(states.get(state, 0) or "") for state in ("old", "new", "absent", "refused")]
        faults = ", ".join(f"{fault['count']} {kind}" for kind, fault in line["faults"].items())
        rows.append([line["command"], str(line["writing_calls"]), str(line["kills"]), *counts, faults or "0"])
    command = f"`{facts['command']}`, {facts['seconds']:,} s.\n"
    return f"{command}\n" + table(["command", "calls", "kills", "old", "new", "none", "refused", "faults"], rows)


def main() -> None:
    parts = [INTRO, fuzz(json.loads((RESULTS / "fuzz.json").read_text(encoding="utf-8")))]
    parts += [KILLS, kills(json.loads((RESULTS / "kill.json").read_text(encoding="utf-8")))]
    (ROOT / "docs" / "robustness.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
