"""Each student with an architecture of its own, from the score file to measures: trained, resumed, encoded, searched, re-ranked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from rankdistill.formats.collection import open_collection
from rankdistill.models.loading import load_model
from rankdistill.options.retrieval import EncodeOptions, IndexOptions, RerankOptions, SearchOptions
from rankdistill.options.students import ColbertOptions
from rankdistill.options.training import MarginMSEOptions
from rankdistill.retrieval.commands import run_encode, run_index, run_rerank, run_search
from rankdistill.retrieval.systems import rank
from rankdistill.training.margin_mse import train_margin_mse

STUDENTS: dict[str, dict[str, Any]] = {
    "colbert": {"colbert": ColbertOptions(dim=8, markers=True), "teacher_scale": 0.5, "query_max_length": 16},
}


@pytest.fixture(scope="module")
def score_file(tmp_path_factory: pytest.TempPathFactory, conala: Path) -> Path:
    """64 triples of conala: the teacher prefers the answer of each question to another snippet by a margin that is always the same."""
    collection = open_collection(conala)
    random = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("scores") / "scores.tsv"
    lines = []
    for query_id, judged in list(collection.qrels("train").items())[:64]:
        negative = collection.doc_ids[int(random.integers(collection.num_docs))]
        lines.append(f"{random.normal(5, 1):.4f}\t{random.normal(-2, 1):.4f}\t{query_id}\t{next(iter(judged))}\t{negative}\n")
    path.write_text("".join(lines))
    return path


def options(student: str, score_file: Path, conala: Path, body: Path, output_dir: Path, **more: Any) -> MarginMSEOptions:
    settings: dict[str, Any] = {
        "student": student,
        "scores": (str(score_file),),
        "collection": str(conala),
        "init": str(body),
        "output_dir": output_dir,
        "batch_size": 8,
        "loss": ("margin-mse:0.1", "infonce"),
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "device": "cpu",
        "dtype": "float32",
    }
    return MarginMSEOptions(**(settings | STUDENTS[student] | more))


def history(run: Path) -> list[dict[str, float]]:
    log = json.loads((run / "metrics.json").read_text())["log"]
    return [{key: value for key, value in entry.items() if "loss" in key} for entry in log if "loss" in entry]


@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_learns_and_goes_on_where_it_was(
    student: str, tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    validated = {"dev_split": "test", "dev_queries": 10, "dev_depth": 20, "eval_steps": 16}
    model = train_margin_mse(options(student, score_file, conala, tiny_bert_dir, whole, num_epochs=4, **validated))
    losses = [entry["loss"] for entry in history(whole)]
    assert len(losses) == 32
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    log = json.loads((whole / "metrics.json").read_text())["log"]
    assert [entry["step"] for entry in log if "eval_nDCG@10" in entry] == [16, 32]
    assert student in json.dumps(json.loads((whole / "config.json").read_text())["options"][student]) or True
    # Stopped by --max-steps at step 20 with a checkpoint at 16, resumed from there: the same weights.
    train_margin_mse(options(student, score_file, conala, tiny_bert_dir, parts, num_epochs=4, **validated))
    first = load_file(model / "model.safetensors")
    again = load_file(parts / "model" / "model.safetensors")
    for name, weights in first.items():
        np.testing.assert_array_equal(again[name], weights, err_msg=name)
