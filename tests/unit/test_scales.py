"""What training says where the teacher's scores are on another scale than the student starts with."""

from __future__ import annotations

import pytest
import torch

from rankdistill.models.towers import BatchScores
from rankdistill.options.training import LossOptions
from rankdistill.training.scales import scale_notice

# Rows of three docs, of the batch's four. Within a row the student's scores deviate by sqrt(2 / 3) * 30, the teacher's by a tenth.
SCORES_BM = torch.tensor([[130.0, 100.0, 999.0, 70.0], [-999.0, 30.0, 0.0, 60.0]])
COLUMNS_BN = torch.tensor([[0, 1, 3], [3, 1, 2]])
TEACHER_BN = torch.tensor([[8.0, 5.0, 2.0], [0.0, 3.0, -3.0]])


def notices(loss: dict[str, float], *, times: int = 1, in_batch: bool = True, **options: float) -> list[str]:
    said: list[str] = []
    notice = scale_notice(loss, LossOptions(**options), said.append)  # type: ignore[arg-type]
    own = SCORES_BM.gather(1, COLUMNS_BN)
    batch = {"teacher_scores": TEACHER_BN} | ({"doc_columns": COLUMNS_BN} if in_batch else {})
    for _ in range(times):
        if notice is not None:
            notice(BatchScores(SCORES_BM if in_batch else own, in_batch), batch)
    return said


@pytest.mark.parametrize("in_batch", [True, False])
def test_it_is_said_once_with_what_to_do(in_batch: bool) -> None:
    (said,) = notices({"margin-mse": 0.05}, times=3, in_batch=in_batch)
    assert said == (
        "the student starts with scores 10 times as far apart as the teacher's (within a row 24 and 2.4): margin-mse will make "
        "it unlearn what it knows. --teacher-scale 10 brings the teacher's near"
    )


def test_beside_labels_all_terms_move_together() -> None:
    (said,) = notices({"margin-mse": 0.04, "infonce": 1.0}, teacher_scale=0.5, temperature=2.0)
    assert said.endswith(
        "--teacher-scale 10 brings the teacher's near; --temperature 40 and --loss margin-mse:0.0001 keep the balance with the "
        "labels"
    )


def test_the_advice_helps() -> None:
    assert notices({"margin-mse": 1.0}, teacher_scale=10.0) == []


@pytest.mark.parametrize("loss", ["kl", "weighted-ranknet", "infonce", "in-batch-margin-mse"])
def test_what_does_not_copy_the_scores_says_nothing(loss: str) -> None:
    assert notices({loss: 1.0}) == []


@pytest.mark.parametrize("teacher_scale", [0.0, 2.5, 100.0])
def test_near_or_below_the_teacher_or_without_one_is_fine(teacher_scale: float) -> None:
    assert notices({"pointwise-mse": 1.0}, teacher_scale=teacher_scale) == []
