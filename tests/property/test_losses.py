"""Losses equal their slow twins, keep their invariances, and have the gradients that finite differences find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rankdistill import losses
from tests.reference import losses as slow

Case = tuple[Tensor, Tensor, Tensor]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Student scores, teacher scores (some tied) and a mask with at least two docs a query; doc 0 always counts."""
    queries, docs = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.1, 1.0, 8.0]))
    student, teacher = (torch.from_numpy(generator.normal(0, scale, (queries, docs))) for _ in range(2))
    if draw(st.booleans()):
        teacher = (teacher / scale).round() * scale
    mask = torch.from_numpy(generator.random((queries, docs)) < 0.7)
    mask[:, :2] = True
    return student, teacher, mask


def first_docs(scores: Tensor) -> Tensor:
    return torch.zeros(len(scores), dtype=torch.long)


def orders(teacher: Tensor, mask: Tensor | None) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return losses.plackett_luce_orders(teacher, 3, generator=generator, mask_BN=mask)


@dataclass(frozen=True)
class Loss:
    """A loss of (student, teacher, mask), and what is claimed of it.

    Attributes:
        slow: its twin, of lists.
        shift: adding a constant to a query's scores changes nothing: on "either" side, on the "student"'s, on "both" at once.
        order: the order of docs changes nothing: of "any", of the "others" than doc 0, or of "none".
        agree: 0 when both sides agree.
    """

    fast: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    slow: Callable[[Any, Any, Any], float]
    shift: str = "either"
    order: str = "any"
    agree: bool = False


