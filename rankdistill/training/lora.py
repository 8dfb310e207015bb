"""Low-rank adapters in a student's encoder, by peft: they and the head are trained, and at the end they're merged.

Source: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from rankdistill.errors import BadStoreError, MissingDependencyError
from rankdistill.formats.guarded import read_tensors
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.loading import Student
from rankdistill.options.training import LoraOptions

__all__ = ["add_adapters", "count_weights", "load_trained", "save_trained"]

_FILE = "trained.safetensors"


def add_adapters(model: Student, options: LoraOptions) -> Any:
    """Puts adapters into a model's encoder, and freezes what it had; what is on top of the encoder is trained as it is.

    Returns:
        peft's tuner, whose `merge_and_unload()` makes the model what it was, with other weights.

    Raises:
        ValueError: if the model has no encoder, or none of its layers is asked for.
        MissingDependencyError: without peft.
    """
    try:
        import peft
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN
    except ImportError as error:
        remedy = "pip install 'rankdistill[lora]'"
        raise MissingDependencyError("the package peft, for --lora.rank", "none installed", remedy) from error
    body: Any = model.backbone
    if body is None:
        raise ValueError(f"a {model.architecture} student has no encoder for adapters: leave out --lora.rank")
    pooler = getattr(body, "pooler", None)
    chosen = options.target_modules or (() if body.config.model_type in KNOWN else ("all-linear",))
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules="all-linear" if chosen == ("all-linear",) else list(chosen) or None,
        # Only a cross-encoder's takes part in the score, and there it belongs to the head, and may be new.
        exclude_modules=None if pooler is None else r"pooler\..*",
    )
    tuner = peft.LoraModel(body, config, "default")
    if pooler is not None and isinstance(model, CrossEncoderModel):
        pooler.requires_grad_(True)
    return tuner


def count_weights(model: nn.Module) -> tuple[int, int]:
    """How many weights are trained, and how many there are."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def save_trained(model: nn.Module, folder: Path) -> None:
    """Writes the weights that are trained."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: weight.detach().contiguous() for name, weight in _trained(model).items()}
    save_file(trained, folder / _FILE)


def load_trained(model: nn.Module, folder: Path) -> None:
    """Reads them back.

    Raises:
        BadStoreError: if they aren't this model's.
    """
    path, weights = folder / _FILE, _trained(model)
    stored = read_tensors(path) if path.is_file() else {}
    shapes, found = ({name: tuple(weight.shape) for name, weight in of.items()} for of in (weights, stored))
    if shapes != found:
        expected = f"a checkpoint of the {len(shapes)} weights that --lora.* makes trainable"
        remedy = "resume with the options that the run began with"
        raise BadStoreError(expected, f"{len(found)}, or others" if found else "none", remedy, str(path))
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(stored[name])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
