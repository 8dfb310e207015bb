"""SentenceTransformer folders whose chain of modules our own code doesn't run: sentence-transformers loads and runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rankdistill.errors import MissingDependencyError, WrongModelError
from rankdistill.models.backbone import quiet, resolve, weights_fingerprint
from rankdistill.models.chain import PROVEN_FAMILIES, foreign_part, read_chain
from rankdistill.models.dot import DotModel
from rankdistill.models.precision import DTypeName, autocast, choose_device, dtype_named
from rankdistill.models.similarity import Similarity
from rankdistill.models.towers import Card, Kind, check_room, read_json

__all__ = ["DenseModel", "ForeignModel", "load_dense_model"]


class ForeignModel(nn.Module):
    """A bi-encoder of any chain of modules; its vectors are those of sentence-transformers' `encode_query` and `encode_document`.

    It encodes, searches, re-ranks, scores and teaches; no student starts from it.

    Attributes:
        model: the `SentenceTransformer`, in float32.
        dim: width D of the vectors.
        similarity: what compares two vectors, by sentence-transformers' names.
    """

    architecture: ClassVar[str] = "sentence-transformer"
    card: ClassVar[Card] = DotModel.card

    def __init__(self, model: Any, configs: str = "") -> None:
        """Wraps a model.

        Args:
            model: a `SentenceTransformer`.
            configs: whatever decides its vectors beside the weights; goes into the fingerprint.
        """
        super().__init__()
        self.model, self._configs = model.eval(), configs
        self.similarity: Similarity = model.similarity_fn_name
        self.dim = int(self.encode(["x"], kind="document").shape[1])  # modules needn't state it

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def comparison(self) -> Similarity:
        """As in `DotModel.comparison`."""
        return self.similarity

    def encode(
        self, texts: Sequence[str], *, kind: Kind, dtype: DTypeName = "auto", progress: bool = False
    ) -> NDArray[np.float32]:
        """Vectors [len(texts), D] of texts; `kind` decides their prompt and their way through a Router."""
        if not texts:
            return np.empty((0, self.dim), np.float32)
        encode = self.model.encode_query if kind == "query" else self.model.encode_document
        with autocast(self.device, dtype_named(dtype, self.device)):
            vectors: NDArray[np.float32] = encode(list(texts), show_progress_bar=progress).astype(np.float32)
        return vectors

    def fingerprint(self) -> str:
        """Equal when two models make the same of the same texts."""
        return weights_fingerprint(self, self._configs)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder as sentence-transformers does."""
        self.model.save_pretrained(str(path))

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, device: str = "auto") -> ForeignModel:
        """Loads a folder of sentence-transformers.

        Raises:
            WrongModelError: if sentence-transformers can't load it, or its prompt leaves no room for text.
            MissingDependencyError: without sentence-transformers.
        """
        path = Path(resolve(str(name_or_path)))
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            expected = f"the package sentence-transformers, which runs {foreign_part(path) or 'this body'}"
            raise MissingDependencyError(
                expected, "none installed", "pip install sentence-transformers", str(path)
            ) from error
        settings: dict[str, Any] = {"device": str(choose_device(device)), "model_kwargs": {"dtype": torch.float32}}
        try:
            with quiet():
                model = SentenceTransformer(str(path), trust_remote_code=False, local_files_only=True, **settings)
                _check_prompts(model)
                # Every JSON counts, since any module may keep there what decides its vectors.
                configs = [file.read_text(encoding="utf-8") for file in sorted(path.rglob("*.json"))]
                return cls(model.float(), "\n".join(configs))
        except WrongModelError:
            raise
        except Exception as error:  # whatever a module's own code raises
            found = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            remedy = "check the folder with SentenceTransformer(PATH)"
            raise WrongModelError("a model that sentence-transformers loads", found, remedy, str(path)) from error


DenseModel: TypeAlias = DotModel | ForeignModel
"""Models that make one vector of a text."""


def load_dense_model(path: Path, *, device: str = "auto") -> DenseModel:
    """The bi-encoder in a folder: a `DotModel` where its vectors are proven equal, else sentence-transformers' own model.

    Raises:
        WrongModelError: if sentence-transformers can't load it.
        MissingDependencyError: if sentence-transformers has to run it, and isn't installed.
    """
    if foreign_part(path) is None:
        transformer = path / read_chain(path).transformer
        proven = read_json(transformer / "config.json").get("model_type") in PROVEN_FAMILIES
        if proven or not (path / "modules.json").is_file():
            return DotModel.from_pretrained(path, device=device)
    return ForeignModel.from_pretrained(path, device=device)


def _check_prompts(model: Any) -> None:
    limit, tokenizer = getattr(model, "max_seq_length", None), getattr(model, "tokenizer", None)
    if callable(tokenizer) and isinstance(limit, int):
        for kind in ("query", "document"):
            check_room(tokenizer, model.prompts[kind], limit, f"{kind}_prompt")
