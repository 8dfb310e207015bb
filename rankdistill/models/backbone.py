"""Loads an encoder body of transformers, whole or its first layers only."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

__all__ = ["config_with_layers", "load_tokenizer", "weights_fingerprint"]


def config_with_layers(path: str, num_layers: int | None, **overrides: Any) -> PretrainedConfig:
    """The config at `path`, cut to its first `num_layers` layers (None keeps all).

    Raises:
        ValueError: if the model hasn't that many layers.
    """
    config = AutoConfig.from_pretrained(path, **overrides)
    if num_layers is not None:
        depth = int(config.num_hidden_layers)
        if not 1 <= num_layers <= depth:
            raise ValueError(f"num_layers={num_layers} does not exist: {path} has layers 1 to {depth}")
        config.num_hidden_layers = num_layers
        for name, value in list(vars(config).items()):  # per-layer lists, such as ModernBERT's layer_types
            if isinstance(value, list) and len(value) == depth and name.startswith("layer"):
                setattr(config, name, value[:num_layers])
    return config


def load_tokenizer(path: str) -> Any:
    """The fast tokenizer at `path`.

    Raises:
        ValueError: if the model has no fast (Rust) tokenizer; token stores need one.
    """
    tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True)
    if not tokenizer.is_fast:
        raise ValueError(f"{path} has no fast tokenizer (tokenizer.json); convert it with transformers first")
    return tokenizer


def weights_fingerprint(module: nn.Module, extra: str = "") -> str:
    """A hash of all weights and of `extra`: equal when a model would give the same outputs."""
    digest = hashlib.sha256(extra.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
