"""A body run over its texts' tokens alone, without the padding that makes them a rectangle.

All tokens of a batch stand in one row. Whatever a body does token by token (nearly all of its work) is one product of as many
rows as there are tokens; only attention, which has to keep texts apart, is given rectangles. So training costs what the tokens
cost, and each weight's gradient is made once. Layers are run by the model's own code: attention is told to it by
transformers' own registry of attention functions.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from rankdistill.models.backbone import first_position

__all__ = ["PACKED_FAMILIES", "can_pack", "given_to_body", "run_body", "run_packed"]

PACKED_FAMILIES = ("bert", "camembert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
"""Families, by `model_type`, whose attention comes from the registry and whose positions may be given."""

ATTENTION = "rankdistill-packed"
PARTS = 4
"""Rectangles that attention is given, each as long as its longest text."""


def given_to_body(
    input_ids: Tensor | None,
    attention_mask: Tensor,
    token_type_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
) -> dict[str, Tensor]:
    """The arguments of a body's forward that there are; embeddings that have been looked up stand for ids."""
    given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
    given |= {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
    return {key: value for key, value in given.items() if value is not None}


def run_body(
    body: PreTrainedModel, given: Mapping[str, Tensor], *, packed: bool, output_hidden_states: bool = False
) -> Any:
    """What a body gives: by `run_packed` if `packed`, else called as it is."""
    if packed:
        return run_packed(body, given, output_hidden_states=output_hidden_states)
    # What a backend put in the body's place is called by the names of tensors alone.
    return body(**given, output_hidden_states=True) if output_hidden_states else body(**given)


def can_pack(body: nn.Module, device: torch.device) -> bool:
    """Whether `run_packed` is worth it for a body: in training on a CPU, for families whose code allows it.

    A GPU would rather have few big products, and not wait for lengths.
    """
    if not isinstance(body, PreTrainedModel) or not body.training or device.type != "cpu":
        return False
    # ModernBERT's code looks there since transformers 5.1.
    has_registry = hasattr(sys.modules[type(body).__module__], "ALL_ATTENTION_FUNCTIONS")
    return has_registry and body.config.model_type in PACKED_FAMILIES


def run_packed(body: PreTrainedModel, given: Mapping[str, Tensor], *, output_hidden_states: bool = False) -> Any:
    """What `body(**given)` gives: states [B, L, H] after the last layer and, if asked for, after each; where masked, they are 0.

    Args:
        body: of one of PACKED_FAMILIES.
        given: attention_mask [B, L] with padding on the right, input_ids [B, L] or inputs_embeds [B, L, H], and
            token_type_ids [B, L] or not.
        output_hidden_states: as in transformers.
    """
    mask_BL = given["attention_mask"].bool()
    kept = mask_BL.flatten().nonzero().flatten()
    packed = {
        name: _Take.apply(tensor.flatten(0, 1), kept)[None]
        for name, tensor in given.items()
        if name != "attention_mask"
    }
    positions_BL = torch.arange(mask_BL.shape[1]).expand_as(mask_BL) + first_position(body.config)
    with _attention_by(body):
        output = body(
            **packed,
            position_ids=positions_BL.flatten()[kept][None],
            output_hidden_states=output_hidden_states,
            packed_texts=_in_parts(mask_BL),
        )

    def unpacked(states_1TH: Tensor) -> Tensor:
        states: Tensor = _Put.apply(states_1TH[0], kept, mask_BL.numel())
        return states.view(*mask_BL.shape, -1)

    states = tuple(map(unpacked, output.hidden_states)) if output_hidden_states else None
    return BaseModelOutput(states[-1] if states else unpacked(output[0]), hidden_states=states)


@dataclass(frozen=True)
class _Part:
    """Some texts next to each other.

    Attributes:
        tokens: where they are among all tokens.
        mask_BL: which places of the texts' rectangle have a token.
        places: [T], the place of each token in the rectangle; None if they fill it.
    """

    tokens: slice
    mask_BL: Tensor
    places: Tensor | None


def _in_parts(mask_BL: Tensor) -> tuple[_Part, ...]:
    """Texts in quarters, which pad little where they come shortest first."""
    parts, start = [], 0
    for some_BL in mask_BL.chunk(PARTS):
        lengths = some_BL.sum(1)
        trimmed_BL = some_BL[:, : int(lengths.max())]
        stop = start + int(lengths.sum())
        full = stop - start == trimmed_BL.numel()
        parts.append(_Part(slice(start, stop), trimmed_BL, None if full else trimmed_BL.flatten().nonzero().flatten()))
        start = stop
    return tuple(parts)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_texts: Sequence[_Part],
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each text, in the form of transformers' registry.

    Args:
        query: [1, heads, T, D] of all texts' tokens; so for `key` and `value`.
        packed_texts: which tokens are of which text.
        sliding_window: tokens so far apart, or more, don't see each other.

    Returns:
        [1, T, heads, D].
    """
    found = []
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]  # [T, heads, D]
    for part in packed_texts:
        query, key, value = (_rectangle(states_THD[part.tokens], part) for states_THD in rows)
        seen = None if part.places is None else part.mask_BL[:, None, None, :]
        if sliding_window is not None and part.mask_BL.shape[1] > sliding_window:
            at = torch.arange(part.mask_BL.shape[1])
            near_LL = (at[:, None] - at).abs() < sliding_window
            seen = near_LL if seen is None else seen & near_LL
            # A place of padding that sees nothing would become nan, and its gradient too.
            seen = seen | torch.eye(len(at), dtype=torch.bool)
        out_BHLD = functional.scaled_dot_product_attention(query, key, value, seen, dropout_p=dropout, scale=scaling)
        out = out_BHLD.transpose(1, 2).flatten(0, 1)
        found.append(out if part.places is None else _Take.apply(out, part.places))
    return torch.cat(found)[None], None


AttentionInterface.register(ATTENTION, _attention)


def _rectangle(states_THD: Tensor, part: _Part) -> Tensor:
    """[B, heads, L, D] of a part's tokens; 0 where there are none."""
    if part.places is not None:
        states_THD = _Put.apply(states_THD, part.places, part.mask_BL.numel())
    return states_THD.view(*part.mask_BL.shape, *states_THD.shape[1:]).transpose(1, 2)


@contextmanager
def _attention_by(body: PreTrainedModel) -> Iterator[None]:
    """The registered attention, in every part of the body; layers look up its name in their config when they're run."""
    configs: dict[int, Any] = {id(part.config): part.config for part in body.modules() if hasattr(part, "config")}
    former = [config._attn_implementation for config in configs.values()]
    for config in configs.values():
        config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        for config, name in zip(configs.values(), former, strict=True):
            config._attn_implementation = name


# Each is the other's gradient. torch's own gradient of index_select adds row by row, which is slow on a CPU, since places
# might be alike; ours never are.


class _Take(torch.autograd.Function):
    """Rows at some places, each of them once."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.num_rows = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return _put(gradient, places, ctx.num_rows), None


class _Put(torch.autograd.Function):
    """Rows put at some places among `num_rows`; the others are 0."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(places)
        return _put(rows, places, num_rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return gradient.index_select(0, places), None, None


def _put(rows: Tensor, places: Tensor, num_rows: int) -> Tensor:
    return rows.new_zeros(num_rows, *rows.shape[1:]).index_copy_(0, places, rows)
