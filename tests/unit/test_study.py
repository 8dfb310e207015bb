"""What the experiments in eval/ compute of their runs."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from rankdistill.evaluation.measures import evaluate
from rankdistill.records import Qrels, Run

QRELS: Qrels = {f"q{i}": {f"d{i}": 1} for i in range(12)}


@pytest.fixture(scope="module")
def study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "eval"))
        return importlib.import_module("study")


def run(place: int) -> Run:
    """Each query's relevant doc at this place, others around it."""
    ids = [f"other{rank}" for rank in range(10)]
    return {
        f"q{i}": dict(zip([*ids[:place], f"d{i}", *ids[place:]], range(0, -11, -1), strict=True)) for i in range(12)
    }


def test_a_row_is_the_mean_over_seeds_and_tested_by_it(study: ModuleType) -> None:
    runs = {"alone": [run(4), run(4)], "taught": [run(0), run(2)], "other": [run(4)]}
    rows = {row["system"]: row for row in study.table(QRELS, runs, {"taught": "alone", "alone": "alone"})}
    first, second = (evaluate(QRELS, each, ["nDCG@10"]).mean["nDCG@10"] for each in runs["taught"])
    assert (first, second) == (1.0, 0.5)
    assert rows["taught"]["by_seed"] == [first, second]
    assert rows["taught"]["nDCG@10"] == pytest.approx(0.75)
    assert rows["taught"]["RR@10"] == pytest.approx((1 + 1 / 3) / 2)
    assert rows["taught"]["p"] < 0.01
    assert (rows["taught"]["wins"], rows["taught"]["losses"]) == (12, 0)
    assert rows["alone"]["p"] is None
    assert rows["other"]["p"] is None


def test_each_baseline_has_its_own_correction(study: ModuleType) -> None:
    runs = {"a": [run(1)], "a+": [run(0)], "b": [run(3)], "b+": [run(2)]}
    together = study.table(QRELS, runs, {"a+": "a", "b+": "b"})
    alone = study.table(QRELS, {label: runs[label] for label in ("a", "a+")}, {"a+": "a"})
    assert together[1]["p"] == alone[1]["p"]


def test_lists_are_cut_to_their_first_docs(study: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "lists-4.jsonl").write_text('["q", ["d", 1.5], ["e", 0.5], ["f", 0.1], ["g", 2.0]]\n')
    made = study.Study("conala", tmp_path, tmp_path)
    (line,) = made.first_of_lists(2, 4).read_text().splitlines()
    assert json.loads(line) == ["q", ["d", 1.5], ["e", 0.5]]
