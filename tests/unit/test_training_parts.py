"""The small parts of training: loss terms, placing rows, checkpoints, folders, dtype."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import TrainingArguments

from rankdistill import losses
from rankdistill.data.batches import BatchPlan
from rankdistill.data.curriculum import rank_labels
from rankdistill.errors import MissingIdsError
from rankdistill.formats.collection import collection_from_texts
from rankdistill.formats.triples import Triple
from rankdistill.models.precision import fast_dtype
from rankdistill.models.towers import BatchScores
from rankdistill.options import training as options_module
from rankdistill.options.training import LOSS_TERMS, LossOptions
from rankdistill.training.margin_mse import score_objective
from rankdistill.training.rows import MemoryRows, place
from rankdistill.training.run import plan_facts
from rankdistill.training.teacher import rows_of_triples
from rankdistill.training.terms import PRESETS, TERMS, needs_dense_teacher, needs_in_batch, parse_loss, term_loss
from rankdistill.training.trainer import DistillationTrainer, last_checkpoint


def test_loss_terms_are_names_with_weights() -> None:
    assert parse_loss(["margin-mse", "infonce:0.5"]) == {"margin-mse": 1.0, "infonce": 0.5}
    assert parse_loss(["splade-v3", "lce"]) == {"kl": 0.99, "margin-mse-all-pairs": 0.05, "lce": 1.0}
    assert all(parse_loss(terms) for terms in PRESETS.values())


def test_the_table_holds_the_terms_that_the_options_name() -> None:
    assert tuple(TERMS) == LOSS_TERMS
    assert LossOptions.__doc__
    help_text = (Path(options_module.__file__)).read_text(encoding="utf-8")
    described = help_text.split("Loss terms as NAME or NAME:WEIGHT")[1].split("teacher_scale")[0]
    assert set(LOSS_TERMS) <= set(re.findall(r"[a-z-]+", described))


ARRAYS = {
    "own": {"teacher_scores"},
    "labels": set(),
    "in-batch labels": {"doc_columns", "negatives"},
    "in-batch teacher": {"in_batch_scores"},
}


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_a_term_gets_by_with_what_it_says_it_needs(name: str) -> None:
    needs = TERMS[name].needs
    whole = {
        "teacher_scores": torch.tensor([[3.0, 1.0], [0.5, 2.0]]),
        "doc_columns": torch.tensor([[0, 2], [1, 0]]),
        "negatives": torch.ones(2, 3, dtype=torch.bool),
        "in_batch_scores": torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]),
    }
    scores = torch.randn(2, 3 if needs_in_batch(name) else 2, requires_grad=True)
    loss = term_loss(name, scores, {key: whole[key] for key in ARRAYS[needs]}, LossOptions(teacher_share=0.7))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.abs().sum() > 0
    assert needs_in_batch(name) == ("in-batch" in needs)
    assert needs_dense_teacher(name) == (needs == "in-batch teacher")


def test_a_teacher_share_moves_targets_towards_the_student() -> None:
    scores, batch = torch.tensor([[2.0, 0.0, 1.0]]), {"teacher_scores": torch.tensor([[0.0, 3.0, 1.0]])}
    values = [
        float(term_loss("kl", scores, batch, LossOptions(teacher_share=share, temperature=2.0)))
        for share in (0, 0.5, 1)
    ]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values == sorted(values)
    assert values[2] == pytest.approx(
        float(losses.kl_divergence(scores, batch["teacher_scores"], student_temperature=2))
    )


def test_orders_are_drawn_anew_each_step_from_the_generator_that_checkpoints_hold() -> None:
    scores, batch = torch.arange(9.0)[None], {"teacher_scores": torch.zeros(1, 9)}
    torch.manual_seed(0)
    first, second = (float(term_loss("rankdistil", scores, batch, LossOptions())) for _ in range(2))
    torch.manual_seed(0)
    assert float(term_loss("rankdistil", scores, batch, LossOptions())) == first != second


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (["mse"], 'loss "mse" does not exist: there are margin-mse, '),
        (["kl", "kl:2"], 'loss "kl" is given twice'),
        (["kl:x"], r'expected a positive weight in "kl:x", as in "kl:0.5"'),
        (["kl:-1"], 'expected a positive weight in "kl:-1"'),
        ([], "expected at least one loss term"),
    ],
)
def test_bad_loss_terms_are_explained(terms: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_loss(terms)


def test_every_loss_term_is_computed_from_the_scores_it_speaks_of() -> None:
    scores = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))

    def model(batch: object, mini_batch_size: int | None) -> BatchScores:
        assert mini_batch_size is None
        return BatchScores(scores, in_batch=True)

    columns = torch.tensor([[0, 2], [1, 0]])
    batch = {
        "doc_columns": columns,
        "teacher_scores": torch.tensor([[3.0, 1.0], [0.5, 2.0]]),
        "negatives": torch.tensor([[True, True, False], [True, True, True]]),
        "in_batch_scores": torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]),
    }
    own = scores.gather(1, columns)
    teacher, whole = batch["teacher_scores"], batch["in_batch_scores"]
    scaled, labels = 20 * teacher, rank_labels(teacher, 1, (0.5,))
    torch.manual_seed(3)
    expected = {
        "margin-mse": losses.margin_mse(own, scaled),
        "margin-mse-all-pairs": losses.margin_mse_all_pairs(own, scaled),
        "pointwise-mse": losses.pointwise_mse(own, scaled),
        "weighted-ranknet": losses.weighted_ranknet(own, scaled),
        "kl": losses.kl_divergence(own, scaled, student_temperature=2.0),
        "reverse-kl": losses.kl_divergence(own, scaled, student_temperature=2.0, direction="reverse"),
        "listnet": losses.listnet(own, scaled, student_temperature=2.0),
        "lambdarank": losses.lambdarank(own, labels),
        "lambda-mrr": losses.lambda_mrr(own, labels),
        "adr-mse": losses.adr_mse(own, teacher, temperature=2.0),
        "rankdistil": losses.rankdistil(own / 2, losses.plackett_luce_orders(scaled, 8), top_k=1),
        "in-batch-margin-mse": losses.margin_mse_all_pairs(scores, whole),
        "in-batch-kl": losses.kl_divergence(scores, whole, student_temperature=2.0),
        "infonce": losses.infonce(scores, columns[:, 0], temperature=2.0, mask_BM=batch["negatives"]),
        "symmetric-infonce": losses.symmetric_infonce(
            scores, columns[:, 0], temperature=2.0, mask_BM=batch["negatives"]
        ),
        "lce": losses.localized_contrastive(own, temperature=2.0),
        "ranknet": losses.ranknet(own),
    }
    assert set(expected) == set(LOSS_TERMS)
    chosen = LossOptions(temperature=2.0, teacher_scale=20.0, num_top=1, rest_labels=(0.5,))
    torch.manual_seed(3)
    terms = score_objective(dict.fromkeys(LOSS_TERMS, 0.5), chosen)(model, batch)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], 0.5 * value, msg=name)


DOCS = {"d1": "one", "d2": "two", "d3": "three"}
TRIPLES = [Triple("q1", "d1", "d2"), Triple("q1", "d1", "gone"), Triple("q2", "d3", "d1")]


def test_rows_find_their_texts_in_the_collection() -> None:
    collection = collection_from_texts(DOCS, {"q2": "b", "q1": "a"})
    placed = place(rows_of_triples([TRIPLES[0], TRIPLES[2]]), collection)
    queries, docs, _ = placed.gather(np.array([0, 1]))
    assert [collection.query_ids[int(row)] for row in queries] == ["q1", "q2"]
    assert [[collection.doc_ids[int(row)] for row in pair] for pair in docs] == [["d1", "d2"], ["d3", "d1"]]


def test_ids_that_the_collection_lacks_are_counted_and_named() -> None:
    collection = collection_from_texts(DOCS, {"q1": "a", "q2": "b"})
    rows = rows_of_triples(TRIPLES)
    with pytest.raises(
        MissingIdsError, match=r'found 1 that are not there \(first: "gone"\); pass --on-missing'
    ) as caught:
        place(rows, collection)
    assert caught.value.missing == ("gone",)
    placed = place(rows, collection, on_missing="skip")
    assert placed.num_rows == 2
    queries, _, _ = placed.gather(np.array([0, 1]))
    assert [collection.query_ids[int(row)] for row in queries] == ["q1", "q2"]
    with pytest.raises(MissingIdsError, match="found none; is this the right collection"):
        place(rows, collection_from_texts({"x": "y"}, {"z": "z"}), on_missing="skip")


def test_a_torn_checkpoint_is_dropped_and_the_last_whole_one_found(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step, state in ((5, json.dumps({})), (10, json.dumps({})), (15, '{"step'), (20, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-notes").mkdir()  # a user's
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5", "checkpoint-notes"]


def test_the_fast_dtype_is_one_that_the_machine_was_asked_for() -> None:
    assert fast_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_scores_are_transformed_wherever_rows_are_gathered() -> None:
    collection = collection_from_texts({"a": "x", "b": "y"}, {"q": "z"})
    rows = MemoryRows(["q"], ["a", "b"], np.zeros(3, np.int64), np.array([[0, 1], [1, 0], [0, 1]]))
    plain, transformed = place(rows, collection), place(rows, collection, transform=lambda scores: scores - 3)
    np.testing.assert_array_equal(plain.gather(np.array([0, 2]))[2] - 3, transformed.gather(np.array([0, 2]))[2])


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0)))

    def forward(self, values: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(self.queries, values, values)


class _OneBatch:
    num_steps = num_rows = 1

    def __call__(self, epoch: int, step: int) -> dict[str, Any]:
        return {"values": np.ones((2, 4, 6, 8), np.float32)}

    def describe(self, epoch: int, step: int) -> str:
        return "rows 1"


@pytest.mark.parametrize("bf16", [True, False])
def test_attention_is_taken_apart_where_the_fused_kernel_is_slow(tmp_path: Path, bf16: bool) -> None:
    gradients = []

    def objective(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        attended = model(batch["values"])
        gradients.append(type(attended.grad_fn).__name__)
        return {"sum": attended.sum()}

    arguments = TrainingArguments(
        str(tmp_path), bf16=bf16, use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no"
    )
    DistillationTrainer(_Attention(), arguments, source=_OneBatch(), objective=objective).train()
    assert ["Flash" in name for name in gradients] == [not bf16] * 3


def test_rows_that_no_step_has_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    facts = plan_facts(BatchPlan(num_rows=9, batch_size=2, world_size=2))
    assert facts == {"steps_per_epoch": 2, "rows_dropped_per_epoch": 1}
    said = "1 of 9 rows are left out of each epoch: too few for a last step of 2 processes\n"
    assert capsys.readouterr().err == said
    plan_facts(BatchPlan(num_rows=9, batch_size=2, world_size=2, rank=1))
    plan_facts(BatchPlan(num_rows=9, batch_size=2))
    assert capsys.readouterr().err == ""
