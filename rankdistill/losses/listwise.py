"""Losses on the distribution that scores give over the docs of a query."""

from __future__ import annotations

from torch import Tensor

__all__ = ["kl_divergence"]


def kl_divergence(
    student_scores_BN: Tensor,
    teacher_scores_BN: Tensor,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    mask_BN: Tensor | None = None,
) -> Tensor:
    """Kullback-Leibler divergence of the student's distribution over docs from the teacher's, mean over queries.

    Args:
        student_scores_BN: scores of N >= 2 docs for each of B queries; gradients flow.
        teacher_scores_BN: the teacher's scores of the same docs, in the same order.
        student_temperature: divides the student's scores.
        teacher_temperature: divides the teacher's scores.
        mask_BN: 1 for docs that count; None counts all.

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: if the shapes differ.

    Invariance:
        Adding a constant to all scores of one query, on either side, changes nothing. 0 exactly where both agree.

    Source:
        Listwise distillation as in ColBERTv2, arXiv:2112.01488 (KL(teacher ‖ student), "batchmean").
    """
    if student_scores_BN.shape != teacher_scores_BN.shape:
        raise ValueError(
            f"shapes differ: student {tuple(student_scores_BN.shape)}, teacher {tuple(teacher_scores_BN.shape)}"
        )
    student, teacher = student_scores_BN / student_temperature, teacher_scores_BN / teacher_temperature
    if mask_BN is not None:
        # A large finite value instead of -inf: 0 * (-inf - -inf) would be NaN.
        student, teacher = (scores.masked_fill(mask_BN == 0, -1e9) for scores in (student, teacher))
    log_student, log_teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean()
