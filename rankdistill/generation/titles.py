"""Titles to sequences of tokens, as a trie takes them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.errors import BadDataError
from rankdistill.formats.tokenizers import plain_copy
from rankdistill.generation.arrays import FlatTokens

__all__ = ["end_token", "title_sequences", "tokenize_titles"]

# Large enough to keep all cores busy, small enough for a bar that moves.
_CHUNK = 4096


def end_token(tokenizer: Any) -> int:
    """The token that ends a title: the tokenizer's end of sequence, or its separator where it has none (BERT).

    Raises:
        ValueError: if it has neither.
    """
    for name in ("eos_token_id", "sep_token_id"):
        if (token := getattr(tokenizer, name, None)) is not None:
            return int(token)
    raise ValueError("expected a tokenizer with an end token, found none; pass eos=")


def tokenize_titles(
    titles: Iterable[str],
    tokenizer: Any,
    *,
    eos: int | None = None,
    max_length: int | None = None,
    source: str | None = None,
    progress: bool = True,
) -> FlatTokens:
    """Tokenises titles without special tokens, and ends each with the end token.

    Args:
        titles: as the model is to write them; a space in front, or markup around, is the caller's.
        tokenizer: a fast tokenizer of transformers (or a `tokenizers.Tokenizer`, with `eos`).
        eos: the end token; the tokenizer's own without it.
        max_length: tokens that the model can write, the end token included.
        source: the file that the titles stand in, one a line, for messages.

    Returns:
        All tokens end to end, and the number of each title's, the end token included.

    Raises:
        ValueError: if the tokenizer isn't a fast one, or has no end token.
        BadDataError: for a title that is empty, of which the tokenizer leaves nothing, that holds the end token, or that is
            longer than `max_length`.
    """
    backend = plain_copy(tokenizer)
    eos = end_token(tokenizer) if eos is None else eos
    tokens, lengths, row = list[NDArray[np.uint32]](), list[NDArray[np.uint32]](), 0
    rest, total = iter(titles), len(titles) if isinstance(titles, Sized) else None
    with tqdm(total=total, desc="tokenise titles", unit="title", disable=not progress) as bar:
        while block := list(itertools.islice(rest, _CHUNK)):
            ids = [encoding.ids for encoding in backend.encode_batch_fast(block, add_special_tokens=False)]
            for offset, (title, own) in enumerate(zip(block, ids, strict=True)):
                if not own or not title.strip() or eos in own or len(own) >= (max_length or np.inf):
                    _refuse(title, own, eos, max_length, source, row + offset)
                own.append(eos)
            lengths.append(np.fromiter(map(len, ids), np.uint32, len(ids)))
            tokens.append(np.fromiter(itertools.chain.from_iterable(ids), np.uint32, int(lengths[-1].sum())))
            row += len(block)
            bar.update(len(block))
    empty = np.zeros(0, np.uint32)
    return FlatTokens(np.concatenate([empty, *tokens]), np.concatenate([empty, *lengths]))


def title_sequences(titles: Iterable[str], tokenizer: Any, eos: int) -> list[list[int]]:
    """Titles' tokens with the end token, to look them up: none is refused, and what no trie can have is an empty list."""
    backend, rest, found = plain_copy(tokenizer), iter(titles), list[list[int]]()
    while block := list(itertools.islice(rest, _CHUNK)):
        encoded = backend.encode_batch_fast(block, add_special_tokens=False)
        found += [[*each.ids, eos] if each.ids and eos not in each.ids else [] for each in encoded]
    return found


def _refuse(title: str, own: list[int], eos: int, max_length: int | None, source: str | None, row: int) -> None:
    where = "" if source else f" as title {row}"
    shown = json.dumps(title, ensure_ascii=False)
    if not title.strip():
        expected, found, remedy = "a title", f"{shown}{where}", "leave it out"
    elif not own:
        expected, remedy = "a title in the tokenizer's characters", "leave it out"
        found = f"{shown}{where}, of which the tokenizer leaves nothing"
    elif eos in own:
        expected, found, remedy = f"titles without the end token {eos}", f"{shown}{where}", "leave it out"
    else:
        expected, found = (
            f"titles of at most {max_length} tokens, the end token included",
            f"{shown}{where}: {len(own) + 1}",
        )
        remedy = "leave it out, or raise max_length if the model can write as much"
    raise BadDataError(expected, found, remedy, source, row + 1)
