"""End-to-end entity linking: a model copies a text and writes ` { mention } [ Title ]` where it links.

The markup's form: the text's own tokens, and around a mention single tokens, `{` before and `}` behind it, `[` before and `]`
behind its title, which is in the tokens of the trie. What the decoder writes is only ever read for places: mentions come back as
characters of the text as it was given, whatever is in it.

Source: De Cao et al. 2021, arXiv:2010.00904 (section 3.3), for the task and its markup; the search is our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.data.batches import pad_lists
from rankdistill.generation.decoding import checked_prefix
from rankdistill.generation.families import max_positions
from rankdistill.generation.link_automaton import MARKS, LinkAutomaton, Marks, link_marks
from rankdistill.generation.link_candidates import Candidates, CandidateSets, Surfaces
from rankdistill.generation.link_search import Link, link_search
from rankdistill.generation.link_source import (
    SourceText,
    Window,
    joined,
    model_window,
    source_texts,
    special_tokens,
    windows,
)
from rankdistill.generation.tree import plant
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.precision import inference_mode

__all__ = ["LinkedMention", "link_entities"]


class LinkedMention(NamedTuple):
    """A mention of an entity in a text.

    Attributes:
        start, end: its characters, `text[start:end]`.
        text: those characters.
        title: of the entity: as `titles` or `candidates` have it, else as the tokenizer decodes what was written.
        entity_id: its id in the trie; of several that share the title, the least.
        score: the log-probability of the mention with its title and markup, given all before.
    """

    start: int
    end: int
    text: str
    title: str
    entity_id: int
    score: float


class _Part(NamedTuple):
    """A window of a text, with the runs of its tokens that may be mentions: [S, 3] start, end, set."""

    row: int
    window: Window
    spans: NDArray[np.int32]


def link_entities(
    model: Any,
    tokenizer: Any,
    trie: TokenTrie,
    texts: Sequence[str],
    *,
    mentions: Surfaces | Iterable[str] | None = None,
    candidates: Candidates | None = None,
    on_unknown: Literal["error", "skip"] = "error",
    titles: Mapping[int, str] | Sequence[str] | None = None,
    num_beams: int = 4,
    max_gap: float = 7.0,
    bonus: float = 0.0,
    max_mention_length: int = 12,
    window: int | None = None,
    overlap: int | None = None,
    marks: Sequence[str] = MARKS,
    prefix: Sequence[int] | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> list[list[LinkedMention]]:
    """Mentions and their entities in texts of any length, in the order of each text; they don't overlap.

    Args:
        model: an encoder-decoder of transformers, trained on linked texts; as for `generate_entities`.
        tokenizer: of the model, and the one that the trie was built for.
        trie: titles, as it is when a batch begins.
        texts: any; they are neither cleaned nor cut.
        mentions: the only surfaces that may be mentions: strings, or `Surfaces` of them, which are prepared once for several
            calls. They are compared by characters, uncased where the tokenizer is.
        candidates: titles that a mention may have, by its text: a mapping or a function. A mention without any isn't one. A
            function is called for every run of tokens that may be a mention, once for each distinct text of one.
        on_unknown: a candidate that isn't in the trie is an error ("error") or left out ("skip").
        titles: of the trie's ids, to come back as they stand there.
        num_beams: beams at a place of the text, and titles of a mention that are followed; 1 is greedy.
        max_gap: how much less probable than the best a beam may be, in nats: 7 is a thousand times.
        bonus: nats that count for each mention when outputs are compared: above 0, a model that is unsure links more; below, less.
            Scores are without it.
        max_mention_length: tokens of a mention.
        window: tokens of a text that are read at once; without it as many as suit the model, at most 256. Longer texts are read in
            several windows.
        overlap: tokens that windows have in common at least; a quarter of a window without it. A mention belongs to the window
            where it has most context.
        marks: the four tokens of the markup.
        prefix: tokens that the decoder begins with; without it the model's own.
        batch_size: windows at once.
        progress: show a bar on standard error.

    Raises:
        ValueError: if a mark isn't in the tokenizer, a window is longer than the model, or as for `generate_entities`.
        BadStoreError: if the trie (or that of mentions) was built for another tokenizer.
        BadDataError: for an unknown candidate.
    """
    if not np.isfinite(bonus):
        raise ValueError(f"expected a finite bonus, found {bonus}")
    if num_beams < 1 or max_mention_length < 1 or not max_gap >= 0:
        expected = "num_beams and max_mention_length of at least 1 and a max_gap of 0 or more"
        raise ValueError(f"expected {expected}, found {num_beams}, {max_mention_length} and {max_gap}")
    own_marks = link_marks(tokenizer, marks)
    surfaces = mentions if isinstance(mentions, Surfaces) or mentions is None else Surfaces(mentions, tokenizer)
    # One made of bare tokens doesn't say whose they are.
    if trie.tokenizer_fingerprint:
        trie.check_tokenizer(tokenizer)
    begin = checked_prefix(model, prefix, 1, max(trie.vocab_size, *own_marks))
    size = model_window(model, tokenizer, len(begin), window)
    sources = source_texts(tokenizer, texts)
    own_windows = [windows(source, size, size // 4 if overlap is None else overlap) for source in sources]
    sets = None if candidates is None else CandidateSets(candidates, trie, tokenizer, on_unknown)
    parts = [
        _Part(row, each, _spans(source, each, surfaces, sets, max_mention_length))
        for row, (source, own) in enumerate(zip(sources, own_windows, strict=True))
        for each in own
    ]
    found: dict[tuple[int, Window], list[Link]] = {(part.row, part.window): [] for part in parts}
    # Without anything to link there's nothing to ask the model.
    asked = sorted((part for part in parts if len(part.spans)), key=lambda part: part.window.start - part.window.end)
    with inference_mode(model, "auto"), tqdm(total=len(asked), desc="link", unit="window", disable=not progress) as bar:
        for start in range(0, len(asked) if trie.num_sequences else 0, batch_size):
            batch = asked[start : start + batch_size]
            rules = {"prefix": begin, "num_beams": num_beams, "max_gap": max_gap, "bonus": bonus}
            rules["positions"] = max_positions(model)
            for part, links in zip(
                batch, _search(model, tokenizer, trie, sources, batch, sets, own_marks, rules), strict=True
            ):
                found[part.row, part.window] = links
            bar.update(len(batch))
    places = (
        {(part.row, part.window, int(a), int(b)): int(at) for part in parts for a, b, at in part.spans} if sets else {}
    )

    def mention(row: int, own: Window, link: Link) -> LinkedMention:
        start, end = sources[row].characters(own.start + link.start, own.start + link.end)
        if titles is not None:
            title = _name(titles, link.ids[0])
        elif sets is not None:
            title = sets.name(places[row, own, link.start, link.end], (*link.title, trie.eos))
        else:
            title = tokenizer.decode(link.title).strip()
        return LinkedMention(start, end, texts[row][start:end], title, link.ids[0], link.log_prob)

    results = []
    for row, own_parts in enumerate(own_windows):
        by_window = [
            [(each.start + link.start, each.start + link.end, (each, link)) for link in found[row, each]]
            for each in own_parts
        ]
        whole = joined(by_window, own_parts, len(sources[row]))
        results.append([mention(row, each, link) for _, _, (each, link) in whole])
    return results


def _name(titles: Mapping[int, str] | Sequence[str], id_: int) -> str:
    try:
        return titles[id_]
    except (KeyError, IndexError):
        expected = "titles of all entities of the trie"
        raise ValueError(f"expected {expected}, found none of entity {id_}; was the trie built of others?") from None


def _spans(
    source: SourceText, window: Window, surfaces: Surfaces | None, sets: CandidateSets | None, max_length: int
) -> NDArray[np.int32]:
    """(start, end, set) of the runs of a window's tokens that may be mentions, [S, 3]; a set of -1 is all titles."""
    spans = source.spans(window, max_length)
    if surfaces is None and sets is None:
        return np.column_stack([spans, np.full(len(spans), -1, np.int32)])
    places = [source.characters(window.start + start, window.start + end) for start, end in spans.tolist()]
    texts = [source.text[start:end] for start, end in places]
    if surfaces is not None:
        kept = [row for row, text in enumerate(texts) if text in surfaces]
        spans, texts = spans[kept], [texts[row] for row in kept]
    found = [-1] * len(texts) if sets is None else sets.places(texts)
    rows = [(start, end, at) for (start, end), at in zip(spans.tolist(), found, strict=True) if at is not None]
    return np.array(rows, np.int32).reshape(-1, 3)


def _search(
    model: Any,
    tokenizer: Any,
    trie: TokenTrie,
    sources: Sequence[SourceText],
    batch: Sequence[_Part],
    sets: CandidateSets | None,
    marks: Marks,
    rules: Mapping[str, Any],
) -> list[list[Link]]:
    """The links of the best output of each window."""
    tokens = [sources[part.row].tokens[part.window.start : part.window.end].tolist() for part in batch]
    spans = [np.column_stack([np.full(len(part.spans), at, np.int32), part.spans]) for at, part in enumerate(batch)]
    automaton = LinkAutomaton(tokens, np.concatenate(spans), trie, marks, sets.tries if sets else ())
    last_ends = []
    for own, part in zip(tokens, batch, strict=True):
        last = np.arange(len(own))
        np.maximum.at(last, part.spans[:, 0], part.spans[:, 1])
        last_ends.append(last)
    before, behind = special_tokens(tokenizer)
    padded = pad_lists([[*before, *own, *behind] for own in tokens], tokenizer.pad_token_id or 0)
    input_ids, mask = (torch.from_numpy(array).to(model.device) for array in padded)
    found, _ = link_search(plant(model, input_ids, mask), automaton, last_ends, **rules)
    return [list(results[0].links) if results else [] for results in found]
