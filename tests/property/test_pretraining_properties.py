"""What holds for any corpus: how it's cut, packed and hidden."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.data.batches import BatchPlan
from rankdistill.data.masking import NOT_MASKED, WordDrop, mask_tokens
from rankdistill.data.packing import Markers, PackedPairs, Runs, find_runs
from rankdistill.data.tokens import TokenStore, build_tokens
from rankdistill.errors import BadDataError
from rankdistill.formats.repositories import cut_snippets
from tests.reference import pretraining as reference

LINES = st.sampled_from(["", "  ", "\t", "a = 1", "    b", "def f():", "\tc = 2", "# d"])


@given(st.lists(LINES, max_size=30).map("\n".join))
def test_files_are_cut_where_a_regular_expression_cuts_them(text: str) -> None:
    spans = list(cut_snippets(text, long=1000))
    assert [text[start:stop].rstrip(" \t") for start, stop in spans] == [
        part.rstrip(" \t") for part in reference.snippets(text)
    ]


@given(st.lists(LINES, max_size=60).map("\n".join), st.integers(1, 5))
def test_no_line_of_a_file_is_lost_and_long_snippets_end_at_the_next_blank_line(text: str, long: int) -> None:
    spans = list(cut_snippets(text, long))
    assert [line for start, stop in spans for line in text[start:stop].split("\n") if line.strip()] == [
        line for line in text.split("\n") if line.strip()
    ]
    for start, stop in spans:
        lines = text[start:stop].split("\n")
        assert lines[0].strip()
        assert lines[-1].strip()
        blank = [i for i, line in enumerate(lines) if not line.strip()]
        assert sum(1 for line in lines[: max(blank, default=0)] if line.strip()) < long


@given(
    st.lists(st.lists(st.integers(1, 30), max_size=12), min_size=1, max_size=5), st.integers(2, 12), st.integers(12, 30)
)
def test_runs_are_as_full_as_they_can_be_and_of_one_repository_each(
    repositories: list[list[int]], min_tokens: int, room: int
) -> None:
    lengths = np.array([min(n, room) for repository in repositories for n in repository], np.int64)
    bounds = np.cumsum([0, *map(len, repositories)])
    expected = [
        reference.runs({row: int(lengths[row]) for row in range(first, last) if lengths[row] >= min_tokens}, room)
        for first, last in pairwise(bounds.tolist())
    ]
    kept = [found for found in expected if len(found) >= 2]
    if len(kept) < 2:
        with pytest.raises(
            BadDataError, match=f"two repositories or more .*, found {len(kept)} of {len(repositories)} "
        ):
            find_runs(lengths, bounds, room=room, min_tokens=min_tokens)
        return
    runs = find_runs(lengths, bounds, room=room, min_tokens=min_tokens)
    assert [
        [runs.snippets(run).tolist() for run in range(first, last)] for first, last in pairwise(runs.bounds.tolist())
    ] == kept
    assert runs.num_short == int((lengths < min_tokens).sum())
    assert runs.num_small == len(repositories) - len(kept)


@given(st.integers(0, 10**6), st.lists(st.integers(2, 5), min_size=2, max_size=4))
def test_the_second_half_is_of_the_repository_that_is_said(seed: int, sizes: list[int]) -> None:
    bounds = np.cumsum([0, *sizes])
    runs = Runs(np.arange(bounds[-1]), np.arange(bounds[-1] + 1), bounds)
    rng = np.random.default_rng(seed)
    for run in range(len(runs)):
        other, same = runs.draw(run, rng)
        owner = [next(i for i in range(len(sizes)) if bounds[i] <= r < bounds[i + 1]) for r in (run, other)]
        assert other != run
        assert same == (owner[0] == owner[1])


def test_half_of_the_pairs_are_of_one_repository_and_every_other_run_is_drawn() -> None:
    bounds = np.array([0, 3, 5, 9])
    runs = Runs(np.arange(9), np.arange(10), bounds)
    rng = np.random.default_rng(0)
    drawn = [runs.draw(3, rng) for _ in range(4000)]
    assert 0.47 < np.mean([same for _, same in drawn]) < 0.53
    assert {other for other, same in drawn if same} == {4}
    counts = np.bincount([other for other, same in drawn if not same], minlength=9)
    assert counts[3] == counts[4] == 0
    assert counts[[0, 1, 2, 5, 6, 7, 8]].min() > 0.8 * counts.sum() / 7


def test_tokens_are_hidden_at_the_rates_that_are_said() -> None:
    ids = np.tile(np.arange(100, 1100), 200)
    maskable = np.arange(len(ids)) % 2 == 0
    seen, targets = mask_tokens(ids, maskable, np.random.default_rng(1), rate=0.15, mask_id=4, vocab_size=5000)
    chosen = targets != NOT_MASKED
    assert not chosen[~maskable].any()
    np.testing.assert_array_equal(targets[chosen], ids[chosen])
    np.testing.assert_array_equal(seen[~chosen], ids[~chosen])
    assert 0.147 < chosen[maskable].mean() < 0.153
    masked, kept = seen[chosen] == 4, seen[chosen] == ids[chosen]
    assert 0.78 < masked.mean() < 0.82
    assert 0.09 < kept.mean() < 0.11
    others = seen[chosen][~masked & ~kept]
    assert 0.09 < len(others) / chosen.sum() < 0.11
    assert others.min() < 100
    assert others.max() > 4000


@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_hidden_tokens_depend_on_the_generator_alone(seed: int, rate: float) -> None:
    ids = np.arange(10, 60).reshape(2, 25)
    maskable = ids % 3 > 0
    more: dict[str, Any] = {"rate": rate, "mask_id": 1, "vocab_size": 60}
    first, again = (mask_tokens(ids, maskable, np.random.default_rng(seed), **more) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first[1][~maskable] == NOT_MASKED).all()


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), min_size=1, max_size=5),
    st.integers(0, 3),
    st.floats(0.1, 1.0),
    st.integers(0, 99),
)
def test_dropped_words_are_frequent_ones_and_drop_everywhere(
    texts: list[list[int]], start: int, rate: float, seed: int
) -> None:
    words = np.array([False, False, *[True] * 6, False, False])
    drop = WordDrop(rate, 1, words, start)
    ids_BL = np.array(texts, np.int64)
    found = drop(ids_BL, np.random.default_rng(seed))
    np.testing.assert_array_equal(found, drop(ids_BL, np.random.default_rng(seed)))
    whole = WordDrop(1.0, 1, words, start)(ids_BL, np.random.default_rng(0))
    for text, after, all_gone in zip(texts, found.tolist(), whole.tolist(), strict=True):
        frequent = reference.frequent_words(text, words.tolist(), start)
        dropped = {before for before, now in zip(text[start:], after[start:], strict=True) if before != now}
        assert dropped <= frequent
        assert after == text[:start] + [1 if id_ in dropped else id_ for id_ in text[start:]]
        assert all_gone == text[:start] + [1 if id_ in frequent else id_ for id_ in text[start:]]


def test_words_drop_at_their_rate() -> None:
    ids_BL = np.tile(np.array([[5, 5, 6, 7, 6]]), (4000, 1))
    found = WordDrop(0.3, 1, np.ones(10, bool))(ids_BL, np.random.default_rng(3))
    assert 0.27 < (found[:, 0] == 1).mean() < 0.33
    assert 0.27 < (found[:, 2] == 1).mean() < 0.33
    assert (found[:, 3] == 7).all()


WORDS = ("list", "string", "file", "python")
"""Each repository speaks of its own thing, so that an item's words tell where it's from."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> tuple[TokenStore, Runs, Markers]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    texts, bounds = list[tuple[str, str]](), [0]
    for word, count in zip(WORDS, (9, 4, 15, 6), strict=True):
        texts += [(f"{word}{i}", " ".join([word] * (3 + i % 4))) for i in range(count)]
        bounds.append(len(texts))
    path = tmp_path_factory.mktemp("packed") / "tokens"
    tokens = build_tokens(iter(texts), tokenizer, 12, path, fingerprint="corpus", progress=False)
    lengths = tokens.lengths(np.arange(len(tokens))).astype(np.int64) - 2
    return tokens, find_runs(lengths, np.array(bounds), room=10, min_tokens=3), Markers.of(tokenizer)


