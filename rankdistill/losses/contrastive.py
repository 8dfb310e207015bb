"""The label-only rivals of distillation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rankdistill.losses._common import blank, check_scores, lowest

__all__ = ["infonce", "localized_contrastive"]


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
    return functional.cross_entropy(blank(scores, mask_BM, lowest(scores)), positives_B)


def localized_contrastive(scores_BN: Tensor, *, temperature: float = 1.0, mask_BN: Tensor | None = None) -> Tensor:
    """Cross-entropy of choosing doc 0, the relevant one, among the row's own docs: InfoNCE without the batch.

    Args:
        scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        temperature: divides the scores.
        mask_BN: 1 for docs that count, doc 0 among them; None counts all.

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: if N < 2.

    Invariance:
        Adding a constant to all scores of one query changes nothing; nor does the order of the docs after doc 0.

    Source:
        LCE of Gao, Dai and Callan 2021, arXiv:2101.08751; its negatives are the retriever's own top results.
    """
    check_scores(scores_BN)
    positives_B = torch.zeros(len(scores_BN), dtype=torch.long, device=scores_BN.device)
    return infonce(scores_BN, positives_B, temperature=temperature, mask_BM=mask_BN)
