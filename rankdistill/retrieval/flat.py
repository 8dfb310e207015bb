"""FAISS at the door: an exact index over vectors, on the GPU where FAISS sees one, else on the CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rankdistill.errors import BadStoreError, MissingDependencyError, WrongModelError
from rankdistill.formats.guarded import read_lines
from rankdistill.models.similarity import SIMILARITIES, Similarity, unit_rows
from rankdistill.retrieval.folders import check_parts, index_facts, save_index

__all__ = ["FORMAT", "Device", "FlatIndex", "faiss_module"]

FORMAT = "rankdistill-flat-index/1"

Device = Literal["auto", "cpu", "cuda"]

# Vectors handed to FAISS at a time: from a memory map of fp16, 100,000 x 768 in fp32 take 300 MB.
_ADD_CHUNK = 100_000
# FAISS's GPU kernels select at most so many.
_GPU_MAX_K = 2048


def faiss_module() -> Any:
    """The module `faiss`, from either of its wheels.

    Raises:
        MissingDependencyError: neither is installed, or it doesn't load; the message gives the install line.
    """
    try:
        import faiss
    except (ImportError, RuntimeError, OSError) as error:
        # faiss-gpu raises RuntimeError where its CUDA libraries are missing.
        found = "none installed" if isinstance(error, ModuleNotFoundError) else f"one that doesn't load ({error})"
        remedy = "pip install 'rankdistill[cpu]' (or 'rankdistill[gpu]' on a machine with a CUDA GPU)"
        raise MissingDependencyError("the package faiss", found, remedy) from error
    return faiss


class FlatIndex:
    """Exact search by one of the similarities; for "cosine" it holds vectors of length 1.

    Attributes:
        doc_ids: the id of each row.
        dim: width of the vectors.
        on_gpu: whether the search runs on a GPU.
        model: fingerprint of the model whose vectors they are, if it's known.
        similarity: what its scores are.
    """

    def __init__(
        self,
        index: Any,
        doc_ids: Sequence[str],
        device: Device = "auto",
        *,
        model: str | None = None,
        similarity: Similarity = "dot",
    ) -> None:
        faiss = faiss_module()
        if index.ntotal != len(doc_ids):
            raise ValueError(f"expected as many ids as vectors, found {len(doc_ids)} and {index.ntotal}")
        self.doc_ids, self.dim, self.model, self.similarity = list(doc_ids), int(index.d), model, similarity
        self.on_gpu = _use_gpu(faiss, device)
        self._index = faiss.index_cpu_to_all_gpus(index) if self.on_gpu else index

    @classmethod
    def build(
        cls,
        vectors: NDArray[Any],
        doc_ids: Sequence[str],
        device: Device = "auto",
        *,
        model: str | None = None,
        similarity: Similarity = "dot",
    ) -> FlatIndex:
        """An index over `vectors` [num_docs, D], of any float type, also memory-mapped.

        Raises:
            ValueError: the numbers of vectors and ids differ, or a vector isn't finite.
        """
        index = faiss_module().IndexFlat(vectors.shape[1], _metric(similarity))
        for start in range(0, len(vectors), _ADD_CHUNK):
            chunk = np.ascontiguousarray(vectors[start : start + _ADD_CHUNK], dtype=np.float32)
            if not np.isfinite(chunk).all():
                row = start + int(np.flatnonzero(~np.isfinite(chunk).all(axis=1))[0])
                raise ValueError(f"expected finite vectors, found NaN or infinity in row {row} ({doc_ids[row]!r})")
            index.add(unit_rows(chunk) if similarity == "cosine" else chunk)
        return cls(index, doc_ids, device, model=model, similarity=similarity)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: Device = "auto") -> FlatIndex:
        """Reads what `save` wrote.

        Raises:
            BadStoreError: the folder isn't an index, or its parts don't belong together.
        """
        index_path, ids_path = Path(folder) / "index.faiss", Path(folder) / "ids.txt"
        if not (index_path.is_file() and ids_path.is_file()):
            remedy = "make one with `rankdistill index`"
            raise BadStoreError("index.faiss and ids.txt", "no such files", remedy, os.fspath(folder))
        facts = index_facts(Path(folder))
        check_parts(Path(folder), facts)
        faiss = faiss_module()
        try:
            index = faiss.read_index(str(index_path))
        except RuntimeError as error:
            found = str(error).splitlines()[0]
            raise BadStoreError("a FAISS index", found, "build it again", str(index_path)) from error
        doc_ids = read_lines(ids_path)
        if index.ntotal != len(doc_ids):
            found = f"{index.ntotal} vectors and {len(doc_ids)} ids"
            raise BadStoreError("as many ids as vectors", found, "build it again", os.fspath(folder))
        facts = index_facts(Path(folder))
        similarity = facts.get("similarity", "dot")
        if similarity not in SIMILARITIES or index.metric_type != _metric(similarity):
            found = f"one of metric {index.metric_type}"
            raise BadStoreError(f"an index by the similarity {similarity}", found, "build it again", str(index_path))
        return cls(index, doc_ids, device, model=facts.get("model"), similarity=similarity)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `index.faiss` (which FAISS reads), `ids.txt` and `index.json`; read on machines with and without a GPU."""
        faiss = faiss_module()
        index = faiss.index_gpu_to_cpu(self._index) if self.on_gpu else self._index

        def write(path: Path) -> None:
            faiss.write_index(index, str(path / "index.faiss"))

        save_index(folder, write, self.doc_ids, {"format": FORMAT, "model": self.model, "similarity": self.similarity})

    def __len__(self) -> int:
        return len(self.doc_ids)

    @property
    def max_k(self) -> int:
        """The most that one search can return."""
        return min(len(self), _GPU_MAX_K) if self.on_gpu else len(self)

    def search(self, queries: NDArray[Any], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best rows of each query, in FAISS's order (`search.search` puts ties in the package's).

        Args:
            queries: [B, D].
            k: how many; cut to `max_k`.

        Returns:
            Scores [B, K], descending, and rows [B, K].

        Raises:
            WrongModelError: the queries have another width.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            found = f"shape {queries.shape}"
            raise WrongModelError(f"queries of width {self.dim}", found, "search with the model that was indexed")
        if not self.max_k:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        queries = unit_rows(queries) if self.similarity == "cosine" else queries
        scores, rows = self._index.search(queries, min(k, self.max_k))
        if self.similarity == "euclidean":  # FAISS gives squared distances, which rounding may make negative
            scores = -np.sqrt(np.maximum(scores, 0))
        elif self.similarity == "manhattan":
            scores = -scores
        return scores, rows


def _metric(similarity: Similarity) -> int:
    faiss = faiss_module()
    metrics = {"euclidean": faiss.METRIC_L2, "manhattan": faiss.METRIC_L1}
    return int(metrics.get(similarity, faiss.METRIC_INNER_PRODUCT))


def _use_gpu(faiss: Any, device: Device) -> bool:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f'expected device "auto", "cpu" or "cuda", found {device!r}')
    # faiss-cpu answers 0, or hasn't the function at all.
    num_gpus = getattr(faiss, "get_num_gpus", lambda: 0)()
    if device == "cuda" and not num_gpus:
        raise MissingDependencyError(
            "a GPU that FAISS sees", "none", "pip install 'rankdistill[gpu]', or use device=\"cpu\""
        )
    return device != "cpu" and num_gpus > 0
