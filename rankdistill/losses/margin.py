"""Losses on differences of scores."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["margin_mse", "margin_mse_all_pairs"]


def _check(student_scores: Tensor, teacher_scores: Tensor) -> None:
    if student_scores.shape != teacher_scores.shape:
        raise ValueError(f"shapes differ: student {tuple(student_scores.shape)}, teacher {tuple(teacher_scores.shape)}")
    if student_scores.ndim != 2 or student_scores.shape[1] < 2:
        raise ValueError(f"expected scores of shape [B, N] with N >= 2, found {tuple(student_scores.shape)}")


def margin_mse(student_scores_BN: Tensor, teacher_scores_BN: Tensor) -> Tensor:
    """Mean squared difference between the student's and the teacher's margins of doc 0 over every other doc.

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        teacher_scores_BN: the teacher's scores of the same docs, in the same order.

    Returns:
        A scalar.

    Raises:
        ValueError: if the shapes differ or N < 2.

    Invariance:
        Adding a constant to all scores of one query, on either side, changes nothing.

    Source:
        Hofstätter et al. 2020, arXiv:2010.02666; N = 2 is the published loss.
    """
    _check(student_scores_BN, teacher_scores_BN)
    gap_BN = student_scores_BN - teacher_scores_BN
    return (gap_BN[:, :1] - gap_BN[:, 1:]).square().mean()


def margin_mse_all_pairs(student_scores_BN: Tensor, teacher_scores_BN: Tensor, mask_BN: Tensor | None = None) -> Tensor:
    """Mean squared difference of margins over all pairs of docs of a query.

    Over the docs of a whole batch ([B, M] scores of every query with every doc) this is in-batch Margin-MSE.
    It costs O(BN), not O(BN²): the mean over pairs i < j of (g_i - g_j)², with g the gap between student and teacher, is
    twice the sample variance of g.

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        teacher_scores_BN: the teacher's scores of the same docs, in the same order.
        mask_BN: 1 for docs that count; queries with fewer than two such docs are left out. None counts all.

    Returns:
        A scalar: the mean over queries of the mean over their pairs.

    Raises:
        ValueError: if the shapes differ or N < 2.

    Invariance:
        Adding a constant to all scores of one query, on either side, changes nothing; nor does the order of docs.

    Source:
        The all-pairs form of Margin-MSE as in SPLADE-v3, arXiv:2403.06789.
    """
    _check(student_scores_BN, teacher_scores_BN)
    gap_BN = student_scores_BN - teacher_scores_BN
    weight_BN = torch.ones_like(gap_BN) if mask_BN is None else mask_BN.to(gap_BN.dtype)
    count_B1 = weight_BN.sum(1, keepdim=True)
    mean_B1 = (gap_BN * weight_BN).sum(1, keepdim=True) / count_B1.clamp(min=1)
    variance_B1 = ((gap_BN - mean_B1).square() * weight_BN).sum(1, keepdim=True) / (count_B1 - 1).clamp(min=1)
    usable_B1 = (count_B1 >= 2).to(gap_BN.dtype)
    return (2 * variance_B1 * usable_B1).sum() / usable_B1.sum().clamp(min=1)
