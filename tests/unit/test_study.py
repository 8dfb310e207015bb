"""What the experiments in eval/ compute of their runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from rankdistill.evaluation.measures import evaluate
from rankdistill.records import Qrels, Run
from tests.scripts import script

QRELS: Qrels = {f"q{i}": {f"d{i}": 1} for i in range(12)}


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return script("eval/study")


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return script("eval/tables")


def run(place: int) -> Run:
    """Each query's relevant doc at this place, others around it."""
    ids = [f"other{rank}" for rank in range(10)]
    return {
        f"q{i}": dict(zip([*ids[:place], f"d{i}", *ids[place:]], range(0, -11, -1), strict=True)) for i in range(12)
    }


def test_a_row_is_the_mean_over_seeds_and_tested_by_it(tables: ModuleType) -> None:
    runs = {"alone": [run(4), run(4)], "taught": [run(0), run(2)], "other": [run(4)]}
    rows = {row["system"]: row for row in tables.table(QRELS, runs, {"taught": "alone", "alone": "alone"})}
    first, second = (evaluate(QRELS, each, ["nDCG@10"]).mean["nDCG@10"] for each in runs["taught"])
    assert (first, second) == (1.0, 0.5)
    assert rows["taught"]["by_seed"] == [first, second]
    assert rows["taught"]["nDCG@10"] == pytest.approx(0.75)
    assert rows["taught"]["RR@10"] == pytest.approx((1 + 1 / 3) / 2)
    assert rows["taught"]["p"] < 0.01
    assert (rows["taught"]["wins"], rows["taught"]["losses"]) == (12, 0)
    assert rows["alone"]["p"] is None
    assert rows["other"]["p"] is None


def test_what_is_lost_by_reranking_more(tables: ModuleType) -> None:
    candidates = run(2)  # the relevant doc is among the first three, and last of all in the new order
    reranked = {query_id: {doc_id: -score for doc_id, score in docs.items()} for query_id, docs in run(0).items()}
    assert tables.shallow(QRELS, reranked, candidates, depth=3) == pytest.approx(1 / 2)  # third of three: 1 / log2(4)
    assert tables.shallow(QRELS, reranked, candidates, depth=11) == 0.0  # eleventh


def test_agreement_is_within_queries(tables: ModuleType) -> None:
    teacher = {"a": {"x": 1.0, "y": 2.0, "z": 3.0}, "b": {"x": 0.0, "y": 1.0}, "c": {"x": 1.0}}
    scaled = {"a": {"z": 9.0, "y": 7.0, "x": 5.0}, "b": {"x": -90.0, "y": -80.0}, "c": {"x": 4.0}}
    assert tables.agreement(scaled, teacher) == pytest.approx(1.0)
    reverse = {"a": scaled["a"], "b": {"x": 1.0, "y": 0.0}, "c": {"x": 4.0}}
    assert tables.agreement(reverse, teacher) == pytest.approx(0.0)


def test_each_baseline_has_its_own_correction(tables: ModuleType) -> None:
    runs = {"a": [run(1)], "a+": [run(0)], "b": [run(3)], "b+": [run(2)]}
    together = tables.table(QRELS, runs, {"a+": "a", "b+": "b"})
    alone = tables.table(QRELS, {label: runs[label] for label in ("a", "a+")}, {"a+": "a"})
    assert together[1]["p"] == alone[1]["p"]


def test_lists_are_cut_to_their_first_docs(study: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "lists-4.jsonl").write_text('["q", ["d", 1.5], ["e", 0.5], ["f", 0.1], ["g", 2.0]]\n')
    made = study.Study("conala", tmp_path, tmp_path)
    (line,) = made.first_of_lists(2, 4).read_text().splitlines()
    assert json.loads(line) == ["q", ["d", 1.5], ["e", 0.5]]


def test_lists_hold_a_relevant_doc_hard_ones_and_any(study: ModuleType, tmp_path: Path) -> None:
    """Drawn once; halves share no query, and together are all."""
    data = Path(__file__).parents[1] / "data"
    made = study.Study("conala", data, tmp_path, num_docs=6)
    others = study.read_run(made.others)
    judged = made.collection.qrels("train")
    assert others.keys() == judged.keys()
    assert all(len(own) == 5 and not own.keys() & judged[query].keys() for query, own in others.items())
    near = study.bm25_search(made.collection, list(judged), 30)
    hard = {query: near[query].keys() - judged[query].keys() for query in judged}
    assert all(len(own.keys() & hard[query]) >= min(3, len(hard[query])) for query, own in others.items())
    assert sum(len(own.keys() & hard[query]) for query, own in others.items()) / len(others) < 3.2
    first, second = (study.read_run(made.half(number)).keys() for number in (0, 1))
    assert not first & second
    assert first | second == judged.keys()


