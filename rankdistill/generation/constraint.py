"""Holds `generate()` of transformers to a trie: any encoder-decoder or decoder, greedy, beams, groups of beams or sampling.

What stands in front of a title differs between families, and `start` counts it: 1 for a decoder's start token, 2 where a first
token is forced too (`forced_bos_token_id`: mBART, and BART trained on `<s> title </s>`), the prompt's length for models that only
decode. docs/decoding.md has the table.

`generate` ends rows at its own `eos_token_id` and `max_new_tokens`. Pass `trie.eos`, and `trie.max_depth + start` new tokens
(after a prompt: `trie.max_depth + 1`). Then no title is out of reach, and no title's end is at the last place, where models that
force an end token (`forced_eos_token_id`: BART, mBART, Marian, Pegasus) give it a score of 0 instead of its log-probability.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        trie: the titles; what is added or removed counts from the next step on. Or a trie for each text: the rows of a text
            (its beams, its samples) are neighbours, as `generate` has them.
        start: tokens in front that aren't the title's. Shorter rows aren't held yet.
        renormalise: make the scores log-probabilities among the legal tokens. Greedy search and sampling write the same.
        on_dead_end: what rows may write that begin no title. Beam search keeps such where there are fewer titles than beams, with a
            score of minus infinity.
    """

    def __init__(
        self,
        trie: TokenTrie | Sequence[TokenTrie],
        *,
        start: int = 1,
        renormalise: bool = False,
        on_dead_end: OnDeadEnd = "eos",
    ) -> None:
        self.tries = (trie,) if isinstance(trie, TokenTrie) else tuple(trie)
        if not self.tries:
            raise ValueError("expected a trie, or one for each text, found none")
        self.start, self.renormalise, self.on_dead_end = start, renormalise, on_dead_end

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [R, V] of rows [R, L] with minus infinity for all that isn't legal; the argument isn't written to.

        Raises:
            ValueError: if the model's vocabulary is smaller than the trie's, other processors forbid all that is legal, or rows
                can't be shared out among tries.
        """
        vocab_size = max(trie.vocab_size for trie in self.tries)
        if scores.shape[1] < vocab_size:
            raise ValueError(f"expected a vocabulary of {vocab_size:,} or more, found {scores.shape[1]:,}")
        if input_ids.shape[1] < self.start:
            return scores
        num_rows, rest = divmod(len(input_ids), len(self.tries))
        if rest:
            found = f"{len(input_ids)}, with {len(self.tries)} tries"
            raise ValueError(f"expected as many rows for each trie, found {found}; give one trie for each text")
        ids, held = input_ids.cpu().numpy(), scores.clone(memory_format=torch.contiguous_format)
        for place, trie in enumerate(self.tries):
            first = place * num_rows
            part = slice(first, first + num_rows)
            self._hold(trie, ids[part], held[part], first)
        if not self.renormalise:
            return held
        # A beam that was given up has no finite score, and no softmax.
        return torch.where(held.isneginf(), held, held.log_softmax(-1))

    def _hold(self, trie: TokenTrie, ids: NDArray[np.int64], held: Tensor, first: int) -> None:
        """Writes minus infinity over all that a trie forbids the rows from `first` on."""
        if held.device.type == "cpu" and held.dtype == torch.float32:
            trie.mask_logits_(ids, held, self.start, on_dead_end=self.on_dead_end)
        else:
            allowed = trie.allow(ids, self.start, on_dead_end=self.on_dead_end)
            rows = np.repeat(np.arange(len(ids)), np.diff(allowed.indptr))
            at, tokens = (torch.from_numpy(which).to(held.device, torch.long) for which in (rows, allowed.ids))
            legal = held[at, tokens]
            held.fill_(-torch.inf)
            held[at, tokens] = legal
        self._resolve_contradictions(trie, ids, held, first)

    def _resolve_contradictions(self, trie: TokenTrie, ids: NDArray[np.int64], held: Tensor, first: int) -> None:
        """Lets titles that have ended be padded whatever other processors say, and refuses rows of titles that can't go on."""
        # A row without any finite score would write token 0, outside of the trie and without a word.
        lost = held.amax(-1).isneginf()
        if not lost.any():
            return
        allowed = trie.allow(ids, self.start, on_dead_end=self.on_dead_end)
        has_ended = np.diff(trie.entity_ids(ids, self.start).indptr) > 0
        for row in lost.nonzero()[:, 0].tolist():
            if has_ended[row]:
                held[row, trie.pad] = 0.0
            elif (allowed.next_states[allowed.indptr[row] : allowed.indptr[row + 1]] >= 0).any():
                raise ValueError(
                    f"expected a legal token that other logits processors allow, found none in row {first + row}; if the model "
                    "forces a first token (forced_bos_token_id), count it in start=; if it forces its last (forced_eos_token_id), "
                    "pass max_new_tokens=trie.max_depth + start; else switch off what forbids tokens (min_length, "
                    "no_repeat_ngram_size, ...)"
                )
