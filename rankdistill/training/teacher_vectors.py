"""Vectors of a dense teacher for a whole collection, made once and kept in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rankdistill.errors import WrongModelError
from rankdistill.formats.cache import cache_folder
from rankdistill.formats.collection import Collection
from rankdistill.formats.guarded import read_array
from rankdistill.formats.writing import save_array
from rankdistill.models.foreign import DenseModel
from rankdistill.models.loading import load_model
from rankdistill.retrieval.encode import encode_collection, encode_texts, load_vectors

__all__ = ["cached_query_vectors", "cached_vectors"]


def cached_vectors(
    model: DenseModel, collection: Collection, *, cache_dir: Path | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """A dense teacher's vectors of all queries and all docs of a collection, in the collection's order.

    Args:
        model: the teacher; encodes where it is.
        cache_dir: the package's cache by default.

    Returns:
        [num_queries, D] and [num_docs, D], memory-mapped.
    """
    folder = _folder(model, collection, cache_dir)
    encode_collection(model, collection, folder / "docs", shard_size=2000, dtype="fast")
    return _queries(model, collection, folder), load_vectors(folder / "docs")[1]


def cached_query_vectors(
    model: str, collection: Collection, *, device: str = "auto", cache_dir: Path | None = None
) -> NDArray[Any]:
    """A dense model's vectors of all queries, as `cached_vectors` gives them, without encoding the docs.

    Raises:
        WrongModelError: if it's a model of another kind.
    """
    loaded = load_model(model, device=device)
    if not isinstance(loaded, DenseModel):
        expected, remedy = "a dense model (one vector a text)", "pass a SentenceTransformer or a dot student"
        raise WrongModelError(expected, f"a {loaded.architecture} model", remedy, model)
    return _queries(loaded, collection, _folder(loaded, collection, cache_dir))


def _folder(model: DenseModel, collection: Collection, cache_dir: Path | None) -> Path:
    return (cache_dir or cache_folder("vectors")) / f"{model.fingerprint()}-{collection.fingerprint}"


def _queries(model: DenseModel, collection: Collection, folder: Path) -> NDArray[Any]:
    queries = folder / "queries.npy"
    if not queries.is_file():
        texts = collection.query_texts(list(collection.query_ids))
        save_array(queries, encode_texts(model, texts, kind="query", dtype="fast"))
    found: NDArray[Any] = read_array(queries)
    return found
