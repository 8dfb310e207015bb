"""Notices that a student starts on another scale than its teacher's, where the loss copies scores as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from rankdistill.models.towers import BatchScores
from rankdistill.options.training import LossOptions
from rankdistill.training.terms import is_contrastive
from rankdistill.training.trainer import Batch

__all__ = ["scale_notice"]

_COPIES = ("margin-mse", "margin-mse-all-pairs", "pointwise-mse")
# What a student knows at first is lost where its scores must shrink much. One that starts near 0 (with a new head, say) only grows.
_FAR = 5.0


def scale_notice(
    weights: Mapping[str, float], options: LossOptions, say: Callable[[str], None]
) -> Callable[[BatchScores, Batch], None] | None:
    """What looks at the scores of a training's first batch and gives advice if the teacher's are far nearer to one another.

    Args:
        weights: of each loss term.
        options: the scale and the temperature that are used.
        say: gets the advice, at most once.

    Returns:
        None where no term copies scores.
    """
    copying = {name: weight for name, weight in weights.items() if name in _COPIES}
    if not copying:
        return None
    is_first = True

    def notice(found: BatchScores, batch: Batch) -> None:
        nonlocal is_first
        if not is_first:
            return
        is_first = False
        own = found.own(batch["doc_columns"]) if found.in_batch else found.scores
        its, theirs = _spread(own), _spread(batch["teacher_scores"]) * options.teacher_scale
        if its > _FAR * theirs > 0:
            say(_advice(its, theirs, copying, any(map(is_contrastive, weights)), options))

    return notice


def _advice(its: float, theirs: float, copying: Mapping[str, float], with_labels: bool, options: LossOptions) -> str:
    ratio = its / theirs
    found = (
        f"the student starts with scores {_short(ratio)} times as far apart as the teacher's (within a row {_short(its)} and "
        f"{_short(theirs)}): {', '.join(copying)} will make it unlearn what it knows. "
        f"--teacher-scale {_short(options.teacher_scale * ratio)} brings the teacher's near"
    )
    if with_labels:
        terms = " ".join(f"{name}:{_short(weight / ratio**2)}" for name, weight in copying.items())
        found += (
            f"; --temperature {_short(options.temperature * ratio)} and --loss {terms} keep the balance with the labels"
        )
    return found


def _short(number: float) -> str:
    """Two digits of it."""
    return f"{float(f'{number:.2g}'):g}"


def _spread(scores_BN: Tensor) -> float:
    """How far a row's scores are from their mean, root mean square."""
    scores_BN = scores_BN.detach().float()
    return float((scores_BN - scores_BN.mean(1, keepdim=True)).square().mean().sqrt())
