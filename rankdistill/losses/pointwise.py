"""Losses on each doc by itself."""

from __future__ import annotations

from torch import Tensor

from rankdistill.losses._common import blank, mean_over_queries

__all__ = ["pointwise_mse"]


def pointwise_mse(student_scores_BN: Tensor, teacher_scores_BN: Tensor, *, mask_BN: Tensor | None = None) -> Tensor:
    """Mean squared difference between the student's and the teacher's scores.

    Margin-MSE's weaker rival: it asks the student for the teacher's offset of each query too, which no ranking needs.

    Args:
        student_scores_BN: scores of N >= 1 docs for each of B queries; gradients flow.
        teacher_scores_BN: the teacher's scores of the same docs, in the same order.
        mask_BN: 1 for docs that count; None counts all.

    Returns:
        A scalar: the mean over queries of the mean over their docs.

    Raises:
        ValueError: if the shapes differ.

    Invariance:
        Adding one constant to both sides changes nothing (to one side, it does); nor does the order of docs.

    Source:
        The pointwise ablation of Hofstätter et al. 2020, arXiv:2010.02666; there N = 2.
    """
    if student_scores_BN.shape != teacher_scores_BN.shape:
        shapes = f"student {tuple(student_scores_BN.shape)}, teacher {tuple(teacher_scores_BN.shape)}"
        raise ValueError(f"shapes differ: {shapes}")
    gap_BN = blank(student_scores_BN - teacher_scores_BN, mask_BN)
    return mean_over_queries(gap_BN.square(), mask_BN)
