"""Several collections as one: for training on tasks side by side, as text-to-code and code-to-code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rankdistill.errors import NothingDoneError
from rankdistill.formats.collection import Collection, open_collection
from rankdistill.formats.writing import claim, locked, mark, replacing, replacing_folder
from rankdistill.options.scoring import JoinOptions
from rankdistill.records import Qrels

__all__ = ["Joined", "join_collections", "run_join"]

_KIND = "joined collection"


class Joined(NamedTuple):
    """What was written.

    Attributes:
        num_docs: docs of each collection, by its name.
        num_judged: queries of each in the qrels of the balanced split, by its name.
    """

    num_docs: dict[str, int]
    num_judged: dict[str, int]


def join_collections(
    collections: Mapping[str, Collection], folder: Path, *, balance: str | None = None, seed: int = 42
) -> Joined:
    """Writes a BEIR folder of all docs, queries and qrels, whose ids are `NAME:ID`; a split is the splits of that name together.

    Args:
        collections: by the names that their ids get.
        folder: where to write.
        balance: of this split, take as many judged queries of each collection as the one with the fewest has, by lot; that makes a
            50/50 mixture of two. Those left out stay queries, without judgements.
        seed: decides the lot.

    Raises:
        ValueError: for fewer than two collections, a name with a colon or white space, or a split to balance that one lacks.
        FileExistsError: if the folder holds anything but such a collection.
    """
    if len(collections) < 2:
        raise ValueError(f"expected two collections or more, found {len(collections)}")
    for name in collections:
        if not name or ":" in name or any(character.isspace() for character in name):
            raise ValueError(f"expected names without colons and white space, found {name!r}")
    splits = list(dict.fromkeys(split for collection in collections.values() for split in collection.splits))
    for name, collection in collections.items():
        if balance is not None and balance not in collection.splits:
            raise ValueError(f"{name}: expected a split {balance} to balance, found {', '.join(collection.splits)}")
    qrels = {split: {name: _qrels(each, split) for name, each in collections.items()} for split in splits}
    if balance is not None:
        fewest = min(map(len, qrels[balance].values()))
        qrels[balance] = {name: _drawn(own, fewest, seed) for name, own in qrels[balance].items()}
    with locked(folder):
        claim(folder, _KIND)
        with replacing_folder(folder, last="corpus.jsonl.gz") as aside:
            _write(aside, collections, qrels)
            mark(aside, _KIND)
    counted = qrels[balance] if balance is not None else {}
    return Joined(
        {name: each.num_docs for name, each in collections.items()}, {name: len(own) for name, own in counted.items()}
    )


def _write(folder: Path, collections: Mapping[str, Collection], qrels: Mapping[str, Mapping[str, Qrels]]) -> None:
    _write_texts(folder / "corpus.jsonl.gz", _prefixed((name, each.docs()) for name, each in collections.items()))
    _write_texts(folder / "queries.jsonl.gz", _prefixed((name, each.queries()) for name, each in collections.items()))
    for split, by_name in qrels.items():
        with replacing(folder / "qrels" / f"{split}.tsv") as file:
            file.write(b"query-id\tcorpus-id\tscore\n")
            for name, own in by_name.items():
                for query_id, judged in own.items():
                    lines = (f"{name}:{query_id}\t{name}:{doc_id}\t{grade}\n" for doc_id, grade in judged.items())
                    file.write("".join(lines).encode())


def run_join(options: JoinOptions) -> str:
    """The command `join`: joins what it names, and says what came of it.

    Raises:
        ValueError: for an argument that isn't NAME=COLLECTION, a name that comes twice, or as `join_collections`.
    """
    collections = dict[str, Collection]()
    for argument in options.collections:
        name, equals, source = argument.partition("=")
        if not equals or not source or name in collections:
            raise ValueError(f"expected NAME=COLLECTION, each name once, found {argument!r}")
        collections[name] = open_collection(source)
    num_docs = sum(collection.num_docs for collection in collections.values())
    NothingDoneError.check(num_docs, "document", " ".join(options.collections), "check the files of documents")
    joined = join_collections(collections, options.output, balance=options.balance, seed=options.seed)
    judged = {name: f", {count:,} queries of {options.balance}" for name, count in joined.num_judged.items()}
    lines = [f"{name}: {count:,} docs{judged.get(name, '')}" for name, count in joined.num_docs.items()]
    return "\n".join([*lines, f"written to {options.output}"])


def _qrels(collection: Collection, split: str) -> Qrels:
    return collection.qrels(split) if split in collection.splits else {}


def _drawn(qrels: Qrels, count: int, seed: int) -> Qrels:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(qrels))[:count])
    queries = list(qrels)
    return {queries[row]: qrels[queries[row]] for row in chosen.tolist()}


def _prefixed(sides: Iterator[tuple[str, Iterator[tuple[str, str]]]]) -> Iterator[tuple[str, str]]:
    return chain.from_iterable(((f"{name}:{id_}", text) for id_, text in side) for name, side in sides)


def _write_texts(path: Path, texts: Iterator[tuple[str, str]]) -> None:
    with replacing(path) as file:
        for id_, text in texts:
            file.write((json.dumps({"_id": id_, "text": text}, ensure_ascii=False) + "\n").encode())
