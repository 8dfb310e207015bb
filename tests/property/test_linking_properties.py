"""What holds for any text, titles and model: outputs are the text with legal markup, and the search finds what slow twins find."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.generation.families import encode
from rankdistill.generation.link_automaton import DONE, LinkAutomaton, Marks
from rankdistill.generation.link_search import LinkHypothesis, link_search
from rankdistill.generation.link_source import SourceText, Window, joined, windows
from rankdistill.generation.tree import PackedTree, PrefixTree, plant
from rankdistill.generation.trie import TokenTrie
from tests.reference.decoding import EOS, FAMILIES, PAD, NextTokens, V, inputs, start_token, tiny_model
from tests.reference.linking import Titles, all_outputs, log_prob, plain_search

# Texts and titles hold the markup's own tokens, too.
MARKS = Marks(3, 4, 5, 6)
TOKEN = st.sampled_from([3, 4, 5, 6, 7, 39])
TITLE = st.lists(TOKEN, min_size=1, max_size=4).map(tuple)
TITLES = st.lists(TITLE, min_size=1, max_size=4, unique=True)
FAMILY, SEED = st.sampled_from(FAMILIES), st.integers(0, 3)


def trie_of(titles: list[tuple[int, ...]], ids: list[int] | None = None) -> TokenTrie:
    return TokenTrie.build([(*title, EOS) for title in titles], vocab_size=V, eos=EOS, pad=PAD, ids=ids)


class Case:
    """A text with the runs that may be mentions; each has all titles, or a set of its own."""

    def __init__(
        self, text: list[int], pairs: list[tuple[int, int]], titles: list[tuple[int, ...]], whole: bool
    ) -> None:
        spans = sorted({(min(pair), max(pair)) for pair in pairs if max(pair) <= len(text) and pair[0] != pair[1]})
        own = [titles if whole else titles[at % len(titles) :][:2] for at in range(len(spans))]
        self.text, self.titles = text, Titles(zip(spans, own, strict=True))
        sets = [] if whole else [trie_of(each, [titles.index(title) for title in each]) for each in own]
        rows = [(0, *span, -1 if whole else at) for at, span in enumerate(spans)]
        self.automaton = LinkAutomaton([text], rows, trie_of(titles), MARKS, sets)
        self.names = titles
        self.last_end = np.array([max([at, *(end for start, end in spans if start == at)]) for at in range(len(text))])


CASE = st.builds(
    Case,
    st.lists(TOKEN, max_size=4),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=3),
    TITLES,
    st.booleans(),
)

# A link of these models costs 5 to 30 nats: what is greater, or less, decides which output is the best.
BONUS = st.sampled_from([0.0, 3.0, 15.0, 25.0, 40.0, -15.0])

# For searches that needn't look at all: enough titles and mentions that beams are dropped. No title holds "]": whether that goes
# on with the title or ends it is equally probable, and which of the two takes the last beam's place is anyone's guess.
PLAIN_TITLE = st.lists(st.sampled_from([3, 4, 5, 7, 39]), min_size=1, max_size=4).map(tuple)
LARGE_CASE = st.builds(
    Case,
    st.lists(TOKEN, min_size=2, max_size=5),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=5),
    st.lists(PLAIN_TITLE, min_size=4, max_size=9, unique=True),
    st.just(True),
)


@given(case=CASE, data=st.data())
def test_legal_choices_write_the_text_with_legal_markup(case: Case, data: st.DataObject) -> None:
    state, tokens, copied, links = case.automaton.start(1), list[int](), list[int](), list[Any]()
    title = list[int]()
    while state[0, 0] != DONE:
        edges = case.automaton.allow([0], state)
        at = data.draw(st.integers(0, len(edges.tokens) - 1))
        before, state = state[0].tolist(), edges.states[at : at + 1]
        after, token = state[0].tolist(), int(edges.tokens[at])
        tokens.append(token)
        # What is copied is told by the place alone.
        if after[1] > before[1]:
            copied.append(token)
        elif before[0] == after[0] == 3:
            title.append(token)
        elif before[0] == 3:
            links.append((before[2], before[1], tuple(title)))
            assert case.automaton.ids(0, before) == [case.names.index(tuple(title))]
            title = []
    assert copied == case.text
    assert all(title in case.titles[start, end] for start, end, title in links)
    assert (tuple(tokens), tuple(links)) in set(all_outputs(case.text, case.titles, MARKS, EOS))
    walked = case.automaton.walk(0, tokens)
    assert [DONE, len(case.text), 0, 0] in walked.tolist()


@given(case=CASE)
def test_all_ways_are_all_outputs_and_foreseen_tokens_are_legal(case: Case) -> None:
    found, waiting = list[tuple[int, ...]](), [((), case.automaton.start(1)[0].tolist())]
    while waiting:
        tokens, own = waiting.pop()
        if own[0] == DONE:
            found.append(tokens)
            continue
        state = np.array([own], np.int32)
        edges = case.automaton.allow([0], state)
        ways = list(zip(edges.tokens.tolist(), edges.states.tolist(), strict=True))
        assert ways
        run = case.automaton.forced([0], state)
        for token, after in zip(run.tokens.tolist(), run.states.tolist(), strict=True):
            only = case.automaton.allow([0], state)
            assert (only.tokens.tolist(), only.states.tolist()) == ([token], [after])
            state = np.array([after], np.int32)
        assert state[0, 0] == DONE or len(case.automaton.allow([0], state).tokens) > 1
        ahead = case.automaton.ahead([0], np.array([own], np.int32), [3], 2)
        for node, (parent, edge) in enumerate(zip(ahead.parents.tolist(), ahead.edges.tolist(), strict=True)):
            bounds = ahead.allowed.indptr
            here = case.automaton.allow([0], ahead.states[node : node + 1])
            part = slice(bounds[node], bounds[node + 1])
            assert here.tokens.tolist() == ahead.allowed.tokens[part].tolist()
            assert here.states.tolist() == ahead.allowed.states[part].tolist()
            if node:
                assert bounds[parent] <= edge < bounds[parent + 1]
                assert ahead.allowed.states[edge].tolist() == ahead.states[node].tolist()
        for token in {token for token, _ in ways}:
            after = [states for other, states in ways if other == token]
            assert case.automaton.advance([0], np.array([own], np.int32), [token])[1].tolist() == after
        waiting += [((*tokens, token), after) for token, after in ways]
    # A text with braces can be written in one way that means two things: each counts.
    assert sorted(found) == sorted(output.tokens for output in all_outputs(case.text, case.titles, MARKS, EOS))


@functools.cache
def trees(family: str, seed: int, packed: bool) -> PackedTree | PrefixTree:
    model, text = tiny_model(family, seed), inputs(seed, 1)
    with torch.no_grad():
        if packed:
            return plant(model, **text)
        return PrefixTree(model, encode(model, **text, project=False), text["attention_mask"])


@functools.cache
def next_tokens(family: str, seed: int) -> NextTokens:
    model = tiny_model(family, seed)
    return NextTokens(model, inputs(seed, 1), [start_token(model)])


def search(family: str, seed: int, case: Case, packed: bool = True, **options: Any) -> list[LinkHypothesis]:
    with torch.no_grad():
        prefix = [start_token(tiny_model(family, seed))]
        tree = trees(family, seed, packed).empty()
        (results,), _ = link_search(tree, case.automaton, [case.last_end], prefix=prefix, **options)
    return results


def written(text: list[int], hypothesis: LinkHypothesis) -> tuple[int, ...]:
    tokens, place = list[int](), 0
    for link in hypothesis.links:
        tokens += [*text[place : link.start], MARKS.open, *text[link.start : link.end], MARKS.close]
        tokens += [MARKS.begin, *link.title, MARKS.end]
        place = link.end
    return (*tokens, *text[place:], EOS)


def links_of(hypothesis: LinkHypothesis) -> tuple[Any, ...]:
    return tuple((link.start, link.end, link.title) for link in hypothesis.links)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15)
@given(case=CASE, seed=SEED, packed=st.booleans(), jump=st.booleans(), bonus=BONUS)
def test_as_many_beams_as_outputs_find_the_best_of_all(
    family: str, case: Case, seed: int, packed: bool, jump: bool, bonus: float
) -> None:
    outputs = list(all_outputs(case.text, case.titles, MARKS, EOS))
    options: dict[str, Any] = {"bonus": bonus} if jump else {"bonus": bonus, "max_copies": 0}
    found = search(family, seed, case, packed, num_beams=len(outputs), max_gap=math.inf, **options)
    scores = {output.links: log_prob(next_tokens(family, seed), output.tokens) for output in outputs}
    with_bonus = sorted((scores[output.links] + bonus * len(output.links) for output in outputs), reverse=True)
    compared = [hypothesis.log_prob + bonus * len(hypothesis.links) for hypothesis in found]
    assert compared == pytest.approx(with_bonus, abs=1e-3)
    for hypothesis in found:
        assert hypothesis.log_prob == pytest.approx(scores[links_of(hypothesis)], abs=1e-3)
        assert all(link.ids == (case.names.index(link.title),) for link in hypothesis.links)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=100)
@given(
    case=LARGE_CASE,
    seed=SEED,
    num_beams=st.integers(1, 3),
    max_gap=st.sampled_from([8.0, 12.0, 16.0, 24.0, math.inf]),
    max_copies=st.sampled_from([0, 1, 2, 64]),
    room=st.sampled_from([None, 8, 10]),
    bonus=BONUS,
)
def test_few_beams_find_what_a_plain_search_finds(
    family: str,
    case: Case,
    seed: int,
    num_beams: int,
    max_gap: float,
    max_copies: int,
    room: int | None,
    bonus: float,
) -> None:
    found = search(
        family, seed, case, num_beams=num_beams, max_gap=max_gap, max_copies=max_copies, bonus=bonus,
        positions=None if room is None else room + 1,
    )  # fmt: skip
    rules = {"num_beams": num_beams, "max_gap": max_gap, "room": math.inf if room is None else room, "bonus": bonus}
    plain = plain_search(next_tokens(family, seed), case.text, case.titles, MARKS, EOS, **rules)
    compared = [hypothesis.log_prob + bonus * len(hypothesis.links) for hypothesis in found]
    assert compared == pytest.approx([beam.total for beam in plain], abs=1e-3)
    # Tokens, not links: a text with braces may be written in one way that means two things, which are equally probable.
    wanted = dict.fromkeys(beam.tokens for beam in plain)
    assert dict.fromkeys(written(case.text, hypothesis) for hypothesis in found) == wanted
    if room is not None:
        assert all(len(beam.tokens) - 1 <= room for beam in plain)


@given(
    length=st.integers(0, 60),
    size=st.integers(1, 20),
    share=st.floats(0, 0.5),
    words=st.lists(st.booleans(), min_size=60, max_size=60),
    spans=st.lists(st.tuples(st.integers(0, 59), st.integers(1, 4)), max_size=12),
)
def test_windows_cover_a_text_and_each_mention_comes_from_one(
    length: int, size: int, share: float, words: list[bool], spans: list[tuple[int, int]]
) -> None:
    overlap = int(share * size)
    starts = np.cumsum([1 + gap for gap in words[:length]]) if length else np.zeros(0, np.int64)
    borders = np.ones(length, bool)
    source = SourceText(" " * 200, np.zeros(length, np.uint32), starts, starts + 1, borders, borders)
    own = windows(source, size, overlap)
    assert own[0].start == 0
    assert own[-1].end == length
    assert all(window.end - window.start <= size for window in own)
    for one, other in itertools.pairwise(own):
        assert one.start < other.start <= one.end - overlap
        assert one.end < other.end
    mentions = sorted({(start, start + size) for start, size in spans if start + size <= length})
    seen = [
        [(a, b, (at, a, b)) for a, b in mentions if window.start <= a and b <= window.end]
        for at, window in enumerate(own)
    ]
    kept = joined(seen, own, length)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(kept))
    for a, b, (at, *_) in kept:
        assert own[at].context(a, b, length) == max(window.context(a, b, length) for window in own)
    # What overlaps nothing, and is seen at all, is kept, once.
    for a, b in mentions:
        alone = all(b <= c or d <= a for c, d in mentions if (c, d) != (a, b))
        is_seen = any(window.start <= a and b <= window.end for window in own)
        assert [mention[:2] for mention in kept].count((a, b)) == (
            is_seen if alone else (a, b) in {m[:2] for m in kept}
        )
    assert Window(0, length).context(0, length, length) == math.inf
