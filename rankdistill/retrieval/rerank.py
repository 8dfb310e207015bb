"""Scores of (query, document) pairs by any of our models, and re-ranking as their use."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import Model
from rankdistill.models.towers import InteractionModel
from rankdistill.records import Run, ranked
from rankdistill.retrieval.encode import DTypeName, encode_texts, inference_mode, length_sorted_batches, pad_batch
from rankdistill.retrieval.states import score_state_pairs

if TYPE_CHECKING:
    from rankdistill.formats.collection import Collection

__all__ = ["rerank", "score_pairs"]

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
    if isinstance(model, DotModel):
        query_rows, queries = _distinct(query_texts)
        doc_rows, docs = _distinct(doc_texts)
        query_QD = encode_texts(model, queries, kind="query", batch_tokens=batch_tokens, dtype=dtype, progress=progress)
        doc_KD = encode_texts(model, docs, kind="document", batch_tokens=batch_tokens, dtype=dtype, progress=progress)
        scores = np.empty(len(query_texts), dtype=np.float32)
        for start in range(0, len(scores), _PAIR_CHUNK):
            part = slice(start, start + _PAIR_CHUNK)
            scores[part] = np.einsum("pd,pd->p", query_QD[query_rows[part]], doc_KD[doc_rows[part]])
        return scores
    if isinstance(model, InteractionModel):
        query_rows, queries = _distinct(query_texts)
        doc_rows, docs = _distinct(doc_texts)
        return score_state_pairs(
            model, queries, docs, query_rows, doc_rows, batch_tokens=batch_tokens, dtype=dtype, progress=progress
        )
    assert isinstance(model, CrossEncoderModel)
    rows, pairs = _distinct(list(zip(query_texts, doc_texts, strict=True)))
    scores = np.empty(len(pairs), dtype=np.float32)
    with tqdm(total=len(pairs), desc="score", unit="pair", disable=not progress) as bar, inference_mode(model, dtype):
        for start in range(0, len(pairs), _PAIR_CHUNK):
            chunk = pairs[start : start + _PAIR_CHUNK]
            encoded = model.tokenize_pairs([query for query, _ in chunk], [doc for _, doc in chunk])
            for batch in length_sorted_batches(encoded["input_ids"], batch_tokens):
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
        batch_tokens: as in `score_pairs`; so for `dtype` and `progress`.

    Returns:
        query_id -> doc_id -> score, in `records.ranked`'s order.

    Raises:
        MissingIdsError: the run names queries or documents that the collection lacks.
    """
    candidates = {query_id: [doc_id for doc_id, _ in ranked(scores, depth)] for query_id, scores in run.items()}
    query_ids = list(candidates)
    doc_ids = list(dict.fromkeys(doc_id for docs in candidates.values() for doc_id in docs))
    queries = dict(zip(query_ids, collection.query_texts(query_ids), strict=True))
    docs = dict(zip(doc_ids, collection.doc_texts(doc_ids), strict=True))
    scores = score_pairs(
        model,
        [queries[query_id] for query_id, found in candidates.items() for _ in found],
        [docs[doc_id] for found in candidates.values() for doc_id in found],
        batch_tokens=batch_tokens,
        dtype=dtype,
        progress=progress,
    )
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
