"""Options of the single students of `train margin-mse`, named as the student: `--prett.join-layer 3`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PrettOptions"]


@dataclass(frozen=True, kw_only=True)
class PrettOptions:
    """What only a PreTT student has."""

    join_layer: int | None = None
    """Layers that read query and document apart (their result can be kept for documents); half of them by default, as
    the paper's 3 of 6."""

    compress_dim: int | None = None
    """Squeeze the kept states to this width; by default they're as wide as the encoder."""
