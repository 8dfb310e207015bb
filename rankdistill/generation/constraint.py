"""Holds `generate()` of transformers to a trie: any encoder-decoder or decoder, greedy, beams, groups of beams or sampling.

What stands in front of a title differs between families, and `start` counts it: 1 for a decoder's start token, 2 where a first
token is forced too (`forced_bos_token_id`: mBART, and BART trained on `<s> title </s>`), the prompt's length for models that only
decode. docs/decoding.md has the table.

`generate` ends rows at its own `eos_token_id` and `max_new_tokens`. Pass `trie.eos`, and `trie.max_depth + start` new tokens
(after a prompt: `trie.max_depth + 1`). Then no title is out of reach, and no title's end is at the last place, where models that
force an end token (`forced_eos_token_id`: BART, mBART, Marian, Pegasus) give it a score of 0 instead of its log-probability.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
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
        ids = input_ids.cpu().numpy()
        if scores.device.type == "cpu" and scores.dtype == torch.float32:
            held = scores.clone(memory_format=torch.contiguous_format)
            self.trie.mask_logits_(ids, held, self.start, on_dead_end=self.on_dead_end)
        else:
            allowed = self.trie.allow(ids, self.start, on_dead_end=self.on_dead_end)
            rows = np.repeat(np.arange(len(ids)), np.diff(allowed.indptr))
            at, tokens = (torch.from_numpy(which).to(scores.device, torch.long) for which in (rows, allowed.ids))
            held = torch.full_like(scores, -torch.inf)
            held[at, tokens] = scores[at, tokens]
        self._resolve_contradictions(ids, held)
        if not self.renormalise:
            return held
        # A beam that was given up has no finite score, and no softmax.
        return torch.where(held.isneginf(), held, held.log_softmax(-1))

    def _resolve_contradictions(self, ids: NDArray[np.int64], held: Tensor) -> None:
        """Lets titles that have ended be padded whatever other processors say, and refuses rows of titles that can't go on."""
        # A row without any finite score would write token 0, outside of the trie and without a word.
        lost = held.amax(-1).isneginf()
        if not lost.any():
            return
        allowed = self.trie.allow(ids, self.start, on_dead_end=self.on_dead_end)
        has_ended = np.diff(self.trie.entity_ids(ids, self.start).indptr) > 0
        for row in lost.nonzero()[:, 0].tolist():
            if has_ended[row]:
                held[row, self.trie.pad] = 0.0
            elif (allowed.next_states[allowed.indptr[row] : allowed.indptr[row + 1]] >= 0).any():
                raise ValueError(
                    f"expected a legal token that other logits processors allow, found none in row {row}; if the model forces a "
                    "first token (forced_bos_token_id), count it in start=; if it forces its last (forced_eos_token_id), pass "
                    "max_new_tokens=trie.max_depth + start; else switch off what forbids tokens (min_length, "
                    "no_repeat_ngram_size, ...)"
                )
