"""The label-only rivals of distillation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rankdistill.losses._common import blank, check_scores, lowest

__all__ = ["infonce", "localized_contrastive", "symmetric_infonce"]


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


def symmetric_infonce(
    scores_BM: Tensor, positives_B: Tensor, *, temperature: float = 1.0, mask_BM: Tensor | None = None
) -> Tensor:
    """The mean of choosing each query's relevant doc among all docs, and each relevant doc's query among all queries.

    Where each query has one doc (M = B), this is CLIP's loss. Another query that has the same relevant doc isn't a wrong choice,
    and is left out.

    Args:
        scores_BM: scores of all M docs of the batch for each of B queries; gradients flow.
        positives_B: column of the relevant doc of each query.
        temperature: divides the scores.
        mask_BM: 0 for docs that must not count as a query's negatives, nor the query as theirs; None counts all.

    Returns:
        A scalar, in nats.

    Invariance:
        Adding a constant to all scores changes nothing.

    Source:
        Radford et al. 2021, arXiv:2103.00020; at each exit in ModularStarEncoder, arXiv:2503.03008.
    """
    by_query = infonce(scores_BM, positives_B, temperature=temperature, mask_BM=mask_BM)
    rows_B = torch.arange(len(positives_B), device=positives_B.device)
    counts_BB = positives_B[:, None] != positives_B[None, :]
    if mask_BM is not None:
        counts_BB = counts_BB & (mask_BM[:, positives_B] != 0)
    counts_BB = counts_BB | (rows_B[:, None] == rows_B[None, :])
    scores_BB = scores_BM[:, positives_B]
    return (by_query + infonce(scores_BB.T, rows_B, temperature=temperature, mask_BM=counts_BB.T)) / 2


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
