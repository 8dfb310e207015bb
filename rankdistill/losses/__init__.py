"""Losses as pure functions of score tensors; they import nothing of ours and fit anyone's trainer.

Shape letters: B queries, N docs of each query, M docs of the whole batch, S drawn orders, K cutoff.
"""

from __future__ import annotations

from rankdistill.losses.contrastive import infonce, localized_contrastive, symmetric_infonce
from rankdistill.losses.listwise import kl_divergence, listnet
from rankdistill.losses.margin import margin_mse, margin_mse_all_pairs
from rankdistill.losses.orders import plackett_luce_orders, rankdistil
from rankdistill.losses.pairwise import ranknet, weighted_ranknet
from rankdistill.losses.pointwise import pointwise_mse
from rankdistill.losses.ranks import adr_mse, lambda_mrr, lambdarank

__all__ = [
    "adr_mse",
    "infonce",
    "kl_divergence",
    "lambda_mrr",
    "lambdarank",
    "listnet",
    "localized_contrastive",
    "margin_mse",
    "margin_mse_all_pairs",
    "plackett_luce_orders",
    "pointwise_mse",
    "rankdistil",
    "ranknet",
    "symmetric_infonce",
    "weighted_ranknet",
]
