"""A classifier of transformers taken apart: its body, and the head that its own code puts on the body's states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from rankdistill.models.exits import shallow_copy

__all__ = ["GivenStates", "head_of", "with_body"]

_POOLER = "pooler"


def head_of(classifier: PreTrainedModel) -> dict[str, nn.Module]:
    """What a classifier puts after its body's layers, by name."""
    body = classifier.base_model
    head = {name: module for name, module in classifier.named_children() if module is not body}
    pooler = getattr(body, _POOLER, None)
    return head if pooler is None else head | {_POOLER: pooler}


def with_body(classifier: PreTrainedModel, body: Any, head: Mapping[str, nn.Module]) -> PreTrainedModel:
    """A classifier of the same code with another body, whose pooler is set, and another head."""
    other: PreTrainedModel = shallow_copy(classifier)
    for name, module in head.items():
        setattr(body if name == _POOLER else other, name, module)
    setattr(other, classifier.base_model_prefix, body)
    other.config = body.config
    return other


class GivenStates(nn.Module):
    """Stands where a classifier has its body: takes states that are there already for embeddings, and gives them as they are."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.pooler: nn.Module | None = None

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPooling:
        pooled = None if self.pooler is None else self.pooler(inputs_embeds)
        return BaseModelOutputWithPooling(last_hidden_state=inputs_embeds, pooler_output=pooled)
