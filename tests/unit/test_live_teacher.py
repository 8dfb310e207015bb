"""A teacher that reads each batch: its scores are those of the pairs by themselves, and training asks for no others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rankdistill.errors import WrongModelError
from rankdistill.formats.collection import Collection
from rankdistill.models.colbert import ColbertModel, Expansion
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.splade import SpladeModel
from rankdistill.models.towers import Tower
from rankdistill.options.training import MarginMSEOptions
from rankdistill.retrieval.rerank import score_pairs
from rankdistill.training.live_teacher import LiveTeacher
from rankdistill.training.margin_mse import train_margin_mse


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKDISTILL_CACHE", str(tmp_path / "cache"))


def make(kind: str, bert: Path, mlm: Path) -> Tower:
    if kind == "splade":
        return SpladeModel.from_pretrained(mlm, device="cpu")
    more = {"expansion": Expansion("fixed", 12), "query_max_length": 12, "doc_max_length": 20}
    return ColbertModel.from_pretrained(bert, device="cpu", dim=8, **more)


@pytest.mark.parametrize("kind", ["colbert", "splade"])
def test_scores_are_those_of_the_pairs_by_themselves(
    kind: str, tiny_bert_dir: Path, tiny_mlm_dir: Path, small_collection: Collection
) -> None:
    model = make(kind, tiny_bert_dir, tiny_mlm_dir)
    teacher = LiveTeacher.of(model, small_collection, 0.5)
    query_rows, doc_rows = np.array([4, 0, 9]), np.array([17, 3, 3, 40, 8])
    found = teacher.scores(query_rows, doc_rows)
    query_ids, doc_ids = list(small_collection.query_ids), list(small_collection.doc_ids)
    queries = small_collection.query_texts([query_ids[row] for row in query_rows])
    docs = small_collection.doc_texts([doc_ids[row] for row in doc_rows])
    pairs = [(query, doc) for query in queries for doc in docs]
    alone = score_pairs(model, [query for query, _ in pairs], [doc for _, doc in pairs], progress=False)
    np.testing.assert_allclose(found, 0.5 * alone.reshape(3, 5), rtol=1e-4, atol=1e-4)


def test_a_cross_encoder_is_refused(tiny_cross_encoder_dir: Path, small_collection: Collection) -> None:
    model = CrossEncoderModel.from_pretrained(tiny_cross_encoder_dir, device="cpu")
    with pytest.raises(WrongModelError, match=r"a teacher that scores whole batches .*found a cross-encoder model"):
        LiveTeacher.of(model, small_collection, 1.0)


def options(conala: Path, bert: Path, teacher: Path, folder: Path, **more: object) -> MarginMSEOptions:
    given = {
        "scores": (str(conala / "teacher" / "scores.tsv.gz"),),
        "collection": str(conala),
        "init": str(bert),
        "output_dir": folder,
        "loss": ("margin-mse:0.05", "in-batch-kl"),
        "in_batch_teacher": str(teacher),
        "in_batch_scale": 1.0,
        "max_steps": 3,
        "batch_size": 4,
        "device": "cpu",
        "dtype": "float32",
        "logging_steps": 1,
    }
    return MarginMSEOptions(**(given | more))  # type: ignore[arg-type]


def test_training_hears_it(conala: Path, tiny_bert_dir: Path, tiny_mlm_dir: Path, tmp_path: Path) -> None:
    make("colbert", tiny_bert_dir, tiny_mlm_dir).save_pretrained(tmp_path / "teacher")
    losses = []
    for scale in (1.0, 0.1):
        folder = tmp_path / f"run-{scale}"
        train_margin_mse(options(conala, tiny_bert_dir, tmp_path / "teacher", folder, in_batch_scale=scale))
        log = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["log"]
        losses.append([entry["loss/in-batch-kl"] for entry in log if "loss/in-batch-kl" in entry])
    assert len(losses[0]) == len(losses[1]) == 3
    assert all(abs(one - other) > 1e-3 for one, other in zip(*losses, strict=True))


def test_worker_processes_are_refused(conala: Path, tiny_bert_dir: Path, tiny_mlm_dir: Path, tmp_path: Path) -> None:
    make("colbert", tiny_bert_dir, tiny_mlm_dir).save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="--num-workers must be 0"):
        train_margin_mse(options(conala, tiny_bert_dir, tmp_path / "teacher", tmp_path / "run", num_workers=1))
