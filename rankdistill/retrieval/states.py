"""States of texts' tokens, for models whose score of a pair comes from both texts' tokens (ColBERT, PreTT, TK)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rankdistill.models.towers import InteractionModel, Kind
from rankdistill.retrieval.encode import DTypeName, inference_mode, length_sorted_batches, pad_batch

__all__ = ["TokenStates", "encode_states", "score_state_pairs"]

# Docs whose states are held at a time: 4,000 of 200 tokens of 128 float32 are 400 MB.
_DOC_CHUNK = 4000


@dataclass(frozen=True)
class TokenStates:
    """States of many texts' tokens, one after the other.

    Attributes:
        states: [T, D] of all tokens.
        offsets: [len(texts) + 1]; the tokens of text i are `states[offsets[i]:offsets[i + 1]]`.
    """

    states: NDArray[np.floating]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many tokens each of the texts has."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def batch(self, rows: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """States [B, L, D] in fp32 and mask [B, L] of some texts; L is the longest one's."""
        lengths = self.lengths(rows)
        mask = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
        padded = np.zeros((*mask.shape, self.states.shape[1]), np.float32)
        padded[mask] = np.concatenate([self.states[self.offsets[row] : self.offsets[row + 1]] for row in rows])
        return torch.from_numpy(padded).to(device), torch.from_numpy(mask.astype(np.int64)).to(device)


def encode_states(
    model: InteractionModel,
    texts: Sequence[str],
    *,
    kind: Kind,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> TokenStates:
    """States of texts' tokens, in the texts' order.

    Args:
        model: runs where it is.
        texts: any number of texts.
        kind: which side of a pair they are.
        batch_tokens: tokens, padding included, that go through the model at once.
        dtype: as in `encode_texts`.
        progress: show a bar on standard error.
    """
    ids = model.tokenize(texts, kind)
    found: list[NDArray[np.float32]] = [np.zeros((0, model.dim), np.float32)] * len(texts)
    with (
        tqdm(total=len(texts), desc=f"encode {kind}", unit="text", disable=not progress) as bar,
        inference_mode(model, dtype),
    ):
        for rows in length_sorted_batches(ids, batch_tokens):
            batch = pad_batch(model.tokenizer, {"input_ids": [ids[row] for row in rows]}, model.device)
            states_BLD, mask_BL = model.states(batch["input_ids"], batch["attention_mask"], kind)
            masks = mask_BL.bool().cpu().numpy()
            for row, states_LD, mask_L in zip(rows, states_BLD.float().cpu().numpy(), masks, strict=True):
                found[row] = states_LD[mask_L]
            bar.update(len(rows))
    offsets = np.concatenate([[0], np.cumsum([len(states) for states in found], dtype=np.int64)])
    return TokenStates(np.concatenate(found) if found else np.zeros((0, model.dim), np.float32), offsets)


def score_state_pairs(
    model: InteractionModel,
    queries: Sequence[str],
    docs: Sequence[str],
    query_rows: NDArray[np.int64],
    doc_rows: NDArray[np.int64],
    *,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
    doc_states: TokenStates | None = None,
) -> NDArray[np.float32]:
    """Scores [P] of the pairs (queries[query_rows[p]], docs[doc_rows[p]]); each text is encoded once.

    Args:
        batch_tokens: doc tokens, padding included, that interact at once.
        doc_states: the docs' states, where they have been computed before (`docs` isn't read then).
    """
    query_states = encode_states(
        model, queries, kind="query", batch_tokens=batch_tokens, dtype=dtype, progress=progress
    )
    scores = np.empty(len(query_rows), np.float32)
    num_docs = len(docs) if doc_states is None else len(doc_states)
    by_doc = np.argsort(doc_rows, kind="stable")
    edges = np.searchsorted(doc_rows[by_doc], [*range(0, num_docs, _DOC_CHUNK), num_docs])
    with tqdm(total=len(scores), desc="score", unit="pair", disable=not progress) as bar, inference_mode(model, dtype):
        for chunk, (start, stop) in enumerate(pairwise(edges)):
            first = chunk * _DOC_CHUNK
            states, pairs = doc_states, by_doc[start:stop]
            local = doc_rows[pairs]
            if states is None:
                texts = docs[first : first + _DOC_CHUNK]
                states = encode_states(
                    model, texts, kind="document", batch_tokens=batch_tokens, dtype=dtype, progress=False
                )
                local = local - first
            lengths = states.lengths(local)
            order = np.argsort(lengths, kind="stable")[::-1]
            at = 0
            while at < len(order):
                some = order[at : at + max(1, batch_tokens // max(1, int(lengths[order[at]])))]
                query = query_states.batch(query_rows[pairs[some]], model.device)
                scores[pairs[some]] = model.interact(*query, *states.batch(local[some], model.device)).float().cpu()
                at += len(some)
                bar.update(len(some))
    return scores
