"""`TrieConstraint` under transformers' generate: every family, greedy, beams and sampling; what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rankdistill.generation.constraint import TrieConstraint
from rankdistill.generation.trie import TokenTrie
from tests.reference.decoding import BOS, EOS, PAD, V, inputs, log_probs_alone, start_token, tiny_model

SEQUENCES = [[5, 6, 2], [5, 2], [9, 6, 6, 2], [9, 7, 2], [30, 31, 32, 33, 34, 2]]


@pytest.fixture
def trie() -> TokenTrie:
    return TokenTrie.build(SEQUENCES, vocab_size=V, eos=EOS, pad=PAD)


def generate(model: Any, trie: TokenTrie, start: int = 1, **options: Any) -> Any:
    return model.generate(
        logits_processor=[TrieConstraint(trie, start=start)],
        max_new_tokens=trie.max_depth,
        eos_token_id=EOS,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )


MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "more beams than titles": {"num_beams": 9, "num_return_sequences": 5, "early_stopping": "never"},
    "sampling": {"do_sample": True, "num_return_sequences": 4},
    "beam sampling": {"do_sample": True, "num_beams": 3},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["bart", "t5", "bert", "gpt2", "llama"])
def test_generate_writes_titles_only(family: str, mode: str, trie: TokenTrie) -> None:
    model = tiny_model(family)
    texts = inputs(1, 2)
    start = texts["input_ids"].shape[1] if family in ("gpt2", "llama") else 1
    torch.manual_seed(0)
    found = generate(model, trie, start, **texts, **MODES[mode]).sequences
    ids = trie.entity_ids(found.numpy(), start=start)
    assert (ids.indptr[1:] - ids.indptr[:-1]).tolist() == [1] * len(found)
    if mode == "more beams than titles":
        assert [sorted(part.tolist()) for part in ids.ids.reshape(2, 5)] == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("family", ["bart", "t5", "bert"])
def test_scores_of_beams_are_the_probabilities_among_all_texts(family: str, trie: TokenTrie) -> None:
    model, text = tiny_model(family), inputs(3, 1)
    found = generate(model, trie, **text, num_beams=5, num_return_sequences=5, early_stopping="never")
    for row, score in zip(found.sequences.tolist(), found.sequences_scores.tolist(), strict=True):
        sequence = row[1 : row.index(EOS, 1) + 1]
        alone = log_probs_alone(model, text, [start_token(model)], sequence)
        assert score == pytest.approx(sum(alone) / len(sequence), abs=1e-4)


@pytest.mark.parametrize("on_dead_end", ["eos", "pad"])
def test_scores_of_any_dtype_are_held_alike_and_left_as_they_were(trie: TokenTrie, on_dead_end: Any) -> None:
    # Before a title, within two, where a title ends, and where no title goes on.
    rows = torch.tensor([[BOS, PAD, PAD], [BOS, 5, PAD], [BOS, 9, 6], [BOS, 9, 31]])[:, :3]
    constraint, scores = TrieConstraint(trie, on_dead_end=on_dead_end), torch.randn(4, V)
    for length in (1, 2, 3):
        before = scores.clone()
        held = constraint(rows[:, :length], scores)
        assert torch.equal(scores, before)
        for dtype in (torch.bfloat16, torch.float64):
            assert torch.equal(constraint(rows[:, :length], scores.to(dtype)), held.to(dtype))


def test_a_forced_first_token_is_counted_by_start(trie: TokenTrie) -> None:
    model, text = tiny_model("bart"), inputs(4, 2)
    found = generate(model, trie, 2, **text, forced_bos_token_id=BOS).sequences
    assert found[:, 1].tolist() == [BOS, BOS]
    assert len(trie.entity_ids(found.numpy(), start=2).ids) == 2
    with pytest.raises(
        ValueError, match=r"found none in row 0; if the model forces a first token .*count it in start="
    ):
        generate(model, trie, 1, **text, forced_bos_token_id=BOS)


# What stock models' own settings ask for: BART, mBART, Pegasus; summarizers; Marian.
SETTINGS: dict[str, dict[str, Any]] = {
    "forced end": {"forced_eos_token_id": EOS},
    "no trigram twice": {"no_repeat_ngram_size": 3},
    "padding is a bad word": {"bad_words_ids": [[PAD]]},
    "all": {"forced_eos_token_id": EOS, "no_repeat_ngram_size": 3, "bad_words_ids": [[PAD]]},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("renormalise", [False, True])
def test_a_models_own_settings_do_not_change_what_is_written(mode: str, renormalise: bool, trie: TokenTrie) -> None:
    model, texts = tiny_model("bart"), inputs(1, 3)

    def written(more: dict[str, Any]) -> Any:
        torch.manual_seed(0)
        return model.generate(
            logits_processor=[TrieConstraint(trie, renormalise=renormalise)], max_new_tokens=trie.max_depth + 1,
            eos_token_id=EOS, pad_token_id=PAD, return_dict_in_generate=True, output_scores=True, **texts, **MODES[mode],
            **more,
        )  # fmt: skip

    alone = written({})
    for name in ("all",) if renormalise else SETTINGS:
        found = written(SETTINGS[name])
        assert (
            trie.entity_ids(found.sequences.numpy()).ids.tolist()
            == trie.entity_ids(alone.sequences.numpy()).ids.tolist()
        )
        if "beams" in mode:
            assert found.sequences_scores.tolist() == pytest.approx(alone.sequences_scores.tolist(), abs=1e-5)


def test_a_forced_end_at_the_last_place_of_the_longest_title_is_no_log_probability() -> None:
    trie = TokenTrie.build([[5, 6, 2]], vocab_size=V, eos=EOS, pad=PAD)
    model, text = tiny_model("bart"), inputs(3, 1)
    wanted = sum(log_probs_alone(model, text, [start_token(model)], [5, 6, 2])) / 3
    for more, is_right in ((0, False), (1, True)):
        found = model.generate(
            logits_processor=[TrieConstraint(trie)], max_new_tokens=trie.max_depth + more, num_beams=2, eos_token_id=EOS,
            pad_token_id=PAD, forced_eos_token_id=EOS, return_dict_in_generate=True, output_scores=True, **text,
        )  # fmt: skip
        assert (found.sequences_scores.item() == pytest.approx(wanted, abs=1e-4)) == is_right
    with pytest.raises(
        ValueError, match=r"forces its last \(forced_eos_token_id\), pass max_new_tokens=trie.max_depth"
    ):
        model.generate(
            logits_processor=[TrieConstraint(trie)], max_new_tokens=2, eos_token_id=EOS, pad_token_id=PAD,
            forced_eos_token_id=EOS, **text,
        )  # fmt: skip


def test_titles_that_ended_may_be_padded_and_given_up_beams_have_no_softmax(trie: TokenTrie) -> None:
    # Ended, ended and padded, begins no title, goes on.
    rows = [[0, 5, EOS, PAD], [0, 5, EOS, EOS], [0, 8, 8, 8], [0, 9, 6, 6]]
    scores = torch.full((4, V), -torch.inf)
    scores[3, EOS] = 0.5
    for renormalise in (False, True):
        held = constrained(trie, rows, scores, renormalise=renormalise)
        assert [row.isfinite().nonzero().flatten().tolist() for row in held] == [[PAD], [], [], [EOS]]
        assert not held.isnan().any()
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(constrained(trie, rows, scores.to(dtype)), constrained(trie, rows, scores).to(dtype))


def test_each_text_may_have_a_trie_of_its_own(trie: TokenTrie) -> None:
    model, texts = tiny_model("bart"), inputs(1, 2)
    tries = [trie.intersection([SEQUENCES[0], SEQUENCES[3]]), trie.intersection([SEQUENCES[4], SEQUENCES[1]])]

    def scores(held: Any, rows: dict[str, Tensor]) -> list[float]:
        found = model.generate(
            logits_processor=[TrieConstraint(held)], max_new_tokens=trie.max_depth + 1, eos_token_id=EOS, pad_token_id=PAD,
            num_beams=3, num_return_sequences=2, return_dict_in_generate=True, output_scores=True, early_stopping="never",
            **rows,
        )  # fmt: skip
        assert len(trie.entity_ids(found.sequences.numpy()).ids) == len(found.sequences)
        return [float(score) for score in found.sequences_scores]

    alone = [scores(own, {name: part[[row]] for name, part in texts.items()}) for row, own in enumerate(tries)]
    assert scores(tries, texts) == pytest.approx([*alone[0], *alone[1]], abs=1e-4)
    with pytest.raises(ValueError, match=r"expected as many rows for each trie, found 3, with 2 tries; give one trie"):
        TrieConstraint(tries)(torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, V))
    with pytest.raises(ValueError, match="expected a trie, or one for each text, found none"):
        TrieConstraint([])


def constrained(trie: TokenTrie, rows: list[list[int]], scores: Tensor, **options: Any) -> Tensor:
    return TrieConstraint(trie, **options)(torch.tensor(rows), scores)


def test_scores_stay_or_are_renormalised(trie: TokenTrie) -> None:
    scores = torch.randn(3, V + 3).log_softmax(-1)
    before = scores.clone()
    rows = [[0, 5], [0, 9], [0, 8]]
    held = constrained(trie, rows, scores)
    assert torch.equal(scores, before)
    assert [row.isfinite().nonzero().flatten().tolist() for row in held] == [[2, 6], [6, 7], [2]]
    assert torch.equal(held[held.isfinite()], scores[held.isfinite()])
    renormalised = constrained(trie, rows, scores, renormalise=True)
    torch.testing.assert_close(renormalised.exp().sum(-1), torch.ones(3))
    torch.testing.assert_close(renormalised[0, [2, 6]].diff(), scores[0, [2, 6]].diff())
    assert constrained(trie, rows, scores, on_dead_end="pad")[2].isfinite().nonzero().flatten().tolist() == [PAD]
    assert torch.equal(constrained(trie, rows, scores, start=3), scores)
    assert constrained(trie, [[0, 5]], scores[:1].bfloat16()).dtype == torch.bfloat16


def test_what_is_added_counts_at_once(trie: TokenTrie) -> None:
    constraint = TrieConstraint(trie)
    scores = torch.zeros(1, V)
    trie.add([[5, 11, 2]], [9])
    assert constraint(torch.tensor([[0, 5]]), scores)[0].isfinite().nonzero().flatten().tolist() == [2, 6, 11]


def test_refuses_what_cannot_be_held(trie: TokenTrie) -> None:
    with pytest.raises(ValueError, match="expected a vocabulary of 40 or more, found 39"):
        constrained(trie, [[0]], torch.zeros(1, 39))
    scores = torch.zeros(2, V)
    scores[1, [2, 6]] = -torch.inf
    with pytest.raises(
        ValueError, match="expected a legal token that other logits processors allow, found none in row 1"
    ):
        constrained(trie, [[0, 9], [0, 5]], scores)
    # Rows that begin no title are beams that beam search has given up.
    scores[1, EOS] = -torch.inf
    assert not constrained(trie, [[0, 9], [0, 8]], scores)[1].isfinite().any()
    with pytest.raises(ValueError, match="none that begins like row 0"):
        constrained(trie, [[0, 8]], torch.zeros(1, V), on_dead_end="error")
