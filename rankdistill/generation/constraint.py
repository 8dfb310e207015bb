"""Holds `generate()` of transformers to a trie: any encoder-decoder or decoder, greedy, beams, groups of beams or sampling.

What stands in front of a title differs between families, and `start` counts it: 1 for a decoder's start token, 2 where a first
token is forced too (`forced_bos_token_id`: mBART, and BART trained on `<s> title </s>`), the prompt's length for models that only
decode. docs/decoding.md has the table.

`generate` ends rows at its own `eos_token_id` and `max_new_tokens`: pass `trie.eos`, and the trie's `max_depth` or more, so that no
title is out of reach.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from rankdistill.generation.trie import OnDeadEnd, TokenTrie

__all__ = ["TrieConstraint"]


class TrieConstraint(LogitsProcessor):
    """Forbids every token that doesn't go on with a title; `generate(…, logits_processor=[TrieConstraint(trie)])`.

    Holds no state of rows, so that beams may be reordered, dropped and sampled in any way. Scores of legal tokens stay as they are,
    as GENRE has it: a title's score is its probability among all texts, not among titles.

    Args:
        trie: the titles; what is added or removed counts from the next step on.
        start: tokens in front that aren't the title's. Shorter rows aren't held yet.
        renormalise: make the scores log-probabilities among the legal tokens. Greedy search and sampling write the same.
        on_dead_end: what rows may write that begin no title. Beam search keeps such where there are fewer titles than beams, with a
            score of minus infinity.
    """

    def __init__(
        self, trie: TokenTrie, *, start: int = 1, renormalise: bool = False, on_dead_end: OnDeadEnd = "eos"
    ) -> None:
        self.trie, self.start, self.renormalise, self.on_dead_end = trie, start, renormalise, on_dead_end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [R, V] of rows [R, L] with minus infinity for all that isn't legal; the argument isn't written to.

        Raises:
            ValueError: if the model's vocabulary is smaller than the trie's, or other processors forbid all that is legal.
        """
        if scores.shape[1] < self.trie.vocab_size:
            raise ValueError(f"expected a vocabulary of {self.trie.vocab_size:,} or more, found {scores.shape[1]:,}")
        if input_ids.shape[1] < self.start:
            return scores
        allowed = self.trie.allow(input_ids.cpu().numpy(), self.start, on_dead_end=self.on_dead_end)
        counts = torch.from_numpy(allowed.indptr).diff()
        rows = torch.arange(len(counts)).repeat_interleave(counts).to(scores.device)
        tokens = torch.from_numpy(allowed.ids).to(scores.device, torch.long)
        legal = scores[rows, tokens]
        is_alive = torch.from_numpy(allowed.next_states >= 0).to(scores.device)
        self._refuse_contradiction(rows, legal, is_alive, len(counts))
        held = torch.full_like(scores, -torch.inf)
        held[rows, tokens] = legal
        return held.log_softmax(-1) if self.renormalise else held

    def _refuse_contradiction(self, rows: Tensor, legal: Tensor, is_alive: Tensor, num_rows: int) -> None:
        # A row without any finite score would write token 0, outside of the trie and without a word.
        best = torch.full((num_rows,), torch.inf, dtype=legal.dtype, device=legal.device)
        best.scatter_reduce_(0, rows[is_alive], legal[is_alive], "amax", include_self=False)
        if (lost := best.isneginf()).any():
            row = int(lost.nonzero()[0])
            raise ValueError(
                f"expected a legal token that other logits processors allow, found none in row {row}; if the model forces a first "
                "token (forced_bos_token_id), count it in start=, else switch off what forbids tokens (min_length, "
                "no_repeat_ngram_size, ...)"
            )
