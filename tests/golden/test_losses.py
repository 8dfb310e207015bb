"""Golden values: recomputed with numpy by the designers (design notes, part G), published by others, or by hand where the
line says how."""

from __future__ import annotations

from math import exp, log, log2

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


def test_reverse_kl() -> None:
    # Two docs, p = 1/2, q = e / (1 + e): KL(p ‖ q) = -ln 2 - (ln(1 - q) + ln q) / 2.
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    q = exp(1) / (1 + exp(1))
    by_hand = -log(2) - (log(1 - q) + log(q)) / 2
    assert float(losses.kl_divergence(student, teacher, direction="reverse")) == pytest.approx(by_hand, abs=1e-6)
    assert by_hand == pytest.approx(0.120115, abs=1e-6)


def test_listnet() -> None:
    student, teacher = torch.tensor([[1.0, 1.0, 0.5]]), torch.tensor([[3.0, 1.0, 0.0]])
    assert float(losses.listnet(student, teacher)) == pytest.approx(0.979025, abs=1e-6)


def test_pointwise_mse() -> None:
    # matchmaker's MSETeacherPointwise: half the sum of the two docs' mean squared errors, (2.2² + 0.6²) / 2.
    student, teacher = torch.tensor([[0.9, 0.4]]), torch.tensor([[3.1, 1.0]])
    assert float(losses.pointwise_mse(student, teacher)) == pytest.approx(2.6, abs=1e-6)


def test_weighted_ranknet() -> None:
    student, teacher = torch.tensor([[0.9, 0.4], [2.0, 3.0]]), torch.tensor([[3.1, 1.0], [1.0, 1.5]])
    # 2.1 ln(1 + e^-0.5)
    assert float(losses.weighted_ranknet(student[:1], teacher[:1])) == pytest.approx(0.995562, abs=1e-6)
    # The teacher prefers doc 1, so does the student: 0.5 ln(1 + e^-1). As a weight, -0.5 would give -0.657.
    assert float(losses.weighted_ranknet(student[1:], teacher[1:])) == pytest.approx(0.156631, abs=1e-6)


def test_lambdarank() -> None:
    # The relevant doc is second: swapping gains 1 - 1 / log2(3) of an ideal 1; the pair costs ln(1 + e).
    scores, relevance = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    assert float(losses.lambdarank(scores, relevance)) == pytest.approx((1 - 1 / log2(3)) * log(1 + exp(1)), abs=1e-6)
    # Gains 3 and 1 for relevances 2 and 1: the swap costs (3 - 1)(1 - 1 / log2(3)) of 3 + 1 / log2(3).
    relevance = torch.tensor([[2.0, 1.0]])
    of = (3 - 1) * (1 - 1 / log2(3)) / (3 + 1 / log2(3))
    found = float(losses.lambdarank(scores, relevance, gain="exponential"))
    assert found == pytest.approx(of * log(1 + exp(1)), abs=1e-6)


def test_lambda_mrr() -> None:
    # Ranks 2, 1, 3 and labels 1, 1/2, 0: three pairs, moved by 1/2, 1/6 and 2/3.
    scores, labels = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    by_hand = (log(1 + exp(1)) / 2 + log(1 + exp(-1)) / 6 + log(1 + exp(-2)) * 2 / 3) / 3
    assert float(losses.lambda_mrr(scores, labels)) == pytest.approx(by_hand, abs=1e-6)
    # The example that stands below CL-DRD's loss, worked out by its own steps in numpy
    # (sort by score, keep pairs whose labels fall, take the mean).
    scores = torch.tensor([[2.01, 1.23, 1.02, 0.4], [0.45, 1.04, 1.02, 3.12]])
    labels = torch.tensor([[1.0, 0.5, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0]])
    assert float(losses.lambda_mrr(scores, labels)) == pytest.approx(0.433346, abs=1e-6)


def test_adr_mse() -> None:
    # Both docs have the smooth rank 1.5, half a rank off: (1 / log2(2) + 1 / log2(3)) / 8.
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert float(losses.adr_mse(student, teacher)) == pytest.approx((1 + 1 / log2(3)) / 8, abs=1e-6)
    assert float(losses.adr_mse(student, teacher, discount="none")) == pytest.approx(0.25, abs=1e-6)
    assert float(losses.adr_mse(student, teacher, discount="reciprocal")) == pytest.approx(0.1875, abs=1e-6)


def test_rankdistil() -> None:
    # TF-Ranking's own test of CoupledRankDistilLoss: the orders are those that its seed draws, the value is in its docs.
    scores = torch.tensor([[0.0, log(3), log(2)], [0.0, log(2), log(3)]])
    orders = torch.tensor([[[2, 0, 1]], [[2, 0, 1]]])
    assert float(losses.rankdistil(scores, orders)) == pytest.approx(2.138333, abs=1e-6)
    assert float(losses.rankdistil(scores, orders, top_k=2)) == pytest.approx(2.138333, abs=1e-6)
    # Its second one, with logits of 70: each query's docs are e^0, 3e30 and 2e30.
    huge = torch.tensor([[0.0, log(3e30), log(2e30)], [0.0, log(2e30), log(3e30)]])
    first = -(log(2 / 5) - log(3e30))
    second = -(log(3 / 5) - log(2e30))
    assert float(losses.rankdistil(huge, orders)) == pytest.approx((first + second) / 2, rel=1e-6)


def test_localized_contrastive() -> None:
    assert float(losses.localized_contrastive(torch.tensor([[1.0, 0.0]]))) == pytest.approx(log(1 + exp(-1)), abs=1e-6)


def test_symmetric_infonce_of_one_doc_a_query_is_clips() -> None:
    # Rows (2, 0), (1, 1): -log softmax of the diagonal is log(1 + e^-2) and log 2; columns (2, 1), (0, 1): log(1 + e^-1) twice.
    scores = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    by_hand = ((log(1 + exp(-2)) + log(2)) / 2 + log(1 + exp(-1))) / 2
    assert float(losses.symmetric_infonce(scores, torch.tensor([0, 1]))) == pytest.approx(by_hand, abs=1e-6)


def test_margin_mse_pulls_the_student_towards_the_teachers_margin() -> None:
    student = torch.tensor([[0.9, 0.4]], requires_grad=True)
    losses.margin_mse(student, torch.tensor([[3.1, 1.0]])).backward()
    # d/ds+ = 2 (Δs - Δt) / B = 2 (0.5 - 2.1)
    assert student.grad is not None
    assert student.grad.tolist()[0] == pytest.approx([-3.2, 3.2], abs=1e-6)
