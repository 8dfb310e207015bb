"""Values as functions of progress."""

from __future__ import annotations

from torch import Tensor

__all__ = ["quadratic_warmup"]


def quadratic_warmup(step: Tensor, num_steps: int) -> Tensor:
    """The share of a weight at a step: rises from 0 with the square of the step, and is 1 from `num_steps` on.

    Source:
        SPLADE, arXiv:2107.05720: sparsity is asked for only after the model has begun to rank.
    """
    return (step / max(1, num_steps)).clamp(max=1.0) ** 2
