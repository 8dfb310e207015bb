"""BM25 through bm25s, with a tokenisation that suits prose and code, and deterministic to the last tie."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.errors import MissingDependencyError, MissingIdsError
from rankdistill.records import Run, as_id, as_texts, check_texts
from rankdistill.retrieval.topk import top_k

if TYPE_CHECKING:
    from rankdistill.formats.collection import Collection

__all__ = ["BM25", "bm25_scores", "bm25_search", "bm25_tokens"]

_WORD = re.compile(r"\w+")
# HTTPServer -> HTTP Server, readFile2 -> read File 2, snake_case -> snake case, größe -> größe.
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
# Lucene's English stop words.
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they"
        " this to was will with"
    )
)


# Scripts whose words aren't parted by spaces: Thai, Lao, Myanmar, Khmer; kana and bopomofo, with halfwidth forms; Han.
_BLOCKS = (
    *((0x0E01, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    *((0x3005, 0x3007), (0x3041, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
)
# Which form of a character is drawn, not which character it is.
_VARIATIONS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"


def _in_blocks(categories: str) -> str:
    """Characters of the blocks of some categories of Unicode, as ranges of a regular expression."""
    codes = [code for first, last in _BLOCKS for code in range(first, last + 1)]
    wanted = sorted(code for code in codes if unicodedata.category(chr(code))[0] in categories)
    starts = [code for before, code in pairwise([-2, *wanted]) if code != before + 1]
    stops = [code for code, after in pairwise([*wanted, -2]) if after != code + 1]
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in zip(starts, stops, strict=True))


@cache
def _unspaced() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What matches a run of these scripts, and in it a letter with its marks."""
    letters, marks = _in_blocks("LMN"), _in_blocks("M")
    # U+1039 (Myanmar) and U+17D2 (Khmer) stack the next letter below it.
    unit = f"[^{marks}](?:[\u1039\u17d2].|[{marks}])*|[{marks}]+"
    return re.compile(f"[{letters}][{letters}{_VARIATIONS}]*"), re.compile(unit, re.DOTALL)


def bm25_tokens(text: str) -> Iterator[str]:
    """Lower-case words; a word of code (camelCase, snake_case, utf8) is followed by its parts.

    Lucene's English stop words are left out, and nothing is stemmed. On 600 training queries each of conala and
    stackoverflow-codenn this gives nDCG@10 of .56 and .12, against .52 and .09 for words alone; prose doesn't mind
    (scifact .69 and .67, squad11dev .86 and .86).

    Where words aren't parted by spaces (Chinese, Japanese, Thai, Lao, Myanmar, Khmer), every two neighboring letters are a token,
    and a letter that stands alone is one, as with Lucene's CJKAnalyzer. A letter has its marks with it, in the compatibility form
    (NFKC). Korean has spaces: its words are tokens.
    """
    start = 0
    if not text.isascii() and max(text) >= "\u0e01":  # the first of the blocks
        for run in _unspaced()[0].finditer(text):
            yield from _word_tokens(text[start : run.start()])
            yield from _pair_tokens(run[0])
            start = run.end()
    yield from _word_tokens(text[start:] if start else text)


def _pair_tokens(run: str) -> Iterator[str]:
    plain = re.sub(f"[{_VARIATIONS}]", "", run)
    units = _unspaced()[1].findall(unicodedata.normalize("NFKC", plain))
    if len(units) == 1:
        yield units[0]
    yield from map("".join, pairwise(units))


def _word_tokens(text: str) -> Iterator[str]:
    for match in _WORD.finditer(text):
        word = match[0]
        lower = word.lower()
        if lower not in _STOP_WORDS:
            yield lower
        if word.isascii() and not (lower.isalpha() and word[1:].islower()):
            parts = _PART.findall(word)
            if len(parts) > 1:
                yield from (part for part in map(str.lower, parts) if part not in _STOP_WORDS)


