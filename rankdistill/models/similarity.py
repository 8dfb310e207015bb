"""How two vectors are compared: the four similarities that sentence-transformers names, for matrices and for pairs."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

__all__ = ["SIMILARITIES", "Similarity", "pair_similarities", "similarities", "unit_rows"]

Similarity = Literal["dot", "cosine", "euclidean", "manhattan"]
"""Of two vectors, higher for more alike; the last two are distances times -1."""
SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)

# A vector shorter than this is divided by it: torch's constant, and so sentence-transformers'.
_SHORTEST = 1e-12


def similarities(queries_BD: Tensor, docs_MD: Tensor, similarity: Similarity = "dot") -> Tensor:
    """Similarities [B, M] of every query's vector with every doc's; gradients flow."""
    if similarity == "euclidean":
        return -torch.cdist(queries_BD, docs_MD)
    if similarity == "manhattan":
        return -torch.cdist(queries_BD, docs_MD, p=1.0)
    if similarity == "cosine":
        queries_BD, docs_MD = functional.normalize(queries_BD, dim=-1), functional.normalize(docs_MD, dim=-1)
    return queries_BD @ docs_MD.T


def pair_similarities(
    queries_PD: NDArray[np.float32], docs_PD: NDArray[np.float32], similarity: Similarity = "dot"
) -> NDArray[np.float32]:
    """Similarities [P] of pairs of vectors."""
    if similarity == "euclidean":
        distances_P: NDArray[np.float32] = np.linalg.norm(queries_PD - docs_PD, axis=1)
        return -distances_P
    if similarity == "manhattan":
        distances_P = np.abs(queries_PD - docs_PD).sum(axis=1)
        return -distances_P
    if similarity == "cosine":
        queries_PD, docs_PD = unit_rows(queries_PD), unit_rows(docs_PD)
    scores_P: NDArray[np.float32] = np.einsum("pd,pd->p", queries_PD, docs_PD)
    return scores_P


def unit_rows(vectors_ND: NDArray[Any]) -> NDArray[np.float32]:
    """The vectors [N, D] divided by their lengths; a vector of zeros stays one."""
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit_ND: NDArray[np.float32] = vectors_ND / np.maximum(lengths_N1, np.float32(_SHORTEST))
    return unit_ND
