"""An index over whatever a model makes of documents: over vectors, or over their tokens' states."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from rankdistill.errors import BadDataError, BadStoreError
from rankdistill.models.colbert import ColbertModel
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import Model
from rankdistill.retrieval.encode import DTypeName, encode_texts
from rankdistill.retrieval.flat import Device, FlatIndex, faiss_module
from rankdistill.retrieval.precompute import Precomputed
from rankdistill.retrieval.states import TokenStates, encode_states
from rankdistill.retrieval.token_index import TokenIndex

__all__ = [
    "Device",
    "FlatIndex",
    "Index",
    "TokenIndex",
    "build_index",
    "faiss_module",
    "index_of",
    "load_index",
    "searches",
]

Index: TypeAlias = FlatIndex | TokenIndex


def searches(model: Model) -> bool:
    """Whether the model can search a whole collection; the others re-rank."""
    return isinstance(model, DotModel | ColbertModel)


def build_index(
    model: Model,
    docs: Mapping[str, str] | Iterable[tuple[str, str]],
    *,
    device: Device = "auto",
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> Index:
    """Encodes texts and indexes them, in memory.

    Args:
        model: the encoder.
        docs: doc_id -> text, or pairs of them (a collection's `docs()`).
        device: where FAISS searches; "auto" is a GPU if FAISS sees one.
        batch_tokens: as in `encode_texts`; so for `dtype` and `progress`.

    Raises:
        BadDataError: if the model can only re-rank.
    """
    texts = dict(docs)
    if isinstance(model, ColbertModel):
        states = encode_states(
            model, list(texts.values()), kind="document", batch_tokens=batch_tokens, dtype=dtype, progress=progress
        )
        return TokenIndex.build(states, list(texts))
    if not isinstance(model, DotModel):
        raise _only_reranks(model.architecture)
    faiss_module()  # the door: before an hour of encoding, not after
    vectors = encode_texts(
        model, list(texts.values()), kind="document", batch_tokens=batch_tokens, dtype=dtype, progress=progress
    )
    return FlatIndex.build(vectors, list(texts), device)


def index_of(precomputed: Precomputed, *, device: Device = "auto", num_centroids: int | None = None) -> Index:
    """An index over what was encoded before.

    Args:
        device: as in `build_index`.
        num_centroids: as in `TokenIndex.build`; for states of tokens.

    Raises:
        BadDataError: if these are states of a model that can only re-rank.
    """
    if not isinstance(precomputed.docs, TokenStates):
        return FlatIndex.build(precomputed.docs, precomputed.doc_ids, device)
    if precomputed.architecture != ColbertModel.architecture:
        raise _only_reranks(precomputed.architecture)
    return TokenIndex.build(precomputed.docs, precomputed.doc_ids, num_centroids)


def load_index(folder: str | os.PathLike[str], device: Device = "auto") -> Index:
    """Reads an index that was saved, whichever it is.

    Raises:
        BadStoreError: the folder isn't an index, or its parts don't belong together.
    """
    path = Path(folder)
    if (path / "index.json").is_file():
        return TokenIndex.load(path)
    if not (path / "index.faiss").is_file():
        remedy = "make one with `rankdistill index`"
        raise BadStoreError("an index (index.faiss or index.json)", "no such file", remedy, os.fspath(folder))
    return FlatIndex.load(path, device)


def _only_reranks(architecture: str) -> BadDataError:
    return BadDataError(
        "a model that searches (dot, colbert)",
        f"a {architecture}, which can only re-rank",
        "re-rank with it: `rankdistill rerank`",
    )
