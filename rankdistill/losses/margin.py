"""Losses on differences of scores."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.losses._common import blank, check_both, mean_over_queries

__all__ = ["margin_mse", "margin_mse_all_pairs"]


def margin_mse(student_scores_BN: Tensor, teacher_scores_BN: Tensor, *, mask_BN: Tensor | None = None) -> Tensor:
    """Mean squared difference between the student's and the teacher's margins of doc 0 over every other doc.

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        teacher_scores_BN: the teacher's scores of the same docs, in the same order.
        mask_BN: 1 for docs that count; queries whose doc 0 doesn't, or no other one, are left out. None counts all.

    Returns:
        A scalar.

    Raises:
        ValueError: if the shapes differ or N < 2.

    Invariance:
        Adding a constant to all scores of one query, on either side, changes nothing.

    Source:
        Hofstätter et al. 2020, arXiv:2010.02666; N = 2 is the published loss.
    """
    check_both(student_scores_BN, teacher_scores_BN)
    gap_BN = blank(student_scores_BN - teacher_scores_BN, mask_BN)
    squared_BN = (gap_BN[:, :1] - gap_BN[:, 1:]).square()
    return mean_over_queries(squared_BN, None if mask_BN is None else mask_BN[:, :1] * mask_BN[:, 1:])


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
        The all-pairs form of Margin-MSE as in SPLADE-v3, arXiv:2403.06789. Its code divides by N², pairs of a doc with
        itself included: a weight of 0.05 there is one of 0.05 (N - 1) / N here.
    """
    check_both(student_scores_BN, teacher_scores_BN)
    gap_BN = blank(student_scores_BN - teacher_scores_BN, mask_BN)
    weight_BN = torch.ones_like(gap_BN) if mask_BN is None else mask_BN.to(gap_BN.dtype)
    count_B1 = weight_BN.sum(1, keepdim=True)
    mean_B1 = (gap_BN * weight_BN).sum(1, keepdim=True) / count_B1.clamp(min=1)
    variance_B1 = ((gap_BN - mean_B1).square() * weight_BN).sum(1, keepdim=True) / (count_B1 - 1).clamp(min=1)
    usable_B1 = (count_B1 >= 2).to(gap_BN.dtype)
    return (2 * variance_B1 * usable_B1).sum() / usable_B1.sum().clamp(min=1)
