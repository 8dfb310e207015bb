"""The label-only rival of distillation."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["infonce"]


def infonce(
    scores_BM: Tensor, positives_B: Tensor, *, temperature: float = 1.0, mask_BM: Tensor | None = None
) -> Tensor:
    """Cross-entropy of choosing each query's relevant doc among all docs of the batch.

    Args:
        scores_BM: scores of all M docs of the batch for each of B queries; gradients flow.
        positives_B: column of the relevant doc of each query.
        temperature: divides the scores.
        mask_BM: 0 for docs that must not count as negatives (copies of the relevant doc, say); None counts all.

    Returns:
        A scalar, in nats.

    Invariance:
        Adding a constant to all scores of one query changes nothing.

    Source:
        van den Oord et al. 2018, arXiv:1807.03748.
    """
    scores = scores_BM / temperature
    if mask_BM is not None:
        scores = scores.masked_fill(mask_BM == 0, -1e9)
    return functional.cross_entropy(scores, positives_B)