LOSSES = {
    "pointwise_mse": Loss(
        lambda s, t, m: losses.pointwise_mse(s, t, mask_BN=m), slow.pointwise_mse, shift="both", agree=True
    ),
    "margin_mse": Loss(lambda s, t, m: losses.margin_mse(s, t, mask_BN=m), slow.margin_mse, order="others", agree=True),
    "margin_mse_all_pairs": Loss(losses.margin_mse_all_pairs, slow.margin_mse_all_pairs, agree=True),
    "ranknet": Loss(lambda s, t, m: losses.ranknet(s, mask_BN=m), lambda s, t, m: slow.ranknet(s, m), order="others"),
    "weighted_ranknet": Loss(
        lambda s, t, m: losses.weighted_ranknet(s, t, mask_BN=m), slow.weighted_ranknet, order="others"
    ),
    "kl forward": Loss(
        lambda s, t, m: losses.kl_divergence(s, t, student_temperature=0.7, teacher_temperature=2.0, mask_BN=m),
        lambda s, t, m: slow.kl_divergence(s, t, m, 0.7, 2.0, False),
    ),
    "kl reverse": Loss(
        lambda s, t, m: losses.kl_divergence(s, t, direction="reverse", mask_BN=m),
        lambda s, t, m: slow.kl_divergence(s, t, m, 1.0, 1.0, True),
        agree=True,
    ),
    "listnet": Loss(
        lambda s, t, m: losses.listnet(s, t, student_temperature=1.5, mask_BN=m),
        lambda s, t, m: slow.listnet(s, t, m, 1.5),
    ),
    "infonce": Loss(
        lambda s, t, m: losses.infonce(s, first_docs(s), temperature=1.3, mask_BM=m),
        lambda s, t, m: slow.infonce(s, [0] * len(s), m, 1.3),
        order="others",
    ),
    "localized_contrastive": Loss(
        lambda s, t, m: losses.localized_contrastive(s, temperature=0.6, mask_BN=m),
        lambda s, t, m: slow.infonce(s, [0] * len(s), m, 0.6),
        order="others",
    ),
    "lambdarank": Loss(
        lambda s, t, m: losses.lambdarank(s, t, mask_BN=m),
        lambda s, t, m: slow.lambdarank(s, t, m, 99, False),
        shift="student",
    ),
    "lambdarank at 2": Loss(
        lambda s, t, m: losses.lambdarank(s, t, k=2, gain="exponential", mask_BN=m),
        lambda s, t, m: slow.lambdarank(s, t, m, 2, True),
        shift="student",
    ),
    "lambda_mrr": Loss(lambda s, t, m: losses.lambda_mrr(s, t, mask_BN=m), slow.lambda_mrr),
    "adr_mse": Loss(lambda s, t, m: losses.adr_mse(s, t, mask_BN=m), lambda s, t, m: slow.adr_mse(s, t, m, 1, "log2")),
    "adr_mse reciprocal": Loss(
        lambda s, t, m: losses.adr_mse(s, t, temperature=0.5, discount="reciprocal", mask_BN=m),
        lambda s, t, m: slow.adr_mse(s, t, m, 0.5, "reciprocal"),
    ),
    "adr_mse undiscounted": Loss(
        lambda s, t, m: losses.adr_mse(s, t, temperature=2, discount="none", mask_BN=m),
        lambda s, t, m: slow.adr_mse(s, t, m, 2, "none"),
    ),
    "rankdistil": Loss(
        lambda s, t, m: losses.rankdistil(s, orders(t, m), mask_BN=m),
        lambda s, t, m: slow.rankdistil(s, orders(torch.tensor(t), torch.tensor(m)).tolist(), m, 99),
        order="none",
    ),
    "rankdistil's first 2": Loss(
        lambda s, t, m: losses.rankdistil(s, orders(t, m), top_k=2, mask_BN=m),
        lambda s, t, m: slow.rankdistil(s, orders(torch.tensor(t), torch.tensor(m)).tolist(), m, 2),
        order="none",
    ),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


@every_loss
@settings(max_examples=40)
@given(case=cases())
def test_losses_equal_their_slow_twins(name: str, case: Case) -> None:
    student, teacher, mask = case
    loss = LOSSES[name]
    for used in (mask, torch.ones_like(mask)):
        expected = loss.slow(student.tolist(), teacher.tolist(), used.tolist())
        assert float(loss.fast(student, teacher, used)) == pytest.approx(expected, rel=1e-7, abs=1e-9)
    assert float(loss.fast(student, teacher, None)) == pytest.approx(expected, rel=1e-7, abs=1e-9)


@given(case=cases(), seed=st.integers(0, 2**32 - 1), shift=st.floats(-50, 50))
def test_symmetric_infonce_equals_its_slow_twin(case: Case, seed: int, shift: float) -> None:
    scores, _, mask = case
    places = np.random.default_rng(seed).integers(scores.shape[1], size=len(scores))
    mask[np.arange(len(scores)), places] = True
    positives = torch.from_numpy(places)
    for used in (mask, torch.ones_like(mask)):
        expected = slow.symmetric_infonce(scores.tolist(), places.tolist(), used.tolist(), 1.3)
        found = losses.symmetric_infonce(scores, positives, temperature=1.3, mask_BM=used)
        assert float(found) == pytest.approx(expected, rel=1e-7, abs=1e-9)
        moved = losses.symmetric_infonce(scores + shift, positives, temperature=1.3, mask_BM=used)
        assert float(moved) == pytest.approx(expected, rel=1e-7, abs=1e-9)
    assert float(losses.symmetric_infonce(scores, positives, temperature=1.3)) == pytest.approx(expected, rel=1e-7)


@every_loss
@settings(max_examples=30)
@given(case=cases(), a=st.floats(-50, 50), b=st.floats(-50, 50))
def test_a_constant_added_to_all_scores_of_a_query_changes_nothing(name: str, case: Case, a: float, b: float) -> None:
    student, teacher, mask = case
    loss = LOSSES[name]
    by_query = torch.arange(1.0, len(student) + 1)[:, None]
    shifted = {
        "either": (student + a * by_query, teacher + b * by_query),
        "student": (student + a * by_query, teacher),
        "both": (student + b * by_query, teacher + b * by_query),
    }[loss.shift]
    expected = float(loss.fast(student, teacher, mask))
    assert float(loss.fast(*shifted, mask)) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@every_loss
@settings(max_examples=30)
@given(case=cases(), seed=st.integers(0, 99))
def test_the_order_of_docs_changes_nothing_but_what_the_loss_says(name: str, case: Case, seed: int) -> None:
    student, teacher, mask = case
    loss = LOSSES[name]
    order = np.random.default_rng(seed).permutation(student.shape[1])
    if loss.order == "others":
        order = np.array([0, *order[order != 0]])
    elif loss.order == "none":
        # Its orders are drawn by doc number; what is drawn is tested below.
        order = np.arange(student.shape[1])
    moved = torch.from_numpy(order)
    expected = float(loss.fast(student, teacher, mask))
    found = float(loss.fast(student[:, moved], teacher[:, moved], mask[:, moved]))
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-9)


