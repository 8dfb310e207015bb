"""A body in pieces: the layers between one exit and the next, so that a forward pass may stop, look, and go on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from rankdistill.models.exits import family_of, shallow_copy

__all__ = ["final_norm", "segments"]


class _PassOn(nn.Module):
    """In place of the embeddings: hands on the states that it's given."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        return next(value for value in given if value.is_floating_point())


def segments(body: PreTrainedModel, exits: Sequence[int]) -> list[PreTrainedModel]:
    """Bodies that run the layers up to the first exit, from there to the second, and so on, by their own code.

    The first takes `input_ids`, the others the former's first output as `inputs_embeds`; all take the attention mask. Their
    outputs are without a final norm, which is `final_norm`'s. Modules are shared with `body`, not copied.

    Raises:
        BadDataError: for a family that isn't covered.
    """
    family = family_of(body)
    found = []
    for start, stop in zip((0, *exits), exits, strict=False):
        config = copy.deepcopy(body.config)
        config.num_hidden_layers = stop - start
        for name, value in list(vars(config).items()):  # per-layer lists, such as ModernBERT's layer_types
            if isinstance(value, list) and len(value) == body.config.num_hidden_layers and name.startswith("layer"):
                setattr(config, name, value[start:stop])
        top: Any = shallow_copy(body)
        top.config = config
        parent, (*outer, name) = top, family.layers.split(".")
        for step in outer:
            inner = shallow_copy(getattr(parent, step))
            inner.config = config
            setattr(parent, step, inner)
            parent = inner
        setattr(parent, name, nn.ModuleList(list(getattr(parent, name))[start:stop]))
        if family.norm:
            setattr(top, family.norm, nn.Identity())
        if start:
            top.embeddings = _PassOn()
            top._modules.pop("embeddings_project", None)  # ELECTRA's, from embeddings to states
        found.append(top)
    return found


def final_norm(body: PreTrainedModel) -> nn.Module:
    """What is applied to the states at each exit; nothing for families whose layers end in a norm of their own."""
    name = family_of(body).norm
    norm: nn.Module = getattr(body, name) if name else nn.Identity()
    return norm
