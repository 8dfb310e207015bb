"""Losses on the distribution that scores give over the docs of a query."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from rankdistill.losses._common import blank, check_both, lowest

__all__ = ["kl_divergence", "listnet"]


def kl_divergence(
    student_scores_BN: Tensor,
    teacher_scores_BN: Tensor,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    direction: Literal["forward", "reverse"] = "forward",
    mask_BN: Tensor | None = None,
) -> Tensor:
    """Kullback-Leibler divergence between the student's and the teacher's distributions over docs, mean over queries.

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        teacher_scores_BN: the teacher's scores of the same docs, in the same order.
        student_temperature: divides the student's scores.
        teacher_temperature: divides the teacher's scores.
        direction: "forward" is KL(teacher ‖ student): the student has to cover all docs that the teacher likes. "reverse"
            is KL(student ‖ teacher): it must not like any doc that the teacher doesn't, and may leave some out.
        mask_BN: 1 for docs that count; None counts all.

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: if the shapes differ, N < 2, or for another direction.

    Invariance:
        Adding a constant to all scores of one query, on either side, changes nothing; nor does the order of docs. Never
        negative, and 0 exactly where both agree.

    Source:
        Listwise distillation as in ColBERTv2, arXiv:2112.01488 (KL(teacher ‖ student), "batchmean").
    """
    check_both(student_scores_BN, teacher_scores_BN)
    if direction not in ("forward", "reverse"):
        raise ValueError(f'direction must be "forward" or "reverse", not {direction!r}')
    student, teacher = student_scores_BN / student_temperature, teacher_scores_BN / teacher_temperature
    log_student, log_teacher = (blank(scores, mask_BN, lowest(scores)).log_softmax(-1) for scores in (student, teacher))
    if direction == "reverse":
        log_student, log_teacher = log_teacher, log_student
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean()


def listnet(
    student_scores_BN: Tensor,
    teacher_scores_BN: Tensor,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    mask_BN: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the student's top-1 distribution under the teacher's, mean over queries.

    It is forward KL plus the teacher's entropy: other values, the same gradients.

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        teacher_scores_BN: the teacher's scores of the same docs, in the same order.
        student_temperature: divides the student's scores.
        teacher_temperature: divides the teacher's scores.
        mask_BN: 1 for docs that count; None counts all.

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: if the shapes differ or N < 2.

    Invariance:
        Adding a constant to all scores of one query, on either side, changes nothing; nor does the order of docs.

    Source:
        Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach".
    """
    check_both(student_scores_BN, teacher_scores_BN)
    student, teacher = student_scores_BN / student_temperature, teacher_scores_BN / teacher_temperature
    log_student = blank(student, mask_BN, lowest(student)).log_softmax(-1)
    return -(blank(teacher, mask_BN, lowest(teacher)).softmax(-1) * log_student).sum(-1).mean()
