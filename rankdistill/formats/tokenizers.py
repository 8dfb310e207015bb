"""Tokenizers of other libraries, used without their shared state.

`tokenizer(texts, truncation=True, ...)` of transformers sets truncation on the one object that all threads share, so a call may cut
its texts at another call's length. Here each call has its own tokenizer: the same model, vocabulary and rules in memory, with
truncation and padding of its own. That costs about 0.02 ms, plus the tokens that were added to the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["backend_of", "encode_pairs", "encode_texts", "plain_copy"]

# transformers states this, or more, for tokenizers that know no longest text.
_NO_LIMIT = 10**20
_SHARED = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def backend_of(tokenizer: Any) -> Tokenizer:
    """The `tokenizers.Tokenizer` in a fast tokenizer.

    Raises:
        ValueError: if the tokenizer isn't a fast one.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        found = type(tokenizer).__name__
        raise ValueError(
            f"expected a fast tokenizer (tokenizer.json), which token stores need, found {found}, which runs in Python only; "
            "start from a model that has one"
        )
    return backend


def plain_copy(tokenizer: Any) -> Tokenizer:
    """A private tokenizer of the same vocabulary and rules, without the truncation and padding that earlier calls set.

    Raises:
        ValueError: if the tokenizer isn't a fast one.
    """
    backend = backend_of(tokenizer)
    copy = type(backend)(backend.model)
    for name in _SHARED:
        if (part := getattr(backend, name)) is not None:
            setattr(copy, name, part)
    copy.add_tokens([token for _, token in sorted(backend.get_added_tokens_decoder().items())])
    return copy


def encode_texts(tokenizer: Any, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    """Token ids of each text, special tokens included, equal to `tokenizer(texts, truncation=True, max_length=...)`.

    Args:
        tokenizer: of transformers. A slow one is called as it is, since it has no such state.
        max_length: tokens of a text at most, special ones included; the tokenizer's own limit without it.
    """
    if not texts:
        return []
    if not getattr(tokenizer, "is_fast", True):
        ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
        return ids
    return [encoding.ids for encoding in _cutting_copy(tokenizer, max_length).encode_batch_fast(list(texts))]


def encode_pairs(
    tokenizer: Any, firsts: Sequence[str], seconds: Sequence[str], max_length: int | None = None
) -> dict[str, list[list[int]]]:
    """`input_ids` of pairs of texts and, where the model reads them, `token_type_ids`; the longer text of a pair is cut first.

    Args:
        max_length: as for `encode_texts`.

    Raises:
        ValueError: if there aren't as many firsts as seconds.
    """
    if not firsts and not seconds:
        return {"input_ids": []}
    names = [name for name in ("input_ids", "token_type_ids") if name in ("input_ids", *tokenizer.model_input_names)]
    if not getattr(tokenizer, "is_fast", True):
        encoded = tokenizer(list(firsts), list(seconds), truncation="longest_first", max_length=max_length)
        return {name: encoded[name] for name in names}
    pairs = list(zip(firsts, seconds, strict=True))
    encodings = _cutting_copy(tokenizer, max_length).encode_batch_fast(pairs)
    columns = {"input_ids": "ids", "token_type_ids": "type_ids"}
    return {name: [getattr(encoding, columns[name]) for encoding in encodings] for name in names}


def _cutting_copy(tokenizer: Any, max_length: int | None) -> Tokenizer:
    """A private tokenizer that cuts as transformers would."""
    copy = plain_copy(tokenizer)
    # A `Tokenizer` of the tokenizers library has none of these.
    limit = getattr(tokenizer, "model_max_length", _NO_LIMIT) if max_length is None else max_length
    copy.encode_special_tokens = getattr(tokenizer, "split_special_tokens", False)
    if limit < _NO_LIMIT:
        copy.enable_truncation(
            int(limit), strategy="longest_first", direction=getattr(tokenizer, "truncation_side", "right")
        )
    return copy
