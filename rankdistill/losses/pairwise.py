"""Losses on pairs of docs that need labels only."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["ranknet"]


def ranknet(scores_BN: Tensor) -> Tensor:
    """Binary cross-entropy of "doc 0 beats doc j", with logits of the score difference.

    Args:
        scores_BN: scores of N >= 2 docs for each of B queries; doc 0 is the relevant one; gradients flow.

    Returns:
        A scalar.

    Raises:
        ValueError: if N < 2.

    Invariance:
        Adding a constant to all scores of one query changes nothing.

    Source:
        Burges et al. 2005; the teacher's loss in arXiv:2010.02666.
    """
    if scores_BN.ndim != 2 or scores_BN.shape[1] < 2:
        raise ValueError(f"expected scores of shape [B, N] with N >= 2, found {tuple(scores_BN.shape)}")
    return functional.softplus(scores_BN[:, 1:] - scores_BN[:, :1]).mean()
