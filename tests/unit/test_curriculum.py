"""Target transforms of a curriculum."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from rankdistill.data.curriculum import interpolated_scores, rank_labels

TOP = [1 / rank for rank in range(1, 31)]
# Label modes of CL-DRD's code (dataset/nway_dataset.py): 30 docs a query, in the teacher's order.
MODES = {
    3: (10, (0.0,), TOP[:10] + [0.0] * 20),
    5: (20, (0.0,), TOP[:20] + [0.0] * 10),
    6: (30, (-0.25, -0.5), TOP),
    7: (5, (0.0,), TOP[:5] + [0.0] * 25),
    8: (5, (-0.25, -0.5), TOP[:5] + [-0.25] * 12 + [-0.5] * 13),
    9: (10, (-0.25, -0.5), TOP[:10] + [-0.25] * 10 + [-0.5] * 10),
    10: (20, (-0.25, -0.5), TOP[:20] + [-0.25] * 5 + [-0.5] * 5),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_label_modes_of_cl_drd(mode: int) -> None:
    num_top, rest, expected = MODES[mode]
    by_rank = torch.linspace(9, -3, 30, dtype=torch.float64)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(mode))
    scores = torch.stack([by_rank, by_rank[order]])
    labels = rank_labels(scores, num_top, rest)
    assert labels[0].tolist() == expected
    assert labels[1].tolist() == torch.tensor(expected, dtype=torch.float64)[order].tolist()


def test_labels_follow_the_order_of_scores_only_and_the_first_of_tied_docs_is_first() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, -2.0]])
    labels = rank_labels(scores, 2, (0.0, -1.0))
    assert labels.tolist() == [[0.0, 1.0, 0.5, -1.0]]
    assert rank_labels(scores.exp() - 9, 2, (0.0, -1.0)).tolist() == labels.tolist()
    torch.testing.assert_close(rank_labels(scores), torch.tensor([[1 / 3, 1.0, 0.5, 0.25]]))
    assert torch.equal(rank_labels(scores, 99), rank_labels(scores))


@pytest.mark.parametrize(
    ("num_top", "rest", "message"),
    [
        (0, (0.0,), "expected num_top >= 1, found 0"),
        (2, (), r"fall from below 1/2, found \(\)"),
        (2, (0.5,), r"fall from below 1/2, found \(0.5,\)"),
        (2, (-0.5, -0.25), "fall from below 1/2"),
        (2, (0.0, 0.0), "fall from below 1/2"),
    ],
)
def test_labels_that_do_not_fall_are_refused(num_top: int, rest: Sequence[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_labels(torch.zeros(1, 4), num_top, rest)


def test_interpolated_scores_lie_between_and_carry_no_gradient_of_the_student() -> None:
    student, teacher = torch.tensor([[2.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 4.0]])
    assert interpolated_scores(student, teacher, 0.25).tolist() == [[1.5, 1.0]]
    assert interpolated_scores(student, teacher, 0).tolist() == student.tolist()
    assert interpolated_scores(student, teacher, 1).tolist() == teacher.tolist()
    assert not interpolated_scores(student, teacher, 0.25).requires_grad
    with pytest.raises(ValueError, match=r"share between 0 and 1, found 1\.5"):
        interpolated_scores(student, teacher, 1.5)