def pairs(corpus: tuple[TokenStore, Runs, Markers], seed: int, **more: int) -> PackedPairs:
    tokens, runs, markers = corpus
    plan = BatchPlan(num_rows=len(runs), seed=seed, **{"batch_size": 4, **more})
    return PackedPairs(runs, tokens, plan, markers, room=10, mask_rate=0.3)


@given(seed=st.integers(0, 1000), epoch=st.integers(0, 3))
def test_an_item_is_two_runs_whose_words_tell_its_label(
    corpus: tuple[TokenStore, Runs, Markers], tiny_tokenizer_dir: Path, seed: int, epoch: int
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    source, (_, runs, _) = pairs(corpus, seed), corpus
    for run in range(len(runs)):
        ids, targets, same = source.item(epoch, run)
        assert len(ids) <= 23
        original = np.where(targets == NOT_MASKED, ids, targets)
        text = tokenizer.decode(original).split()
        assert (text[0], text[-1]) == ("[CLS]", "[SEP]")
        snippets = " ".join(text[1:-1]).split(" [SEP] ")
        own = len(runs.snippets(run))
        assert all(len(set(snippet.split())) == 1 for snippet in snippets)
        sides = [{snippet.split()[0] for snippet in part} for part in (snippets[:own], snippets[own:])]
        assert [len(side) for side in sides] == [1, 1]
        assert same == (sides[0] == sides[1])
        assert sides[0] == {WORDS[int(np.searchsorted(runs.bounds, run, side="right")) - 1]}


def test_batches_are_a_function_of_their_place_and_ranks_share_out_their_items(
    corpus: tuple[TokenStore, Runs, Markers],
) -> None:
    whole = pairs(corpus, 5)
    places = [(epoch, step) for epoch in (0, 1) for step in range(whole.num_steps)]
    first = {place: whole(*place) for place in places}
    other = pairs(corpus, 5)
    for place in reversed(places):
        for name, array in other(*place).items():
            np.testing.assert_array_equal(array, first[place][name])
    assert (
        first[0, 0]["input_ids"].shape != first[1, 0]["input_ids"].shape
        or (first[0, 0]["input_ids"] != first[1, 0]["input_ids"]).any()
    )
    ranks = [pairs(corpus, 5, batch_size=2, world_size=2, rank=rank) for rank in (0, 1)]
    for place in places:
        labels = np.concatenate([rank(*place)["same_repository"] for rank in ranks])
        np.testing.assert_array_equal(labels, first[place]["same_repository"])
    batch = first[0, 0]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    assert (batch["targets"][batch["attention_mask"] == 0] == NOT_MASKED).all()