@settings(max_examples=30)
@given(case=cases())
def test_losses_on_ranks_heed_only_the_order_of_what_is_learnt(case: Case) -> None:
    student, teacher, mask = case
    other = teacher.sign() * teacher.square() + 3 * teacher
    for loss in (losses.lambda_mrr, losses.adr_mse):
        expected = float(loss(student, teacher, mask_BN=mask))
        assert float(loss(student, other, mask_BN=mask)) == pytest.approx(expected, rel=1e-9)
    expected = float(losses.lambdarank(student, teacher, mask_BN=mask))
    assert float(losses.lambdarank(student, 7 * teacher, mask_BN=mask)) == pytest.approx(expected, rel=1e-9)
    assert float(losses.weighted_ranknet(student, 7 * teacher)) == pytest.approx(
        7 * float(losses.weighted_ranknet(student, teacher)), rel=1e-9
    )


@every_loss
@settings(max_examples=20)
@given(case=cases(), noise=st.sampled_from([37.0, float("nan"), float("inf"), -float("inf")]))
def test_masked_docs_have_no_influence(name: str, case: Case, noise: float) -> None:
    student, teacher, mask = case
    results = []
    for filler in (0.0, noise):
        scores = torch.where(mask, student, filler).requires_grad_()
        loss = LOSSES[name].fast(scores, torch.where(mask, teacher, filler), mask)
        (gradient,) = torch.autograd.grad(loss, scores)
        results.append((loss.detach(), gradient))
    torch.testing.assert_close(results[1], results[0])
    assert (results[0][1][~mask] == 0).all()


@every_loss
@settings(max_examples=8)
@given(case=cases())
def test_gradients_are_those_of_finite_differences(name: str, case: Case) -> None:
    student, teacher, mask = case
    loss = LOSSES[name].fast
    student.requires_grad_()
    # Weights made of ranks are constants to the gradient, as they are to differences this small.
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, mask), student, atol=1e-4)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, None), student, atol=1e-4)


ROWS = {
    "all equal": ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]),
    "student equal": ([2.0, 2.0, 2.0, 2.0], [3.0, 1.0, 0.0, -1.0]),
    "tied": ([1.0, 1.0, 0.0, 0.0], [0.0, 2.0, 2.0, -1.0]),
    "huge": ([1e8, -1e8, 1e8, 0.0], [1e8, 1e8, -1e8, 1.0]),
    "huge and opposed": ([-1e8, 1e8, 0.0, 1.0], [1e8, -1e8, 1.0, 0.0]),
    "tiny": ([1e-38, 0.0, -1e-38, 1e-30], [0.0, 1e-38, -1e-38, 1e-30]),
}


@every_loss
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_scores_give_finite_values_and_gradients(name: str, row: str, dtype: torch.dtype) -> None:
    student, teacher = (torch.tensor([scores, [0.5, 0.1, 0.2, 0.0]], dtype=dtype) for scores in ROWS[row])
    if name == "lambdarank at 2" and "huge" in row:
        teacher = teacher.clamp(max=100)  # its gain is 2 to the power of relevance
    student.requires_grad_()
    for mask in (None, torch.tensor([[True, True, True, False], [True, True, False, False]])):
        loss = LOSSES[name].fast(student, teacher, mask)
        (gradient,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


# The others learn that doc 0 is relevant, or an order drawn by chance.
INDIFFERENT = LOSSES.keys() - {"ranknet", "infonce", "localized_contrastive", "rankdistil", "rankdistil's first 2"}


@pytest.mark.parametrize("name", sorted(INDIFFERENT))
def test_a_teacher_without_a_preference_gives_a_student_without_one_no_gradient(name: str) -> None:
    equal = torch.zeros(2, 3)
    student = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(LOSSES[name].fast(student, equal, None), student)
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.agree])
def test_zero_exactly_when_both_agree(name: str) -> None:
    scores = torch.tensor([[3.0, 1.0, 0.5], [0.0, -2.0, 7.0]])
    other = scores if LOSSES[name].shift == "both" else scores + torch.tensor([[4.0], [-9.0]])
    assert float(LOSSES[name].fast(other, scores, None)) == pytest.approx(0, abs=1e-6)
    assert float(LOSSES[name].fast(scores * 2, scores, None)) > 0.05


