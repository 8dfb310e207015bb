"""A student with exits as a user has it: trained on conala's score file, resumed, measured at each exit, truncated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from rankdistill import cli
from rankdistill.formats.collection import open_collection
from rankdistill.formats.trec import read_run
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import load_model
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.options.students import ColbertOptions, MultiExitOptions
from rankdistill.options.training import MarginMSEOptions, Stage
from rankdistill.retrieval.rerank import score_pairs
from rankdistill.retrieval.systems import rank
from rankdistill.training.margin_mse import train_margin_mse
from rankdistill.training.rows import TowerSource
from rankdistill.training.stages import run_stages
from tests.e2e.test_train import history
from tests.encoders import save_encoder


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A ModernBERT of 4 layers with weights as small as training wants them at its start."""
    folder = tmp_path_factory.mktemp("modernbert")
    return save_encoder("modernbert", folder, tiny_tokenizer_dir, initializer_range=0.05)


def options(conala: Path, init: Path, output_dir: Path, **more: Any) -> MarginMSEOptions:
    settings: dict[str, Any] = {
        "student": "multi-exit",
        "scores": (str(conala / "teacher" / "scores.tsv.gz"),),
        "collection": str(conala),
        "init": str(init),
        "output_dir": output_dir,
        "max_steps": 40,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "teacher_scale": 0.3,
        "doc_max_length": 48,
        "logging_steps": 1,
        "device": "cpu",
        "dtype": "float32",
        "multi_exit": MultiExitOptions(exits=(1, 2, 4), dims=(16,), teacher="last"),
    }
    return MarginMSEOptions(**(settings | more))


