"""Linked texts as pairs to learn: a text, and the same text with ` { mention } [ Title ]`; as `link_entities` reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rankdistill.errors import BadDataError
from rankdistill.formats.linked_texts import LinkedText, read_linked_texts
from rankdistill.generation.decoding import decoder_prefix
from rankdistill.generation.families import max_positions
from rankdistill.generation.link_automaton import Marks, link_marks
from rankdistill.generation.link_source import SourceText, Window, model_window, source_texts, special_tokens, windows
from rankdistill.generation.titles import end_token, tokenize_titles
from rankdistill.models.seq2seq import Seq2SeqModel

__all__ = ["LinkedPairs", "linked_pairs", "marked_tokens"]


@dataclass(frozen=True)
class LinkedPairs:
    """Token ids of texts and of what is to be written of them.

    Attributes:
        sources: as the encoder reads them; a long text is several, which have no token in common.
        targets: what the decoder begins with, the text with its links, the end token.
        num_mentions: links in the targets.
        num_left_out: mentions that aren't: they don't begin and end with tokens, or lie in two windows.
        num_too_long: windows whose target is longer than the decoder, which are left out.
    """

    sources: list[list[int]]
    targets: list[list[int]]
    num_mentions: int
    num_left_out: int
    num_too_long: int


def linked_pairs(model: Seq2SeqModel, path: str) -> LinkedPairs:
    """The pairs of a file of linked texts.

    Raises:
        BadDataError: for malformed lines, a title that is empty or holds the end token, or a file without any mention.
        ValueError: if the tokenizer lacks the markup's tokens.
    """
    tokenizer, marks = model.tokenizer, link_marks(model.tokenizer)
    texts = list(read_linked_texts(path))
    titles = _title_tokens(tokenizer, texts)
    prefix, (before, behind) = decoder_prefix(model.model), special_tokens(tokenizer)
    size = model_window(model.model, tokenizer, len(prefix), max_length=model.source_max_length)
    positions, eos = max_positions(model.model), end_token(tokenizer)
    found = LinkedPairs([], [], 0, 0, 0)
    num_mentions = num_too_long = 0
    for text, source in zip(texts, source_texts(tokenizer, [text.text for text in texts]), strict=True):
        for window in windows(source, size, 0):
            written, count = marked_tokens(source, window, text, titles, marks)
            if positions is not None and len(prefix) + len(written) > positions:
                num_too_long += 1
                continue
            found.sources.append([*before, *source.tokens[window.start : window.end].tolist(), *behind])
            found.targets.append([*prefix, *written, eos])
            num_mentions += count
    if not num_mentions:
        raise BadDataError("mentions with titles", "none that begins and ends with tokens", path=path)
    total = sum(len(text.mentions) for text in texts)
    return LinkedPairs(found.sources, found.targets, num_mentions, total - num_mentions, num_too_long)


def marked_tokens(
    source: SourceText, window: Window, text: LinkedText, titles: dict[str, list[int]], marks: Marks
) -> tuple[list[int], int]:
    """A window's tokens with those of the links that lie in it; and how many those are."""
    begins = {int(source.starts[at]): at for at in np.flatnonzero(source.begins_here)}
    ends = {int(source.ends[at]): int(at) + 1 for at in np.flatnonzero(source.ends_here)}
    written, place, count = list[int](), window.start, 0
    for mention in text.mentions:
        inside = text.text[mention.start : mention.end]
        first = begins.get(mention.start + len(inside) - len(inside.lstrip()), -1)
        last = ends.get(mention.end - len(inside) + len(inside.rstrip()), -1)
        if not place <= first < last <= window.end:
            continue
        written += source.tokens[place:first].tolist()
        written += [marks.open, *source.tokens[first:last].tolist(), marks.close]
        written += [marks.begin, *titles[mention.title], marks.end]
        place, count = last, count + 1
    return [*written, *source.tokens[place : window.end].tolist()], count


def _title_tokens(tokenizer: Any, texts: list[LinkedText]) -> dict[str, list[int]]:
    """Tokens of each title, as a trie has them, without the end."""
    distinct = list(dict.fromkeys(mention.title for text in texts for mention in text.mentions))
    tokens, lengths = tokenize_titles(distinct, tokenizer, eos=end_token(tokenizer), progress=False)
    parts = np.split(tokens, np.cumsum(lengths, dtype=np.int64)[:-1])
    return {title: part[:-1].tolist() for title, part in zip(distinct, parts, strict=False)}
