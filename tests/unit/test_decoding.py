"""`generate_entities`, `score_candidates` and `merge_names`: texts in, entities out; every family; what is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rankdistill.errors import BadDataError, WrongModelError
from rankdistill.generation.beam import beam_search
from rankdistill.generation.decoding import decoder_prefix, generate_entities, merge_names, score_candidates
from rankdistill.generation.families import family_of, max_source_positions
from rankdistill.generation.tree import PackedTree, plant
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.seq2seq import load_writer
from tests.reference.decoding import BOS, EOS, FAMILIES, PAD, V, exhaustive, inputs, start_token, tiny_model

TITLES = [
    "sort a list",
    "sort a dictionary",
    "read a file",
    "read a file line by line",
    "x",
    "sort a list by value in place",
]
TEXTS = ["how to sort", "reading files line by line with python", "a"]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    model = tiny_model("bert", vocab_size=len(tokenizer))
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = tokenizer.cls_token_id
    return model


@pytest.fixture(scope="module")
def trie(tokenizer: Any) -> TokenTrie:
    # Entity 7 has two names; "x" names two entities.
    trie = TokenTrie.from_titles(TITLES, tokenizer, ids=[7, 8, 9, 10, 11, 7], progress=False)
    trie.add([[*tokenizer("x", add_special_tokens=False)["input_ids"], trie.eos]], [12])
    return trie


def alone(model: Any, tokenizer: Any, trie: TokenTrie, text: str, length_penalty: float = 1.0) -> dict[str, float]:
    batch = tokenizer([text], return_tensors="pt")
    batch.pop("token_type_ids")
    scores = exhaustive(model, trie, batch, [tokenizer.cls_token_id], length_penalty, renormalise=False)
    return {tokenizer.decode(sequence[:-1]): score for sequence, score in scores.items()}


def test_entities_come_with_the_scores_of_their_best_names(model: Any, tokenizer: Any, trie: TokenTrie) -> None:
    found = generate_entities(model, tokenizer, trie, TEXTS, num_beams=10, batch_size=2)
    for text, own in zip(TEXTS, found, strict=True):
        scores = alone(model, tokenizer, trie, text)
        wanted = {
            7: max(scores["sort a list"], scores["sort a list by value in place"]),
            8: scores["sort a dictionary"],
            9: scores["read a file"],
            10: scores["read a file line by line"],
            11: scores["x"],
            12: scores["x"],
        }
        assert {entity.entity_id: entity.score for entity in own} == pytest.approx(wanted, abs=1e-4)
        assert [entity.score for entity in own] == sorted((entity.score for entity in own), reverse=True)
        assert all(scores[entity.title] == pytest.approx(entity.score, abs=1e-4) for entity in own)
        assert [entity.num_names for entity in own if entity.entity_id == 7] == [2]
    assert found[0] != found[1]


def test_a_writer_in_bfloat16_scores_nearly_the_same(
    model: Any, tokenizer: Any, trie: TokenTrie, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    exact, rough = (load_writer(tmp_path, "cpu", dtype) for dtype in ("auto", "bfloat16"))
    assert (exact.model.dtype, rough.model.dtype) == (torch.float32, torch.bfloat16)
    found, roughly = (generate_entities(writer.model, tokenizer, trie, TEXTS) for writer in (exact, rough))
    for own, other in zip(found, roughly, strict=True):
        scores = {each.entity_id: each.score for each in other}
        assert scores == pytest.approx({each.entity_id: each.score for each in own}, rel=0.02)
        assert scores != {each.entity_id: each.score for each in own}


def test_names_of_one_entity_add_up(model: Any, tokenizer: Any, trie: TokenTrie) -> None:
    own = generate_entities(model, tokenizer, trie, TEXTS[:1], aliases="sum", length_penalty=0.5)[0]
    scores = alone(model, tokenizer, trie, TEXTS[0], 0.5)
    names = [scores["sort a list"], scores["sort a list by value in place"]]
    summed = math.log(sum(map(math.exp, names)))
    entity = next(entity for entity in own if entity.entity_id == 7)
    assert entity.score == pytest.approx(summed, abs=1e-4)
    assert scores[entity.title] == pytest.approx(max(names), abs=1e-4)


def test_as_many_entities_as_are_asked_for(model: Any, tokenizer: Any, trie: TokenTrie) -> None:
    whole = generate_entities(model, tokenizer, trie, TEXTS)
    for count in (1, 2, 6):
        short = generate_entities(model, tokenizer, trie, TEXTS, num_results=count)
        assert [[(e.entity_id, e.title) for e in own] for own in short] == [
            [(e.entity_id, e.title) for e in own[:count]] for own in whole
        ]
    assert all(len(own) == 6 for own in whole)
    assert all(1 <= len(own) <= 2 for own in generate_entities(model, tokenizer, trie, TEXTS, num_beams=1))
    assert generate_entities(model, tokenizer, trie, []) == []


def test_a_trie_without_titles_finds_nothing(model: Any, tokenizer: Any) -> None:
    trie = TokenTrie.build([], vocab_size=len(tokenizer), eos=tokenizer.sep_token_id)
    assert generate_entities(model, tokenizer, trie, TEXTS) == [[], [], []]


def test_candidates_score_as_in_the_trie(model: Any, tokenizer: Any, trie: TokenTrie) -> None:
    candidates = [TITLES, [], ["x", "x", "sort a list"]]
    for penalty in (1.0, 0.0):
        found = score_candidates(model, tokenizer, TEXTS, candidates, length_penalty=penalty, batch_size=2)
        assert [len(own) for own in found] == [6, 0, 3]
        for text, titles, own in zip(TEXTS, candidates, found, strict=True):
            scores = alone(model, tokenizer, trie, text, penalty)
            np.testing.assert_allclose(own, [scores[title] for title in titles], atol=1e-5, rtol=1e-5)


def test_many_candidates_go_in_several_passes(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score_candidates(model, tokenizer, TEXTS[:1], [TITLES])[0]
    monkeypatch.setattr("rankdistill.generation.candidates.candidate_groups.__defaults__", (4,))
    np.testing.assert_allclose(score_candidates(model, tokenizer, TEXTS[:1], [TITLES])[0], whole, atol=1e-5)


def test_merged_names() -> None:
    assert merge_names([3, 4, 3], [-3.0, -2.0, -1.0]) == {3: -1.0, 4: -2.0}
    assert list(merge_names([3, 4, 5], [-3.0, -1.0, -3.0])) == [4, 3, 5]
    assert merge_names([3, 4, 3], np.log([0.25, 0.4, 0.25]), "sum") == pytest.approx({3: np.log(0.5), 4: np.log(0.4)})
    with pytest.raises(ValueError, match="expected aliases of best or sum, found 'mean'"):
        merge_names([1], [0.0], "mean")  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [*FAMILIES, "mbart", "mt5"])
def test_families_are_packed_and_left_as_they_were(family: str, attention: str) -> None:
    model = tiny_model(family, 5)
    model.set_attn_implementation(attention)
    text = inputs(2, 1)
    sequences = [[5, 6, 7, 2], [5, 2], [9, 2], [9, *range(10, 20), 2]]
    trie = TokenTrie.build(sequences, vocab_size=V, eos=EOS, pad=PAD)
    before = model(**text, decoder_input_ids=torch.tensor([[BOS, 5, 6]])).logits
    with torch.inference_mode():
        tree = plant(model, **text)
        assert isinstance(tree, PackedTree)
        found = beam_search(tree, trie, 1, prefix=[start_token(model)], num_beams=4, num_results=4)
    wanted = exhaustive(model, trie, text, [start_token(model)], 0.0, renormalise=False)
    assert {h.sequence: h.log_prob for h in found[0]} == pytest.approx(wanted, abs=1e-4)
    torch.testing.assert_close(model(**text, decoder_input_ids=torch.tensor([[BOS, 5, 6]])).logits, before)
    model.set_attn_implementation("sdpa")


def test_other_families_go_without_a_cache() -> None:
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    torch.manual_seed(0)
    sizes = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = PegasusConfig(
        vocab_size=V, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, init_std=0.6, max_position_embeddings=64,
        decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=EOS, **sizes,
    )  # fmt: skip
    model: Any = PegasusForConditionalGeneration(config).eval()
    assert family_of(model) is None
    text, prefix = inputs(2, 1), decoder_prefix(model)
    trie = TokenTrie.build([[5, 6, 7, 2], [5, 2], [9, 2]], vocab_size=V, eos=EOS, pad=PAD)
    with torch.inference_mode():
        found = beam_search(plant(model, **text), trie, 1, prefix=prefix, num_beams=4, num_results=4)
    wanted = exhaustive(model, trie, text, prefix, 0.0, renormalise=False)
    assert {h.sequence: h.log_prob for h in found[0]} == pytest.approx(wanted, abs=1e-4)


def test_a_prefix_of_several_tokens_is_no_part_of_the_title() -> None:
    model, text = tiny_model("bart"), inputs(6, 2)
    trie = TokenTrie.build([[5, 6, 2], [5, 2], [9, 2]], vocab_size=V, eos=EOS, pad=PAD)
    with torch.inference_mode():
        found = beam_search(plant(model, **text), trie, 2, prefix=[EOS, BOS], num_beams=3, num_results=3)
    for row in range(2):
        own = {name: values[row : row + 1] for name, values in text.items()}
        wanted = exhaustive(model, trie, own, [EOS, BOS], 0.0, renormalise=False)
        assert {h.sequence: h.log_prob for h in found[row]} == pytest.approx(wanted, abs=1e-4)
    model.generation_config.forced_bos_token_id = BOS
    assert decoder_prefix(model) == [start_token(model), BOS]
    model.generation_config.forced_bos_token_id = None
    assert decoder_prefix(model) == [start_token(model)]


def test_refuses_what_cannot_be_written(model: Any, tokenizer: Any, trie: TokenTrie) -> None:
    with pytest.raises(ValueError, match="expected num_beams and num_results of at least 1, found 0 and None"):
        generate_entities(model, tokenizer, trie, TEXTS, num_beams=0)
    with pytest.raises(
        ValueError, match="expected an encoder-decoder, found GPT2LMHeadModel; hold others with generate"
    ):
        generate_entities(tiny_model("gpt2"), tokenizer, trie, TEXTS)
    with pytest.raises(ValueError, match="expected at least one token in prefix, found none"):
        generate_entities(model, tokenizer, trie, TEXTS, prefix=[])
    wide = TokenTrie.build([[5, 2]], vocab_size=100_000, eos=2)
    with pytest.raises(ValueError, match=r"expected a model of 100,000 tokens or more, found \d,\d+; was the trie"):
        generate_entities(model, tokenizer, wide, TEXTS)
    deep = TokenTrie.build([[5] * 63 + [2]], vocab_size=9, eos=2)
    assert len(generate_entities(model, tokenizer, deep, TEXTS[:1], num_beams=1)[0]) == 1
    deep.add([[5] * 64 + [2]], [1])
    with pytest.raises(ValueError, match="expected a decoder of 65 positions for the longest title, found 64"):
        generate_entities(model, tokenizer, deep, TEXTS)
    with pytest.raises(ValueError, match="expected candidates of 3 texts, found those of 1"):
        score_candidates(model, tokenizer, TEXTS, [["x"]])
    with pytest.raises(BadDataError, match='expected a title, found ""'):
        score_candidates(model, tokenizer, TEXTS, [["x"], [""], []])


def test_a_model_that_knows_no_numbers_is_refused() -> None:
    model = tiny_model("bart", 9)
    with torch.no_grad():
        model.final_logits_bias.fill_(torch.nan)
    trie = TokenTrie.build([[5, 2], [6, 2]], vocab_size=V, eos=EOS, pad=PAD)
    with torch.inference_mode(), pytest.raises(ValueError, match="expected log-probabilities, found NaN"):
        beam_search(plant(model, **inputs(1, 1)), trie, 1, prefix=[EOS], num_beams=2, num_results=2)


def test_what_the_model_rules_out_is_no_result() -> None:
    model = tiny_model("bart", 8)
    with torch.no_grad():
        model.final_logits_bias[0, 6] = -torch.inf
    trie = TokenTrie.build([[5, 2], [6, 2], [7, 6, 2]], vocab_size=V, eos=EOS, pad=PAD)
    for renormalise in (False, True):
        with torch.inference_mode():
            tree = plant(model, **inputs(1, 1))
            found = beam_search(tree, trie, 1, prefix=[EOS], num_beams=5, num_results=5, renormalise=renormalise)
        assert [h.ids for h in found[0]] == [(0,)]


def test_a_model_without_a_start_token_is_refused() -> None:
    class Nothing:
        generation_config = config = None

    with pytest.raises(
        ValueError, match="expected a model that names its decoder_start_token_id, found none; pass prefix="
    ):
        decoder_prefix(Nothing())


def test_long_texts_are_cut_at_the_encoders_positions_and_strange_families_are_refused(
    tokenizer: Any, trie: TokenTrie
) -> None:
    model = tiny_model("bert", seed=11, vocab_size=len(tokenizer))
    unlimited = copy.copy(tokenizer)
    unlimited.model_max_length = int(1e30)
    text = "sort a list " * 60
    found = generate_entities(model, unlimited, trie, [text], prefix=[2])
    cut = generate_entities(model, tokenizer, trie, [text], prefix=[2], max_input_length=64)
    assert [own.score for own in found[0]] == pytest.approx([own.score for own in cut[0]], abs=1e-5)
    roberta = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=66, model_type="roberta", pad_token_id=1))
    assert max_source_positions(roberta) == 64
    for kind in ("switch_transformers", "nllb-moe", "fsmt"):
        strange = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=True, model_type=kind))
        with pytest.raises(WrongModelError, match=f"found {kind}; hold it with generate"):
            generate_entities(strange, tokenizer, trie, [text])
