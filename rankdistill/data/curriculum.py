"""Target transforms: teacher scores in, what the student shall learn at this stage out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["interpolated_scores", "rank_labels"]


def rank_labels(
    teacher_scores_BN: Tensor, num_top: int | None = None, rest_labels: Sequence[float] = (-0.25, -0.5)
) -> Tensor:
    """Labels that are fine at the teacher's top and coarse below: 1 / rank for its first docs, one label a group for the rest.

    A curriculum raises `num_top` from stage to stage, so that the order of more docs is learnt. The rest is cut, in the
    teacher's order, into as many groups as there are labels, as equal as can be, smaller ones first.

    Args:
        teacher_scores_BN: scores of N docs for each of B queries. Of tied docs, the one listed first is first.
        num_top: docs whose exact rank counts; None or more than N is all of them.
        rest_labels: labels of the groups of the rest, best first.

    Returns:
        Labels [B, N], in the order of the docs given.

    Raises:
        ValueError: if num_top < 1, or the labels don't fall from the last of the top to the last group.

    Invariance:
        Any change of a query's scores that keeps their order and ties changes nothing.

    Source:
        Zeng, Zamani and Vinay 2022 (CL-DRD), arXiv:2204.13679. With N = 30, the code's label modes are: num_top 5, 10, 20 and
        rest_labels (0,) for its 7, 3 and 5; rest_labels (-0.25, -0.5) for its 8, 9 and 10; num_top 30 for its 6.
    """
    num_docs = teacher_scores_BN.shape[1]
    num_top = num_docs if num_top is None else min(num_top, num_docs)
    if num_top < 1:
        raise ValueError(f"expected num_top >= 1, found {num_top}")
    if list(rest_labels) != sorted(set(rest_labels), reverse=True) or not rest_labels or rest_labels[0] >= 1 / num_top:
        raise ValueError(f"expected labels for the rest that fall from below 1/{num_top}, found {tuple(rest_labels)}")
    num_rest, num_groups = num_docs - num_top, len(rest_labels)
    groups = [(group * num_rest // num_groups, (group + 1) * num_rest // num_groups) for group in range(num_groups)]
    by_rank = [1 / rank for rank in range(1, num_top + 1)]
    for label, (start, end) in zip(rest_labels, groups, strict=True):
        by_rank += [label] * (end - start)
    by_rank_N = torch.tensor(by_rank, dtype=teacher_scores_BN.dtype, device=teacher_scores_BN.device)
    order_BN = teacher_scores_BN.argsort(dim=1, descending=True, stable=True)
    return by_rank_N[order_BN.argsort(dim=1)]


def interpolated_scores(student_scores: Tensor, teacher_scores: Tensor, teacher_share: float) -> Tensor:
    """Targets between the student's own scores and the teacher's, so that an early target isn't out of reach.

    Args:
        student_scores: of any shape; no gradient flows through them.
        teacher_scores: of the same shape.
        teacher_share: 0 is the student itself, 1 the teacher; a curriculum raises it.

    Returns:
        Scores to give a listwise loss in the teacher's place. (In Margin-MSE they'd only scale the gradient.)

    Raises:
        ValueError: if the share isn't between 0 and 1.

    Source:
        TAID, Shing et al. 2025, arXiv:2501.16937; there the share grows by an adaptive rule from 0.4 to 1.
    """
    if not 0 <= teacher_share <= 1:
        raise ValueError(f"expected a teacher's share between 0 and 1, found {teacher_share}")
    return torch.lerp(student_scores.detach(), teacher_scores.to(student_scores.dtype), teacher_share)
