"""What is hidden from a model while it's trained: tokens that it has to guess, and words that it mustn't lean on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdistill.data.tokens import num_special
from rankdistill.formats.tokenizers import plain_copy

__all__ = ["NOT_MASKED", "WordDrop", "mask_tokens"]

NOT_MASKED = -100
"""Target of a token that isn't to be guessed: what torch's cross-entropy ignores."""

Ids = NDArray[np.int64]


def mask_tokens(
    ids: Ids, maskable: NDArray[np.bool_], rng: np.random.Generator, *, rate: float, mask_id: int, vocab_size: int
) -> tuple[Ids, Ids]:
    """Hides tokens, and says what they were.

    Of the tokens that are chosen, 80 % become the mask token, 10 % a random token, and 10 % stay as they are.

    Args:
        ids: of any shape.
        maskable: which of them may be chosen; of the same shape.
        rng: decides which, and what they become.
        rate: probability of each to be chosen.
        mask_id: the mask token.
        vocab_size: random tokens have ids below.

    Returns:
        The ids as the model is to see them, and its targets: the ids of the chosen, `NOT_MASKED` elsewhere.

    Source:
        BERT, arXiv:1810.04805.
    """
    chosen = maskable & (rng.random(ids.shape) < rate)
    fate, random = rng.random(ids.shape), rng.integers(vocab_size, size=ids.shape)
    seen = np.where(fate < 0.8, mask_id, np.where(fate < 0.9, random, ids))
    return np.where(chosen, seen, ids), np.where(chosen, ids, NOT_MASKED)


@dataclass(frozen=True)
class WordDrop:
    """Replaces words that are frequent in a text, so that a student leans on more than repeated names.

    A word is one of the tokenizer's pieces that holds a letter, and it's frequent in a text that has it twice or more. Each is
    replaced with probability `rate`, wherever it stands in the text (as if it were renamed).

    Attributes:
        rate: that probability.
        replacement: id of the mask token, or of the unknown token where there is no mask.
        words: [V], which tokens hold a letter; special tokens don't count.
        start: tokens at the beginning of each text, specials and prompt, that stay as they are.

    Source:
        ModularStarEncoder, arXiv:2503.03008: frequent words of the code are replaced with a probability of 30 %. What "frequent"
        is, and by what they're replaced, is ours.
    """

    rate: float
    replacement: int
    words: NDArray[np.bool_]
    start: int = 0

    @classmethod
    def of(cls, tokenizer: Any, rate: float, prompt: str = "") -> WordDrop:
        """For texts that a tokenizer read, after `prompt`.

        Raises:
            ValueError: if the rate is no probability, or the tokenizer has neither a mask nor an unknown token.
        """
        if not 0 < rate <= 1:
            raise ValueError(f"expected a --word-drop above 0, and 1 at most, found {rate}")
        replacement = tokenizer.unk_token_id if tokenizer.mask_token_id is None else tokenizer.mask_token_id
        if replacement is None:
            raise ValueError("--word-drop needs a tokenizer with a mask or unknown token, and this one has neither")
        backend = plain_copy(tokenizer)
        # As text: where a vocabulary writes a space by a letter (byte-level BPE), a token by itself wouldn't tell.
        texts = backend.decode_batch([[i] for i in range(len(tokenizer))], skip_special_tokens=False)
        words = np.array([any(map(str.isalpha, text)) for text in texts])
        words[[i for i in tokenizer.all_special_ids if i < len(words)]] = False
        start = len(backend.encode(prompt).ids) - num_special(backend)[1]
        return cls(rate, int(replacement), words, start)

    def __call__(self, ids_BL: Ids, rng: np.random.Generator) -> Ids:
        """The texts with some of their frequent words replaced; padding has no part in it."""
        text_BL = ids_BL[:, self.start :]
        keys_BL = np.arange(len(ids_BL))[:, None] * len(self.words) + text_BL
        _, which, counts = np.unique(keys_BL, return_inverse=True, return_counts=True)
        dropped = (counts > 1) & (rng.random(len(counts)) < self.rate)
        hidden_BL = self.words[text_BL] & dropped[which.reshape(text_BL.shape)]
        return np.concatenate([ids_BL[:, : self.start], np.where(hidden_BL, self.replacement, text_BL)], axis=1)
