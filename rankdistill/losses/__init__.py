"""Losses as pure functions of score tensors; they import nothing of ours and fit anyone's trainer.

Shape letters: B queries, N docs of each query, M docs of the whole batch.
"""

from __future__ import annotations

from rankdistill.losses.contrastive import infonce
from rankdistill.losses.listwise import kl_divergence
from rankdistill.losses.margin import margin_mse, margin_mse_all_pairs
from rankdistill.losses.pairwise import ranknet

__all__ = ["infonce", "kl_divergence", "margin_mse", "margin_mse_all_pairs", "ranknet"]
