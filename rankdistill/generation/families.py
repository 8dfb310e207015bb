"""What a tree of tokens needs of an encoder-decoder: its decoder with positions of our choosing, and its output layer.

transformers counts positions by columns of the cache. In a packed tree a token's position is its depth, so BART's and T5's position
embeddings are replaced while the decoder runs (no other thread may use the model then); BERT takes positions as an argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rankdistill.models.backbone import first_position

__all__ = ["Family", "encode", "family_of", "max_positions", "max_source_positions"]

# (input_ids [B, M], mask [B, 1, M, C], positions [B, C], encoder_states, encoder_mask, cache) -> states [B, M, D]; the last M of
# the C columns are the new tokens.
Decode = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Any], Tensor]


@dataclass(frozen=True)
class Family:
    """A decoder that takes trees.

    Attributes:
        decode: new tokens to states that `weight` [V, D] and `bias` [V] make logits of.
    """

    decode: Decode
    weight: Tensor
    bias: Tensor | None


def family_of(model: Any) -> Family | None:
    """The way to pack trees into this encoder-decoder; None where it isn't known, or its attention takes no masks of ours."""
    kind, decoder = model.config.model_type, model.get_decoder()
    if decoder.config._attn_implementation not in ("sdpa", "eager"):
        return None
    if kind in ("bart", "mbart"):
        return _bart(model, decoder)
    if kind in ("t5", "mt5"):
        return _t5(model, decoder)
    if kind == "encoder-decoder" and model.decoder.config.model_type == "bert":
        return _bert(model.decoder)
    return None


def encode(model: Any, input_ids: Tensor, attention_mask: Tensor, *, project: bool) -> Tensor:
    """The encoder's states [B, S, D]; with `project`, as wide as the decoder takes them."""
    states: Tensor = model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)[0]
    if project and hasattr(model, "enc_to_dec_proj"):
        states = model.enc_to_dec_proj(states)
    return states


def max_positions(model: Any) -> int | None:
    """Tokens that the decoder has positions for; None where there's no limit."""
    return _positions(model.get_decoder().config)


def max_source_positions(model: Any) -> int | None:
    """Tokens that the encoder has positions for; None where there's no limit."""
    return _positions(getattr(model.config, "encoder", model.config))


def _positions(config: Any) -> int | None:
    stated: int | None = getattr(config, "max_position_embeddings", None)
    if stated is None or getattr(config, "relative_attention_num_buckets", None):
        return None
    return stated - first_position(config)


class _GivenPositions(nn.Module):
    """Stands in for learned positions, and ignores what it's asked."""

    def __init__(self, learned: Any, positions: Tensor) -> None:
        super().__init__()
        self.rows = nn.functional.embedding(positions + getattr(learned, "offset", 0), learned.weight)

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.rows


class _NoBias(nn.Module):
    """Stands in for T5's table of biases; the true ones are in the mask."""

    def __init__(self, num_heads: int, like: Tensor) -> None:
        super().__init__()
        self.num_heads, self.like = num_heads, like

    def forward(self, buckets: Tensor) -> Tensor:
        return self.like.new_zeros(*buckets.shape, self.num_heads)


@contextmanager
def _replaced(owner: nn.Module, name: str, stand_in: nn.Module) -> Iterator[None]:
    own = getattr(owner, name)
    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        setattr(owner, name, own)


def _cache_argument(decoder: Any) -> Callable[[Any], dict[str, Any]]:
    """A cache as the decoder's argument: `cache`, or `past_key_values` before transformers 5.24."""
    name = "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"
    return lambda cache: {name: cache}


def _bart(model: Any, decoder: Any) -> Family:
    cached = _cache_argument(decoder)

    def decode(ids: Tensor, mask: Tensor, positions: Tensor, states: Tensor, state_mask: Tensor, cache: Any) -> Tensor:
        given = _GivenPositions(decoder.embed_positions, positions[:, -ids.shape[1] :])
        with _replaced(decoder, "embed_positions", given):
            out: Tensor = decoder(
                input_ids=ids,
                attention_mask=mask,
                encoder_hidden_states=states,
                encoder_attention_mask=state_mask,
                use_cache=True,
                **cached(cache),
            )[0]
        return out

    return Family(decode, model.lm_head.weight, model.final_logits_bias[0])


def _t5(model: Any, decoder: Any) -> Family:
    attention, cached = decoder.block[0].layer[0].SelfAttention, _cache_argument(decoder)
    scale = model.model_dim**-0.5 if getattr(model.config, "scale_decoder_outputs", False) else 1.0

    def decode(ids: Tensor, mask: Tensor, positions: Tensor, states: Tensor, state_mask: Tensor, cache: Any) -> Tensor:
        buckets = attention._relative_position_bucket(
            positions[:, None, :] - positions[:, -ids.shape[1] :, None],
            bidirectional=False,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        bias = attention.relative_attention_bias(buckets).permute(0, 3, 1, 2)
        with _replaced(attention, "relative_attention_bias", _NoBias(attention.n_heads, bias)):
            out: Tensor = decoder(
                input_ids=ids,
                # A sum with the lowest number would overflow to minus infinity, and a row of those has no softmax.
                attention_mask=torch.where(mask < 0, mask, bias),
                encoder_hidden_states=states,
                encoder_attention_mask=state_mask,
                use_cache=True,
                **cached(cache),
            )[0]
        return out * scale

    return Family(decode, model.lm_head.weight, None)


def _bert(decoder: Any) -> Family:
    head, cached = decoder.cls.predictions, _cache_argument(decoder.bert)

    def decode(ids: Tensor, mask: Tensor, positions: Tensor, states: Tensor, state_mask: Tensor, cache: Any) -> Tensor:
        out = decoder.bert(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions[:, -ids.shape[1] :],
            encoder_hidden_states=states,
            encoder_attention_mask=state_mask,
            use_cache=True,
            **cached(cache),
        )[0]
        states_after: Tensor = head.transform(out)
        return states_after

    return Family(decode, head.decoder.weight, head.decoder.bias)
