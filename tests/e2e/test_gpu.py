"""On a CUDA device: every student trains there, and scores as it does on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rankdistill.formats.collection import open_collection
from rankdistill.models.loading import load_model
from rankdistill.options.students import ColbertOptions, MultiExitOptions, PrettOptions, SpladeOptions, TKOptions
from rankdistill.retrieval.rerank import score_pairs
from rankdistill.training.margin_mse import train_margin_mse
from tests.e2e.test_train import history
from tests.e2e.test_train_students import learnable_scores, options

pytestmark = pytest.mark.gpu
__all__ = ["learnable_scores"]  # a fixture

DEVICES = ("cpu", "cuda")
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


def losses(
    student: str, scores: Path, conala: Path, bodies: dict[str, Path], run: Path, **more: Any
) -> NDArray[np.float64]:
    """Of each step of a training."""
    settings = {"student": student, "init": str(bodies[student]), "max_steps": 12, "window_batches": 16}
    train_margin_mse(options(scores, conala, run, **(settings | STUDENTS[student] | more)))
    return np.array([entry["loss"] for entry in history(run)])


@pytest.mark.parametrize("student", STUDENTS)
def test_a_student_trains_and_scores_as_on_a_cpu(
    tmp_path: Path, learnable_scores: Path, conala: Path, bodies: dict[str, Path], student: str
) -> None:
    on_cpu, on_gpu = (
        losses(student, learnable_scores, conala, bodies, tmp_path / device, device=device) for device in DEVICES
    )
    assert len(on_gpu) == 12
    # New weights are drawn on the CPU and rows come in the same order, so the first steps differ by rounding alone.
    np.testing.assert_allclose(on_gpu[:4], on_cpu[:4], rtol=1e-3)
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=0.1)
    queries, docs = texts(conala)
    model = tmp_path / "cuda" / "model"
    cpu_scores, gpu_scores = (score_pairs(load_model(model, device=device), queries, docs) for device in DEVICES)
    np.testing.assert_allclose(gpu_scores, cpu_scores, rtol=1e-3, atol=1e-3 * float(np.abs(cpu_scores).max()))


@pytest.mark.parametrize("student", STUDENTS)
def test_training_in_bfloat16_stays_near(
    tmp_path: Path, learnable_scores: Path, conala: Path, bodies: dict[str, Path], student: str
) -> None:
    in_float32, in_bfloat16 = (
        losses(student, learnable_scores, conala, bodies, tmp_path / dtype, device="cuda", dtype=dtype)
        for dtype in ("float32", "auto")
    )
    np.testing.assert_allclose(in_bfloat16[:4].mean(), in_float32[:4].mean(), rtol=0.1)


@pytest.mark.parametrize("student", ["dot", "colbert", "prett"])
def test_a_compiled_student_trains_alike(
    tmp_path: Path, learnable_scores: Path, conala: Path, bodies: dict[str, Path], student: str
) -> None:
    more = {"device": "cuda", "max_steps": 4}
    plain, compiled = (
        losses(student, learnable_scores, conala, bodies, tmp_path / str(how), torch_compile=how, **more)
        for how in (False, True)
    )
    np.testing.assert_allclose(compiled, plain, rtol=1e-2)


def texts(conala: Path) -> tuple[list[str], list[str]]:
    """Eighty pairs of queries and docs of many lengths."""
    collection = open_collection(conala)
    query_ids = list(collection.qrels("test"))[:80]
    return collection.query_texts(query_ids), collection.doc_texts(list(collection.doc_ids)[:80])
