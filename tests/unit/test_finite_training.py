"""A training whose loss or gradient isn't finite stops at that step, names its rows, and writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from rankdistill.errors import NotFiniteError
from rankdistill.training.trainer import DistillationTrainer


class _Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, values: Tensor) -> Tensor:
        return self.weight + values

    def save_pretrained(self, path: Path) -> None:
        Path(path).mkdir(parents=True)


class _Ones:
    num_steps = num_rows = 4

    def __call__(self, epoch: int, step: int) -> dict[str, Any]:
        return {"values": np.ones(3, np.float32), "place": np.asarray(epoch * 4 + step)}

    def describe(self, epoch: int, step: int) -> str:
        return f"row {step} of epoch {epoch}"


def trainer(folder: Path, bad: Any, **more: Any) -> DistillationTrainer:
    """Trains 8 steps, and logs and saves every fourth; `bad` makes the loss of step 6."""

    def objective(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        scores = model(batch["values"])
        return {"good": scores.square().sum(), "other": bad(scores) if int(batch["place"]) == 5 else scores.sum()}

    settings = {"max_steps": 8, "logging_steps": 4, "save_steps": 4, "logging_nan_inf_filter": False} | more
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[], **settings)
    return DistillationTrainer(_Weight(), arguments, source=_Ones(), objective=objective)


BAD = {
    "infinite": (lambda scores: scores.sum() * 1e38 * 1e38, "other"),
    "no number": (lambda scores: (scores.sum() * 0).log() * 0, "other"),
    # The loss is 0; the root's slope there is infinite.
    "gradient": (lambda scores: (scores - scores.detach()).square().sum().sqrt(), "the gradient"),
}


@pytest.mark.parametrize(
    ("name", "is_late"), [("infinite", False), ("no number", True), ("gradient", False), ("gradient", True)]
)
def test_the_first_bad_step_ends_the_training(
    tmp_path: Path, name: str, is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, term = BAD[name]
    training = trainer(tmp_path, bad)
    if is_late:  # as on a GPU, which is asked only when something is logged or saved
        monkeypatch.setattr(training, "check_finite", lambda: None)
    message = rf"expected finite losses and gradients, found inf or nan in {term} of step 6 \(row 1 of epoch 1\); "
    with pytest.raises(NotFiniteError, match=message):
        training.train()
    if not is_late:
        assert torch.isfinite(training.model.weight).all()  # type: ignore[union-attr]
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert not (tmp_path / "checkpoint-8").exists()
    assert all(np.isfinite(entry["loss"]) for entry in training.state.log_history)
