"""k-means over vectors, by FAISS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdistill.retrieval.index import faiss_module

__all__ = ["kmeans"]

_ITERATIONS = 20


def kmeans(vectors_QD: NDArray[Any], num_clusters: int, *, seed: int = 0) -> NDArray[np.int64]:
    """The cluster of each vector, by Euclidean distance; the same for the same arguments on the same machine.

    Memory: the vectors as float32. FAISS finds the centroids on a random sample of 256 vectors a cluster.

    Args:
        vectors_QD: any float type.
        num_clusters: at most as many as there are vectors.

    Returns:
        [Q], from 0.

    Raises:
        ValueError: for a number of clusters that can't be, or vectors that aren't finite.
        MissingDependencyError: if FAISS isn't installed.
    """
    faiss = faiss_module()
    if not 1 <= num_clusters <= len(vectors_QD):
        raise ValueError(
            f"expected a number of clusters from 1 to {len(vectors_QD)} (the vectors), found {num_clusters}"
        )
    vectors = np.ascontiguousarray(vectors_QD, np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("expected finite vectors, found NaN or infinity")
    found = faiss.Kmeans(vectors.shape[1], num_clusters, niter=_ITERATIONS, seed=seed, min_points_per_centroid=1)
    found.train(vectors)
    assigned: NDArray[np.int64] = found.index.search(vectors, 1)[1][:, 0]
    return assigned
