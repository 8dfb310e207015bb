"""On a CUDA device: every student trains there, and scores as it does on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankdistill.formats.collection import open_collection
from rankdistill.models.loading import load_model
from rankdistill.options.students import ColbertOptions, MultiExitOptions, PrettOptions, SpladeOptions, TKOptions
from rankdistill.options.training import MarginMSEOptions
from rankdistill.retrieval.rerank import score_pairs
from rankdistill.training.margin_mse import train_margin_mse
from tests.e2e.test_train import history
from tests.e2e.test_train_students import learnable_scores

pytestmark = pytest.mark.gpu
__all__ = ["learnable_scores"]  # a fixture

STUDENTS: dict[str, dict[str, Any]] = {
    "dot": {},
    "colbert": {"colbert": ColbertOptions(dim=8)},
    "splade": {"splade": SpladeOptions(docs_weight=1e-4, queries_weight=1e-4)},
    "prett": {"prett": PrettOptions(join_layer=1, compress_dim=16)},
    "tk": {"tk": TKOptions(num_heads=2, num_layers=1, feed_forward=16)},
    "cross-encoder": {},
    "multi-exit": {"multi_exit": MultiExitOptions(exits=(1, 2))},
}


@pytest.fixture(scope="module")
def bodies(tiny_bert_dir: Path, tiny_mlm_dir: Path) -> dict[str, Path]:
    return {"splade": tiny_mlm_dir} | {name: tiny_bert_dir for name in STUDENTS if name != "splade"}


def options(student: str, scores: Path, conala: Path, body: Path, output_dir: Path, **more: Any) -> MarginMSEOptions:
    settings: dict[str, Any] = {
        "student": student,
        "init": str(body),
        "scores": (str(scores),),
        "collection": str(conala),
        "output_dir": output_dir,
        "batch_size": 8,
        "loss": ("margin-mse",),
        "query_max_length": 16,
        "doc_max_length": 40,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "max_steps": 12,
        "dtype": "float32",
    }
    return MarginMSEOptions(**(settings | STUDENTS[student] | more))


@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_trains_and_scores_as_on_a_cpu(
    tmp_path: Path, learnable_scores: Path, conala: Path, bodies: dict[str, Path], student: str
) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        run = tmp_path / device
        train_margin_mse(options(student, learnable_scores, conala, bodies[student], run, device=device))
        losses[device] = np.array([entry["loss"] for entry in history(run)])
    assert len(losses["cuda"]) == 12
    # New weights are drawn on the CPU and rows come in the same order, so the first steps differ by rounding alone.
    np.testing.assert_allclose(losses["cuda"][:4], losses["cpu"][:4], rtol=1e-3)
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=0.1)
    queries, docs = texts(conala)
    model = tmp_path / "cuda" / "model"
    on_cpu, on_gpu = (score_pairs(load_model(model, device=device), queries, docs) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=1e-3 * float(np.abs(on_cpu).max()))


@pytest.mark.parametrize("student", STUDENTS)
def test_training_in_bfloat16_stays_near(
    tmp_path: Path, learnable_scores: Path, conala: Path, bodies: dict[str, Path], student: str
) -> None:
    losses = {}
    for dtype in ("float32", "auto"):
        run = tmp_path / dtype
        train_margin_mse(options(student, learnable_scores, conala, bodies[student], run, device="cuda", dtype=dtype))
        losses[dtype] = np.array([entry["loss"] for entry in history(run)])
    np.testing.assert_allclose(losses["auto"][:4].mean(), losses["float32"][:4].mean(), rtol=0.1)


@pytest.mark.parametrize("student", ["dot", "colbert", "prett"])
def test_a_compiled_student_trains_alike(
    tmp_path: Path, learnable_scores: Path, conala: Path, bodies: dict[str, Path], student: str
) -> None:
    losses = {}
    for compiled in (False, True):
        run = tmp_path / str(compiled)
        more = {"device": "cuda", "torch_compile": compiled, "max_steps": 4}
        train_margin_mse(options(student, learnable_scores, conala, bodies[student], run, **more))
        losses[compiled] = [entry["loss"] for entry in history(run)]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-2)


def texts(conala: Path) -> tuple[list[str], list[str]]:
    """Eighty pairs of queries and docs of many lengths."""
    collection = open_collection(conala)
    query_ids = list(collection.qrels("test"))[:80]
    return collection.query_texts(query_ids), collection.doc_texts(list(collection.doc_ids)[:80])
