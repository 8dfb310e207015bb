"""What holds for any titles and any model: beams find what a plain search finds, and candidates score as they do alone."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.generation.beam import BeamStep, Hypothesis, beam_search
from rankdistill.generation.candidates import candidate_groups, score_sequences
from rankdistill.generation.constraint import TrieConstraint
from rankdistill.generation.decoding import merge_names
from rankdistill.generation.families import encode
from rankdistill.generation.joined import joined
from rankdistill.generation.tree import PackedTree, PrefixTree, plant
from rankdistill.generation.trie import TokenTrie
from tests.reference.decoding import (
    EOS,
    FAMILIES,
    PAD,
    NextTokens,
    V,
    exhaustive,
    inputs,
    marginal,
    plain_beam_search,
    start_token,
    tiny_model,
)

TOKEN = st.sampled_from([0, 3, 4, 39])
SEQUENCE = st.lists(TOKEN, max_size=6).map(lambda tokens: (*tokens, EOS))
SEQUENCES = st.lists(SEQUENCE, min_size=1, max_size=8, unique=True)
FAMILY, SEED = st.sampled_from(FAMILIES), st.integers(0, 3)
PENALTY = st.sampled_from([-0.5, 0.0, 0.5, 1.0, 2.0])
NUM_TEXTS = 2


@functools.cache
def trees(family: str, seed: int, packed: bool) -> PackedTree | PrefixTree:
    model, texts = tiny_model(family, seed), inputs(seed, NUM_TEXTS)
    with torch.no_grad():
        if packed:
            return plant(model, **texts)
        return PrefixTree(model, encode(model, **texts, project=False), texts["attention_mask"])


@functools.cache
def text(seed: int, row: int) -> dict[str, torch.Tensor]:
    return {name: values[row : row + 1] for name, values in inputs(seed, NUM_TEXTS).items()}


@functools.cache
def next_tokens(family: str, seed: int, row: int) -> NextTokens:
    model = tiny_model(family, seed)
    return NextTokens(model, text(seed, row), [start_token(model)])


def search(family: str, seed: int, trie: TokenTrie, packed: bool = True, **options: Any) -> list[list[Hypothesis]]:
    tree = trees(family, seed, packed)
    assert isinstance(tree, PackedTree) == packed
    with torch.no_grad():
        prefix = [start_token(tiny_model(family, seed))]
        return beam_search(tree.empty(), trie, NUM_TEXTS, prefix=prefix, **options)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15)
@given(
    sequences=SEQUENCES,
    ids=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    seed=SEED,
    length_penalty=PENALTY,
    renormalise=st.booleans(),
    packed=st.booleans(),
    num_results=st.integers(1, 9),
)
def test_as_many_beams_as_titles_find_what_scoring_all_of_them_finds(
    family: str,
    sequences: list[tuple[int, ...]],
    ids: list[int],
    seed: int,
    length_penalty: float,
    renormalise: bool,
    packed: bool,
    num_results: int,
) -> None:
    trie = TokenTrie.build(sequences, vocab_size=V, eos=EOS, pad=PAD, ids=ids[: len(sequences)])
    options: dict[str, Any] = {"length_penalty": length_penalty, "renormalise": renormalise, "packed": packed}
    whole = search(family, seed, trie, num_beams=len(sequences), num_results=None, **options)
    short = search(family, seed, trie, num_beams=len(sequences), num_results=num_results, **options)
    for row in range(NUM_TEXTS):
        model = tiny_model(family, seed)
        wanted = exhaustive(model, trie, text(seed, row), [start_token(model)], length_penalty, renormalise)
        found = {h.sequence: h.log_prob / len(h.sequence) ** length_penalty for h in whole[row]}
        assert found == pytest.approx(wanted, abs=1e-4)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert all(list(h.ids) == trie.ids_of(h.sequence).tolist() for h in whole[row])
        # Of entities, whose names may be several, the best; a search that stops early has the same.
        for how in ("best", "sum"):
            best = marginal(wanted, trie, how)
            names = [(id_, found[h.sequence]) for h in whole[row] for id_ in h.ids]
            merged = merge_names([id_ for id_, _ in names], [score for _, score in names], how)
            assert merged == pytest.approx(best, abs=1e-4)
        names = [(id_, found[h.sequence]) for h in short[row] for id_ in h.ids]
        merged = merge_names([id_ for id_, _ in names], [score for _, score in names])
        best_scores = sorted(marginal(wanted, trie, "best").values(), reverse=True)
        assert list(merged.values())[:num_results] == pytest.approx(best_scores[:num_results], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20)
@given(
    sequences=SEQUENCES,
    seed=SEED,
    length_penalty=PENALTY,
    num_beams=st.integers(1, 5),
    num_results=st.integers(1, 5),
    jump=st.booleans(),
)
def test_few_beams_find_what_a_plain_search_to_the_end_finds(
    family: str,
    sequences: list[tuple[int, ...]],
    seed: int,
    length_penalty: float,
    num_beams: int,
    num_results: int,
    jump: bool,
) -> None:
    trie = TokenTrie.build(sequences, vocab_size=V, eos=EOS, pad=PAD)
    options: dict[str, Any] = {"length_penalty": length_penalty, "num_beams": num_beams, "jump": jump}
    found = search(family, seed, trie, num_results=num_results, **options)
    for row in range(NUM_TEXTS):
        plain = plain_beam_search(next_tokens(family, seed, row), set(sequences), num_beams)
        scores = {path: total / len(path) ** length_penalty for path, total in plain.items()}
        wanted = sorted(scores, key=lambda path: -scores[path])[:num_results]
        assert [h.sequence for h in found[row]][:num_results] == wanted
        assert [h.log_prob for h in found[row]][:num_results] == pytest.approx(
            [plain[path] for path in wanted], abs=1e-4
        )


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10)
@given(sequences=SEQUENCES, seed=SEED, length_penalty=st.sampled_from([0.0, 1.0]), num_beams=st.integers(2, 4))
def test_few_beams_find_what_generate_finds(
    family: str, sequences: list[tuple[int, ...]], seed: int, length_penalty: float, num_beams: int
) -> None:
    trie = TokenTrie.build(sequences, vocab_size=V, eos=EOS, pad=PAD)
    found = search(family, seed, trie, num_beams=num_beams, num_results=num_beams, length_penalty=length_penalty)
    theirs = tiny_model(family, seed).generate(
        **inputs(seed, NUM_TEXTS),
        logits_processor=[TrieConstraint(trie)],
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=length_penalty,
        early_stopping="never",
        max_new_tokens=trie.max_depth,
        eos_token_id=EOS,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
    )
    for row in range(NUM_TEXTS):
        part = slice(row * num_beams, (row + 1) * num_beams)
        rows = zip(theirs.sequences[part, 1:].tolist(), theirs.sequences_scores[part].tolist(), strict=True)
        # Where they have fewer titles than beams, they fill up with impossible ones.
        wanted = [(tuple(tokens[: tokens.index(EOS) + 1]), score) for tokens, score in rows if score > -1e8]
        ours = [(h.sequence, h.log_prob / len(h.sequence) ** length_penalty) for h in found[row]][: len(wanted)]
        assert [sequence for sequence, _ in ours] == [sequence for sequence, _ in wanted]
        assert [score for _, score in ours] == pytest.approx([score for _, score in wanted], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15)
@given(
    candidates=st.lists(st.lists(SEQUENCE, max_size=6), min_size=NUM_TEXTS, max_size=NUM_TEXTS),
    seed=SEED,
    packed=st.booleans(),
)
def test_candidates_score_as_each_alone(
    family: str, candidates: list[list[tuple[int, ...]]], seed: int, packed: bool
) -> None:
    prefix = [start_token(tiny_model(family, seed))]
    with torch.no_grad():
        together = score_sequences(trees(family, seed, packed).empty(), candidates, prefix)
        for row, own in enumerate(candidates):
            assert len(together[row]) == len(own)
            for score, sequence in zip(together[row], own, strict=True):
                nothing: list[list[tuple[int, ...]]] = [[] for _ in range(NUM_TEXTS)]
                nothing[row] = [sequence]
                alone = score_sequences(trees(family, seed, packed).empty(), nothing, prefix)[row][0]
                oracle = next_tokens(family, seed, row)
                exact = sum(oracle(sequence[:at])[token] for at, token in enumerate(sequence))
                np.testing.assert_allclose([score, alone], exact, rtol=1e-5, atol=1e-5)


@given(sequences=st.lists(SEQUENCE, max_size=12), max_nodes=st.integers(1, 20))
def test_groups_of_candidates_hold_each_once_and_stay_small(sequences: list[tuple[int, ...]], max_nodes: int) -> None:
    groups = candidate_groups(sequences, max_nodes)
    assert sorted(place for group in groups for place in group) == list(range(len(sequences)))
    for group in groups:
        nodes = {sequences[place][:end] for place in group for end in range(1, len(sequences[place]) + 1)}
        assert len(nodes) <= max_nodes or len({sequences[place] for place in group}) == 1


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15)
@given(
    lists=st.lists(st.lists(SEQUENCE, min_size=1, max_size=5, unique=True), min_size=NUM_TEXTS, max_size=NUM_TEXTS),
    seed=SEED,
    num_beams=st.integers(1, 5),
    is_shared=st.booleans(),
)
def test_texts_with_titles_of_their_own_find_what_each_finds_alone(
    family: str, lists: list[list[tuple[int, ...]]], seed: int, num_beams: int, is_shared: bool
) -> None:
    own = [TokenTrie.build(sequences, vocab_size=V, eos=EOS, pad=PAD) for sequences in lists]
    own = [own[0]] * NUM_TEXTS if is_shared else own
    trie, behind = joined(own)
    assert (behind is None) == is_shared
    steps = list[BeamStep]()
    options: dict[str, Any] = {"num_beams": num_beams, "num_results": None}
    together = search(family, seed, trie, behind=behind, observe=steps.append, **options)
    for row, titles in enumerate(own):
        alone = search(family, seed, titles, **options)[row]
        assert [(h.sequence, h.ids) for h in together[row]] == [(h.sequence, h.ids) for h in alone]
        assert [h.log_prob for h in together[row]] == pytest.approx([h.log_prob for h in alone], abs=1e-4)
    # What is shown of each step is what the trie and the model say.
    for length, step in enumerate(steps):
        assert step.length == length
        assert all(len(path) == length for path in step.paths)
        for row, path in enumerate(step.paths):
            legal = (
                own[int(step.text[row])].allow([list(path)] if path else [[PAD]], start=0 if path else 1).ids.tolist()
            )
            assert step.num_legal[row] == len(legal)
            after = next_tokens(family, seed, int(step.text[row]))
            assert step.legal_mass[row] == pytest.approx(
                np.exp([after(path)[token] for token in legal]).sum(), abs=1e-4
            )
            assert step.log_probs[row] == pytest.approx(
                sum(after(path[:at])[path[at]] for at in range(length)), abs=1e-3
            )
    shown = [(text, hypothesis) for step in steps for text, hypothesis in step.ended]
    assert sorted(h for text, h in shown if text == 0) == sorted(together[0])
