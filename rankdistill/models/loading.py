"""Loads whatever a folder or hub id holds: one of our students, a model of sentence-transformers, or a cross-encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from rankdistill.errors import BadDataError, WrongModelError
from rankdistill.formats.guarded import check_json, reading
from rankdistill.models.backbone import resolve
from rankdistill.models.backends import Backend, compile_openvino
from rankdistill.models.colbert import ColbertModel
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.models.exits import ManyExits
from rankdistill.models.foreign import ForeignModel, load_dense_model
from rankdistill.models.layout import model_type
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.models.multi_exit_colbert import MultiExitColbert
from rankdistill.models.multi_exit_cross_encoder import MultiExitCrossEncoder
from rankdistill.models.precision import choose_device
from rankdistill.models.prett import PrettModel
from rankdistill.models.splade import SpladeModel
from rankdistill.models.tk import TKModel
from rankdistill.models.towers import OWN_CONFIG, Tower, read_json

__all__ = ["ARCHITECTURES", "Model", "Student", "at_exit", "load_model"]

Student: TypeAlias = Tower | CrossEncoderModel
"""Models that are trained here."""
Model: TypeAlias = Student | ForeignModel

_KINDS: tuple[type[Any], ...] = (
    DotModel,
    ColbertModel,
    SpladeModel,
    PrettModel,
    TKModel,
    CrossEncoderModel,
    MultiExitEncoder,
    MultiExitColbert,
    MultiExitCrossEncoder,
)
ARCHITECTURES: dict[str, type[Any]] = {kind.architecture: kind for kind in _KINDS}
"""Our models by the name that their checkpoints and the command line give them."""
_OF_SENTENCE_TRANSFORMERS: dict[str, Any] = {
    "SentenceTransformer": load_dense_model,
    "CrossEncoder": CrossEncoderModel.from_pretrained,
    "MultiVectorEncoder": ColbertModel.from_pretrained,
    "ColBERT": ColbertModel.from_pretrained,
    "SparseEncoder": SpladeModel.from_pretrained,
}
"""What loads a folder, by the class that its config_sentence_transformers.json names."""


def load_model(
    name_or_path: str | Path,
    *,
    device: str = "auto",
    backend: Backend = "torch",
    exit: int | None = None,
    dim: int | None = None,
) -> Model:
    """The model in a folder: what its rankdistill.json says, or else what its layout tells.

    Without a rankdistill.json, modules of sentence-transformers tell by the class that wrote them; without those, a config
    that speaks of a sequence classifier is a `CrossEncoderModel`, anything else a `DotModel`. A SentenceTransformer whose
    chain of modules our own code doesn't run is a `ForeignModel`.

    Args:
        name_or_path: a folder, or a hub id.
        device: "auto", "cpu", "cuda", …
        backend: what runs the body. "openvino" gives the same scores faster on a CPU, and is for inference only.
        exit: of a model with exits, only the one after this many layers.
        dim: of a model whose vectors may be cut, only this many numbers of them.

    Raises:
        FileNotFoundError: if there is no such folder, or no model in it.
        WrongModelError: if it's a model that isn't known here, sentence-transformers has to run it and can't, a prompt leaves
            no room for text, or it has no exits of which one is asked for.
        BadDataError: if the backend doesn't know it.
        ValueError: for an exit or a dim that the model doesn't have.
        MissingDependencyError: without the backend's package.
    """
    model = _load(name_or_path, "cpu" if (backend, device) == ("openvino", "auto") else device)
    if isinstance(model, Tower):
        model.check_prompts()
    compiled = backend == "openvino"
    # What is compiled has one output, so of a model with exits it's the deepest.
    if exit is not None or dim is not None or (compiled and isinstance(model, ManyExits)):
        model = at_exit(model, exit, dim)
    if compiled:
        compile_openvino(model)
    return model


def at_exit(model: Model, exit: int | None, dim: int | None = None) -> Model:
    """One exit of a model that has several.

    Raises:
        WrongModelError: if it has none.
        ValueError: for an exit or a dim that the model doesn't have.
    """
    if isinstance(model, MultiExitEncoder):
        return model.at(exit, dim)
    if dim is not None:
        found = f"a {model.architecture} model"
        raise WrongModelError("a multi-exit model, whose vectors may be cut", found, "leave the dim out")
    if isinstance(model, MultiExitColbert | MultiExitCrossEncoder):
        return model.at(exit)
    remedy = "leave the exit out, or train one with `rankdistill train margin-mse --student multi-exit`"
    raise WrongModelError("a model with exits", f"a {model.architecture} model", remedy)


def _load(name_or_path: str | Path, device: str) -> Model:
    device = str(choose_device(device))
    path = Path(resolve(str(name_or_path)))
    with reading(path, "the folder of a model"):
        check_json(path)
        model = _of_folder(path, device)
    _check_texts(model, path)
    return model


def _check_texts(model: Model, path: Path) -> None:
    """Checks what of a folder's configs is used only when texts are read."""
    for name in ("query_max_length", "doc_max_length", "max_length"):
        length = getattr(model, name, 1)
        if type(length) is not int or not 1 <= length < 1 << 31:
            raise BadDataError(f"a whole number above 0 as {name}", repr(length), "write the folder again", str(path))
    for name in ("query_prompt", "doc_prompt"):
        if not isinstance(prompt := getattr(model, name, ""), str):
            raise BadDataError(f"a text as {name}", repr(prompt), "write the folder again", str(path))


def _of_folder(path: Path, device: str) -> Model:
    architecture = read_json(path / OWN_CONFIG).get("architecture")
    if architecture is not None:
        kind = ARCHITECTURES.get(architecture)
        if kind is None:
            found = f'"{architecture}"'
            raise WrongModelError(
                f"a model ({', '.join(ARCHITECTURES)})", found, "update rankdistill", str(path / OWN_CONFIG)
            )
        ours: Model = kind.from_pretrained(path, device=device)
        return ours
    theirs = model_type(path)
    if theirs is not None:
        load = _OF_SENTENCE_TRANSFORMERS.get(theirs)
        if load is None:
            kinds, where = ", ".join(_OF_SENTENCE_TRANSFORMERS), str(path / "config_sentence_transformers.json")
            raise WrongModelError(f"a model_type ({kinds})", f'"{theirs}"', "update rankdistill", where)
        model: Model = load(path, device=device)
        return model
    if not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise FileNotFoundError(f"{path}: expected a model (config.json), found none; check the path")
    architectures = read_json(path / "config.json").get("architectures") or []
    if any(str(name) == "HF_ColBERT" for name in architectures):
        return ColbertModel.from_pretrained(path, device=device)
    if any(str(name).endswith("ForSequenceClassification") for name in architectures):
        return CrossEncoderModel.from_pretrained(path, device=device)
    return DotModel.from_pretrained(path, device=device)