def test_a_query_where_too_few_docs_count_is_left_out() -> None:
    student, teacher = torch.tensor([[1.0, 5.0], [2.0, 3.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.5]])
    mask = torch.tensor([[1, 0], [1, 1]])
    assert float(losses.margin_mse_all_pairs(student, teacher, mask)) == pytest.approx(0.25)
    assert float(losses.margin_mse(student, teacher, mask_BN=mask)) == pytest.approx(0.25)
    assert float(losses.ranknet(student, mask_BN=mask)) == pytest.approx(float(losses.ranknet(student[1:])))
    assert float(losses.lambda_mrr(student, teacher, mask_BN=mask)) == pytest.approx(
        float(losses.lambda_mrr(student[1:], teacher[1:]))
    )
    assert float(losses.margin_mse(student, teacher, mask_BN=torch.tensor([[1, 0], [0, 1]]))) == 0


def test_orders_are_drawn_in_proportion_to_the_teachers_probabilities() -> None:
    teacher = torch.tensor([[2.0, 0.0, 1.0]])
    generator = torch.Generator().manual_seed(1)
    drawn = losses.plackett_luce_orders(teacher, 20_000, generator=generator)[0]
    first = torch.bincount(drawn[:, 0], minlength=3) / len(drawn)
    torch.testing.assert_close(first, teacher.softmax(1)[0], atol=0.01, rtol=0)
    after_0 = torch.bincount(drawn[drawn[:, 0] == 0, 1], minlength=3)
    assert float(after_0[2] / after_0.sum()) == pytest.approx(float(torch.tensor([1.0, 0.0]).softmax(0)[0]), abs=0.01)
    again = losses.plackett_luce_orders(teacher, 20_000, generator=torch.Generator().manual_seed(1))[0]
    assert (again == drawn).all()


def test_orders_without_noise_to_speak_of_are_the_teachers_ranking_with_masked_docs_last() -> None:
    teacher = torch.tensor([[3.0, 9.0, 5.0, 7.0]])
    ranking = losses.plackett_luce_orders(teacher, 4, temperature=1e-6)
    assert ranking.tolist() == [[[1, 3, 2, 0]] * 4]
    mask = torch.tensor([[1, 0, 1, 1]])
    assert losses.plackett_luce_orders(teacher, 1, temperature=1e-6, mask_BN=mask).tolist() == [[[3, 2, 0, 1]]]


@pytest.mark.parametrize(
    "loss",
    [
        losses.margin_mse,
        losses.margin_mse_all_pairs,
        losses.weighted_ranknet,
        losses.kl_divergence,
        losses.listnet,
        losses.lambdarank,
        losses.lambda_mrr,
        losses.adr_mse,
    ],
)
def test_shapes_that_compare_nothing_are_refused(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"shapes differ: student \(2, 3\), teacher \(2, 2\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"N >= 2, found \(2, 1\)"):
        loss(torch.zeros(2, 1), torch.zeros(2, 1))


def test_what_else_is_refused() -> None:
    scores = torch.zeros(2, 3)
    one: Callable[[Tensor], Tensor]
    for one in (losses.ranknet, losses.localized_contrastive, lambda s: losses.plackett_luce_orders(s, 1)):
        with pytest.raises(ValueError, match=r"N >= 2, found \(2, 1\)"):
            one(torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"N >= 2, found \(2, 1\)"):
        losses.rankdistil(torch.zeros(2, 1), torch.zeros(2, 1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"shapes differ: student \(2, 3\), teacher \(2, 2\)"):
        losses.pointwise_mse(scores, torch.zeros(2, 2))
    with pytest.raises(ValueError, match='direction must be "forward" or "reverse", not \'back\''):
        losses.kl_divergence(scores, scores, direction="back")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="discount must be"):
        losses.adr_mse(scores, scores, discount="log")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gain must be"):
        losses.lambdarank(scores, scores, gain="log")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cutoff k >= 1, found 0"):
        losses.lambdarank(scores, scores, k=0)
    with pytest.raises(ValueError, match="top_k >= 1, found 0"):
        losses.rankdistil(scores, torch.zeros(2, 1, 3, dtype=torch.long), top_k=0)
    with pytest.raises(ValueError, match=r"orders of shape \[2, S, 3\], found \(2, 3\)"):
        losses.rankdistil(scores, torch.zeros(2, 3, dtype=torch.long))
