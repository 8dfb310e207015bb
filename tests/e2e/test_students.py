"""Each student with an architecture of its own, from the score file to measures: trained, resumed, encoded, searched, re-ranked."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from rankdistill.errors import BadStoreError
from rankdistill.formats.collection import open_collection
from rankdistill.models.loading import load_model
from rankdistill.options.retrieval import EncodeOptions, IndexOptions, RerankOptions, SearchOptions
from rankdistill.options.students import ColbertOptions, SpladeOptions
from rankdistill.options.training import MarginMSEOptions
from rankdistill.retrieval.commands import run_encode, run_index, run_rerank, run_search
from rankdistill.retrieval.systems import rank
from rankdistill.training.margin_mse import train_margin_mse
from rankdistill.training.rows import TowerSource

STUDENTS: dict[str, dict[str, Any]] = {
    "splade": {"splade": SpladeOptions(docs_weight=1e-2, queries_weight=1e-2, queries_penalty="l1")},
    "colbert": {"colbert": ColbertOptions(dim=8, normalize=False, markers=True), "query_max_length": 16},
}
CLASSES = {"colbert": "MultiVectorEncoder", "splade": "SparseEncoder"}
FLAGS = {"colbert": ("--colbert.dim", "dim", 64), "splade": ("--splade.docs-weight", "docs_weight", 0.25)}


@pytest.fixture(scope="module")
def bodies(tiny_bert_dir: Path, tiny_mlm_dir: Path) -> dict[str, Path]:
    return {"colbert": tiny_bert_dir, "splade": tiny_mlm_dir}


@pytest.fixture(scope="module")
def score_file(tmp_path_factory: pytest.TempPathFactory, conala: Path) -> Path:
    """64 triples of conala: the teacher prefers each question's answer to some other snippet."""
    collection = open_collection(conala)
    random = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("scores") / "scores.tsv"
    lines = []
    for query_id, judged in list(collection.qrels("train").items())[:64]:
        negative = collection.doc_ids[int(random.integers(collection.num_docs))]
        lines.append(
            f"{random.normal(5, 1):.4f}\t{random.normal(-2, 1):.4f}\t{query_id}\t{next(iter(judged))}\t{negative}\n"
        )
    path.write_text("".join(lines))
    return path


def options(
    student: str, score_file: Path, conala: Path, body: Path, output_dir: Path, **more: Any
) -> MarginMSEOptions:
    settings: dict[str, Any] = {
        "student": student,
        "scores": (str(score_file),),
        "collection": str(conala),
        "init": str(body),
        "output_dir": output_dir,
        "batch_size": 8,
        "loss": ("margin-mse", "infonce:0.1"),
        "learning_rate": 3e-3,
        "teacher_scale": 0.3,
        "logging_steps": 1,
        "device": "cpu",
        "dtype": "float32",
    }
    return MarginMSEOptions(**(settings | STUDENTS[student] | more))


