"""Tokenizers without special tokens: of whole words, or a checkpoint's own.

They are fast tokenizers of transformers, so token stores and checkpoints work with them as with any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

__all__ = ["PAD", "UNKNOWN", "distinct_words", "without_specials", "word_tokenizer"]

PAD, UNKNOWN = "[PAD]", "[UNK]"


def _splitter(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def distinct_words(texts: Iterable[str]) -> list[str]:
    """The words of texts as `word_tokenizer` would split them, the most frequent first.

    Cost: one pass, in parallel in the Rust of `tokenizers`.
    """
    tokenizer = _splitter({})
    # The trainer gives ids by frequency, then by word; it has to be told of some size.
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=1 << 40, show_progress=False))
    ids = tokenizer.get_vocab()
    return sorted(ids, key=lambda word: ids[word])


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Splits lower-cased text at spaces and around each punctuation mark; words not listed become `[UNK]`.

    Ids: 0 pads, 1 is unknown, then the words in order.
    """
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([PAD, UNKNOWN, *words]))}
    return _fast(_splitter(vocabulary), PAD, UNKNOWN)


def without_specials(tokenizer: Any) -> PreTrainedTokenizerFast:
    """A copy of a fast tokenizer that puts no special tokens around texts; vocabulary and splitting stay."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    backend = Tokenizer.from_str(json.dumps(settings | {"post_processor": None, "truncation": None, "padding": None}))
    return _fast(backend, tokenizer.pad_token, tokenizer.unk_token)


def _fast(backend: Tokenizer, pad: str, unknown: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, unk_token=unknown)  # type: ignore[no-untyped-call]
