"""Files of linked texts, in and out; what is malformed; text marked for people. And measures of linking."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.errors import BadDataError
from rankdistill.evaluation.linking import evaluate_links, linking_scores
from rankdistill.formats.linked_texts import (
    LinkedText,
    TextMention,
    is_linked_texts,
    marked_text,
    read_linked_texts,
    write_linked_texts,
)
from tests.reference.linking import counted_f1

TEXTS = [
    LinkedText("1", "Ærø {is} 😀 an island", (TextMention(0, 3, "Ærø", {"score": -0.5}), TextMention(9, 10, "Smile"))),
    LinkedText("two", "", (), {"page": "p"}),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for name in ("texts.jsonl", "texts.jsonl.gz"):
        write_linked_texts(tmp_path / name, TEXTS)
        assert list(read_linked_texts(tmp_path / name)) == TEXTS
        assert is_linked_texts(tmp_path / name)
    kilt = tmp_path / "kilt.jsonl"
    kilt.write_text('{"id": 1, "input": "a"}\n')
    assert not is_linked_texts(kilt)
    kilt.write_text("no JSON\n")
    assert not is_linked_texts(kilt)


def test_numbers_are_ids_and_mentions_are_sorted(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(
        '{"id": 7, "text": "a b", "mentions": [{"start": 2, "end": 3, "title": "B"}, {"start": 0, "end": 1, "title": "A"}]}\n'
    )
    (text,) = read_linked_texts(path)
    assert (text.id, [own.title for own in text.mentions]) == ("7", ["A", "B"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "expected a JSON object, found"),
        ("{", "expected a JSON object, found"),
        ('{"text": "a"}', 'expected an "id", a string, found null'),
        ('{"id": "a"}', 'expected "text", a string, found null'),
        ('{"id": "a", "text": "b", "mentions": {}}', 'expected "mentions", a list of objects, found {}'),
        ('{"id": "a", "text": "b", "mentions": [1]}', 'expected "mentions", a list of objects, found 1'),
        ('{"id": "a", "text": "b", "mentions": [{"start": 0, "title": "t"}]}', 'expected "start" and "end", numbers'),
        (
            '{"id": "a", "text": "b", "mentions": [{"start": 0, "end": 2, "title": "t"}]}',
            "expected a mention in the 1 characters of its text, found .0, 2.",
        ),
        ('{"id": "a", "text": "b", "mentions": [{"start": 0, "end": 1, "title": " "}]}', 'expected "title", a string'),
        (
            '{"id": "a", "text": "bcd", "mentions": [{"start": 0, "end": 2, "title": "t"}, {"start": 1, "end": 3, "title": "t"}]}',
            "expected mentions that don't overlap, found ..0, 2., .1, 3..",
        ),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"id": "a", "text": "b", "mentions": []}\n' + line + "\n")
    with pytest.raises(BadDataError, match=message) as caught:
        list(read_linked_texts(path))
    assert (caught.value.path, caught.value.line) == (str(path), 2)


def test_text_for_people() -> None:
    assert marked_text(TEXTS[0].text, TEXTS[0].mentions) == "{ Ærø } [ Ærø ] {is} { 😀 } [ Smile ] an island"
    assert marked_text("a", []) == "a"


def test_scores_by_hand() -> None:
    gold = [[(0, 3, "A"), (5, 8, "B"), (9, 12, "Nowhere")], [(0, 1, "C")], []]
    # Right; right place, wrong title; wrong end; found where the gold's title isn't known; where nothing is.
    found = [[(0, 3, "A"), (5, 8, "A"), (9, 12, "B")], [(0, 2, "C"), (0, 2, "C")], [(4, 5, "D")]]
    scores = linking_scores(gold, found, {"A", "B", "C"})
    assert (scores.num_gold, scores.num_found, scores.num_right, scores.num_unknown) == (3, 5, 1, 1)
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((0.2, 1 / 3, 0.25))
    assert linking_scores(gold, found).num_gold == 4
    assert linking_scores([], [])[:3] == (0, 0, 0)
    with pytest.raises(ValueError, match="expected found links of 3 texts, found those of 1"):
        linking_scores(gold, found[:1])


LINKS = st.lists(st.sets(st.tuples(st.integers(0, 2), st.just(3), st.sampled_from("ABC"))), min_size=3, max_size=3)


@given(gold=LINKS, found=LINKS)
def test_scores_as_counted_one_by_one(gold: list[set[object]], found: list[set[object]]) -> None:
    assert linking_scores(gold, found)[:3] == pytest.approx(counted_f1(gold, found))  # type: ignore[arg-type]
    known = [{link for link in own if link[2] != "C"} for own in gold]  # type: ignore[index]
    assert linking_scores(gold, found, {"A", "B"})[:3] == pytest.approx(counted_f1(known, found))  # type: ignore[arg-type]


def test_each_text_has_its_own_f1() -> None:
    gold = {"a": [(0, 1, "A"), (2, 3, "B")], "b": [], "c": [], "d": [(0, 1, "unknown")], "e": [(0, 1, "A")]}
    found = {"a": [(0, 1, "A"), (4, 5, "B")], "b": [], "c": [(0, 1, "A")], "d": [(0, 1, "A")]}
    evaluation = evaluate_links(gold, found, {"A", "B"})
    assert evaluation.per_query == {"macro F1": {"a": 0.5, "b": 1, "c": 0, "d": 0, "e": 0}}
    # One of three known gold links is found, among four that were.
    assert evaluation.mean == pytest.approx({"F1": 2 / 7, "precision": 1 / 4, "recall": 1 / 3, "macro F1": 0.3})
    assert (evaluation.num_queries, evaluation.num_missing, evaluation.counts.num_unknown) == (5, 1, 1)
    with pytest.raises(ValueError, match="expected texts, found none"):
        evaluate_links({}, {})