def test_every_exit_learns_and_the_run_goes_on_where_it_was(
    tmp_path: Path, conala: Path, encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = MultiExitOptions(exits=(1, 2, 4), weights="uncertainty", scale=2.0, teacher="next", head="shared")
    more: dict[str, Any] = {"multi_exit": own, "save_steps": 15, "loss": ("margin-mse:0.05", "symmetric-infonce")}
    model = train_margin_mse(options(conala, encoder_dir, tmp_path / "whole", **more))
    log = history(tmp_path / "whole")
    assert len(log) == 40
    for exit in (1, 2, 4):
        terms = [entry[f"loss/exit{exit}/symmetric-infonce"] for entry in log]
        assert np.mean(terms[-8:]) < 0.9 * np.mean(terms[:8])
        assert f"loss/exit{exit}/uncertainty" in log[0]
        assert (f"loss/exit{exit}/self-distillation" in log[0]) == (exit != 4)
    trained = MultiExitEncoder.from_pretrained(model, device="cpu")
    assert trained.learnt.scale is not None
    assert all(value != 2 for value in trained.learnt.scale.tolist())
    interrupted = options(conala, encoder_dir, tmp_path / "parts", resume=True, **more)
    real = TowerSource.__call__

    def fail(self: TowerSource, epoch: int, step: int) -> Any:
        if (epoch, step) == (0, 20):
            raise KeyboardInterrupt
        return real(self, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(TowerSource, "__call__", fail)
        with pytest.raises(KeyboardInterrupt):
            train_margin_mse(interrupted)
    resumed = train_margin_mse(interrupted)
    for name in ("model.safetensors", "exits.safetensors"):
        weights, again = load_file(model / name), load_file(resumed / name)
        assert weights.keys() == again.keys()
        for key, values in weights.items():
            np.testing.assert_array_equal(again[key], values, err_msg=key)
    assert history(tmp_path / "parts") == log


def test_each_exit_searches_re_ranks_and_is_truncated(
    tmp_path: Path, conala: Path, encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = {"dev_split": "test", "dev_queries": 10, "dev_depth": 20, "eval_steps": 5, "max_steps": 5}
    model = train_margin_mse(options(conala, encoder_dir, tmp_path / "run", **dev))
    assert "eval_nDCG@10" in json.loads((tmp_path / "run" / "metrics.json").read_text())["log"][-2]
    assert "model.truncate(OTHER_PATH, exit=model.exits[0])" in (model / "README.md").read_text()

    def command(*words: str | Path) -> None:
        with pytest.raises(SystemExit, match="0"):
            cli.main([str(word) for word in words])

    common = ("--collection", conala, "--device", "cpu")
    at = ("--exit", 2, "--dim", 16)
    command("truncate", "--model", model, *at, "--output", tmp_path / "two")
    small = load_model(tmp_path / "two", device="cpu")
    assert isinstance(small, DotModel)
    assert (small.architecture, small.config.num_hidden_layers, small.dim) == ("dot", 2, 16)
    command("encode", "--model", model, *at, *common, "--output", tmp_path / "vectors")
    command("index", "--vectors", tmp_path / "vectors", "--output", tmp_path / "index")
    search = ("--index", tmp_path / "index", *common, "--split", "test", "--k", 10, "--latency-queries", 0)
    command("search", "--model", model, *at, *search, "--output", tmp_path / "view.run")
    command("search", "--model", tmp_path / "two", *search, "--output", tmp_path / "small.run")
    again = ("--run", tmp_path / "view.run", "--vectors", tmp_path / "vectors", "--latency-queries", 0)
    command("rerank", "--model", model, *at, *common, *again, "--output", tmp_path / "again.run")
    runs = {name: read_run(tmp_path / f"{name}.run") for name in ("view", "small", "again")}
    assert len(runs["view"]) == 500
    for query_id, scores in runs["view"].items():
        assert runs["small"][query_id] == pytest.approx(scores, abs=1e-5, rel=1e-5)
        assert runs["again"][query_id] == pytest.approx(scores, abs=1e-4, rel=1e-4)
    assert "wrote a dot model of 2 layers" in capsys.readouterr().out
    ranking = rank(model, open_collection(conala), list(runs["view"])[:5], k=10, device="cpu", latency_queries=1)
    assert (ranking.kind, ranking.reranked) == ("multi-exit", False)
    with pytest.raises(SystemExit, match="1"):
        cli.main(["truncate", "--model", str(model), "--exit", "3", "--output", str(tmp_path / "three")])
    assert "rankdistill: exit 3 does not exist: this model has exits 1, 2, 4" in capsys.readouterr().err


@pytest.mark.parametrize("student", ["multi-exit-colbert", "multi-exit-cross-encoder"])
def test_other_students_have_exits_too(tmp_path: Path, conala: Path, encoder_dir: Path, student: str) -> None:
    collection, lines = open_collection(conala), []
    for i, (query_id, judged) in enumerate(list(collection.qrels("train").items())[:64]):
        relevant = next(iter(judged))
        docs = [relevant, next(doc_id for doc_id in list(collection.doc_ids)[40 * i :] if doc_id != relevant)]
        # What a student can find out: a third of the doc's words, at most 5.
        scores = [min(5, len(text.split()) / 3) for text in collection.doc_texts(docs)]
        lines.append("\t".join([*(f"{score:.4f}" for score in scores), query_id, *docs]) + "\n")
    (tmp_path / "scores.tsv").write_text("".join(lines))
    own = MultiExitOptions(exits=(2, 4), teacher="last", weights="uniform")
    more: dict[str, Any] = {"student": student, "multi_exit": own, "loss": ("margin-mse",), "teacher_scale": 1.0}
    more |= {"scores": (str(tmp_path / "scores.tsv"),), "query_max_length": 16, "max_steps": 64}
    more |= {"colbert": ColbertOptions(dim=16, normalize=False)} if student == "multi-exit-colbert" else {}
    dev = {"dev_split": "test", "dev_queries": 5, "dev_depth": 5, "dev_mode": "rerank", "eval_steps": 32}
    folder = train_margin_mse(options(conala, encoder_dir, tmp_path / "run", **more, **dev))
    log = history(tmp_path / "run")
    for exit in (2, 4):
        terms = [entry[f"loss/exit{exit}/margin-mse"] for entry in log]
        assert np.mean(terms[-8:]) < 0.9 * np.mean(terms[:8])
    model = load_model(folder, device="cpu")
    assert model.architecture == student
    two = load_model(folder, device="cpu", exit=2)
    assert two.architecture == student.removeprefix("multi-exit-")
    pairs = ["sort a list"] * 3, ["sorted(a)", "open(path)", "x"]
    assert score_pairs(two, *pairs, progress=False).std() > 0


def test_stages_keep_the_exits(tmp_path: Path, conala: Path, encoder_dir: Path) -> None:
    how = options(conala, encoder_dir, tmp_path / "run", num_layers=3, multi_exit=MultiExitOptions())
    folder = run_stages(how, [Stage(max_steps=2), Stage(max_steps=3, loss=("margin-mse",))])
    model = load_model(folder, device="cpu")
    assert isinstance(model, MultiExitEncoder)
    assert (model.exits, model.config.num_hidden_layers) == ((1, 3), 3)
    assert set(history(tmp_path / "run" / "stage-2")[0]) >= {"loss/exit1/margin-mse", "loss/exit3/margin-mse"}


def test_options_come_from_the_command_line_and_from_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rankdistill.training import stages

    seen: list[MarginMSEOptions] = []
    monkeypatch.setattr(stages, "train_margin_mse", seen.append)
    words = ["train", "margin-mse", "--scores", "s.tsv", "--init", "m", "--output-dir", "o", "--student", "multi-exit"]
    toml = tmp_path / "options.toml"
    toml.write_text('[train.margin-mse.multi-exit]\nexits = [2, 4]\nweights = "uniform"\ndims = [8]\nscale = 10.0\n')
    monkeypatch.setattr(cli.app, "config", cli.app.config)  # so that it's as before afterwards
    flags = ["--multi-exit.exits", "2", "4", "--multi-exit.weights", "uniform", "--multi-exit.dims", "8"]
    for more in ([*flags, "--multi-exit.scale", "10"], ["--config", str(toml)]):
        with pytest.raises(SystemExit, match="0"):
            cli.main([*words, *more])
    assert seen[0].multi_exit == MultiExitOptions(exits=(2, 4), weights="uniform", dims=(8,), scale=10.0)
    assert seen[1] == seen[0]
