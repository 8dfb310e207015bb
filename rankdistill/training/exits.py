"""The loss over exits: each exit learns every term, weighted by its depth, and may learn from deeper ones.

Source: ModularStarEncoder, arXiv:2503.03008: L = Σ α_i L_i over the exits i, with α_i = i / N for N layers, neither normalised
nor with a teacher. What deeper exits teach is an extension, as in Starbucks (arXiv:2410.13230).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rankdistill.losses import kl_divergence
from rankdistill.models.exits import Cell, ExitScores
from rankdistill.models.towers import BatchScores
from rankdistill.options.training import MarginMSEOptions
from rankdistill.training.trainer import Batch

__all__ = ["ExitLoss", "ExitWeights", "Weighting", "exit_loss", "exit_weights", "teacher_of"]

Weighting = Literal["depth", "uniform", "normalised", "uncertainty"]
ExitWeights = Weighting | Callable[[int, int], float]
"""Weight of each exit's loss, by name or as a function of its layers and the deepest exit's."""


@dataclass(frozen=True)
class ExitLoss:
    """Makes the terms of all exits of those of one.

    Attributes:
        weights: of the exits; shared out evenly among the widths of each.
        teacher: which deeper exit each one learns from, if any.
        teacher_weight: of that term, within its exit's loss.
        temperature: divides scores where exits teach each other.
    """

    weights: ExitWeights = "depth"
    teacher: Literal["none", "last", "next"] = "none"
    teacher_weight: float = 1.0
    temperature: float = 1.0

    def __call__(
        self, found: BatchScores, batch: Batch, terms_of: Callable[[BatchScores, Batch], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Terms named by exit: "exit2/margin-mse", "exit2/dim64/margin-mse".

        Args:
            found: scores at each exit.
            terms_of: the weighted terms of one exit's scores.
        """
        assert isinstance(found, ExitScores)
        exits = list(dict.fromkeys(cell.exit for cell in found.at))
        share = len(exits) / len(found.at)
        weight_of = self._weights(found, exits)
        scores_at = {
            cell: BatchScores(
                scores, found.in_batch, scale=None if found.scales is None else found.scales[exits.index(cell.exit)]
            )
            for cell, scores in found.at.items()
        }
        terms: dict[str, Tensor] = {}
        for cell, scores in scores_at.items():
            own = terms_of(scores, batch)
            teacher = None if self.teacher == "none" else teacher_of(cell, exits, self.teacher)
            if teacher is not None:
                own["self-distillation"] = self.teacher_weight * kl_divergence(
                    scores.scaled(scores.scores),
                    scores_at[teacher].scaled(scores_at[teacher].scores).detach(),
                    student_temperature=self.temperature,
                    teacher_temperature=self.temperature,
                )
            terms |= {f"{cell}/{name}": share * weight_of[cell.exit] * term for name, term in own.items()}
        if found.log_variances is not None and self.weights == "uncertainty":
            terms |= {f"{Cell(exit)}/uncertainty": found.log_variances[i] for i, exit in enumerate(exits)}
        return terms

    def _weights(self, found: ExitScores, exits: Sequence[int]) -> dict[int, float | Tensor]:
        if self.weights != "uncertainty":
            return dict(zip(exits, exit_weights(self.weights, exits), strict=True))
        if found.log_variances is None:
            raise ValueError("uncertainty weights are learnt by the model: call its learn(uncertainty=True) first")
        return dict(zip(exits, (-found.log_variances).exp(), strict=True))


def exit_weights(
    weights: Literal["depth", "uniform", "normalised"] | Callable[[int, int], float], exits: Sequence[int]
) -> list[float]:
    """Weight of each exit's loss.

    Args:
        weights: "depth" is layers / layers of the deepest exit; "normalised" is that, with a sum of 1.
        exits: in order of depth.
    """
    deepest = exits[-1]
    if callable(weights):
        return [weights(exit, deepest) for exit in exits]
    if weights == "uniform":
        return [1.0] * len(exits)
    return [exit / (sum(exits) if weights == "normalised" else deepest) for exit in exits]


def teacher_of(cell: Cell, exits: Sequence[int], teacher: Literal["last", "next"]) -> Cell | None:
    """Where a place in the grid learns from: the deepest exit at full width, or the next deeper exit at the same width.

    Narrow vectors of the deepest exit learn from its full ones, which learn from none.
    """
    if cell.exit == exits[-1]:
        return None if cell.dim is None else Cell(cell.exit)
    return Cell(exits[-1]) if teacher == "last" else Cell(exits[exits.index(cell.exit) + 1], cell.dim)


def exit_loss(options: MarginMSEOptions) -> ExitLoss | None:
    """What the options ask for; None for a student without exits."""
    if not options.student.startswith("multi-exit"):
        return None
    own = options.multi_exit
    if own.teacher_weight < 0:
        raise ValueError(f"expected a --multi-exit.teacher-weight of at least 0, found {own.teacher_weight}")
    return ExitLoss(own.weights, own.teacher, own.teacher_weight, options.temperature)
