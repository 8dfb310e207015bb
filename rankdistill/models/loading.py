"""Loads whatever a folder or hub id holds: one of our students, a SentenceTransformer, or a cross-encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from rankdistill.models.backbone import resolve
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.models.prett import PrettModel
from rankdistill.models.tk import TKModel
from rankdistill.models.towers import OWN_CONFIG, Tower, read_json

__all__ = ["ARCHITECTURES", "Model", "load_model"]

Model: TypeAlias = Tower | CrossEncoderModel

_KINDS: tuple[type[Any], ...] = (CrossEncoderModel, DotModel, PrettModel, TKModel)
ARCHITECTURES: dict[str, type[Any]] = {kind.architecture: kind for kind in _KINDS}
"""Our models by the name that their checkpoints and the command line give them."""


def load_model(name_or_path: str | Path, *, device: str = "auto") -> Model:
    """The model in a folder: what its rankdistill.json says, or else what its layout tells.

    Without a rankdistill.json, a config that speaks of a sequence classifier (and no SentenceTransformer modules) is a
    `CrossEncoderModel`, anything else a `DotModel`.

    Args:
        name_or_path: a folder, or a hub id.
        device: "auto", "cpu", "cuda", …

    Raises:
        FileNotFoundError: if there is no such folder, or no model in it.
    """
    path = Path(resolve(str(name_or_path)))
    kind = ARCHITECTURES.get(str(read_json(path / OWN_CONFIG).get("architecture")))
    if kind is not None:
        ours: Model = kind.from_pretrained(path, device=device)
        return ours
    if (path / "modules.json").is_file():
        return DotModel.from_pretrained(path, device=device)
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path}: expected a model (config.json), found none; check the path")
    architectures = read_json(path / "config.json").get("architectures") or []
    if any(str(name).endswith("ForSequenceClassification") for name in architectures):
        return CrossEncoderModel.from_pretrained(path, device=device)
    return DotModel.from_pretrained(path, device=device)
