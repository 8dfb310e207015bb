"""Searching with a model that has several exits: by all of them in one pass, or by as many layers as a query needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rankdistill.errors import WrongModelError
from rankdistill.models.exits import Cell
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.models.precision import DTypeName, inference_mode
from rankdistill.records import Run, as_texts, ranked
from rankdistill.retrieval.encode import encode_exits, pad_batch
from rankdistill.retrieval.flat import Device, FlatIndex
from rankdistill.retrieval.search import search_vectors

__all__ = ["CONFIDENCES", "Confidence", "build_exit_indexes", "search_adaptively", "search_exits", "stop_by"]

Ranking = Sequence[tuple[str, float]]
Confidence = Callable[["Ranking | None", "Ranking"], float]
"""How sure a query's results are, between 0 and 1: of its first results at the exit before (None at the first) and now."""


def _agreement(before: Ranking | None, now: Ranking) -> float:
    if before is None or not now:
        return 0.0
    return len({doc_id for doc_id, _ in before} & {doc_id for doc_id, _ in now}) / len(now)


def _margin(before: Ranking | None, now: Ranking) -> float:
    scores = [score for _, score in now]
    spread = scores[0] - scores[-1] if len(scores) > 2 else 0.0
    return (scores[0] - scores[1]) / spread if spread > 0 else 0.0


CONFIDENCES: dict[str, Confidence] = {"agreement": _agreement, "margin": _margin}
"""agreement: the share of the first results that were there at the exit before. margin: the lead of the first result over the
second, as a share of its lead over the last."""


def build_exit_indexes(
    model: MultiExitEncoder,
    docs: Mapping[str, str],
    *,
    device: Device = "auto",
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> dict[Cell, FlatIndex]:
    """An exact index for each exit and width, from one pass over the documents.

    Args:
        docs: doc_id -> text.
        device: where FAISS searches.
        batch_tokens: as in `encode_texts`; so for `dtype` and `progress`.
    """
    settings: dict[str, Any] = {"batch_tokens": batch_tokens, "dtype": dtype, "progress": progress}
    vectors = encode_exits(model, list(docs.values()), kind="document", **settings)
    return {
        cell: FlatIndex.build(_cut(vectors[cell.exit], cell, model), list(docs), device, similarity=model.comparison)
        for cell in _cells(model)
    }


def search_exits(
    model: MultiExitEncoder,
    indexes: Mapping[Cell, FlatIndex],
    queries: Mapping[str, str],
    k: int = 1000,
    *,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> dict[Cell, Run]:
    """The k best documents of each query at each exit and width, from one pass over the queries.

    Args:
        indexes: of `build_exit_indexes`.
        queries: query_id -> text.
        batch_tokens: as in `encode_texts`; so for `dtype` and `progress`.
    """
    settings: dict[str, Any] = {"batch_tokens": batch_tokens, "dtype": dtype, "progress": progress}
    queries = as_texts(queries)
    vectors = encode_exits(model, list(queries.values()), kind="query", **settings)
    runs = {}
    for cell, index in indexes.items():
        cut = _cut(vectors[cell.exit], cell, model)
        runs[cell] = search_vectors(index, dict(zip(queries, cut, strict=True)), k)
    return runs


def stop_by(
    runs: Mapping[int, Run], confidence: Confidence, threshold: float, depth: int = 10
) -> tuple[Run, dict[str, int]]:
    """What `search_adaptively` would give, from the runs at each exit; so thresholds can be tried without a model.

    Args:
        runs: by exit.
        confidence: one of `CONFIDENCES`, or any such function.
        threshold: a query stops at the first exit where its results are at least as sure as this.
        depth: how many first results are looked at.

    Returns:
        Each query's results at the exit where it stopped (the deepest, if it was never sure), and that exit.
    """
    exits = sorted(runs)
    found: Run = {}
    stopped: dict[str, int] = {}
    for query_id in runs[exits[0]]:
        before: Ranking | None = None
        for exit in exits:
            now = ranked(runs[exit][query_id], depth)
            if exit == exits[-1] or confidence(before, now) >= threshold:
                found[query_id], stopped[query_id] = runs[exit][query_id], exit
                break
            before = now
    return found, stopped


def search_adaptively(
    model: MultiExitEncoder,
    indexes: Mapping[Cell, FlatIndex],
    queries: Mapping[str, str],
    k: int = 1000,
    *,
    confidence: Confidence = _agreement,
    threshold: float = 0.8,
    depth: int = 10,
    batch_size: int = 32,
    dtype: DTypeName = "auto",
) -> tuple[Run, dict[str, int]]:
    """Searches at the first exit, and goes on by the layers to the next one with those queries only that aren't sure yet.

    Each exit has documents' vectors of its own, so all the indexes are needed, and a query is searched once an exit.

    Args:
        indexes: of `build_exit_indexes`; those of full width count.
        queries: query_id -> text.
        k: documents a query.
        confidence: as in `stop_by`; so for `threshold` and `depth`.
        batch_size: queries that go through the model at once; one at a time never waits for another.
        dtype: as in `encode_texts`.

    Returns:
        The run, and the exit at which each query stopped.

    Raises:
        WrongModelError: if an exit has no index.
    """
    missing = [exit for exit in model.exits if Cell(exit) not in indexes]
    if missing:
        raise WrongModelError(
            "an index for each exit", f"none for exit {missing[0]}", "make them with build_exit_indexes"
        )
    found: Run = {}
    stopped: dict[str, int] = {}
    queries = as_texts(queries)
    query_ids = list(queries)
    ids = model.tokenize(list(queries.values()), "query")
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    pieces = model.pieces()
    with inference_mode(model, dtype):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            waiting = [query_ids[row] for row in rows]
            batch = pad_batch(model.tokenizer, {"input_ids": [ids[row] for row in rows]}, model.device)
            mask_BL, states = batch["attention_mask"], None
            before: Mapping[str, Ranking] = {}
            for exit, piece in zip(model.exits, pieces, strict=True):
                given = {"input_ids": batch["input_ids"]} if states is None else {"inputs_embeds": states}
                states, vectors = piece(mask_BL, **given)
                vectors_BD = vectors.float().cpu().numpy()
                run = search_vectors(indexes[Cell(exit)], dict(zip(waiting, vectors_BD, strict=True)), k)
                now = {query_id: ranked(run[query_id], depth) for query_id in waiting}
                unsure = [
                    row
                    for row, query_id in enumerate(waiting)
                    if exit != model.exits[-1] and confidence(before.get(query_id), now[query_id]) < threshold
                ]
                for query_id in waiting:
                    found[query_id], stopped[query_id] = run[query_id], exit  # of those unsure, to be overwritten
                if not unsure:
                    break
                kept = torch.tensor(unsure, device=model.device)
                states, mask_BL, before = states[kept], mask_BL[kept], now
                waiting = [waiting[row] for row in unsure]
    return {query_id: found[query_id] for query_id in queries}, {query_id: stopped[query_id] for query_id in queries}


def _cells(model: MultiExitEncoder) -> list[Cell]:
    return [Cell(exit, dim) for exit in model.exits for dim in (None, *model.dims[1:])]


def _cut(vectors: NDArray[np.float32], cell: Cell, model: MultiExitEncoder) -> NDArray[np.float32]:
    """Vectors of full width, cut to the cell's; a normalised vector that is cut is normalised again."""
    if cell.dim is None:
        return vectors
    cut = np.ascontiguousarray(vectors[:, : cell.dim])
    return cut / np.linalg.norm(cut, axis=1, keepdims=True) if model.normalize else cut
