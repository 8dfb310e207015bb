"""What a model makes of a collection's documents, computed once and kept: vectors, states of tokens, or weights of terms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from rankdistill.errors import BadStoreError, WrongModelError
from rankdistill.formats.guarded import reading
from rankdistill.models.foreign import DenseModel
from rankdistill.models.loading import ARCHITECTURES, Model
from rankdistill.models.precision import DTypeName
from rankdistill.models.similarity import Similarity
from rankdistill.models.splade import SpladeModel
from rankdistill.models.towers import InteractionModel, Kind
from rankdistill.retrieval.encode import encode_collection, encode_texts, load_vectors
from rankdistill.retrieval.folders import SPARSE, STATES, VECTORS, read_manifest
from rankdistill.retrieval.sparse import encode_collection_sparse, encode_sparse, load_sparse
from rankdistill.retrieval.states import TokenStates, encode_collection_states, encode_states, load_states

if TYPE_CHECKING:
    from rankdistill.formats.collection import Collection

__all__ = ["Encoded", "Precomputed", "encode", "load_precomputed", "precompute"]

Encoded: TypeAlias = "NDArray[Any] | TokenStates | csr_matrix"
"""Of many texts: vectors [N, D], states of their tokens, or weights of terms [N, V]."""


@dataclass(frozen=True)
class Precomputed:
    """A folder that `precompute` filled.

    Attributes:
        doc_ids: in the collection's order.
        docs: what the model made of them, memory-mapped if it's dense.
        architecture: of the model.
        model: its fingerprint, if it's known.
        similarity: what compares vectors.
    """

    doc_ids: list[str]
    docs: Encoded
    architecture: str
    model: str | None = None
    similarity: Similarity = "dot"

    def __str__(self) -> str:
        num_docs = len(self.doc_ids)
        if issparse(self.docs):
            count: int = self.docs.nnz  # type: ignore[union-attr]
            mean = count / max(1, num_docs)
            return f"{count:,} weights of terms of {num_docs:,} documents ({mean:.1f} a document)"
        if isinstance(self.docs, TokenStates):
            array, noun, more = self.docs.states, "states", f" of {num_docs:,} documents"
        else:
            array, noun, more = self.docs, "vectors", ""
        size = f"({array.dtype}, {array.nbytes / 1e6:,.1f} MB)"
        return f"{len(array):,} {noun} of width {array.shape[1]}{more} {size}"


def encode(
    model: Model,
    texts: Sequence[str],
    *,
    kind: Kind,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> Encoded:
    """What a model makes of texts, in memory.

    Args:
        model: one that reads documents apart from queries.
        kind: which side of a pair the texts are.
        batch_tokens: as in `precompute`; so for `dtype` and `progress`.

    Raises:
        WrongModelError: for a cross-encoder, which reads both together.
    """
    settings: dict[str, Any] = {"kind": kind, "batch_tokens": batch_tokens, "dtype": dtype, "progress": progress}
    if isinstance(model, DenseModel):
        return encode_texts(model, texts, **settings)
    if isinstance(model, SpladeModel):
        return encode_sparse(model, texts, **settings)
    if isinstance(model, InteractionModel):
        return encode_states(model, texts, **settings)
    raise _reads_together(model)


def precompute(
    model: Model,
    collection: Collection,
    out_dir: str | os.PathLike[str],
    *,
    shard_size: int = 50_000,
    store_dtype: Literal["float32", "float16"] = "float32",
    min_weight: float = 0.0,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> Path:
    """Fills a folder with what a model makes of all documents; called again after an interruption, it does what is missing.

    Args:
        model: one that reads documents apart from queries.
        collection: the documents.
        out_dir: the folder.
        shard_size: documents between two points from which an interrupted run can go on.
        store_dtype: of the numbers stored.
        min_weight: terms of a sparse model that weigh no more are dropped.
        batch_tokens: tokens, padding included, that go through the model at once.
        dtype: as in `encode_texts`.
        progress: show a bar on standard error.

    Returns:
        The folder.

    Raises:
        WrongModelError: for a cross-encoder, which reads both together.
        WrongModelError: if `min_weight` is given for a model that isn't sparse.
        BadStoreError: if the folder holds another job's data.
    """
    settings: dict[str, Any] = {
        "shard_size": shard_size,
        "store_dtype": store_dtype,
        "batch_tokens": batch_tokens,
        "dtype": dtype,
        "progress": progress,
    }
    if min_weight and not isinstance(model, SpladeModel):
        raise WrongModelError("a sparse model for --min-weight", f"a {model.architecture} model", "leave it out")
    if isinstance(model, DenseModel):
        return encode_collection(model, collection, out_dir, **settings)
    if isinstance(model, SpladeModel):
        return encode_collection_sparse(model, collection, out_dir, min_weight=min_weight, **settings)
    if isinstance(model, InteractionModel):
        return encode_collection_states(model, collection, out_dir, **settings)
    raise _reads_together(model)


def _reads_together(model: Model) -> WrongModelError:
    return WrongModelError(
        "a model that reads documents apart from queries",
        f"a {model.architecture}, which reads them together",
        "re-rank with it: `rankdistill rerank`",
    )


def load_precomputed(out_dir: str | os.PathLike[str], model: Model | None = None) -> Precomputed:
    """Reads such a folder.

    Args:
        model: the model that must have filled it.

    Raises:
        BadStoreError: the folder isn't one, isn't finished, or is another model's.
    """
    with reading(out_dir, "what `rankdistill encode` writes"):
        return _load(out_dir, model)


def _load(out_dir: str | os.PathLike[str], model: Model | None) -> Precomputed:
    manifest = read_manifest(Path(out_dir) / "manifest.json")
    if model is not None and manifest["model"] != model.fingerprint():
        expected, found = f"vectors of the model {model.fingerprint()}", f"those of {manifest['model']}"
        raise BadStoreError(expected, found, "encode the collection with this model", os.fspath(out_dir))
    if manifest["format"] != VECTORS and manifest.get("architecture") not in ARCHITECTURES:
        expected, found = f"documents of a model ({', '.join(ARCHITECTURES)})", str(manifest.get("architecture"))
        raise BadStoreError(expected, found, "encode the collection again", os.fspath(out_dir))
    if manifest["format"] == STATES:
        return Precomputed(*load_states(out_dir), str(manifest["architecture"]), manifest["model"])
    if manifest["format"] == SPARSE:
        return Precomputed(*load_sparse(out_dir), str(manifest["architecture"]), manifest["model"])
    return Precomputed(*load_vectors(out_dir), "dot", manifest["model"], manifest.get("similarity", "dot"))
