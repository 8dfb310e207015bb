"""Readers of text in Python against mutants of good files: each is read, or refused by an error of ours that names the file.

`python -m tests.mutants [--inputs N] [--seed S] [--report FILE] [TARGET ...]` tries N mutants of each target. It prints every
fault once, with the smallest mutant that showed it. Where there is a writer, what was read is written and read again, and must be
the same.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rankdistill.errors import RankDistillError
from rankdistill.formats.kilt import read_kilt, write_kilt
from rankdistill.formats.linked_texts import read_linked_texts, write_linked_texts
from rankdistill.formats.links import read_links
from rankdistill.formats.mentions import MentionTable
from rankdistill.formats.queries import read_queries
from rankdistill.formats.texts import read_lines
from rankdistill.formats.titles import read_titles
from rankdistill.formats.trec import read_qrels, read_run, write_qrels, write_run
from rankdistill.formats.triples import read_triples, write_triples

Read = Callable[[Path], Any]
Write = Callable[[Path, Any], Any]


class Target(NamedTuple):
    """A reader, a good file, and a writer of what was read."""

    read: Read
    content: bytes
    write: Write | None = None
    suffix: str = ""


def _beir(path: Path) -> Any:
    from rankdistill.formats.beir import jsonl

    texts = read_lines(path, jsonl, cache_dir=path.parent / "cache")
    return list(texts.pairs())


def _lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


_KILT = {"id": "1", "input": "a x b", "output": [{"answer": "X", "provenance": [{"title": "X", "bleu_score": 0.7}]}],
         "meta": {"left_context": "a", "mention": "x", "right_context": "b"}}  # fmt: skip
_LINKED = {"id": "1", "text": "cat runs", "mentions": [{"start": 0, "end": 3, "title": "Cat"}]}
TARGETS = {
    "runs": Target(read_run, b"q1 Q0 d1 1 2.5 x\nq1 Q0 d2 2 1e-3 x\nq2 Q0 d1 1 -7 x\n", write_run),
    "runs of three columns": Target(read_run, b"1\t10\t1\n1\t11\t2\n2\t10\t1\n", write_run),
    "qrels": Target(read_qrels, b"q1 0 d1 1\nq1 0 d2 0\nq2 0 d1 3\n", write_qrels),
    "qrels of BEIR": Target(read_qrels, b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\n",
                            lambda path, qrels: write_qrels(path, qrels, "beir"), ".tsv"),
    "triples": Target(read_triples, b"q1\td1\td2\nq2\td3\td4\n", write_triples, ".tsv"),
    "documents": Target(_beir, _lines({"_id": "d1", "title": "A", "text": "b"}, {"_id": "d2", "text": "c"}), None, ".jsonl"),
    "queries": Target(read_queries, _lines({"_id": "q1", "text": "b"}, {"_id": "q2", "text": "c"}), None, ".jsonl"),
    "KILT": Target(lambda path: list(read_kilt(path)), _lines(_KILT, _KILT | {"id": "2"}), write_kilt, ".jsonl"),
    "linked texts": Target(lambda path: list(read_linked_texts(path)), _lines(_LINKED, _LINKED | {"id": "2"}),
                           write_linked_texts, ".jsonl"),
    "links": Target(lambda path: list(read_links(path)), _lines(_LINKED), None, ".jsonl"),
    "mentions": Target(lambda path: MentionTable.read(path)._counts, b"cat\tCat\t3\ncat\tCat (band)\t1\nhat\tHat\t2\n",
                       lambda path, counts: MentionTable(counts).write(path), ".tsv"),
    "titles": Target(read_titles, b"1\tCat\n2\tHat\n7\tCat (band)\n"),
    "runs, gzip": Target(read_run, gzip.compress(b"q1 Q0 d1 1 2.5 x\nq1 Q0 d2 2 1e-3 x\n", mtime=0), None, ".gz"),
    "linked texts, gzip": Target(lambda path: list(read_linked_texts(path)), gzip.compress(_lines(_LINKED), mtime=0), None, ".gz"),
}  # fmt: skip
# What line readers, JSON and numbers stumble on.
WORDS = [
    *(
        b"\t",
        b" ",
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        b"\x1c",
        b"\x85",
        b"\xc2\xa0",
        b"\xc3\xa9",
    ),
    *(
        b'"',
        b"\\",
        b"\\ud800",
        b"{",
        b"}",
        b"[" * 200,
        b"[" * 200_000,
        b"]",
        b"null",
        b"true",
        b'"id": 1,',
        b'"_id": null,',
    ),
    *(b"NaN", b"1e999", b"-1", b"1" * 5000, b"0x1", b"1_0", b"1.0", b"9223372036854775808"),
]


def mutant(draw: random.Random, content: bytes) -> bytes:
    """`content` after one to three edits."""
    for _ in range(draw.randint(1, 3)):
        at = draw.randint(0, len(content))
        end = at + draw.choice([0, 1, 1, 2, 5, 20])
        match draw.randrange(6):
            case 0:
                content = content[:at] + draw.choice(WORDS) + content[end:]
            case 1:
                content = content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
            case 2:
                content = content[:at] + content[end:]
            case 3:
                content = content[:end] + content[at:]
            case 4 if draw.random() < 0.3:
                content = content[:at]
            case _:
                word = draw.choice(content.split() or [b""])
                content = content.replace(word, draw.choice(WORDS), 1)
    return content


def fault(target: Target, path: Path, again: Path) -> str | None:
    """What is wrong with how a file is read, in a line that is the same for the same fault."""
    try:
        found = target.read(path)
    except RankDistillError as error:
        return None if error.path else f"an error without a path: {type(error).__name__}: {error.expected}"
    except BaseException as error:
        return _where(error)
    if target.write is None:
        return None
    try:
        target.write(again, found)
        read_again = target.read(again)
    except BaseException as error:
        return f"what was read can't be written and read again: {_where(error)}"
    return None if read_again == found else "what was read is another when written and read again"


def _where(error: BaseException) -> str:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "rankdistill" in frame.filename]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "outside"
    return f"{type(error).__name__} in {place}"


def try_target(target: Target, folder: Path, inputs: int, seed: int) -> dict[str, bytes]:
    """The faults among so many mutants, each with the smallest one that showed it."""
    draw, faults = random.Random(seed), dict[str, bytes]()
    path, again = folder / f"x{target.suffix}", folder / f"again{target.suffix}"
    path.write_bytes(target.content)
    if said := fault(target, path, again):
        raise AssertionError(f"the good file: {said}")
    for _ in range(inputs):
        content = mutant(draw, target.content)
        path.write_bytes(content)
        said = fault(target, path, again)
        if said and len(content) < len(faults.get(said, content + b"x")):
            faults[said] = content
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    num_faults = 0
    for name, target in TARGETS.items():
        if options.targets and name not in options.targets:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            faults = try_target(target, Path(folder), options.inputs, options.seed)
        seconds, num_faults = time.monotonic() - started, num_faults + len(faults)
        print(f"{name}: {options.inputs:,} inputs in {seconds:.1f} s, {len(faults)} faults", flush=True)
        for said, content in faults.items():
            print(f"    {said}\n        {content[:120]!r}{'…' if len(content) > 120 else ''}")
        if options.report:
            line = {"target": name, "first_seed": options.seed, "seeds": options.inputs, "inputs": options.inputs}
            with options.report.open("a") as file:
                file.write(json.dumps(line | {"seconds": round(seconds, 1), "faults": len(faults)}) + "\n")
    return int(num_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
