"""What the losses share: the shapes they ask for, masks, means."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["blank", "check_both", "check_scores", "lowest", "mean_over_queries", "rows_of_pairs"]


def check_scores(scores_BN: Tensor) -> None:
    """Refuses scores that compare nothing."""
    if scores_BN.ndim != 2 or scores_BN.shape[1] < 2:
        raise ValueError(f"expected scores of shape [B, N] with N >= 2, found {tuple(scores_BN.shape)}")


def check_both(student_scores: Tensor, teacher_scores: Tensor) -> None:
    """The same for both sides, which have to be of one shape."""
    if student_scores.shape != teacher_scores.shape:
        raise ValueError(f"shapes differ: student {tuple(student_scores.shape)}, teacher {tuple(teacher_scores.shape)}")
    check_scores(student_scores)


def blank(scores: Tensor, mask: Tensor | None, value: float = 0.0) -> Tensor:
    """Scores with `value` where the mask is 0. Whatever stood there, NaN too, has no part in results or gradients."""
    return scores if mask is None else scores.masked_fill(mask == 0, value)


def lowest(scores: Tensor) -> float:
    """For `blank` before a softmax: gives probability 0. Not -inf, since 0 * (-inf - -inf) would be NaN."""
    return torch.finfo(scores.dtype).min / 2


def mean_over_queries(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over queries of the mean over their entries (all but the first dimension) that count.

    Queries where nothing counts are left out; 0 where all are.
    """
    if mask is None:
        return values.mean()
    weight = (mask != 0).to(values.dtype).flatten(1)
    count_B = weight.sum(1)
    mean_B = (values.flatten(1) * weight).sum(1) / count_B.clamp(min=1)
    return mean_B.sum() / (count_B > 0).sum().clamp(min=1)


def rows_of_pairs(values_BN: Tensor) -> Tensor:
    """values_i - values_j for each pair of docs, [B, N, N]."""
    return values_BN[:, :, None] - values_BN[:, None, :]
