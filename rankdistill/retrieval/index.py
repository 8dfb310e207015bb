"""An index over whatever a model makes of documents: over vectors, their tokens' states, or weights of terms."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from scipy.sparse import issparse

from rankdistill.errors import BadStoreError, WrongModelError
from rankdistill.formats.guarded import reading
from rankdistill.models.colbert import ColbertModel
from rankdistill.models.foreign import DenseModel
from rankdistill.models.loading import ARCHITECTURES, Model
from rankdistill.models.precision import DTypeName
from rankdistill.models.similarity import Similarity
from rankdistill.models.splade import SpladeModel
from rankdistill.records import as_texts
from rankdistill.retrieval import flat, sparse
from rankdistill.retrieval.flat import Device, FlatIndex, faiss_module
from rankdistill.retrieval.folders import index_facts
from rankdistill.retrieval.precompute import Precomputed, encode
from rankdistill.retrieval.sparse import SparseIndex
from rankdistill.retrieval.states import TokenStates
from rankdistill.retrieval.token_index import TokenIndex

__all__ = [
    "Device",
    "FlatIndex",
    "Index",
    "SparseIndex",
    "TokenIndex",
    "build_index",
    "faiss_module",
    "index_of",
    "load_index",
    "searches",
]

Index: TypeAlias = FlatIndex | TokenIndex | SparseIndex


def searches(model: Model | type[Any]) -> bool:
    """Whether the model, or a class of models, can search a whole collection; the others re-rank."""
    return issubclass(model if isinstance(model, type) else type(model), DenseModel | ColbertModel | SpladeModel)


def build_index(
    model: Model,
    docs: Mapping[str, str] | Iterable[tuple[str, str]],
    *,
    device: Device = "auto",
    num_centroids: int | None = None,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> Index:
    """Encodes texts and indexes them, in memory.

    Args:
        model: the encoder.
        docs: doc_id -> text, or pairs of them (a collection's `docs()`).
        device: where FAISS searches; "auto" is a GPU if FAISS sees one.
        num_centroids: as in `TokenIndex.build`; for models that it's an index of.
        batch_tokens: as in `encode_texts`; so for `dtype` and `progress`.

    Raises:
        WrongModelError: if the model can only re-rank.
        ValueError: for a document that is no text, or an id that is none.
    """
    if not searches(model):
        raise _only_reranks(model.architecture)
    if isinstance(model, DenseModel):
        faiss_module()  # the door: before an hour of encoding, not after
    texts = as_texts(dict(docs))
    settings: dict[str, Any] = {"batch_tokens": batch_tokens, "dtype": dtype, "progress": progress}
    encoded = encode(model, list(texts.values()), kind="document", **settings)
    centroids = num_centroids if isinstance(model, ColbertModel) else None
    return index_of(
        Precomputed(list(texts), encoded, model.architecture, model.fingerprint(), _similarity(model)),
        device=device,
        num_centroids=centroids,
    )


def index_of(precomputed: Precomputed, *, device: Device = "auto", num_centroids: int | None = None) -> Index:
    """An index over what was encoded before.

    Args:
        device: as in `build_index`.
        num_centroids: as in `TokenIndex.build`; for states of tokens.

    Raises:
        WrongModelError: if these are states of a model that can only re-rank.
        WrongModelError: if centroids are asked for, and these aren't states of tokens.
    """
    docs, doc_ids, model = precomputed.docs, precomputed.doc_ids, precomputed.model
    if isinstance(docs, TokenStates):
        if not searches(ARCHITECTURES[precomputed.architecture]):
            raise _only_reranks(precomputed.architecture)
        return TokenIndex.build(docs, doc_ids, num_centroids, model=model)
    if num_centroids is not None:
        raise WrongModelError("states of tokens for --centroids", str(precomputed), "leave them out")
    if issparse(docs):
        return SparseIndex.build(docs, doc_ids, model=model)
    return FlatIndex.build(docs, doc_ids, device, model=model, similarity=precomputed.similarity)


def load_index(folder: str | os.PathLike[str], device: Device = "auto", model: Model | None = None) -> Index:
    """Reads an index that was saved, whichever it is.

    Args:
        device: as in `build_index`.
        model: the model that must have made it; of an index that doesn't say, it's taken on trust.

    Raises:
        BadStoreError: the folder isn't an index, its parts don't belong together, or it's another model's.
    """
    with reading(folder, "an index"):
        return _load(Path(folder), device, model)


def _load(path: Path, device: Device, model: Model | None) -> Index:
    facts = index_facts(path)
    made_by, stated = facts.get("model"), facts.get("format")
    if model is not None and made_by is not None and made_by != model.fingerprint():
        expected, found = f"an index made by the model {model.fingerprint()}", f"one made by {made_by}"
        remedy = "search with the model that encoded the documents, or encode and index them anew"
        raise BadStoreError(expected, found, remedy, str(path))
    if stated not in (None, flat.FORMAT):
        return SparseIndex.load(path) if stated == sparse.FORMAT else TokenIndex.load(path)
    if not (path / "index.faiss").is_file():
        remedy = "make one with `rankdistill index`"
        raise BadStoreError("an index (index.faiss or index.json)", "no such file", remedy, str(path))
    return FlatIndex.load(path, device)


def _similarity(model: Model) -> Similarity:
    return model.comparison if isinstance(model, DenseModel) else "dot"


def _only_reranks(architecture: str) -> WrongModelError:
    return WrongModelError(
        "a model that searches (dot, colbert, splade)",
        f"a {architecture}, which can only re-rank",
        "re-rank with it: `rankdistill rerank`",
    )
