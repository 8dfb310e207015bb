"""Texts whose mentions are to be linked: tokens with their characters, where mentions may begin and end; windows over long ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rankdistill.data.tokens import num_special
from rankdistill.formats.tokenizers import plain_copy
from rankdistill.generation.families import max_positions
from rankdistill.models.backbone import max_positions as max_encoder_positions

__all__ = ["SourceText", "Window", "joined", "model_window", "source_texts", "special_tokens", "windows"]

# Tokens of a window, if the model can read as many: what the encoder reads grows the attention, what overlaps is read twice.
_WINDOW = 256
_T = TypeVar("_T")


@dataclass(frozen=True)
class SourceText:
    """A text and its tokens, special ones not among them.

    Attributes:
        text: as it was given; it is never made of tokens.
        tokens: as the tokenizer has them, uint32 [L].
        starts, ends: which characters each token stands for, white space around them left out, [L].
        begins_here, ends_here: whether a mention may begin before (end behind) each token: between two characters, and not at
            white space, [L].
    """

    text: str
    tokens: NDArray[np.uint32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    begins_here: NDArray[np.bool_]
    ends_here: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tokens)

    def characters(self, start: int, end: int) -> tuple[int, int]:
        """Where the tokens from `start` to `end` stand in the text."""
        return int(self.starts[start]), int(self.ends[end - 1])

    def spans(self, window: Window, max_length: int) -> NDArray[np.int32]:
        """(start, end) of the runs of at most `max_length` tokens between two borders, by start, then by end, [S, 2].

        Places are counted from the window's first token.
        """
        starts = np.flatnonzero(self.begins_here[window.start : window.end])
        ends = starts[:, None] + np.arange(1, min(max_length, window.end - window.start) + 1)
        is_span = ends <= window.end - window.start
        is_span[is_span] = self.ends_here[window.start + ends[is_span] - 1]
        rows, _ = np.nonzero(is_span)
        return np.column_stack([starts[rows], ends[is_span]]).astype(np.int32)


@dataclass(frozen=True)
class Window:
    """A run of a text's tokens that is read by itself."""

    start: int
    end: int

    def context(self, start: int, end: int, length: int) -> float:
        """Tokens on the shorter side of a mention in a text of so many; the text's own ends are no loss. -1 for one outside."""
        if start < self.start or end > self.end:
            return -1
        before = np.inf if self.start == 0 else start - self.start
        behind = np.inf if self.end == length else self.end - end
        return float(min(before, behind))


def source_texts(tokenizer: Any, texts: Iterable[str]) -> list[SourceText]:
    """Tokens of texts with their places.

    Raises:
        ValueError: if the tokenizer isn't a fast one.
    """
    found = []
    rows = list(texts)
    for text, encoding in zip(rows, plain_copy(tokenizer).encode_batch(rows, add_special_tokens=False), strict=True):
        trimmed = [_trimmed(text, start, end) for start, end in encoding.offsets]
        starts, ends = np.array(trimmed, np.int64).reshape(-1, 2).T.copy()
        is_text = starts < ends
        # Several tokens of one character (bytes), or of none, have no border between them.
        before = np.maximum.accumulate(np.concatenate([[0], ends[:-1]])) if len(ends) else ends
        after = np.minimum.accumulate(np.concatenate([starts[1:], [len(text)]])[::-1])[::-1] if len(ends) else ends
        borders = is_text & (starts >= before), is_text & (ends <= after)
        found.append(SourceText(text, np.array(encoding.ids, np.uint32), starts, ends, *borders))
    return found


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What an encoder's text begins and ends with."""
    own, (num_before, _) = plain_copy(tokenizer).encode("").ids, num_special(tokenizer)
    return own[:num_before], own[num_before:]


def model_window(
    model: Any, tokenizer: Any, num_prefix: int, size: int | None = None, max_length: int | None = None
) -> int:
    """Tokens of a text that a model reads and writes at once: `size`, or a number that leaves room for the markup.

    Args:
        num_prefix: tokens that the decoder begins with.
        max_length: tokens that the encoder is to read, special ones included; the tokenizer's number without it.

    Raises:
        ValueError: for a size that the model has no positions for.
    """
    config = getattr(model.config, "encoder", model.config)
    relative = getattr(config, "relative_attention_num_buckets", None)
    reads = int(tokenizer.model_max_length) if max_length is None else max_length
    reads = (reads if relative else min(reads, max_encoder_positions(config))) - sum(num_special(tokenizer))
    positions = max_positions(model)
    writes = reads if positions is None else positions - num_prefix
    if size is None:
        # Titles and markup are about half as long as the text they stand in.
        return max(min(_WINDOW, reads, writes if positions is None else writes * 2 // 3), 1)
    if not 1 <= size <= min(reads, writes):
        raise ValueError(
            f"expected a window of 1 to {min(reads, writes):,} tokens (the model reads {reads:,} and writes {writes:,}), found "
            f"{size:,}; longer texts are read in several windows"
        )
    return size


def windows(source: SourceText, size: int, overlap: int) -> list[Window]:
    """Windows over a text, each at most `size` tokens; they begin and end between words where there is such a place nearby.

    Args:
        overlap: at least so many tokens that a window has in common with the one before, where both have as many.

    Raises:
        ValueError: for an overlap of more than half a window.
    """
    if not 0 <= overlap <= size // 2:
        raise ValueError(f"expected an overlap of 0 to {size // 2} tokens, half a window, found {overlap}")
    length, slack = len(source), size // 8
    is_word = source.begins_here.copy()
    is_word[1:] &= source.starts[1:] > source.ends[:-1]

    def border(at: int, least: int) -> int:
        least = max(least, at - slack)
        for wanted in (is_word, source.begins_here):
            near = np.flatnonzero(wanted[least : at + 1])
            if len(near):
                return int(least + near[-1])
        return at

    found = list[Window]()
    start = end = 0
    while end < length or not found:
        end = length if start + size >= length else border(start + size, end + 1)
        found.append(Window(start, end))
        start = border(end - overlap, start + 1) if end < length else start
    return found


def joined(
    found: Sequence[Sequence[tuple[int, int, _T]]], own: Sequence[Window], length: int
) -> list[tuple[int, int, _T]]:
    """Mentions (start, end, what it is) of a text out of those of its windows.

    A mention belongs to the window in which it has most context: the number of tokens on its shorter side, where the text's own
    ends are no loss; the first of equals. Where two that are kept overlap, the one with more context stays.
    """
    kept = list[tuple[float, int, int, _T]]()
    for at, (window, mentions) in enumerate(zip(own, found, strict=True)):
        for start, end, what in mentions:
            contexts = [other.context(start, end, length) for other in own]
            if contexts.index(max(contexts)) == at:
                kept.append((window.context(start, end, length), start, end, what))
    result = list[tuple[int, int, _T]]()
    for _, start, end, what in sorted(kept, key=lambda mention: (-mention[0], mention[1])):
        if all(end <= other or start >= other_end for other, other_end, _ in result):
            result.append((start, end, what))
    return sorted(result, key=lambda mention: mention[:2])
