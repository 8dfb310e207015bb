"""Target transforms: a teacher's scores in, what the student is to learn from out; pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rankdistill.errors import BadDataError

__all__ = ["EPSILON", "ScoreTransform", "TransformName", "logit", "score_transform"]

ScoreTransform: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]
TransformName: TypeAlias = Literal["none", "logit"]

EPSILON = 1e-7
"""How near to 0 and 1 a probability is taken seriously: about the distance of a float32 near 1 from the next. Logits lie within
+-16.1, so that a saturated sigmoid gives no infinite margin."""


def logit(scores: NDArray[Any]) -> NDArray[np.float32]:
    """log(p / (1 - p)): the raw scores whose sigmoids these are, with p clipped to [EPSILON, 1 - EPSILON].

    Args:
        scores: of any shape, in [0, 1].

    Raises:
        BadDataError: for a score outside [0, 1], which no sigmoid gives.
    """
    probabilities = np.asarray(scores, np.float64)
    outside = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
    if outside.size:
        raise BadDataError(
            "scores in [0, 1], which are sigmoid outputs",
            f"{outside[0]:g}",
            'these are raw scores already: leave out --teacher-transform logit (teacher_transform="logit")',
        )
    clipped = probabilities.clip(EPSILON, 1 - EPSILON)
    raw: NDArray[np.float32] = (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)
    return raw


def score_transform(name: TransformName, format: str) -> ScoreTransform | None:
    """The transform of that name, for scores of a file in that format; None if there's nothing to do.

    Raises:
        ValueError: for an unknown name, or a transform of pair scores where there are margins only.
    """
    if name == "none":
        return None
    if name != "logit":
        raise ValueError(f'expected a transform of none, logit, found "{name}"')
    if format == "margin":
        raise ValueError(
            'expected pair scores for the transform "logit", found a file of margins; a difference of sigmoids '
            "doesn't tell that of logits: pass --teacher-scale instead"
        )
    return logit
