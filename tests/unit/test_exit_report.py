"""`rankdistill exits`: what it counts, what it calls the front, how thresholds are chosen, what it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rankdistill.errors import MissingDependencyError, WrongModelError
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.options.retrieval import ExitsOptions
from rankdistill.records import Qrels, Run
from rankdistill.retrieval.exit_report import (
    AdaptivePoint,
    ExitMeasures,
    adaptive_curve,
    calibrated,
    count_flops,
    pareto,
    run_exits,
)
from tests.encoders import save_encoder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    encoder = save_encoder("bert", tmp_path_factory.mktemp("bert"), tiny_tokenizer_dir)
    folder = tmp_path_factory.mktemp("multi-exit")
    MultiExitEncoder.from_pretrained(encoder, device="cpu", exits=[1, 2, 4], dims=[8]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("exit", [1, 2, 4])
def test_operations_are_those_of_the_layers_that_run(model_dir: Path, exit: int) -> None:
    model = MultiExitEncoder.from_pretrained(model_dir, device="cpu")
    length, width, inner = 11, 32, 64
    products = 4 * width * width + 2 * width * inner  # query, key, value, output; up and down
    attention = 2 * length * width  # scores and sums, for each token
    # And the head, and BERT's pooler, which nothing heeds.
    expected = 2 * length * exit * (products + attention) + 2 * 2 * width * width
    assert count_flops(model.at(exit), length) == expected


def at(exit: int, value: float, flops: int, size: int = 4) -> ExitMeasures:
    return ExitMeasures(exit, size // 4, {"nDCG@10": value}, 0.0, 0.0, flops, size)


def test_the_front_holds_what_nothing_beats() -> None:
    found = pareto([at(1, 0.3, 10), at(2, 0.2, 20), at(3, 0.5, 30), at(4, 0.5, 40), at(5, 0.5, 50, 2)], "nDCG@10")
    assert [one.exit for one in found if one.pareto] == [1, 3, 5]


def test_the_curve_ends_at_the_deepest_exit_for_all_and_the_cheapest_good_point_is_chosen() -> None:
    qrels: Qrels = {"q": {"a": 1}, "r": {"b": 1}}
    runs: dict[int, Run] = {
        2: {"q": {"a": 2.0, "x": 1.0}, "r": {"x": 2.0, "y": 1.0}},
        4: {"q": {"a": 2.0, "x": 1.0}, "r": {"x": 2.0, "b": 1.0}},
        6: {"q": {"a": 2.0, "x": 1.0}, "r": {"b": 2.0, "x": 1.0}},
    }
    curve = adaptive_curve(runs, qrels, "RR@10", depth=2)
    assert [(point.layers, point.value) for point in curve] == [(4.0, 0.75), (5.0, 1.0), (6.0, 1.0)]
    assert calibrated(curve, 0.0) == curve[1]
    assert calibrated(curve, 0.3) == curve[0]
    assert calibrated([AdaptivePoint(0.1, 2.0, 0.5), AdaptivePoint(1.1, 6.0, 0.9)], 0.1).layers == 6.0


def test_the_command_writes_tables_runs_and_a_plot(model_dir: Path, conala: Path, tmp_path: Path) -> None:
    options = ExitsOptions(
        model=str(model_dir),
        collection=str(conala),
        output=tmp_path / "out",
        dev_split="test",
        k=10,
        latency_queries=2,
        plot=tmp_path / "plot.svg",
        device="cpu",
    )
    page = run_exits(options)
    assert "nDCG@10" in page
    assert "agreement" in page
    result = json.loads((tmp_path / "out" / "exits.json").read_text())
    assert [(row["exit"], row["dim"]) for row in result["exits"]] == [(e, d) for e in (1, 2, 4) for d in (32, 8)]
    assert any(row["pareto"] for row in result["exits"])
    assert {path.name for path in (tmp_path / "out").glob("*.gz")} == {
        f"exit{exit}{dim}.run.gz" for exit in (1, 2, 4) for dim in ("", "-dim8")
    }
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
    # Thresholds that were chosen where they are tried lose no more than what may be lost.
    assert all(row["against the deepest"] >= -0.005 for row in result["adaptive"])
    deepest = result["exits"][-2]["measures"]["nDCG@10"]
    for row in result["adaptive"]:
        curve = result["adaptive_curves"][row["confidence"]]
        assert (curve[-1]["layers"], curve[-1]["value"]) == (4.0, pytest.approx(deepest))
        assert any(point["threshold"] == row["threshold"] and point["value"] == row["nDCG@10"] for point in curve)


def test_a_model_without_exits_is_an_error(tiny_sentence_transformer_dir: Path, conala: Path) -> None:
    options = ExitsOptions(model=str(tiny_sentence_transformer_dir), collection=str(conala), device="cpu")
    with pytest.raises(WrongModelError, match="expected a model with exits, found a dot model"):
        run_exits(options)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rankdistill\[plot\]'"):
        run_exits(ExitsOptions(model="none", collection="none", plot=tmp_path / "plot.svg"))
