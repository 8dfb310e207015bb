"""Losses equal their slow twins, keep their invariances, and have the gradients that finite differences find."""

from __future__ import annotations

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
    """Student scores, teacher scores and a mask with at least two docs a query; doc 0 always counts."""
    queries, docs = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.1, 1.0, 8.0]))
    student, teacher = (torch.from_numpy(generator.normal(0, scale, (queries, docs))) for _ in range(2))
    mask = torch.from_numpy(generator.random((queries, docs)) < 0.7)
    mask[:, :2] = True
    return student, teacher, mask


@given(cases())
def test_losses_equal_their_slow_twins(case: Case) -> None:
    student, teacher, mask = case
    s, t, m = student.tolist(), teacher.tolist(), mask.tolist()
    positives = [0] * len(s)
    pairs = [
        (losses.margin_mse(student, teacher), slow.margin_mse(s, t)),
        (losses.margin_mse_all_pairs(student, teacher, mask), slow.margin_mse_all_pairs(s, t, m)),
        (losses.ranknet(student), slow.ranknet(s)),
        (
            losses.kl_divergence(student, teacher, student_temperature=0.7, teacher_temperature=2.0),
            slow.kl_divergence(s, t, 0.7, 2.0),
        ),
        (
            losses.infonce(student, torch.tensor(positives), temperature=1.3, mask_BM=mask),
            slow.infonce(s, positives, m, 1.3),
        ),
    ]
    for fast, expected in pairs:
        assert float(fast) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(cases(), st.floats(-50, 50), st.floats(-50, 50))
def test_a_constant_added_to_all_scores_of_a_query_changes_nothing(case: Case, a: float, b: float) -> None:
    student, teacher, mask = case
    positives = torch.zeros(len(student), dtype=torch.long)
    for loss in (
        losses.margin_mse,
        lambda s, t: losses.margin_mse_all_pairs(s, t, mask),
        lambda s, t: losses.kl_divergence(s, t, mask_BN=mask),
        lambda s, _: losses.ranknet(s),
        lambda s, _: losses.infonce(s, positives, mask_BM=mask),
    ):
        assert float(loss(student + a, teacher + b)) == pytest.approx(float(loss(student, teacher)), rel=1e-6, abs=1e-9)


@given(cases())
def test_masked_docs_have_no_influence(case: Case) -> None:
    student, teacher, mask = case
    noise = torch.where(mask, 0.0, 37.0)
    positives = torch.zeros(len(student), dtype=torch.long)
    for loss in (
        lambda s: losses.margin_mse_all_pairs(s, teacher, mask),
        lambda s: losses.kl_divergence(s, teacher, mask_BN=mask),
        lambda s: losses.infonce(s, positives, mask_BM=mask),
    ):
        assert float(loss(student + noise)) == pytest.approx(float(loss(student)), rel=1e-9, abs=1e-12)


@settings(max_examples=20)
@given(cases())
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    student, teacher, mask = case
    positives = torch.zeros(len(student), dtype=torch.long)
    student.requires_grad_()
    for loss in (
        lambda s: losses.margin_mse(s, teacher),
        lambda s: losses.margin_mse_all_pairs(s, teacher, mask),
        lambda s: losses.kl_divergence(s, teacher, mask_BN=mask),
        losses.ranknet,
        lambda s: losses.infonce(s, positives, mask_BM=mask),
    ):
        assert torch.autograd.gradcheck(loss, student, atol=1e-4)


def test_all_pairs_and_kl_are_zero_exactly_when_both_agree() -> None:
    scores = torch.tensor([[3.0, 1.0, 0.5], [0.0, -2.0, 7.0]])
    shifted = scores + torch.tensor([[4.0], [-9.0]])
    assert float(losses.margin_mse_all_pairs(shifted, scores)) == pytest.approx(0, abs=1e-10)
    assert float(losses.kl_divergence(shifted, scores)) == pytest.approx(0, abs=1e-6)
    assert float(losses.margin_mse_all_pairs(scores * 2, scores)) > 0.1


def test_a_query_with_one_unmasked_doc_is_left_out_of_all_pairs() -> None:
    student, teacher = torch.tensor([[1.0, 5.0], [2.0, 3.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.5]])
    mask = torch.tensor([[1, 0], [1, 1]])
    assert float(losses.margin_mse_all_pairs(student, teacher, mask)) == pytest.approx(0.25)


@pytest.mark.parametrize("loss", [losses.margin_mse, losses.margin_mse_all_pairs])
def test_shapes_that_make_no_margin_are_refused(loss: object) -> None:
    assert callable(loss)
    with pytest.raises(ValueError, match=r"shapes differ: student \(2, 3\), teacher \(2, 2\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"N >= 2, found \(2, 1\)"):
        loss(torch.zeros(2, 1), torch.zeros(2, 1))
