"""Measures of entities: values worked out by hand, slow twins, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.evaluation.entities import evaluate_entities, evaluate_pages
from rankdistill.evaluation.significance import compare
from tests.reference.entities import micro_scores, r_precision, recall_by_evidence

GOLD = {"1": ["Paris"], "2": ["Paris, Texas"], "3": ["Ghost"], "4": ["Rome", "City of Rome"], "5": []}
KNOWN = {"Paris", "Paris, Texas", "Rome", "London"}


def test_by_hand_as_gerbil_counts() -> None:
    # 3 and 5 are out of the knowledge base; of 1, 2 and 4, two have answers, one of them right.
    answers = {"1": "Paris", "2": "Paris", "3": "London", "4": None}
    found = evaluate_entities(GOLD, answers, KNOWN)
    assert found.mean == pytest.approx({"precision": 1 / 2, "accuracy": 1 / 3, "F1": 2 / 5})
    assert found.per_query == {"accuracy": {"1": 1.0, "2": 0.0, "4": 0.0}}
    assert (found.num_queries, found.num_missing, found.num_out_of_kb) == (3, 1, 2)
    # Every mention answered: all three are the same. An answer out of the knowledge base is wrong.
    found = evaluate_entities(GOLD, answers | {"4": "City of Rome"}, KNOWN)
    assert set(found.mean.values()) == {1 / 3}
    assert evaluate_entities(GOLD, answers | {"4": "City of Rome"}).mean["accuracy"] == 2 / 4


def test_values_of_mentions_go_into_tests_of_significance() -> None:
    gold = {str(number): ["a"] for number in range(20)}
    systems = {
        "all": evaluate_entities(gold, dict.fromkeys(gold, "a")),
        "none": evaluate_entities(gold, {}),
        "some": evaluate_entities(gold, dict.fromkeys(list(gold)[:10], "a")),
    }
    none, some = compare(systems, "all", "accuracy", "randomisation")
    assert (none.difference, some.difference, some.losses) == (-1.0, -0.5, 10)
    assert none.p_corrected < some.p_corrected < 0.05


def test_pages_by_hand() -> None:
    gold = {"q": [["A", "B"], ["C"]], "none": [[]], "absent": [["A"]]}
    found = evaluate_pages(gold, {"q": ["A", "X", "B", "C"]}, ks=(1, 2, 3))
    # The first set has one of its two pages among the first two, the second none among the first one.
    assert found.per_query["R-precision"] == {"q": 1 / 2, "absent": 0.0}
    # Points: X, then the first set (at B), then the second.
    assert [found.per_query[f"recall@{k}"]["q"] for k in (1, 2, 3)] == [0.0, 1 / 2, 1.0]
    assert (found.num_queries, found.num_missing) == (2, 1)
    # Two right pages of three; repeated pages and sets count once; half a set is a point, but no hit.
    found = evaluate_pages({"q": [["A", "B", "C"], ["C", "B", "A"]]}, {"q": ["B", "B", "X", "C", "Y"]}, ks=(5,))
    assert found.mean == pytest.approx({"R-precision": 2 / 3, "recall@5": 0.0})
    # A page of two sets is a point for each.
    assert evaluate_pages({"q": [["A"], ["A", "B"]]}, {"q": ["A", "B"]}, ks=(1, 2)).mean["recall@1"] == 1 / 2


NAME = st.sampled_from("abcdef")
TITLES = st.lists(NAME, max_size=2)


@given(
    gold=st.dictionaries(NAME, TITLES, min_size=1),
    answers=st.dictionaries(NAME, st.none() | NAME),
    known=st.sets(NAME),
)
def test_the_twin_counts_alike(gold: dict[str, list[str]], answers: dict[str, str | None], known: set[str]) -> None:
    if not any(set(own) & known for own in gold.values()):
        with pytest.raises(ValueError, match="expected mentions of entities in the knowledge base, found none"):
            evaluate_entities(gold, answers, known)
        return
    assert evaluate_entities(gold, answers, known).mean == pytest.approx(micro_scores(gold, answers, known))


@given(
    sets=st.lists(st.sets(NAME, min_size=1, max_size=4), min_size=1, max_size=4),
    pages=st.lists(st.sampled_from("abcdefgh"), max_size=10),
    k=st.integers(1, 12),
)
def test_the_twin_ranks_alike(sets: list[set[str]], pages: list[str], k: int) -> None:
    found = evaluate_pages({"q": sets}, {"q": pages}, ks=(k,)).mean
    assert found["R-precision"] == pytest.approx(r_precision(sets, pages))
    assert found[f"recall@{k}"] == pytest.approx(recall_by_evidence(sets, pages, k))


def test_refuses_what_cannot_be_measured() -> None:
    with pytest.raises(ValueError, match="expected questions with pages that support an answer, found none"):
        evaluate_pages({"q": []}, {})
    with pytest.raises(ValueError, match=r"expected each k to be at least 1, found \[0\]"):
        evaluate_pages({"q": [["a"]]}, {}, ks=(0,))