class BM25:
    """An index in memory.

    Attributes:
        doc_ids: the documents, in the order given.
    """

    def __init__(
        self,
        docs: Mapping[str, str] | Iterable[tuple[str, str]],
        *,
        k1: float = 1.2,
        b: float = 0.75,
        tokenize: Callable[[str], Iterable[str]] = bm25_tokens,
        progress: bool = True,
    ) -> None:
        """Indexes texts.

        Args:
            docs: doc_id -> text, or pairs of them (a collection's `docs()`).
            k1: how much repeated words count. 1.2 and .75 beat pyserini's .9 and .4 on five of six collections tried.
            b: how much long documents are held back.
            tokenize: from a text to its tokens, of documents and queries; a segmenter of a language, say.
            progress: show a bar on standard error.

        Raises:
            MissingDependencyError: bm25s isn't installed.
        """
        bm25s = _bm25s()
        self._tokenize = tokenize
        self.doc_ids: list[str] = []
        self._vocabulary: dict[str, int] = {}
        rows: list[list[int]] = []
        pairs = docs.items() if isinstance(docs, Mapping) else docs
        for doc_id, text in tqdm(pairs, desc="BM25 index", unit="doc", disable=not progress):
            self.doc_ids.append(as_id(doc_id))
            check_texts([text], self.doc_ids[-1:])
            rows.append([self._vocabulary.setdefault(word, len(self._vocabulary)) for word in tokenize(text)])
        self._index = None
        if self._vocabulary:  # bm25s can't index nothing
            self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
            self._index.index((rows, self._vocabulary), show_progress=False, create_empty_token=False)

    @property
    def num_bytes(self) -> int:
        """Bytes of the index's arrays, beside the words and the documents' ids."""
        return (
            0 if self._index is None else sum(self._index.scores[part].nbytes for part in ("data", "indices", "indptr"))
        )

    def search(self, queries: Mapping[str, str], k: int = 1000, *, progress: bool = True) -> Run:
        """The k best documents of each query that share a token with it.

        Returns:
            query_id -> doc_id -> score, in `records.ranked`'s order, by which ties at the cut are decided too. A query
            that shares no token with any document has no documents; a warning counts such queries.
        """
        if k < 1:
            raise ValueError(f"expected k of at least 1, found {k}")
        queries = as_texts(queries)
        items = tqdm(queries.items(), desc="BM25", unit="query", disable=not progress)
        run = {query_id: self.rank(text, k) for query_id, text in items}
        if empty := [query_id for query_id, docs in run.items() if not docs]:
            num_blank = sum(next(iter(self._tokenize(queries[query_id])), None) is None for query_id in empty)
            warnings.warn(
                f"BM25 found no document for {len(empty):,} of {len(run):,} queries (first: {empty[0]!r}): {num_blank:,} have no"
                f" token, {len(empty) - num_blank:,} none in common with a document",
                stacklevel=1,
            )
        return run

    def rank(self, text: str, k: int = 1000) -> dict[str, float]:
        """doc_id -> score of the k best documents of one query, as in `search`."""
        scores = self.scores(text)
        rows = np.flatnonzero(scores > 0)
        return top_k(self.doc_ids, rows, scores[rows], k)

    def scores(self, text: str) -> NDArray[np.float32]:
        """Scores of all documents [num_docs], in the order of `doc_ids`; 0 for those without a token in common."""
        words = [self._vocabulary[word] for word in self._tokenize(text) if word in self._vocabulary]
        if not words or self._index is None:
            return np.zeros(len(self.doc_ids), dtype=np.float32)
        scores: NDArray[np.float32] = self._index.get_scores_from_ids(words)
        return scores


def bm25_search(
    collection: Collection, query_ids: Sequence[str] | None = None, k: int = 1000, *, progress: bool = True
) -> Run:
    """The k best documents by BM25 of a collection's queries (all of them, or those named)."""
    wanted = list(collection.query_ids if query_ids is None else query_ids)
    queries = dict(zip(wanted, collection.query_texts(wanted), strict=True))
    return BM25(collection.docs(), progress=progress).search(queries, k, progress=progress)


def bm25_scores(
    collection: Collection, pairs: Sequence[tuple[str, str]], *, progress: bool = True
) -> NDArray[np.float32]:
    """BM25 scores of (query_id, doc_id) pairs [P], in their order; word statistics are the whole collection's.

    Raises:
        MissingIdsError: the pairs name queries or documents that the collection lacks.
    """
    index = BM25(collection.docs(), progress=progress)
    row_of = {doc_id: row for row, doc_id in enumerate(index.doc_ids)}
    positions: dict[str, list[int]] = {}
    for position, (query_id, _) in enumerate(pairs):
        positions.setdefault(query_id, []).append(position)
    if missing := list(dict.fromkeys(doc_id for _, doc_id in pairs if doc_id not in row_of)):
        expected, found = "documents of the collection", f"{len(missing)} others (first: {missing[0]!r})"
        raise MissingIdsError(expected, found, "score pairs of the same collection", missing=tuple(missing[:100]))
    result = np.empty(len(pairs), dtype=np.float32)
    texts = collection.query_texts(list(positions))
    for text, places in zip(
        tqdm(texts, desc="BM25", unit="query", disable=not progress), positions.values(), strict=True
    ):
        result[places] = index.scores(text)[[row_of[pairs[place][1]] for place in places]]
    return result


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        remedy = "pip install 'rankdistill[eval]' (or 'rankdistill[train]')"
        raise MissingDependencyError("the package bm25s", "none installed", remedy) from error
    import logging

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    return bm25s
