"""A collection: documents, queries and judgements, from whichever layout they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from rankdistill.errors import BadDataError, MissingIdsError
from rankdistill.formats.beir import find, open_beir
from rankdistill.formats.cache import fingerprint_of
from rankdistill.formats.hf import is_saved, open_hf, parts_of_datasets
from rankdistill.formats.irds import open_irds
from rankdistill.formats.msmarco import open_msmarco
from rankdistill.formats.texts import MappingTexts, Parts, Texts
from rankdistill.records import Qrels, as_id, as_qrels

__all__ = ["Collection", "OnMissing", "collection_from_datasets", "collection_from_texts", "open_collection"]

OnMissing = Literal["error", "skip"]


class Collection:
    """Docs and queries found by id or row, and qrels by split.

    A row is a position in the collection's own order. Texts are read when they are asked for.

    Attributes:
        name: where it came from, for messages and file names.
        split: the split whose qrels are meant when none is named, if one was given.
    """

    def __init__(self, name: str, parts: Parts, split: str | None = None) -> None:
        self.name, self.split, self._parts = name, split, parts

    @property
    def doc_ids(self) -> Sequence[str]:
        """Ids of the docs, in the collection's order; compact, and as quick by id as by row."""
        return cast("Sequence[str]", self._parts.docs.ids)

    @property
    def query_ids(self) -> Sequence[str]:
        """Ids of all queries, those without judgements too."""
        return cast("Sequence[str]", self._parts.queries.ids)

    @property
    def num_docs(self) -> int:
        """How many docs there are."""
        return len(self._parts.docs)

    @property
    def num_queries(self) -> int:
        """How many queries there are."""
        return len(self._parts.queries)

    @property
    def fingerprint(self) -> str:
        """32 hex characters that change when an id or a text does."""
        return fingerprint_of(self._parts.docs.fingerprint, self._parts.queries.fingerprint)

    def side(self, side: Literal["docs", "queries"]) -> Texts:
        """The docs or the queries as `Texts`."""
        return self._parts.docs if side == "docs" else self._parts.queries

    def docs(self, ids: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
        """Id and text of every doc, or of those named, streamed."""
        return _stream(self._parts.docs, ids, "documents")

    def queries(self, ids: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
        """Id and text of every query, or of those named, streamed."""
        return _stream(self._parts.queries, ids, "queries")

    def doc_texts(self, ids: Sequence[str], on_missing: OnMissing = "error") -> list[str]:
        """Texts of these docs; with `on_missing="skip"`, of those that are there.

        Raises:
            MissingIdsError: if some aren't there and that isn't to be skipped.
        """
        return _texts(self._parts.docs, ids, on_missing, "documents")

    def query_texts(self, ids: Sequence[str], on_missing: OnMissing = "error") -> list[str]:
        """Texts of these queries, as `doc_texts`."""
        return _texts(self._parts.queries, ids, on_missing, "queries")

    def doc_rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each doc, -1 where the id is unknown."""
        return _rows(self._parts.docs, ids)

    def query_rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each query, -1 where the id is unknown."""
        return _rows(self._parts.queries, ids)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that have qrels."""
        return tuple(self._parts.qrels)

    def qrels(self, split: str | None = None) -> Qrels:
        """Judgements of a split: query_id -> doc_id -> relevance.

        Args:
            split: its name; by default the one given at opening, or the only one.

        Raises:
            ValueError: if there's no such split, or several and none was named.
        """
        chosen = split or self.split or (self.splits[0] if len(self.splits) == 1 else None)
        if chosen is None or chosen not in self._parts.qrels:
            splits = ", ".join(self.splits) or "none"
            raise ValueError(f"{self.name}: expected a split with qrels ({splits}), found {chosen}")
        return self._parts.qrels[chosen]()

    def __repr__(self) -> str:
        return f"Collection({self.name!r}, splits={list(self.splits)})"


def _rows(texts: Texts, ids: Sequence[str]) -> NDArray[np.int64]:
    try:
        return texts.ids.rows(cast("list[str]", ids) if isinstance(ids, list) else list(ids))
    except TypeError:
        return texts.ids.rows([as_id(id_) for id_ in ids])


def _found(texts: Texts, ids: Sequence[str], on_missing: OnMissing, noun: str) -> NDArray[np.int64]:
    rows = _rows(texts, ids)
    absent = np.flatnonzero(rows < 0).tolist()
    if absent and on_missing == "error":
        # Not on_missing="skip": what calls this (search, re-ranking, scoring) has no such argument.
        remedy = "use the collection that the ids are of"
        raise MissingIdsError.among(ids, absent, f"{noun} in {texts.name}", remedy)
    return rows[rows >= 0]


def _texts(texts: Texts, ids: Sequence[str], on_missing: OnMissing, noun: str) -> list[str]:
    return texts.take(_found(texts, ids, on_missing, noun))


def _stream(texts: Texts, ids: Sequence[str] | None, noun: str) -> Iterator[tuple[str, str]]:
    if ids is None:
        yield from texts.pairs()
        return
    rows = _found(texts, ids, "error", noun)
    for start in range(0, len(rows), 1024):
        block = rows[start : start + 1024]
        yield from zip(ids[start : start + 1024], texts.take(block), strict=True)


def collection_from_texts(
    docs: Mapping[str, str],
    queries: Mapping[str, str] | None = None,
    qrels: Qrels | None = None,
    *,
    name: str = "texts",
    any_ids: bool = False,
) -> Collection:
    """A collection of texts in memory.

    Args:
        docs: id -> text. Ids that are whole numbers become strings, here and in the others.
        queries: id -> text.
        qrels: judgements, as the split "test".
        any_ids: ids may have white space, as texts that are their own ids do. No run can be written of such a collection.

    Raises:
        ValueError: for what is no id, text (None, say) or relevance.
    """
    judged = None if qrels is None else as_qrels(qrels)
    splits: dict[str, Callable[[], Qrels]] = {} if judged is None else {"test": lambda: judged}
    sides = (MappingTexts(docs, name, any_ids), MappingTexts(queries or {}, f"{name} (queries)", any_ids))
    return Collection(name, Parts(*sides, splits))


def collection_from_datasets(
    docs: Any, queries: Any = None, qrels: Any = None, *, name: str = "datasets"
) -> Collection:
    """A collection of `datasets.Dataset` objects; texts stay in Arrow.

    Args:
        docs: with an id column (`_id`, `document_id`, …), a text column (`text`, `passage`, …) and perhaps `title`.
        queries: likewise.
        qrels: columns query-id, corpus-id, score; one data set ("test"), or a mapping by split.

    Raises:
        BadDataError: if a column isn't recognised.
    """
    return Collection(name, parts_of_datasets(docs, queries, qrels, name))


def open_collection(spec: str | Path, *, split: str | None = None, cache_dir: Path | None = None) -> Collection:
    """Opens a collection where it lies.

    Args:
        spec: a BEIR folder (`corpus.jsonl[.gz]`, `queries.jsonl[.gz]`, `qrels/SPLIT.tsv`), an MS MARCO folder
            (`collection.tsv`, `queries.SPLIT.tsv`, `qrels.SPLIT.tsv`) or its `collection.tsv`, a folder of Hugging
            Face's `save_to_disk`, `hf:NAME`, or an ir_datasets id (`beir/scifact/test`; `ir_datasets:ID` where a
            folder has the same name).
        split: the split whose qrels are meant when none is named.
        cache_dir: where indexes of big files are kept; the user's cache by default.

    Raises:
        BadDataError: if `spec` is none of these, or a file is broken (with file and line).
        MissingDependencyError: if the package for it isn't installed.
    """
    name = str(spec)
    if name.startswith("hf:"):
        return Collection(name, open_hf(name), split)
    path = Path(spec)
    parts: Parts | None = None
    if name.startswith("ir_datasets:"):
        parts = open_irds(name.removeprefix("ir_datasets:"))
    elif path.is_dir():
        if find(path, "corpus.jsonl"):
            parts = open_beir(path, cache_dir)
        elif find(path, "collection.tsv"):
            parts = open_msmarco(path, split, cache_dir)
        elif is_saved(path):
            parts = open_hf(path)
    elif path.is_file() and name.endswith((".tsv", ".tsv.gz")):
        parts = open_msmarco(path, split, cache_dir)
    elif not path.exists():
        parts = open_irds(name)
    if parts is None:
        raise BadDataError(
            "a collection: a folder with corpus.jsonl[.gz] (BEIR), with collection.tsv[.gz] (MS MARCO) or of "
            'save_to_disk (Hugging Face), a .tsv file, "hf:NAME", or an ir_datasets id',
            _what_is_there(path),
            path=name,
        )
    if split is not None and split not in parts.qrels:
        raise BadDataError(f"a split of {name} ({', '.join(parts.qrels) or 'it has none'})", split, path=name)
    return Collection(name, parts, split)


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        return f"a folder with {', '.join(names[:8]) or 'nothing'}{', …' if len(names) > 8 else ''}"
    return "a file of another kind" if path.exists() else "neither a path nor an id that ir_datasets knows"
