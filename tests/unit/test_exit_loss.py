"""The loss over exits: its gradients are the weighted sum of each exit's alone; who teaches whom; what is learnt."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rankdistill import losses
from rankdistill.models.exits import MAX_SCALE, MIN_SCALE, Cell, ExitScores, Learnt
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.models.towers import BatchScores
from rankdistill.options.students import MultiExitOptions
from rankdistill.options.training import LossOptions, MarginMSEOptions
from rankdistill.training.exits import ExitLoss, exit_loss, exit_weights, teacher_of
from rankdistill.training.margin_mse import score_objective
from tests.encoders import save_encoder

TERMS = {"margin-mse": 0.05, "infonce": 1.0, "symmetric-infonce": 0.5}
OPTIONS = LossOptions(temperature=1.5, teacher_scale=2.0)


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    return save_encoder("bert", tmp_path_factory.mktemp("bert"), tiny_tokenizer_dir, initializer_range=0.1)


def make(folder: Path, **settings: Any) -> MultiExitEncoder:
    torch.manual_seed(0)
    model = MultiExitEncoder.from_pretrained(folder, device="cpu", **({"exits": (1, 2, 4)} | settings))
    with torch.no_grad():
        for weights in model.heads.parameters():
            weights.add_(0.1 * torch.randn_like(weights))
    return model


def batch() -> dict[str, Tensor]:
    """Three queries with two docs each, of five; shortest first."""
    random = torch.Generator().manual_seed(1)
    found = {}
    for side, lengths in (("query", [3, 4, 6]), ("doc", [3, 5, 5, 7, 9])):
        mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        found[f"{side}_ids"] = torch.randint(5, 500, mask.shape, generator=random) * mask
        found[f"{side}_mask"] = mask
    negatives = torch.ones(3, 5, dtype=torch.bool)
    negatives[0, 4] = False
    columns = torch.tensor([[0, 2], [1, 3], [2, 4]])
    scores = torch.tensor([[2.0, 0.5], [1.0, -1.0], [0.3, 0.2]])
    return found | {"doc_columns": columns, "teacher_scores": scores, "negatives": negatives, "step": torch.tensor(0)}


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weights.grad for name, weights in model.named_parameters() if weights.grad is not None}


@pytest.mark.parametrize("weights", ["depth", "uniform", "normalised", lambda exit, depth: 1 / (1 + depth - exit)])
@pytest.mark.parametrize("dims", [(), (8,)])
def test_gradients_are_the_weighted_sum_of_each_exits_alone(
    encoder_dir: Path, weights: Any, dims: tuple[int, ...]
) -> None:
    model = make(encoder_dir, dims=dims)
    terms = score_objective(TERMS, OPTIONS, exits=ExitLoss(weights))(model, batch())
    torch.stack(list(terms.values())).sum().backward()
    together = gradients(model)
    # The twin: each exit by itself, a model of its own over the same layers, one pass each.
    model.zero_grad()
    expected = {"depth": [0.25, 0.5, 1], "uniform": [1, 1, 1], "normalised": [1 / 7, 2 / 7, 4 / 7]}
    by_hand = expected[weights] if isinstance(weights, str) else [1 / 4, 1 / 3, 1]
    heads = torch.zeros_like(model.heads.weight)
    alone = score_objective(TERMS, OPTIONS)
    for i, (exit, weight) in enumerate(zip(model.exits, by_hand, strict=True)):
        for dim in (None, *dims):
            view = model.at(exit, dim)
            for name, term in alone(view, batch()).items():
                value = weight / (1 + len(dims)) * term
                torch.testing.assert_close(terms[f"{Cell(exit, dim)}/{name}"], value, rtol=1e-4, atol=1e-6)
                value.backward(retain_graph=True)
            assert view.projection is not None
            assert view.projection.weight.grad is not None
            heads[i, : dim or 32] += view.projection.weight.grad
    separately = gradients(model) | {"projection.weight": heads}
    assert together.keys() == separately.keys()
    assert sum("layer.3" in name for name in together) == 16
    for name, gradient in together.items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, separately[name], rtol=1e-3, atol=1e-5, msg=name)


def test_every_exit_learns_every_term_under_its_name(encoder_dir: Path) -> None:
    model = make(encoder_dir, dims=(8,))
    terms = score_objective(TERMS, OPTIONS, exits=ExitLoss(teacher="last"))(model, batch())
    wanted = [
        f"exit{exit}{dim}/{name}"
        for exit in (1, 2, 4)
        for dim in ("", "/dim8")
        for name in (*TERMS, "self-distillation")
        if (exit, dim, name) != (4, "", "self-distillation")
    ]
    assert list(terms) == wanted


def test_an_objective_without_exits_trains_the_deepest(encoder_dir: Path) -> None:
    model = make(encoder_dir)
    terms = score_objective(TERMS, OPTIONS)(model, batch())
    for name, term in score_objective(TERMS, OPTIONS)(model.at(4), batch()).items():
        torch.testing.assert_close(terms[name], term, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("teacher", ["last", "next"])
def test_deeper_exits_teach_and_learn_nothing_by_it(encoder_dir: Path, teacher: Any) -> None:
    model = make(encoder_dir)
    objective = score_objective({"margin-mse": 0.0}, OPTIONS, exits=ExitLoss("uniform", teacher, 0.7, temperature=1.5))
    terms = objective(model, batch())
    with torch.no_grad():
        scores = {exit: model.at(exit)(batch()).scores for exit in model.exits}
    for exit, taught_by in ((1, 2 if teacher == "next" else 4), (2, 4)):
        kl = torch.nn.functional.kl_div(  # torch's own, over all docs of the batch
            (scores[exit] / 1.5).log_softmax(-1),
            (scores[taught_by] / 1.5).log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )
        torch.testing.assert_close(terms[f"exit{exit}/self-distillation"], 0.7 * kl, rtol=1e-4, atol=1e-6)
    assert "exit4/self-distillation" not in terms
    terms["exit2/self-distillation"].backward()
    found = gradients(model)
    assert found["encoder.encoder.layer.1.output.dense.weight"].abs().sum() > 0
    assert not any(".layer.2." in name or ".layer.3." in name for name, weights in found.items() if weights.any())
    assert [bool(weights.any()) for weights in found["projection.weight"]] == [False, True, False]


def test_who_teaches_whom() -> None:
    exits = (2, 4, 6)
    assert [teacher_of(Cell(exit), exits, "last") for exit in exits] == [Cell(6), Cell(6), None]
    assert [teacher_of(Cell(exit), exits, "next") for exit in exits] == [Cell(4), Cell(6), None]
    assert [teacher_of(Cell(exit, 8), exits, "last") for exit in exits] == [Cell(6)] * 3
    assert [teacher_of(Cell(exit, 8), exits, "next") for exit in exits] == [Cell(4, 8), Cell(6, 8), Cell(6)]


def test_weights_are_the_papers() -> None:
    # ModularStarEncoder's exits of 36 layers: raw weights i / 36, whose sum is 2.6111.
    found = exit_weights("depth", (4, 9, 18, 27, 36))
    assert found == [4 / 36, 9 / 36, 18 / 36, 27 / 36, 1]
    assert sum(found) == pytest.approx(2.6111, abs=1e-4)
    assert exit_weights("normalised", (4, 9, 18, 27, 36)) == pytest.approx([weight / sum(found) for weight in found])


def scores_at(**learnt: Any) -> ExitScores:
    at = {Cell(1): torch.tensor([[1.0, 2.0], [0.5, -1.0]]), Cell(3): torch.tensor([[0.3, 2.0], [1.0, 1.5]])}
    return ExitScores(at[Cell(3)], True, at=at, **learnt)


def fixed_terms(values: dict[int, float]) -> Callable[[BatchScores, Any], dict[str, Tensor]]:
    order = iter(values.values())
    return lambda found, batch: {"a": torch.tensor(next(order))}


def test_uncertainty_weights_settle_where_each_exit_weighs_the_inverse_of_its_loss() -> None:
    values = {1: 4.0, 3: 0.5}
    learnt = Learnt(2, uncertainty=True)
    optimizer = torch.optim.SGD(learnt.parameters(), lr=0.2)
    loss = ExitLoss("uncertainty")
    first = loss(scores_at(log_variances=learnt.log_variances), {}, fixed_terms(values))
    assert {name: term.item() for name, term in first.items()} == {
        "exit1/a": 4.0,
        "exit3/a": 0.5,
        "exit1/uncertainty": 0.0,
        "exit3/uncertainty": 0.0,
    }
    for _ in range(200):
        optimizer.zero_grad()
        terms = loss(scores_at(log_variances=learnt.log_variances), {}, fixed_terms(values))
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    # d/ds (exp(-s) L + s) = 0 at s = log L.
    assert learnt.log_variance is not None
    assert learnt.log_variance.tolist() == pytest.approx([math.log(4), math.log(0.5)], abs=1e-4)


def test_uncertainty_weights_need_a_model_that_learns_them(encoder_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"call its learn\(uncertainty=True\) first"):
        score_objective(TERMS, OPTIONS, exits=ExitLoss("uncertainty"))(make(encoder_dir), batch())


def test_a_learnt_scale_multiplies_contrastive_terms_only_and_stays_in_bounds(encoder_dir: Path) -> None:
    model = make(encoder_dir, normalize=True)
    model.learn(scale=10.0)
    names = {"margin-mse": 1.0, "infonce": 1.0, "symmetric-infonce": 1.0, "lce": 1.0, "in-batch-kl": 1.0}
    assert model.learnt.scale is not None
    with torch.no_grad():
        model.learnt.scale.copy_(torch.tensor([10.0, 50.0, -1.0]))
    whole = batch() | {"in_batch_scores": torch.zeros(3, 5)}
    terms = score_objective(names, LossOptions(), exits=ExitLoss("uniform", "next"))(model, whole)
    scales = {1: 10.0, 2: MAX_SCALE, 4: MIN_SCALE}
    with torch.no_grad():
        scores = {exit: model.at(exit)(batch()).scores for exit in model.exits}
    for exit, scale in scales.items():
        own = scores[exit].gather(1, whole["doc_columns"])
        expected = {
            "margin-mse": losses.margin_mse(own, whole["teacher_scores"]),
            "infonce": losses.infonce(scale * scores[exit], torch.tensor([0, 1, 2]), mask_BM=whole["negatives"]),
            "symmetric-infonce": losses.symmetric_infonce(
                scale * scores[exit], torch.tensor([0, 1, 2]), mask_BM=whole["negatives"]
            ),
            "lce": losses.localized_contrastive(scale * own),
            "in-batch-kl": losses.kl_divergence(scores[exit], torch.zeros(3, 5)),
        }
        if exit == 1:
            taught = losses.kl_divergence(10 * scores[1], MAX_SCALE * scores[2])
            expected["self-distillation"] = taught
        for name, value in expected.items():
            torch.testing.assert_close(terms[f"exit{exit}/{name}"], value, rtol=1e-4, atol=1e-5, msg=name)
    terms["exit1/infonce"].backward()
    assert model.learnt.scale.grad is not None
    assert [value != 0 for value in model.learnt.scale.grad.tolist()] == [True, False, False]


def test_what_was_learnt_is_kept(encoder_dir: Path) -> None:
    model = make(encoder_dir)
    model.learn(scale=10.0)
    assert model.learnt.scale is not None
    model.learnt.scale.data += 1
    model.learn(scale=3.0, uncertainty=True)
    assert model.learnt.scale is not None
    assert model.learnt.scale.tolist() == [11.0] * 3
    model.learn()
    assert not list(model.learnt.parameters())


def test_options_become_the_loss(tmp_path: Path) -> None:
    def options(**more: Any) -> MarginMSEOptions:
        return MarginMSEOptions(scores=("s",), output_dir=tmp_path, temperature=3.0, **more)

    own = MultiExitOptions(weights="normalised", teacher="next", teacher_weight=0.5)
    assert exit_loss(options(multi_exit=own)) is None
    assert exit_loss(options(student="multi-exit", multi_exit=own)) == ExitLoss("normalised", "next", 0.5, 3.0)
    assert exit_loss(options(student="multi-exit")) == ExitLoss("depth", "none", 1.0, 3.0)
    wrong = options(student="multi-exit", multi_exit=MultiExitOptions(teacher_weight=-1))
    with pytest.raises(ValueError, match=r"expected a --multi-exit.teacher-weight of at least 0, found -1"):
        exit_loss(wrong)