def test_held_out_teachers_score_what_they_were_not_trained_on(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(__file__).parents[1] / "data"
    made = study.Study("conala", data, tmp_path, held_out=True, num_docs=6)
    trained_on: dict[str, Path] = {}

    def trained(self: object, name: str, rows: Path | None = None, **options: object) -> str:
        trained_on[name] = rows or made.rows
        return name

    def scored(self: object, teacher: str, name: str, rows: Path | None = None) -> Path:
        path: Path = made.score_path(name)
        queries = study.read_run(rows or made.rows)
        path.write_text("".join(f"{query} {teacher}\n" for query in queries))
        return path

    monkeypatch.setattr(study.Study, "trained", trained)
    monkeypatch.setattr(study.Study, "scored", scored)
    teacher = made.trained_teacher("teacher", "scores")
    lines = [line.split() for line in teacher.scores.read_text().splitlines()]
    assert {query for query, _ in lines} == study.read_run(made.rows).keys()
    assert {model for _, model in lines} == set(teacher.models)
    known = {model: study.read_run(path).keys() for model, path in trained_on.items()}
    assert not any(query in known[model] for query, model in lines)


def test_an_ensembles_run_is_the_mean_of_z_scores(study: ModuleType) -> None:
    """Whatever the scale of each: only their order within its spread counts."""
    first: Run = {"q": {"a": 1.0, "b": 2.0}, "p": {"a": 3.0}}
    second: Run = {"q": {"a": -10.0, "b": -20.0}, "p": {"a": 30.0}}
    z = 1.5**0.5  # 1, 2, 3 have the deviation sqrt(2 / 3)
    once = study.mean_of_runs([first])
    assert once["q"] == pytest.approx({"a": -z, "b": 0.0})
    assert once["p"] == pytest.approx({"a": z})
    assert study.mean_of_runs([first, {q: {d: 7 * s + 5 for d, s in docs.items()} for q, docs in first.items()}])[
        "q"
    ] == pytest.approx(once["q"])
    both = study.mean_of_runs([first, second])
    values = [both["q"]["a"], both["q"]["b"], both["p"]["a"]]
    other = study.mean_of_runs([second])
    expected = [(once[q][d] + other[q][d]) / 2 for q, d in (("q", "a"), ("q", "b"), ("p", "a"))]
    assert values == pytest.approx(expected)
    assert sum(values) == pytest.approx(0.0)


def test_students_of_other_epochs_are_kept_apart(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, object]] = []

    def train(self: object, folder: Path, scores: Path, options: dict[str, object]) -> tuple[str, float]:
        told.append(options)
        return str(folder), 0.0

    monkeypatch.setattr(study.Study, "train", train)
    scores = tmp_path / "scores.tsv"
    usual = study.Study("conala", tmp_path, tmp_path)
    longer = study.Study("conala", tmp_path, tmp_path, num_epochs=4)
    names = {each.student(scores=scores)[0] for each in (usual, longer)}
    assert len(names) == 2
    assert [options.get("num_epochs") for options in told] == [None, 4]
    longer.student(scores=scores, num_epochs=6)
    assert told[-1]["num_epochs"] == 6


def test_a_temperature_divides_the_students_scores_in_labels_and_margins_alike() -> None:
    module = script("eval/cross_architecture")
    alone, taught = (
        {"student": "splade", "temperature": 10.0} | rest
        for rest in ({"loss": ("infonce",)}, {"teacher_scale": 20.0, "loss": ("margin-mse:0.0005", "infonce")})
    )
    kind = {"student": "splade", "temperature": 10.0}
    assert module.student_options(kind, "alone", 4, 2.0) == alone
    assert module.student_options(kind, "T1", 4, 2.0) == taught
    # 0.05 (s / 10 - 2 t)^2 = 0.0005 (s - 20 t)^2
    assert module.student_options({"student": "tk"}, "T1", 4, weight=0.005) == {
        "student": "tk",
        "loss": ("margin-mse:0.005", "lce"),
    }
    assert module.student_options({"student": "tk"}, "T2", 2, 3.0) == {
        "student": "tk",
        "loss": ("margin-mse",),
        "teacher_scale": 3.0,
    }