def test_a_scale_that_would_spoil_the_start_is_told(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(name: str, teacher_scale: float) -> str:
        more = {"teacher_scale": teacher_scale, "max_steps": 1}
        train_margin_mse(options("colbert", score_file, conala, tiny_bert_dir, tmp_path / name, **more))
        return capsys.readouterr().err

    advice = (
        r"scores (\S+) times as far apart as .*--teacher-scale (\S+) brings .*--temperature (\S+) and --loss \S+ keep"
    )
    found = re.search(advice, said("as-it-is", teacher_scale=0.003))
    assert found is not None
    ratio, scale, temperature = map(float, found.groups())
    assert ratio > 5
    assert scale == pytest.approx(0.003 * ratio, rel=0.1)  # of two digits each
    assert temperature == ratio
    assert "as far apart" not in said("as-advised", teacher_scale=scale)


def history(run: Path) -> list[dict[str, float]]:
    log = json.loads((run / "metrics.json").read_text())["log"]
    return [{key: value for key, value in entry.items() if "loss" in key} for entry in log if "loss" in entry]


@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_learns_and_goes_on_where_it_was(
    student: str,
    tmp_path: Path,
    score_file: Path,
    conala: Path,
    bodies: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    validated = {"dev_split": "test", "dev_queries": 10, "dev_depth": 20, "eval_steps": 16}
    model = train_margin_mse(options(student, score_file, conala, bodies[student], whole, num_epochs=6, **validated))
    losses = [entry["loss"] for entry in history(whole)]
    assert len(losses) == 48
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8])
    log = json.loads((whole / "metrics.json").read_text())["log"]
    assert [entry["step"] for entry in log if "eval_nDCG@10" in entry] == [16, 32, 48]
    config = json.loads((whole / "config.json").read_text())
    assert config["options"][student] == asdict(STUDENTS[student][student])
    # Interrupted at step 20, with a checkpoint at 16: resumed, it ends with the same weights.
    interrupted = options(student, score_file, conala, bodies[student], parts, num_epochs=6, resume=True, **validated)
    real = TowerSource.__call__

    def fail(self: TowerSource, epoch: int, step: int) -> Any:
        if (epoch, step) == (2, 4):
            raise KeyboardInterrupt
        return real(self, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(TowerSource, "__call__", fail)
        with pytest.raises(KeyboardInterrupt):
            train_margin_mse(interrupted)
    weights, resumed = (load_file(path / "model.safetensors") for path in (model, train_margin_mse(interrupted)))
    assert weights.keys() == resumed.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(resumed[name], values, err_msg=name)
    assert history(parts) == history(whole)


@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_retrieves_end_to_end(
    student: str,
    tmp_path: Path,
    score_file: Path,
    conala: Path,
    bodies: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = train_margin_mse(options(student, score_file, conala, bodies[student], tmp_path / "run", max_steps=3))
    assert load_model(folder, device="cpu").architecture == student
    assert f"from sentence_transformers import {CLASSES[student]}" in (folder / "README.md").read_text()
    model, collection, vectors, index = str(folder), str(conala), tmp_path / "vectors", tmp_path / "index"
    run_encode(EncodeOptions(model=model, collection=collection, output=vectors, shard_size=1000, device="cpu"))
    run_index(IndexOptions(vectors=vectors, output=index))
    common: dict[str, Any] = {"model": model, "collection": collection, "device": "cpu", "latency_queries": 2}
    found = run_search(SearchOptions(index=index, output=tmp_path / "a.run", split="test", k=10, **common))
    again = run_rerank(RerankOptions(run=tmp_path / "a.run", output=tmp_path / "b.run", vectors=vectors, **common))
    anew = run_rerank(RerankOptions(run=tmp_path / "a.run", output=tmp_path / "c.run", depth=10, **common))
    other = tmp_path / "other"
    train_margin_mse(options(student, score_file, conala, bodies[student], other, max_steps=1))
    with pytest.raises(
        BadStoreError, match=r"expected an index made by the model .* search with the model that encoded"
    ):
        run_search(SearchOptions(index=index, output=tmp_path / "d.run", **(common | {"model": str(other / "model")})))
    assert len(found) == 500
    for query_id, scores in found.items():
        assert again[query_id] == pytest.approx(scores, abs=1e-4, rel=1e-4)
        assert anew[query_id] == pytest.approx(scores, abs=1e-4, rel=1e-4)
    printed = capsys.readouterr().out
    assert "of 2,810 documents" in printed
    assert "an exact index over" in printed
    ranking = rank(model, open_collection(conala), list(found)[:5], k=10, vectors_dir=tmp_path / "kept", device="cpu")
    assert (ranking.kind, ranking.reranked) == (student, False)
    for query_id, scores in ranking.run.items():
        assert scores == pytest.approx(found[query_id], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("student", STUDENTS)
def test_options_of_a_student_come_from_the_command_line_and_from_toml(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rankdistill import cli
    from rankdistill.training import stages

    seen: list[MarginMSEOptions] = []
    monkeypatch.setattr(stages, "train_margin_mse", lambda given: seen.append(given))
    flag, key, value = FLAGS[student]
    words = ["train", "margin-mse", "--scores", "s.tsv", "--init", "m", "--output-dir", "o", "--student", student]
    toml = tmp_path / "options.toml"
    toml.write_text(f"[train.margin-mse.{student}]\n{flag.split('.')[1]} = {value}\n")
    monkeypatch.setattr(cli.app, "config", cli.app.config)  # so that it's as before afterwards
    for more in ([flag, str(value)], ["--config", str(toml)]):
        with pytest.raises(SystemExit, match="0"):
            cli.main([*words, *more])
    assert [getattr(getattr(given, student), key) for given in seen] == [value, value]
    assert seen[0] == seen[1]
