"""Disambiguation in its five modes, on a tiny random model; allow-lists and new names of a running model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rankdistill.errors import BadDataError, BadStoreError, MissingIdsError
from rankdistill.formats.kilt import KiltRecord, mention_text
from rankdistill.formats.mentions import MentionTable
from rankdistill.generation.decoding import generate_entities, score_candidates
from rankdistill.generation.disambiguation import Answer, Candidate, Mention, disambiguate, mention_of
from rankdistill.generation.free import generate_freely
from rankdistill.generation.joined import joined
from rankdistill.generation.trie import TokenTrie
from tests.reference.decoding import tiny_model

# Two names of entity 7; one of them begins the other.
TITLES = ["Sort a list", "Sort a dictionary", "Read a file", "Read a file line by line", "x", "Sort a list in place"]
IDS = [7, 8, 9, 10, 11, 7]
NAMES = dict(zip(reversed(IDS), reversed(TITLES), strict=True))
TEXT = mention_text("how do I", "sort", "values ?")


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    model = tiny_model("bert", seed=3, vocab_size=len(tokenizer))
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return model


@pytest.fixture
def trie(tokenizer: Any) -> TokenTrie:
    return TokenTrie.from_titles(TITLES, tokenizer, ids=IDS, progress=False)


def same(found: Any, wanted: Any) -> bool:
    """Answers (or entities) in the same order, scores nearly the same."""
    scores = [[each.score for each in own] for own in (found, wanted)]
    return bool(
        [each._replace(score=0.0) for each in found] == [each._replace(score=0.0) for each in wanted]
        and scores[0] == pytest.approx(scores[1], abs=1e-4)
    )


def candidates(*titles: str, prior: float | None = 0.5) -> tuple[Candidate, ...]:
    return tuple(Candidate(title, prior) for title in titles)


def test_a_record_becomes_a_mention() -> None:
    meta = {"left_context": "how do I", "mention": "Sort", "right_context": "values ?"}
    record = KiltRecord("1", "x", meta=meta, candidates=("A", "B"))
    table = MentionTable({"sort": {"A": 1, "C": 3}})
    text = "how do I [START_ENT] Sort [END_ENT] values ?"
    assert mention_of(record) == Mention(text, (Candidate("A"), Candidate("B")))
    assert mention_of(record, table).candidates == (Candidate("C", 0.75), Candidate("A", 0.25))
    assert mention_of(record, table, num_candidates=1).candidates == (Candidate("C", 0.75),)
    # The marks may stand in the input, too.
    assert mention_of(KiltRecord("1", text), table).candidates[0].title == "C"
    for text in ("no mention at all", "[START_ENT] [END_ENT]", "[END_ENT] a [START_ENT]", "[START_ENT] never ended"):
        with pytest.raises(BadDataError, match=r'expected a mention: .* in "input", found .* \(record 9\)'):
            mention_of(KiltRecord("9", text))


def test_candidate_beams_and_exact_scores_agree(model: Any, tokenizer: Any, trie: TokenTrie) -> None:
    mentions = [
        Mention(TEXT, candidates("Read a file", "x", "Sort a list in place", "No such title")),
        Mention(TEXT, candidates("Read a file", "x", "Sort a list in place")),
        Mention("reading", candidates("Sort a dictionary")),
        Mention("reading files", candidates("Read a file line by line", "Read a file")),
    ]
    exact = disambiguate(model, tokenizer, trie, mentions, mode="candidates", batch_size=3)
    beams = disambiguate(model, tokenizer, trie, mentions, mode="candidate-beams", batch_size=3)
    assert exact.num_unknown_candidates == beams.num_unknown_candidates == 1
    for one, other, mention in zip(exact.answers, beams.answers, mentions, strict=True):
        assert {each.title for each in one} == {each.title for each in mention.candidates} - {"No such title"}
        assert [each.entity_id for each in one] == [each.entity_id for each in other]
        assert [each.score for each in one] == pytest.approx([each.score for each in other], abs=1e-4)
    titles = ["Read a file", "x", "Sort a list in place"]
    wanted = score_candidates(model, tokenizer, [TEXT], [titles])[0]
    scores = {each.title: each.score for each in exact.answers[0]}
    assert [scores[title] for title in titles] == pytest.approx(wanted.tolist(), abs=1e-5)
    # An entity has its best name's score, and is called as `names` says.
    both = [Mention(TEXT, candidates("Sort a list", "Sort a list in place"))]
    (answer,) = disambiguate(model, tokenizer, trie, both, mode="candidates", names=NAMES).answers[0]
    best = score_candidates(model, tokenizer, [TEXT], [["Sort a list", "Sort a list in place"]])[0].max()
    assert (answer.title, answer.entity_id) == ("Sort a list", 7)
    assert answer.score == pytest.approx(best, abs=1e-5)


def test_all_titles_are_searched_where_there_are_no_candidates(model: Any, tokenizer: Any, trie: TokenTrie) -> None:
    mentions = [Mention(TEXT, candidates("No such title")), Mention(TEXT, candidates("x"))]
    whole = disambiguate(model, tokenizer, trie, mentions, names=NAMES, num_results=2)
    entities = generate_entities(model, tokenizer, trie, [TEXT], num_results=2)[0]
    assert same(whole.answers[0], [Answer(NAMES[e.entity_id], e.score, e.entity_id) for e in entities])
    assert whole.num_without_candidates == 0
    some = disambiguate(model, tokenizer, trie, mentions, mode="candidates", names=NAMES, num_results=2)
    assert same(some.answers[0], whole.answers[0])
    assert [answer.title for answer in some.answers[1]] == ["x"]
    assert some.num_without_candidates == 1
    none = disambiguate(model, tokenizer, trie, mentions, mode="candidates", without_candidates="nothing")
    assert none.answers[0] == []
    assert same(none.answers[1], some.answers[1])


def test_priors_alone_and_mixed_in(model: Any, tokenizer: Any, trie: TokenTrie) -> None:
    own = (
        Candidate("x", 0.3),
        Candidate("Sort a list", 0.2),
        Candidate("Sort a list in place", 0.2),
        Candidate("Read a file", 0.3),
    )
    alone = disambiguate(None, tokenizer, trie, [Mention(TEXT, own), Mention(TEXT)], mode="prior")
    # Priors of an entity's names add up; equal ones go by title.
    assert [answer.title for answer in alone.answers[0]] == ["Sort a list", "Read a file", "x"]
    assert [answer.score for answer in alone.answers[0]] == pytest.approx([math.log(0.4), math.log(0.3), math.log(0.3)])
    assert alone.answers[1] == []
    plain = disambiguate(model, tokenizer, trie, [Mention(TEXT, own)], mode="candidates").answers[0]
    scores = {answer.entity_id: answer.score for answer in plain}
    for mode in ("candidates", "candidate-beams"):
        mixed = disambiguate(model, tokenizer, trie, [Mention(TEXT, own)], mode=mode, prior_weight=2.0).answers[0]
        wanted = {
            7: scores[7] + 2 * math.log(0.4),
            11: scores[11] + 2 * math.log(0.3),
            9: scores[9] + 2 * math.log(0.3),
        }
        assert {answer.entity_id: answer.score for answer in mixed} == pytest.approx(wanted, abs=1e-4)
        assert [answer.score for answer in mixed] == sorted((answer.score for answer in mixed), reverse=True)
    with pytest.raises(
        ValueError, match="expected candidates with priors, found some without; give a table of mentions"
    ):
        disambiguate(
            model, tokenizer, trie, [Mention(TEXT, candidates("x", prior=None))], mode="candidates", prior_weight=1
        )


@pytest.mark.parametrize("num_beams", [1, 4])
def test_what_is_written_freely_may_be_no_title(model: Any, tokenizer: Any, num_beams: int) -> None:
    texts = [TEXT, "reading files"]
    call: dict[str, Any] = {"num_beams": num_beams, "num_results": 2}
    written = generate_freely(model, tokenizer, texts, eos=tokenizer.sep_token_id, max_length=9, **call)
    # The model's own first text is a title of this trie; nothing else is.
    sequence = [token for token in written[0][0][0] if token != tokenizer.sep_token_id]
    trie = TokenTrie.build(
        [[*sequence, tokenizer.sep_token_id]], vocab_size=len(tokenizer), eos=tokenizer.sep_token_id, ids=[5]
    )
    trie.add([[tokenizer.mask_token_id] * 8 + [trie.eos]], [6])
    found = disambiguate(model, tokenizer, trie, [Mention(text) for text in texts], mode="free", **call)
    is_whole = written[0][0][0][-1] == trie.eos
    assert [own[0].entity_id for own in found.answers] == [5 if is_whole else None, None]
    assert found.num_invalid == (1 if is_whole else 2)
    if is_whole:
        (same,) = generate_entities(model, tokenizer, trie, [TEXT], num_results=1)[0]
        assert found.answers[0][0].score == pytest.approx(same.score, abs=1e-4)
    assert generate_freely(model, tokenizer, [], eos=trie.eos, max_length=9) == []


def test_texts_that_are_cut_before_their_mention_ends_are_counted(tokenizer: Any, trie: TokenTrie) -> None:
    from transformers import AutoTokenizer

    marked = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    marked.add_special_tokens({"additional_special_tokens": ["[START_ENT]", "[END_ENT]"]})
    model = tiny_model("bert", seed=3, vocab_size=len(marked))
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = marked.cls_token_id
    texts = [TEXT, mention_text("far " * 60, "sort", "")]
    found = disambiguate(model, marked, trie, [Mention(text) for text in texts], max_input_length=32)
    assert found.num_cut == 1


def test_an_allow_list_for_each_text(model: Any, tokenizer: Any, trie: TokenTrie) -> None:
    texts = [TEXT, "reading files", "a", TEXT, "b"]
    files, lists = trie.subset(["Read a file", "Read a file line by line"], tokenizer), trie.subset(ids=[7, 11])
    empty = trie.intersection([])
    allowed = [lists, None, files, files, empty]
    found = generate_entities(model, tokenizer, trie, texts, allowed=allowed, batch_size=3)
    whole = generate_entities(model, tokenizer, trie, texts)
    held = [{7, 11}, {7, 8, 9, 10, 11}, {9, 10}, {9, 10}, set()]
    for own, every, ids in zip(found, whole, held, strict=True):
        wanted = [entity for entity in every if entity.entity_id in ids]
        assert [entity.entity_id for entity in own] == [entity.entity_id for entity in wanted]
        assert [entity.score for entity in own] == pytest.approx([entity.score for entity in wanted], abs=1e-4)
    with pytest.raises(ValueError, match="expected allow-lists of 5 texts, found 1"):
        generate_entities(model, tokenizer, trie, texts, allowed=[None])
    other = TokenTrie.build([[5, 2]], vocab_size=9, eos=2)
    with pytest.raises(ValueError, match=r"expected allow-lists made of one trie, by its subset\(\)"):
        joined([lists, other])


def test_subsets_name_what_is_not_there(tokenizer: Any, trie: TokenTrie) -> None:
    assert trie.subset(["x", "nothing"], tokenizer, on_unknown="skip").num_entities == 1
    with pytest.raises(
        MissingIdsError,
        match=r'expected all 2 titles of the trie, found 1 that are not there \(first: "nothing"\); add',
    ):
        trie.subset(["x", "nothing"], tokenizer)
    with pytest.raises(
        MissingIdsError, match=r'expected all 2 ids of the trie, found 1 that are not there \(first: "99"\)'
    ):
        trie.subset(ids=[7, 99])
    assert sorted(trie.subset(ids=[7]).sequences()) == sorted(
        trie.subset(["Sort a list", "sort a list in place"], tokenizer).sequences()
    )
    for wrong in (
        {},
        {"titles": ["x"]},
        {"ids": [7], "tokenizer": tokenizer},
        {"titles": ["x"], "tokenizer": tokenizer, "ids": [7]},
    ):
        with pytest.raises(ValueError, match="expected either titles with their tokenizer, or ids"):
            trie.subset(**wrong)


def test_a_new_name_is_found_at_once(model: Any, tokenizer: Any, trie: TokenTrie) -> None:
    before = generate_entities(model, tokenizer, trie, [TEXT])[0]
    assert trie.add_titles(["sort in reverse", "Reverse a list"], tokenizer, [42, 42]) == 2
    after = generate_entities(model, tokenizer, trie, [TEXT])[0]
    assert {e.entity_id for e in after} - {e.entity_id for e in before} == {42}
    found = next(e for e in after if e.entity_id == 42)
    scores = score_candidates(model, tokenizer, [TEXT], [["sort in reverse", "Reverse a list"]])[0]
    assert found.score == pytest.approx(scores.max(), abs=1e-4)
    assert found.num_names == 2
    # An alias of an entity that is there, and its end.
    trie.add_titles(["order a list"], tokenizer, [7])
    assert trie.ids_of_titles(["Order a list", "nothing"], tokenizer).indptr.tolist() == [0, 1, 1]
    assert trie.remove_titles(["order a list", "sort in reverse", "reverse a list"], tokenizer) == 3
    assert same(generate_entities(model, tokenizer, trie, [TEXT])[0], before)
    with pytest.raises(BadDataError, match='expected a title, found ""'):
        trie.add_titles([""], tokenizer, [1])
    with pytest.raises(BadStoreError, match="expected a trie built for tokenizer"):
        TokenTrie.build([[5, 2]], vocab_size=9, eos=2).add_titles(["x"], tokenizer, [1])
