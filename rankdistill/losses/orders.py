"""Losses on the order of docs: how likely the student makes an order that the teacher drew."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdistill.losses._common import blank, check_scores, lowest, mean_over_queries

__all__ = ["plackett_luce_orders", "rankdistil"]


def plackett_luce_orders(
    teacher_scores_BN: Tensor,
    num_samples: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    mask_BN: Tensor | None = None,
) -> Tensor:
    """Orders of docs drawn from the teacher's Plackett-Luce distribution: best first, each next one in proportion to exp(score).

    Done by sorting scores with Gumbel noise added.

    Args:
        teacher_scores_BN: scores of N >= 2 docs for each of B queries.
        num_samples: orders drawn for each query, S.
        temperature: divides the scores; towards 0 every order is the teacher's ranking.
        generator: where randomness comes from; None is torch's own for the device, which the Trainer's checkpoints hold,
            so that a resumed run draws what the whole run would have.
        mask_BN: 1 for docs that count; the others come last. None counts all.

    Returns:
        Doc numbers, [B, S, N].

    Raises:
        ValueError: if N < 2.

    Source:
        Reddi et al. 2021, "RankDistil: Knowledge Distillation for Ranking", AISTATS.
    """
    check_scores(teacher_scores_BN)
    scores_B1N = (teacher_scores_BN.detach() / temperature)[:, None, :]
    shape = (len(teacher_scores_BN), num_samples, teacher_scores_BN.shape[1])
    # Minus the logarithm of an exponential variate is a Gumbel one.
    noise_BSN = (
        -torch.empty(shape, dtype=scores_B1N.dtype, device=scores_B1N.device).exponential_(generator=generator).log()
    )
    mask_B1N = None if mask_BN is None else mask_BN[:, None, :]
    return blank(scores_B1N + noise_BSN, mask_B1N, float("-inf")).argsort(dim=2, descending=True)


def rankdistil(
    student_scores_BN: Tensor, orders_BSN: Tensor, *, top_k: int | None = None, mask_BN: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of the first docs of drawn orders under the student's Plackett-Luce distribution.

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        orders_BSN: S orders of them for each query, best first: `plackett_luce_orders` of the teacher, or others.
        top_k: places whose order is learnt; docs further down are only beaten by those before them. None is N.
        mask_BN: 1 for docs that count; the orders have the others last. None counts all.

    Returns:
        A scalar, in nats: the mean over queries and orders of the sum over places.

    Raises:
        ValueError: if N < 2, top_k < 1, or the orders aren't of shape [B, S, N].

    Invariance:
        Adding a constant to all scores of one query changes nothing.

    Source:
        Reddi et al. 2021, "RankDistil: Knowledge Distillation for Ranking", AISTATS. Unlike TF-Ranking's form, it leaves
        no query out, whatever the sign of the teacher's scores.
    """
    check_scores(student_scores_BN)
    if orders_BSN.ndim != 3 or orders_BSN[:, 0].shape != student_scores_BN.shape:
        expected = f"[{len(student_scores_BN)}, S, {student_scores_BN.shape[1]}]"
        raise ValueError(f"expected orders of shape {expected}, found {tuple(orders_BSN.shape)}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"expected top_k >= 1, found {top_k}")
    scores = blank(student_scores_BN, mask_BN, lowest(student_scores_BN))
    ordered_BSN = scores[:, None, :].expand(orders_BSN.shape).gather(2, orders_BSN)
    # At each place: of the docs that are left, how likely is the one that comes next?
    left_BSN = ordered_BSN.flip(2).logcumsumexp(2).flip(2)
    lost_BSK = (left_BSN - ordered_BSN)[:, :, :top_k]
    if mask_BN is None:
        return lost_BSK.sum(2).mean()
    counts_BSK = (mask_BN != 0)[:, None, :].expand(orders_BSN.shape).gather(2, orders_BSN)[:, :, :top_k]
    summed_BS = blank(lost_BSK, counts_BSK).sum(2)
    return mean_over_queries(summed_BS, (mask_BN != 0).any(1, keepdim=True).expand(summed_BS.shape))
