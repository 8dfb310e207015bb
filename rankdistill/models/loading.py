"""Loads whatever a folder or hub id holds: a dot model or a cross-encoder."""

from __future__ import annotations

import json
from pathlib import Path

from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel, resolve

__all__ = ["load_model"]


def load_model(name_or_path: str | Path, *, device: str = "auto") -> DotModel | CrossEncoderModel:
    """A `CrossEncoderModel` if the config speaks of a sequence classifier (and no SentenceTransformer modules), else a `DotModel`.

    Args:
        name_or_path: a folder, or a hub id.
        device: "auto", "cpu", "cuda", …

    Raises:
        FileNotFoundError: if there is no such folder, or no model in it.
    """
    path = Path(resolve(str(name_or_path)))
    if (path / "modules.json").is_file():
        return DotModel.from_pretrained(path, device=device)
    config = path / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{path}: expected a model (config.json), found none; check the path")
    architectures = json.loads(config.read_text(encoding="utf-8")).get("architectures") or []
    if any(str(name).endswith("ForSequenceClassification") for name in architectures):
        return CrossEncoderModel.from_pretrained(path, device=device)
    return DotModel.from_pretrained(path, device=device)
