"""Losses that look at ranks: what a swap would do to a measure, and ranks made smooth."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from rankdistill.losses._common import blank, check_both, mean_over_queries, rows_of_pairs

__all__ = ["adr_mse", "lambda_mrr", "lambdarank"]


def lambdarank(
    student_scores_BN: Tensor,
    relevance_BN: Tensor,
    *,
    k: int | None = None,
    gain: Literal["linear", "exponential"] = "linear",
    mask_BN: Tensor | None = None,
) -> Tensor:
    """RankNet over all pairs of docs, each weighted by how much swapping them would change nDCG.

    The student's ranks are those of its scores now (of tied docs, the one listed first is first); no gradient flows
    through them. Memory is O(BN²).

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        relevance_BN: how relevant each doc is; what is negative has gain 0.
        k: nDCG's cutoff: a pair counts if at least one of its docs is among the student's first k; None is N.
        gain: "linear" as in trec_eval, or "exponential", 2^relevance - 1.
        mask_BN: 1 for docs that count; None counts all.

    Returns:
        A scalar: the mean over queries of the sum over their pairs.

    Raises:
        ValueError: if the shapes differ, N < 2, k < 1, or for another gain.

    Invariance:
        Adding a constant to a query's student scores changes nothing; nor, with linear gain, does multiplying its
        relevances by a positive number; nor does the order of docs, unless scores are tied.

    Source:
        Burges et al. 2006, "Learning to Rank with Nonsmooth Cost Functions"; as a loss, Wang et al. 2018, "The LambdaLoss
        Framework for Ranking Metric Optimization".
    """
    check_both(student_scores_BN, relevance_BN)
    if gain not in ("linear", "exponential"):
        raise ValueError(f'gain must be "linear" or "exponential", not {gain!r}')
    num_docs = student_scores_BN.shape[1]
    if k is not None and k < 1:
        raise ValueError(f"expected a cutoff k >= 1, found {k}")
    ranks_N = torch.arange(1, num_docs + 1, device=student_scores_BN.device, dtype=student_scores_BN.dtype)
    discounts_N = torch.where(ranks_N <= (k or num_docs), 1 / torch.log2(1 + ranks_N), 0)
    gains_BN = blank(relevance_BN, mask_BN).clamp(min=0).to(student_scores_BN.dtype)
    if gain == "exponential":
        gains_BN = torch.exp2(gains_BN) - 1
    ideal_B11 = (gains_BN.sort(descending=True).values * discounts_N).sum(1)[:, None, None]
    gained_BNN = rows_of_pairs(gains_BN).abs() / ideal_B11.clamp(min=torch.finfo(gains_BN.dtype).tiny)
    moved_BNN = rows_of_pairs(discounts_N[_places(student_scores_BN, mask_BN)]).abs()
    lost_BNN, counts_BNN = _lost_pairs(student_scores_BN, relevance_BN, mask_BN)
    return (gained_BNN * moved_BNN * lost_BNN * counts_BNN).sum((1, 2)).mean()


def lambda_mrr(student_scores_BN: Tensor, labels_BN: Tensor, *, mask_BN: Tensor | None = None) -> Tensor:
    """RankNet over all pairs of docs with unequal labels, each weighted by the difference of their reciprocal ranks.

    Only the order of the labels matters, which may be negative. The student's ranks are those of its scores now (of
    tied docs, the one listed first is first); no gradient flows through them. Memory is O(BN²).

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        labels_BN: the higher, the better; `rankdistill.data.curriculum.rank_labels` makes CL-DRD's.
        mask_BN: 1 for docs that count; None counts all.

    Returns:
        A scalar: the mean over queries of the mean over their pairs; queries without a pair are left out.

    Raises:
        ValueError: if the shapes differ or N < 2.

    Invariance:
        Adding a constant to a query's student scores changes nothing; nor does any change of its labels that keeps their
        order and ties; nor does the order of docs, unless scores are tied.

    Source:
        Zeng, Zamani and Vinay 2022 (CL-DRD), arXiv:2204.13679; the mean over queries is their mean over all pairs where
        every query has as many.
    """
    check_both(student_scores_BN, labels_BN)
    reciprocal_BN = 1 / (1 + _places(student_scores_BN, mask_BN).to(student_scores_BN.dtype))
    lost_BNN, counts_BNN = _lost_pairs(student_scores_BN, labels_BN, mask_BN)
    return mean_over_queries(rows_of_pairs(reciprocal_BN).abs() * lost_BNN, counts_BNN)


def adr_mse(
    student_scores_BN: Tensor,
    teacher_scores_BN: Tensor,
    *,
    temperature: float = 1.0,
    discount: Literal["log2", "reciprocal", "none"] = "log2",
    mask_BN: Tensor | None = None,
) -> Tensor:
    """Squared difference between the student's smooth ranks and the teacher's ranks, with more weight at the top.

    A smooth rank counts each other doc by the sigmoid of how far it's ahead. Docs tied in the teacher share the mean of
    their ranks, which is what a student with equal scores has too. Only the teacher's order matters, so its scores may
    be ranks (negated) of a list-wise teacher. Memory is O(BN²).

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        teacher_scores_BN: the teacher's scores of the same docs, in the same order.
        temperature: divides the student's score differences in the sigmoid; towards 0, smooth ranks become ranks.
        discount: weight of a doc with teacher rank r: 1 / log2(r + 1), 1 / r, or 1.
        mask_BN: 1 for docs that count; None counts all.

    Returns:
        A scalar, in squared ranks: the mean over queries of the mean over their docs.

    Raises:
        ValueError: if the shapes differ, N < 2, or for another discount.

    Invariance:
        Adding a constant to a query's student scores changes nothing; nor does any change of its teacher scores that
        keeps their order and ties; nor does the order of docs.

    Source:
        Schlatt et al. 2025, "Rank-DistiLLM", doi:10.1007/978-3-031-88714-7_31.
    """
    check_both(student_scores_BN, teacher_scores_BN)
    if discount not in ("log2", "reciprocal", "none"):
        raise ValueError(f'discount must be "log2", "reciprocal" or "none", not {discount!r}')
    student, teacher = blank(student_scores_BN, mask_BN), blank(teacher_scores_BN, mask_BN)
    behind_BNN = torch.sigmoid(-rows_of_pairs(student) / temperature)
    above_BNN, level_BNN = teacher[:, None, :] > teacher[:, :, None], teacher[:, None, :] == teacher[:, :, None]
    truly_behind_BNN = above_BNN.to(student.dtype) + 0.5 * level_BNN.to(student.dtype)
    if mask_BN is not None:
        others_B1N = (mask_BN != 0).to(student.dtype)[:, None, :]
        behind_BNN, truly_behind_BNN = behind_BNN * others_B1N, truly_behind_BNN * others_B1N
    # Each doc is half behind itself.
    smooth_BN, rank_BN = 0.5 + behind_BNN.sum(2), 0.5 + truly_behind_BNN.sum(2)
    squared_BN = (smooth_BN - rank_BN).square()
    if discount != "none":
        squared_BN = squared_BN / (torch.log2(rank_BN + 1) if discount == "log2" else rank_BN)
    return mean_over_queries(squared_BN, mask_BN)


def _places(scores_BN: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Each doc's rank in its query, from 0, without gradients; masked docs come last."""
    scores = blank(scores_BN.detach(), mask_BN, float("-inf"))
    return scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _lost_pairs(scores_BN: Tensor, labels_BN: Tensor, mask_BN: Tensor | None) -> tuple[Tensor, Tensor]:
    """RankNet's loss of "i beats j", and where i should: [B, N, N] both."""
    lost_BNN = functional.softplus(-rows_of_pairs(blank(scores_BN, mask_BN)))
    counts_BNN = labels_BN[:, :, None] > labels_BN[:, None, :]
    if mask_BN is not None:
        counts_BNN = counts_BNN & (mask_BN != 0)[:, :, None] & (mask_BN != 0)[:, None, :]
    return lost_BNN, counts_BNN
