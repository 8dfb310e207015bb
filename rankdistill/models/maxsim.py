"""MaxSim: each query token's best match among a document's tokens, summed over the query's tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["EMPTY_DOC_SCORE", "maxsim", "maxsim_pairs"]

EMPTY_DOC_SCORE = -1e9
"""The score of a document none of whose tokens counts: below any other, and finite. sentence-transformers' number too."""

# Similarities that exist at once: 2^25 are 128 MB in fp32, and no faster in bigger parts.
_MAX_ELEMENTS = 1 << 25


def maxsim(
    query_BLD: Tensor,
    query_mask_BL: Tensor,
    doc_MLD: Tensor,
    doc_mask_ML: Tensor,
    *,
    max_elements: int = _MAX_ELEMENTS,
) -> Tensor:
    """Scores [B, M] of every query with every doc, in fp32.

    The B x M x Lq x Ld similarities are made in parts and never kept; for the gradient only the place of each maximum is,
    B x Lq x M integers. The maximum of equal similarities is one of them, as in `torch.max`.

    Args:
        query_BLD: states of the queries' tokens.
        query_mask_BL: which of them count; the others add 0.
        doc_MLD: states of the docs' tokens.
        doc_mask_ML: which of them count. A doc without any has `EMPTY_DOC_SCORE`, whose gradient is 0.
        max_elements: similarities that exist at once (those of one query with one doc at least).

    Source:
        Khattab and Zaharia 2020, arXiv:2004.12832.
    """
    with torch.autocast(query_BLD.device.type, enabled=False):
        given = query_BLD.float(), query_mask_BL.bool(), doc_MLD.float(), doc_mask_ML.bool()
        scores: Tensor = _MaxSim.apply(*given, max_elements)
    return scores


class _MaxSim(torch.autograd.Function):
    """Its gradient is that of B x Lq x M products of two vectors; a matrix of all similarities would hold mostly zeros."""

    @staticmethod
    def forward(
        ctx: Any, query_BLD: Tensor, query_mask_BL: Tensor, doc_MKD: Tensor, doc_mask_MK: Tensor, max_elements: int
    ) -> Tensor:
        num_queries, query_length, _ = query_BLD.shape
        num_docs, doc_length, _ = doc_MKD.shape
        area = max(1, query_length * doc_length)
        step = max(1, min(num_queries, max_elements // area))
        doc_step = max(1, max_elements // (step * area))
        best_BLM = query_BLD.new_empty(num_queries, query_length, num_docs)
        where_BLM = torch.empty_like(best_BLM, dtype=torch.int64)
        for start in range(0, num_queries, step):
            part = slice(start, start + step)
            flat = query_BLD[part].flatten(0, 1)
            for doc_start in range(0, num_docs, doc_step):
                docs = slice(doc_start, doc_start + doc_step)
                sims = (flat @ doc_MKD[docs].flatten(0, 1).T).view(len(flat), -1, doc_length)
                best, where = sims.masked_fill_(~doc_mask_MK[docs], -torch.inf).max(-1)
                best_BLM[part, :, docs] = best.view(-1, query_length, best.shape[1])
                where_BLM[part, :, docs] = where.view(-1, query_length, best.shape[1])
        empty_M = ~doc_mask_MK.any(1)
        counts_BLM = query_mask_BL[:, :, None] & ~empty_M
        ctx.save_for_backward(query_BLD, doc_MKD, where_BLM, counts_BLM)
        return best_BLM.masked_fill_(~counts_BLM, 0.0).sum(1).masked_fill_(empty_M, EMPTY_DOC_SCORE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query_BLD, doc_MKD, where_BLM, counts_BLM = ctx.saved_tensors
        (gradient_BM,) = gradients
        num_docs, doc_length, _ = doc_MKD.shape
        num_tokens = query_BLD.shape[0] * query_BLD.shape[1]
        # A sparse matrix of query tokens x doc tokens, with an entry where a token is another's best match.
        columns = where_BLM + torch.arange(num_docs, device=where_BLM.device) * doc_length
        rows = torch.arange(num_tokens, device=where_BLM.device).repeat_interleave(num_docs)
        values = (gradient_BM[:, None] * counts_BLM).flatten()
        matches = torch.sparse_coo_tensor(
            torch.stack([rows, columns.flatten()]),
            values,
            (num_tokens, num_docs * doc_length),
            check_invariants=False,  # sorted and distinct by construction
            is_coalesced=True,
        )
        query_gradient = torch.sparse.mm(matches, doc_MKD.flatten(0, 1)).view_as(query_BLD)
        doc_gradient = torch.sparse.mm(matches.t(), query_BLD.flatten(0, 1)).view_as(doc_MKD)
        return query_gradient, None, doc_gradient, None, None


def maxsim_pairs(query_PLD: Tensor, query_mask_PL: Tensor, doc_PLD: Tensor, doc_mask_PL: Tensor) -> Tensor:
    """Scores [P] of P pairs, as `maxsim`'s."""
    with torch.autocast(query_PLD.device.type, enabled=False):
        sims_PLK = query_PLD.float() @ doc_PLD.float().transpose(1, 2)
    best_PL = sims_PLK.masked_fill(~doc_mask_PL.bool()[:, None], -torch.inf).max(-1).values
    empty_P1 = ~doc_mask_PL.bool().any(1, keepdim=True)
    sums_P = best_PL.masked_fill(~query_mask_PL.bool() | empty_P1, 0.0).sum(1)
    return sums_P.masked_fill(empty_P1[:, 0], EMPTY_DOC_SCORE)
