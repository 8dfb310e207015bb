"""Loads bodies of transformers, whole or their first layers only, and never with a weight left random unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rankdistill.errors import BadDataError

__all__ = [
    "check_same",
    "config_with_layers",
    "cut_config",
    "first_position",
    "load_tokenizer",
    "load_weights",
    "max_positions",
    "quiet",
    "resolve",
    "set_dropout",
    "weights_fingerprint",
]

_OWN_FAMILY = "rankdistill-"


def resolve(name_or_path: str) -> str:
    """A local folder as it is; a hub id is fetched (once) into the hub's cache, and its folder returned."""
    if os.path.isdir(name_or_path):
        return name_or_path
    if name_or_path.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{name_or_path}: expected a model folder, found nothing there; check the path")
    from huggingface_hub import snapshot_download

    return snapshot_download(
        name_or_path, ignore_patterns=["*.bin", "*.onnx", "*.h5", "*.msgpack", "openvino/*", "onnx/*"]
    )


def config_with_layers(path: str, num_layers: int | None, dropout: float | None = None) -> PretrainedConfig:
    """The config of an encoder at `path`, cut to its first `num_layers` layers, with all its dropouts set; None changes nothing.

    Raises:
        BadDataError: if it's a student of ours that is no encoder of transformers.
        ValueError: if the model hasn't that many layers.
    """
    stated = Path(path) / "config.json"
    family = str(json.loads(stated.read_text(encoding="utf-8")).get("model_type")) if stated.is_file() else ""
    if family.startswith(_OWN_FAMILY):
        found = f"a {family.removeprefix(_OWN_FAMILY)} student of rankdistill"
        raise BadDataError("an encoder of transformers", found, "start from the encoder that it was made of", path)
    config: PretrainedConfig = AutoConfig.from_pretrained(path)
    if num_layers is not None:
        depth = int(config.num_hidden_layers)
        if not 1 <= num_layers <= depth:
            raise ValueError(f"num_layers={num_layers} does not exist: {path} has layers 1 to {depth}")
        cut_config(config, num_layers)
    set_dropout(config, dropout)
    return config


def set_dropout(config: PretrainedConfig, dropout: float | None) -> None:
    """Sets all dropouts of a config, in place; None changes nothing."""
    if dropout is not None:
        for name, value in list(vars(config).items()):  # hidden_dropout_prob, attention_dropout, …, as the family says
            if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool):
                setattr(config, name, dropout)


def cut_config(config: PretrainedConfig, stop: int, start: int = 0) -> None:
    """Makes a config one of the layers from `start` to `stop`, in place."""
    depth = int(config.num_hidden_layers)
    config.num_hidden_layers = stop - start
    for name, value in list(vars(config).items()):  # per-layer lists, such as ModernBERT's layer_types
        if isinstance(value, list) and len(value) == depth and name.startswith("layer"):
            setattr(config, name, value[start:stop])


def check_same(path: Path, asked: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Checks that what is asked for (None asks for nothing) is what a checkpoint was made with.

    Raises:
        ValueError: if one differs.
    """
    for name, value in asked.items():
        if value is not None and value != stored[name]:
            raise ValueError(f"{name}={value} was asked for, and {path} was trained with {stored[name]}; ask for that")


def max_positions(config: PretrainedConfig) -> int:
    """How many tokens the model has positions for; no limit of the model's is 512 here, longer must be asked for."""
    stated = getattr(config, "max_position_embeddings", None)
    return 512 if stated is None else int(stated) - first_position(config)


def first_position(config: PretrainedConfig) -> int:
    """Id of a text's first position: 0, but RoBERTa's kin count from the padding token's id + 1."""
    return int(config.pad_token_id) + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' tables and bars, for what is done on purpose and checked elsewhere."""
    # transformers prints a table of the weights it left out. Layers that were cut off on purpose aren't news, and
    # what would be (weights left random) is checked below.
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_weights(
    auto_class: Any, path: str, config: PretrainedConfig, may_be_new: tuple[str, ...] = ()
) -> PreTrainedModel:
    """`auto_class.from_pretrained` in float32 that refuses a checkpoint which lacks weights.

    Args:
        may_be_new: parts of names of weights that may start random.

    Raises:
        BadDataError: if other weights are missing.
    """
    with quiet():
        model, report = auto_class.from_pretrained(path, config=config, dtype=torch.float32, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if not any(part in name for part in may_be_new))
    if missing:
        found = f"{len(missing)} missing (first: {missing[0]})"
        raise BadDataError("all weights that config.json speaks of", found, "save the checkpoint again, whole", path)
    body: PreTrainedModel = model
    return body


def load_tokenizer(path: str) -> Any:
    """The fast tokenizer at `path`.

    Raises:
        ValueError: if the model has no fast (Rust) tokenizer; token stores need one.
    """
    with quiet():  # it warns of our own configs, which it has no need of
        tokenizer = AutoTokenizer.from_pretrained(path)
    if not tokenizer.is_fast:
        raise ValueError(f"{path} has no fast tokenizer (tokenizer.json); convert it with transformers first")
    return tokenizer


def weights_fingerprint(module: nn.Module, extra: str = "") -> str:
    """A hash of all weights and of `extra`: equal when a model would give the same outputs."""
    digest = hashlib.sha256(extra.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
