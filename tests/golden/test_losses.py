"""Golden values, recomputed with numpy by the designers (design notes, part G); 2.56, 0.25 and 1.405 also check by
hand."""

from __future__ import annotations

import pytest
import torch

from rankdistill import losses


def test_margin_mse() -> None:
    student, teacher = torch.tensor([[0.9, 0.4], [2.0, 3.0]]), torch.tensor([[3.1, 1.0], [1.0, 1.5]])
    assert float(losses.margin_mse(student[:1], teacher[:1])) == pytest.approx(2.56, abs=1e-6)
    assert float(losses.margin_mse(student[1:], teacher[1:])) == pytest.approx(0.25, abs=1e-6)
    assert float(losses.margin_mse(student, teacher)) == pytest.approx(1.405, abs=1e-6)
    # With two docs a query there is one pair, so both forms are one.
    assert float(losses.margin_mse_all_pairs(student, teacher)) == pytest.approx(1.405, abs=1e-6)


def test_kl_divergence() -> None:
    student, teacher = torch.tensor([[1.0, 1.0, 0.5]]), torch.tensor([[3.0, 1.0, 0.0]])
    assert float(losses.kl_divergence(student, teacher)) == pytest.approx(0.454759, abs=1e-6)


def test_margin_mse_pulls_the_student_towards_the_teachers_margin() -> None:
    student = torch.tensor([[0.9, 0.4]], requires_grad=True)
    losses.margin_mse(student, torch.tensor([[3.1, 1.0]])).backward()
    # d/ds+ = 2 (Δs - Δt) / B = 2 (0.5 - 2.1)
    assert student.grad is not None
    assert student.grad.tolist()[0] == pytest.approx([-3.2, 3.2], abs=1e-6)
