"""Collections in Hugging Face datasets: by name (`hf:NAME`), saved to disk, or as `datasets.Dataset` objects.

Texts stay in Arrow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rankdistill._core import IdTable
from rankdistill.errors import BadDataError, MissingDependencyError
from rankdistill.formats.beir import with_title
from rankdistill.formats.cache import fingerprint_of
from rankdistill.formats.texts import MappingTexts, Parts, Texts, id_table
from rankdistill.formats.trec import DOC_COLUMNS, GRADE_COLUMNS, QUERY_COLUMNS, qrels_of
from rankdistill.records import Qrels, as_id

__all__ = ["open_hf", "parts_of_datasets"]

# What published data sets call these columns, in order of preference.
_ID_COLUMNS = (
    "_id",
    "document_id",
    "doc_id",
    "passage_id",
    "corpus_id",
    "corpus-id",
    "query_id",
    "query-id",
    "docid",
    "pid",
    "qid",
    "id",
)
_TEXT_COLUMNS = ("text", "document", "passage", "query", "contents", "content", "body")
_DOCS_CONFIGS = ("corpus", "documents", "docs", "collection", "passages")
_QRELS_CONFIGS = ("qrels", "default")


def _pick(columns: Sequence[str], wanted: Sequence[str], what: str, name: str) -> str:
    found = next((column for column in wanted if column in columns), None)
    if found is None:
        raise BadDataError(f"a column of {what} ({', '.join(wanted)})", f"the columns {', '.join(columns)}", path=name)
    return found


class _ArrowTexts(Texts):
    def __init__(self, dataset: Any, name: str) -> None:
        self.name, columns = name, list(dataset.column_names)
        self._id = _pick(columns, _ID_COLUMNS, "ids", name)
        self._text = _pick(columns, _TEXT_COLUMNS, "texts", name)
        self._has_title = "title" in columns
        self._dataset = dataset.with_format(None).select_columns([self._id, self._text, *(["title"] * self._has_title)])

    @cached_property
    def ids(self) -> IdTable:
        blocks = self._dataset.select_columns([self._id]).iter(batch_size=1 << 16)
        try:
            return id_table((as_id(id_) for block in blocks for id_ in block[self._id]), self.name)
        except ValueError as error:
            expected = f'ids, strings or whole numbers, in the column "{self._id}"'
            raise BadDataError(expected, str(error).rsplit("found ", 1)[-1], path=self.name) from None

    @cached_property
    def fingerprint(self) -> str:
        # The data set's own fingerprint follows its source and transforms; the ids are a second guard.
        return fingerprint_of(self._dataset._fingerprint, *self.ids.parts())

    def take(self, rows: Sequence[int] | NDArray[Any]) -> list[str]:
        block = self._dataset[[int(row) for row in rows]]
        for row, text in zip(rows, block[self._text], strict=True):
            if not isinstance(text, str):
                expected = f'a string in the column "{self._text}" of "{self.ids[int(row)]}"'
                raise BadDataError(expected, repr(text), "leave such rows out", self.name)
        titles = block["title"] if self._has_title else [None] * len(block[self._text])
        return [with_title(title, text) for title, text in zip(titles, block[self._text], strict=True)]


def _qrels(dataset: Any, name: str) -> Qrels:
    columns = list(dataset.column_names)
    query = _pick(columns, QUERY_COLUMNS, "query ids", name)
    doc = _pick(columns, DOC_COLUMNS, "document ids", name)
    score = next((column for column in GRADE_COLUMNS if column in columns), None)

    def rows() -> Iterator[tuple[None, Any, Any, Any]]:
        for block in dataset.with_format(None).iter(batch_size=1 << 14):
            # NanoBEIR's qrels have no score: every pair in them is relevant.
            scores = block[score] if score else [1] * len(block[query])
            yield from zip(itertools.repeat(None), block[query], block[doc], scores, strict=False)

    return qrels_of(rows(), name)


def parts_of_datasets(docs: Any, queries: Any | None, qrels: Mapping[str, Any] | Any | None, name: str) -> Parts:
    """Parts of `datasets.Dataset` objects; `qrels` may be one data set or one a split."""
    by_split: Mapping[str, Any] = {} if qrels is None else qrels if isinstance(qrels, Mapping) else {"test": qrels}
    readers: dict[str, Callable[[], Qrels]] = {split: partial(_qrels, data, name) for split, data in by_split.items()}
    return Parts(
        docs=_ArrowTexts(docs, f"{name} (docs)"),
        queries=MappingTexts({}, name) if queries is None else _ArrowTexts(queries, f"{name} (queries)"),
        qrels=readers,
    )


def _sole(data: Any) -> Any:
    """The only split of a data set (published ones call it "train", "corpus" or "queries")."""
    return next(iter(data.values())) if isinstance(data, Mapping) else data


def open_hf(spec: str | Path) -> Parts:
    """Opens `hf:NAME` (from the hub or its cache), or a folder of `save_to_disk`.

    A named data set has configs for docs and queries, and for qrels where it has any. A folder is either one
    DatasetDict with those keys, or holds one folder for each.

    Raises:
        BadDataError: if no config, key or folder is called as docs usually are, or columns aren't recognised.
        MissingDependencyError: if `datasets` isn't installed.
    """
    try:
        import datasets
    except ImportError as error:
        found = "no package of that name"
        raise MissingDependencyError(
            "datasets, to read Hugging Face data sets", found, "pip install 'rankdistill[datasets]'"
        ) from error
    name = str(spec)
    load: Callable[[str], Any]
    if name.startswith("hf:"):
        keys = datasets.get_dataset_config_names(name[3:])
        load = partial(datasets.load_dataset, name[3:])
    elif (Path(spec) / "dataset_dict.json").exists() or (Path(spec) / "dataset_info.json").exists():
        saved = datasets.load_from_disk(name)
        whole = saved if isinstance(saved, Mapping) else {"corpus": saved}
        keys, load = list(whole), whole.__getitem__
    else:
        keys = sorted(path.parent.name for path in _saved(Path(spec)))
        load = lambda key: datasets.load_from_disk(str(Path(spec) / key))  # noqa: E731
    docs_key = next((key for key in _DOCS_CONFIGS if key in keys), None)
    if docs_key is None:
        raise BadDataError(f"a part called {', '.join(_DOCS_CONFIGS)}", ", ".join(keys) or "none", path=name)
    qrels_key = next((key for key in _QRELS_CONFIGS if key in keys), None)
    qrels = load(qrels_key) if qrels_key else None
    return parts_of_datasets(_sole(load(docs_key)), _sole(load("queries")) if "queries" in keys else None, qrels, name)


def _saved(folder: Path) -> Iterator[Path]:
    for marker in ("dataset_info.json", "dataset_dict.json"):
        yield from folder.glob(f"*/{marker}")


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder, or folders in it."""
    return any((folder / marker).exists() for marker in ("dataset_dict.json", "dataset_info.json")) or any(
        _saved(folder)
    )
