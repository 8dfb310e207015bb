"""Gradient caching: a batch encoded N texts at a time gives the loss and the gradients of the whole batch at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rankdistill.models import towers
from rankdistill.models.colbert import Expansion
from rankdistill.models.loading import ARCHITECTURES
from rankdistill.options.training import LossOptions
from rankdistill.training.exits import ExitLoss
from rankdistill.training.margin_mse import score_objective

NUM_ROWS, NUM_DOCS = 6, 11
STUDENTS: dict[str, dict[str, Any]] = {
    "dot": {"projection_dim": 8},
    "colbert": {"dim": 8, "expansion": Expansion("fixed", 9), "query_max_length": 9},
    "splade": {},
    "prett": {"join_layer": 1, "query_max_length": 9},
    "tk": {"num_heads": 2, "num_layers": 1, "feed_forward": 16},
    "cross-encoder": {},
    "multi-exit": {"exits": [1, 2], "dims": [8]},
    "multi-exit-colbert": {"exits": [1, 2], "dim": 8},
    "multi-exit-cross-encoder": {"exits": [1, 2]},
}


@pytest.fixture(params=STUDENTS)
def student(request: pytest.FixtureRequest, tiny_bert_dir: Path, tiny_mlm_dir: Path) -> Callable[[float], nn.Module]:
    """Makes one of each architecture, the same each time, with a dropout."""

    def make(dropout: float) -> nn.Module:
        torch.manual_seed(0)
        name = request.param
        init = tiny_mlm_dir if name == "splade" else tiny_bert_dir
        more = {"new_head": True} if name.endswith("cross-encoder") else {}
        more |= {} if name == "tk" else {"dropout": dropout}
        model: nn.Module = ARCHITECTURES[name].from_pretrained(init, device="cpu", **STUDENTS[name], **more)
        with torch.no_grad():  # the tiny model's weights are so large that rounding is too
            for weight in model.parameters():
                if weight.dim() == 2:
                    weight *= 0.2
        return model.train()

    return make


def padded(lengths: list[int], random: torch.Generator) -> tuple[Tensor, Tensor]:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(5, 500, mask.shape, generator=random) * mask, mask


def batch_for(model: nn.Module, seed: int = 0, more_tokens: int = 0) -> dict[str, Tensor]:
    """Random texts, shortest first, with everything that any loss term asks for; documents may be made longer."""
    random = torch.Generator().manual_seed(seed)
    batch = {"teacher_scores": torch.randn(NUM_ROWS, 2, generator=random), "step": torch.tensor(3)}
    if not isinstance(model, towers.Tower):
        batch["input_ids"], batch["attention_mask"] = padded([9, 12] * NUM_ROWS, random)
        return batch
    batch["query_ids"], batch["query_mask"] = padded([3, 3, 4, 5, 8, 9], random)
    batch["doc_ids"], batch["doc_mask"] = padded([more_tokens + n for n in (3, *range(5, 5 + NUM_DOCS - 1))], random)
    batch["doc_columns"] = torch.randint(NUM_DOCS, (NUM_ROWS, 2), generator=random)
    batch["negatives"] = torch.ones(NUM_ROWS, NUM_DOCS, dtype=torch.bool)
    batch["in_batch_scores"] = torch.randn(NUM_ROWS, NUM_DOCS, generator=random)
    return batch


def found(model: nn.Module, mini_batch_size: int | None, *, seeds: tuple[int, ...] = (0,)) -> dict[str, Tensor]:
    """Each loss term and each weight's gradient, summed over batches, with dropout drawn from one seed."""
    weights = {"margin-mse": 0.1, "kl": 1.0, "listnet": 0.5}
    penalties = {}
    if model.scores_in_batch:
        weights |= {"infonce": 1.0, "in-batch-margin-mse": 0.05}
    if model.architecture == "splade":
        names = ("flops-docs", "flops-queries", "l1-queries")
        penalties = {name: lambda step: 0.01 * step for name in names}
    exits = ExitLoss() if model.architecture.startswith("multi-exit") else None
    objective = score_objective(weights, LossOptions(temperature=10.0), penalties, exits, mini_batch_size)
    model.zero_grad()
    torch.manual_seed(5)
    terms = {}
    for seed in seeds:
        terms = objective(model, batch_for(model, seed))
        torch.stack(list(terms.values())).sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    drawn = {"the next random number": torch.rand(())}
    return {name: value.detach().clone() for name, value in {**terms, **gradients, **drawn}.items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    """Differences are measured against the larger of a tensor's own size and a hundredth of the largest's: some gradients are
    0 but for rounding, such as those of attention's key biases."""
    assert left.keys() == right.keys()
    floor = 0.01 * max(float(value.abs().max()) for value in left.values())
    for name, expected in left.items():
        size = max(float(expected.abs().max()), floor)
        torch.testing.assert_close(right[name] / size, expected / size, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("size", [1, 4, 100])
def test_loss_and_gradients_are_those_of_the_whole_batch(student: Callable[[float], nn.Module], size: int) -> None:
    model = student(0.0)
    assert_same(found(model, None), found(model, size), 5e-6)


def test_gradients_of_several_batches_add_up(student: Callable[[float], nn.Module]) -> None:
    model = student(0.0)
    assert_same(found(model, None, seeds=(0, 1)), found(model, 4, seeds=(0, 1)), 5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_and_autocast_are_the_same_both_times(
    student: Callable[[float], nn.Module], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin keeps what the checkpoints forget, so it draws each mask once."""

    def kept(function: Callable[..., Any], *tensors: Tensor, use_reentrant: bool) -> Any:
        return function(*tensors)

    model = student(0.3)
    with nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype):
        forgotten = found(model, 4)
        monkeypatch.setattr(towers, "checkpoint", kept)
        assert_same(found(model, 4), forgotten, 5e-6)
    if model.architecture != "tk":
        assert any((forgotten[name] - value).abs().max() > 1e-3 for name, value in found(student(0.0), 4).items())


def test_the_student_sees_no_more_texts_at_once(tiny_bert_dir: Path) -> None:
    model = ARCHITECTURES["dot"].from_pretrained(tiny_bert_dir, device="cpu")
    seen: list[int] = []
    model.encoder.register_forward_hook(lambda module, given, made: seen.append(len(made[0])))
    found(model, 4)
    once = [4, 2, 4, 4, 3]  # queries, then docs
    assert seen[:5] == once
    assert sorted(seen[5:]) == sorted(once)  # again, when their gradients come


def test_what_is_kept_for_gradients_are_vectors_not_activations(tiny_bert_dir: Path) -> None:
    model = ARCHITECTURES["dot"].from_pretrained(tiny_bert_dir, device="cpu", dropout=0.0).train()
    kept: dict[int | None, list[int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            sizes.append(tensor.numel())
        return tensor

    for size in (None, 4):
        sizes = kept[size] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(batch_for(model, more_tokens=10), size)
    assert sum(kept[4]) < 10 * NUM_DOCS * model.dim
    assert sum(kept[None]) > 500 * NUM_DOCS * model.dim
