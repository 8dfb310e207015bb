"""Collections by ir_datasets id. Texts are found through its docs_store; whatever it lacks it fetches itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from rankdistill._core import IdTable
from rankdistill.errors import MissingDependencyError
from rankdistill.formats.beir import with_title
from rankdistill.formats.cache import fingerprint_of
from rankdistill.formats.texts import MappingTexts, Parts, Texts, id_table
from rankdistill.formats.trec import qrels_of
from rankdistill.records import Qrels

__all__ = ["open_irds"]


def _text(record: Any) -> str:
    """Title and text as BEIR joins them, or what ir_datasets calls the record's text."""
    if hasattr(record, "text"):
        return with_title(getattr(record, "title", None), record.text)
    return str(record.default_text()).strip()


class _IrDatasetsDocs(Texts):
    def __init__(self, dataset: Any, name: str) -> None:
        self.name, self._dataset, self._store = name, dataset, dataset.docs_store()

    @cached_property
    def ids(self) -> IdTable:
        return id_table((doc.doc_id for doc in self._dataset.docs_iter()), self.name)

    @cached_property
    def fingerprint(self) -> str:
        # ir_datasets checks the sources against hashes, so its namespace and the ids say which texts these are.
        return fingerprint_of(self._dataset.docs_namespace(), *self.ids.parts())

    def take(self, rows: Sequence[int] | NDArray[Any]) -> list[str]:
        ids = [self.ids[int(row)] for row in rows]
        found = self._store.get_many(set(ids))
        return [_text(found[id_]) for id_ in ids]

    def pairs(self, start: int = 0) -> Iterator[tuple[str, str]]:
        docs = self._dataset.docs_iter()
        for doc in docs[start:] if start else docs:
            yield doc.doc_id, _text(doc)


def open_irds(id_: str) -> Parts | None:
    """The collection that ir_datasets knows by `id_`, or None if it knows none.

    Raises:
        MissingDependencyError: if ir_datasets isn't installed.
    """
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingDependencyError(
            f'a folder or file named "{id_}", or ir_datasets to look the id up',
            "neither",
            "pip install 'rankdistill[eval]'",
        ) from error
    try:
        dataset = ir_datasets.load(id_)
    except KeyError:
        return None
    if not dataset.has_docs():
        return None
    queries = (
        {query.query_id: str(query.default_text()).strip() for query in dataset.queries_iter()}
        if dataset.has_queries()
        else {}
    )

    def qrels() -> Qrels:
        rows = ((None, qrel.query_id, qrel.doc_id, qrel.relevance) for qrel in dataset.qrels_iter())
        return qrels_of(rows, id_)

    split = id_.rsplit("/", 1)[-1]
    return Parts(
        _IrDatasetsDocs(dataset, id_), MappingTexts(queries, id_), {split: qrels} if dataset.has_qrels() else {}
    )
