"""A body in pieces: the layers between one exit and the next, so that a forward pass may stop, look, and go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from rankdistill.models.exits import between, family_of

__all__ = ["segments"]


class _PassOn(nn.Module):
    """In place of the embeddings: hands on the states that it's given."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        return next(value for value in given if value.is_floating_point())


def segments(body: PreTrainedModel, exits: Sequence[int]) -> list[PreTrainedModel]:
    """Bodies that run the layers up to the first exit, from there to the second, and so on, by their own code.

    The first takes `input_ids`, the others the former's first output as `inputs_embeds`; all take the attention mask. Their
    outputs are without a final norm, which is `exits.final_norm`'s. Modules are shared with `body`, not copied.

    Raises:
        WrongModelError: for a family that isn't covered.
    """
    family = family_of(body)
    found = []
    for start, stop in zip((0, *exits), exits, strict=False):
        piece = between(body, start, stop)
        if family.norm:
            setattr(piece, family.norm, nn.Identity())
        if start:
            piece.embeddings = _PassOn()
            piece._modules.pop("embeddings_project", None)  # ELECTRA's, from embeddings to states
        found.append(piece)
    return found
