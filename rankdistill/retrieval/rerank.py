"""Scores of (query, document) pairs by any of our models, and re-ranking as their use."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.errors import MissingIdsError
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.foreign import DenseModel
from rankdistill.models.loading import Model
from rankdistill.models.precision import DTypeName, inference_mode
from rankdistill.models.similarity import pair_similarities
from rankdistill.models.splade import SpladeModel
from rankdistill.models.towers import InteractionModel
from rankdistill.records import Run, as_run, ranked
from rankdistill.retrieval.encode import at_once, encode_texts, length_sorted_batches, pad_batch
from rankdistill.retrieval.precompute import Encoded, Precomputed, encode
from rankdistill.retrieval.sparse import encode_sparse
from rankdistill.retrieval.states import TokenStates, score_state_pairs

if TYPE_CHECKING:
    from rankdistill.formats.collection import Collection

__all__ = ["rerank", "score_encoded", "score_pairs"]

_Item = TypeVar("_Item", bound=Hashable)

# Pairs tokenised at a time: about 200 MB of token lists at 256 tokens a pair.
_PAIR_CHUNK = 20_000


def score_pairs(
    model: Model,
    query_texts: Sequence[str],
    doc_texts: Sequence[str],
    *,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> NDArray[np.float32]:
    """Raw scores of pairs, in their order.

    Models that read the two apart encode each distinct text once; a cross-encoder reads each distinct pair once, sorted by length.

    Args:
        model: a student or teacher; runs where it is.
        query_texts: P texts.
        doc_texts: P texts.
        batch_tokens: tokens, padding included, that go through the model at once.
        dtype: as in `encode_texts`.
        progress: show a bar on standard error.

    Returns:
        [P].

    Raises:
        ValueError: the numbers of queries and documents differ.
    """
    if len(query_texts) != len(doc_texts):
        raise ValueError(f"expected as many queries as documents, found {len(query_texts)} and {len(doc_texts)}")
    if isinstance(model, CrossEncoderModel):
        return _score_together(model, list(zip(query_texts, doc_texts, strict=True)), batch_tokens, dtype, progress)
    query_rows, queries = _distinct(query_texts)
    doc_rows, docs = _distinct(doc_texts)
    settings: dict[str, Any] = {"batch_tokens": batch_tokens, "dtype": dtype, "progress": progress}
    if isinstance(model, InteractionModel):  # states of all docs at once might not fit
        return score_state_pairs(model, queries, docs, query_rows, doc_rows, **settings)
    encoded = encode(model, docs, kind="document", **settings)
    return score_encoded(model, queries, encoded, query_rows, doc_rows, **settings)


def score_encoded(
    model: Model,
    queries: Sequence[str],
    docs: Encoded,
    query_rows: NDArray[np.int64],
    doc_rows: NDArray[np.int64],
    *,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> NDArray[np.float32]:
    """Scores [P] of the pairs (queries[query_rows[p]], docs[doc_rows[p]]) of texts and of docs that are encoded already.

    Args:
        model: the one that encoded the docs.
        batch_tokens: as in `score_pairs`; so for `dtype` and `progress`.
    """
    settings: dict[str, Any] = {"batch_tokens": batch_tokens, "dtype": dtype, "progress": progress}
    if isinstance(docs, TokenStates):
        assert isinstance(model, InteractionModel)
        return score_state_pairs(model, queries, (), query_rows, doc_rows, doc_states=docs, **settings)
    scores = np.empty(len(query_rows), dtype=np.float32)
    if isinstance(model, SpladeModel):
        query_QV = encode_sparse(model, queries, kind="query", **settings)
        for start in range(0, len(scores), _PAIR_CHUNK):
            part = slice(start, start + _PAIR_CHUNK)
            products = query_QV[query_rows[part]].multiply(docs[doc_rows[part]])
            scores[part] = np.asarray(products.sum(1)).ravel()
        return scores
    assert isinstance(model, DenseModel)
    query_QD = encode_texts(model, queries, kind="query", **settings)
    for start in range(0, len(scores), _PAIR_CHUNK):
        part = slice(start, start + _PAIR_CHUNK)
        doc_PD = np.asarray(docs[doc_rows[part]], np.float32)
        scores[part] = pair_similarities(query_QD[query_rows[part]], doc_PD, model.comparison)
    return scores


def _score_together(
    model: CrossEncoderModel, given: Sequence[tuple[str, str]], batch_tokens: int, dtype: DTypeName, progress: bool
) -> NDArray[np.float32]:
    rows, pairs = _distinct(given)
    scores = np.empty(len(pairs), dtype=np.float32)
    with tqdm(total=len(pairs), desc="score", unit="pair", disable=not progress) as bar, inference_mode(model, dtype):
        for start in range(0, len(pairs), _PAIR_CHUNK):
            chunk = pairs[start : start + _PAIR_CHUNK]
            encoded = model.tokenize_pairs([query for query, _ in chunk], [doc for _, doc in chunk])
            for batch in length_sorted_batches(encoded["input_ids"], at_once(model.device, batch_tokens)):
                columns = {name: [values[row] for row in batch] for name, values in encoded.items()}
                output = model.scores(**pad_batch(model.tokenizer, columns, model.device))
                scores[start + np.array(batch)] = output.float().cpu().numpy()
                bar.update(len(batch))
    return scores[rows]


def rerank(
    model: Model,
    collection: Collection,
    run: Run,
    *,
    depth: int = 1000,
    precomputed: Precomputed | None = None,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> Run:
    """Scores the first `depth` documents of each query anew; the rest of the run is left out.

    Args:
        model: what scores.
        collection: the texts of the run's queries and documents.
        run: candidates.
        depth: how many of them, in the run's order.
        precomputed: what the model made of the documents; encoded anew without it.
        batch_tokens: as in `score_pairs`; so for `dtype` and `progress`.

    Returns:
        query_id -> doc_id -> score, in `records.ranked`'s order.

    Raises:
        MissingIdsError: the run names queries or documents that the collection, or `precomputed`, lacks.
        ValueError: for what is no id or no score.
    """
    candidates = {query_id: [doc_id for doc_id, _ in ranked(scores, depth)] for query_id, scores in as_run(run).items()}
    queries = collection.query_texts(list(candidates))
    doc_ids = list(dict.fromkeys(doc_id for found in candidates.values() for doc_id in found))
    row_of = {doc_id: row for row, doc_id in enumerate(doc_ids if precomputed is None else precomputed.doc_ids)}
    settings: dict[str, Any] = {"batch_tokens": batch_tokens, "dtype": dtype, "progress": progress}
    query_rows = np.repeat(np.arange(len(queries)), [len(found) for found in candidates.values()])
    if precomputed is None:
        docs = collection.doc_texts(doc_ids)
        texts = [docs[row_of[doc_id]] for found in candidates.values() for doc_id in found]
        scores = score_pairs(model, [queries[row] for row in query_rows], texts, **settings)
    else:
        missing = tuple(doc_id for doc_id in doc_ids if doc_id not in row_of)
        if missing:
            found_ids = f'{len(missing):,} that are not there (first: "{missing[0]}")'
            expected, remedy = "all documents of the run among the encoded ones", "encode the run's collection"
            raise MissingIdsError(expected, found_ids, remedy, missing=missing[:100])
        doc_rows = np.array([row_of[doc_id] for found in candidates.values() for doc_id in found], np.int64)
        scores = score_encoded(model, queries, precomputed.docs, query_rows, doc_rows, **settings)
    result: Run = {}
    start = 0
    for query_id, found in candidates.items():
        stop = start + len(found)
        result[query_id] = dict(ranked(dict(zip(found, scores[start:stop].tolist(), strict=True))))
        start = stop
    return result


def _distinct(items: Sequence[_Item]) -> tuple[NDArray[np.int64], list[_Item]]:
    """Each item once, in order of appearance, and for each given item the row of its one copy."""
    row_of: dict[_Item, int] = {}
    rows = [row_of.setdefault(item, len(row_of)) for item in items]
    return np.array(rows, dtype=np.int64), list(row_of)
