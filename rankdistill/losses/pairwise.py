"""Losses on which doc of a pair is the better one."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from rankdistill.losses._common import blank, check_both, check_scores, mean_over_queries

__all__ = ["ranknet", "weighted_ranknet"]


def ranknet(scores_BN: Tensor, *, mask_BN: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of "doc 0 beats doc j", with logits of the score difference.

    Args:
        scores_BN: scores of N >= 2 docs for each of B queries; doc 0 is the relevant one; gradients flow.
        mask_BN: 1 for docs that count; queries whose doc 0 doesn't, or no other one, are left out. None counts all.

    Returns:
        A scalar.

    Raises:
        ValueError: if N < 2.

    Invariance:
        Adding a constant to all scores of one query changes nothing.

    Source:
        Burges et al. 2005; the teacher's loss in arXiv:2010.02666.
    """
    check_scores(scores_BN)
    scores = blank(scores_BN, mask_BN)
    lost_BN = functional.softplus(scores[:, 1:] - scores[:, :1])
    return mean_over_queries(lost_BN, None if mask_BN is None else mask_BN[:, :1] * mask_BN[:, 1:])


def weighted_ranknet(student_scores_BN: Tensor, teacher_scores_BN: Tensor, *, mask_BN: Tensor | None = None) -> Tensor:
    """RankNet with each pair (doc 0, doc j) weighted by the teacher's margin.

    Where the teacher prefers doc j, its margin is negative; as a weight that would let the loss fall without bound while
    doc j rises. So the pair is turned round: the teacher's margin says which doc is the better one, its size how much
    that matters.

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        teacher_scores_BN: the teacher's scores of the same docs, in the same order.
        mask_BN: 1 for docs that count; queries whose doc 0 doesn't, or no other one, are left out. None counts all.

    Returns:
        A scalar.

    Raises:
        ValueError: if the shapes differ or N < 2.

    Invariance:
        Adding a constant to all scores of one query, on either side, changes nothing. Proportional to the teacher's scale.

    Source:
        The weighted RankNet ablation of Hofstätter et al. 2020, arXiv:2010.02666, equal to it where no margin is negative.
    """
    check_both(student_scores_BN, teacher_scores_BN)
    student, teacher = blank(student_scores_BN, mask_BN), blank(teacher_scores_BN, mask_BN)
    margin_BN = teacher[:, :1] - teacher[:, 1:]
    lost_BN = margin_BN.abs() * functional.softplus(margin_BN.sign() * (student[:, 1:] - student[:, :1]))
    return mean_over_queries(lost_BN, None if mask_BN is None else mask_BN[:, :1] * mask_BN[:, 1:])
