"""Queries to a run: encode, search, and cut at k by the package's tie rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.errors import WrongModelError
from rankdistill.models.colbert import ColbertModel
from rankdistill.models.foreign import DenseModel
from rankdistill.models.loading import Model
from rankdistill.models.precision import DTypeName
from rankdistill.models.splade import SpladeModel
from rankdistill.records import Run, as_texts, ranked
from rankdistill.retrieval.index import FlatIndex, Index, SparseIndex, TokenIndex
from rankdistill.retrieval.precompute import encode

__all__ = ["search", "search_vectors"]

# FAISS splits a block over the cores; more queries at once only cost memory (256 x 1,000 scores and rows are 3 MB).
_QUERY_BLOCK = 256
# Retrieved beyond k, to see whether the last place is shared. Mostly it isn't, and one search is enough.
_MARGIN = 8
# Which index searches for which model.
_INDEX_OF = ((DenseModel, FlatIndex), (ColbertModel, TokenIndex), (SpladeModel, SparseIndex))


def search(
    model: Model,
    index: Index,
    queries: Mapping[str, str],
    k: int = 1000,
    *,
    shortlist: int = 1000,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> Run:
    """The k best documents of each query.

    Args:
        model: the encoder that the index was made with.
        index: over the documents.
        queries: query_id -> text.
        k: documents a query; fewer if the index holds fewer.
        shortlist: documents a query that a `TokenIndex` with centroids scores exactly.
        batch_tokens: as in `encode_texts`; so for `dtype` and `progress`.

    Returns:
        query_id -> doc_id -> score, in `records.ranked`'s order. Which of several equal documents makes the cut at k is
        decided by that rule too, not by FAISS.

    Raises:
        WrongModelError: if the index isn't one for this kind of model, or compares vectors by another similarity.
        ValueError: for a query that is no text, or an id that is none.
    """
    queries = as_texts(queries)
    if not any(isinstance(model, kind) and isinstance(index, own) for kind, own in _INDEX_OF):
        found = f"a {type(index).__name__} and a {model.architecture} model"
        raise WrongModelError("an index that was made with this model", found, "index what this model encoded")
    if isinstance(index, FlatIndex) and isinstance(model, DenseModel) and index.similarity != model.comparison:
        found = f"one by {index.similarity}"
        raise WrongModelError(f"an index by {model.comparison}", found, "index what this model encoded, anew")
    settings: dict[str, Any] = {"batch_tokens": batch_tokens, "dtype": dtype, "progress": progress}
    encoded: Any = encode(model, list(queries.values()), kind="query", **settings)
    by_id = {query_id: encoded[row] for row, query_id in enumerate(queries)}
    if isinstance(index, TokenIndex):
        return index.search(by_id, k, shortlist=shortlist, progress=progress)
    if isinstance(index, SparseIndex):
        return index.search(by_id, k, progress=progress)
    return search_vectors(index, by_id, k, progress=progress)


def search_vectors(
    index: FlatIndex, queries: Mapping[str, NDArray[np.float32]], k: int, *, progress: bool = False
) -> Run:
    """`search` for queries that are vectors [D] already."""
    if k < 1:
        raise ValueError(f"expected k of at least 1, found {k}")
    run: Run = {}
    query_ids = list(queries)
    with tqdm(total=len(query_ids), desc="search", unit="query", disable=not progress) as bar:
        for start in range(0, len(query_ids), _QUERY_BLOCK):
            block = query_ids[start : start + _QUERY_BLOCK]
            scores_BK, rows_BK = index.search(np.stack([queries[query_id] for query_id in block]), k + _MARGIN)
            for query_id, scores, rows in zip(block, scores_BK, rows_BK, strict=True):
                run[query_id] = _cut(index, queries[query_id], scores, rows, k)
            bar.update(len(block))
    return run


def _cut(
    index: FlatIndex, query: NDArray[np.float32], scores: NDArray[np.float32], rows: NDArray[np.int64], k: int
) -> dict[str, float]:
    # As long as the last of those retrieved is as good as the k-th, there may be more like it.
    while len(rows) < index.max_k and scores[-1] == scores[k - 1]:
        (scores,), (rows,) = index.search(query[None], 2 * len(rows))
    best = len(rows) if len(rows) <= k else int(np.count_nonzero(scores >= scores[k - 1]))
    found = {index.doc_ids[row]: float(score) for row, score in zip(rows[:best], scores[:best], strict=True)}
    return dict(ranked(found, k))
