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
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel, dynamic_module_utils
from transformers.utils import logging as transformers_logging

from rankdistill.errors import BadDataError, WrongModelError

__all__ = [
    "NO_LIMIT",
    "OFFSET_FAMILIES",
    "check_same",
    "check_tokens",
    "config_with_layers",
    "cut_config",
    "first_position",
    "load_config",
    "load_tokenizer",
    "load_weights",
    "max_positions",
    "no_remote_code",
    "pretrained",
    "quiet",
    "resolve",
    "set_dropout",
    "weights_fingerprint",
]

_OWN_FAMILY = "rankdistill-"
# What transformers says where it has no code for a model; what that means, and what to do.
_NO_CODE = (
    (
        "trust_remote_code",
        "one that needs code of its own (auto_map), which rankdistill never runs",
        "pick another model, or let its own library encode and score",
    ),
    (
        "does not recognize this architecture",
        "a family that it doesn't know",
        "update transformers, or pick another model",
    ),
    ("Unrecognized configuration class", "a family without a model for this task", "pick a model of another family"),
    ("Unrecognized model in", "a config.json without a model_type", "pick another model, or save this one again"),
)
NO_LIMIT = 1_000_000
"""Tokens of a text where nothing limits them."""
OFFSET_FAMILIES = (
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Families, by `model_type`, whose first position is the padding token's id + 1."""
_ENCODERS = {
    "longt5": "LongT5EncoderModel",
    "mt5": "MT5EncoderModel",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
"""Classes of transformers that are the encoder of an encoder-decoder, by `model_type`."""
# To these no token types are something else than types that are all 0.
_READ_TYPES = ("ctrl", "gpt2", "openai-gpt", "xlnet")
# Encoder-decoders that sentence-transformers runs to the end: a token's state is the decoder's.
_TO_THE_END = ("bart", "led", "mbart", "mvp", "plbart")


def resolve(name_or_path: str) -> str:
    """A local folder as it is; a hub id is fetched (once) into the hub's cache, and its folder returned."""
    if os.path.isdir(name_or_path):
        return name_or_path
    if name_or_path.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{name_or_path}: expected a model folder, found nothing there; check the path")
    from huggingface_hub import snapshot_download

    # No code is fetched: none is ever run.
    left_out = ["*.py", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.gguf", "openvino/*", "onnx/*"]
    folder = snapshot_download(name_or_path, ignore_patterns=["*.bin", *left_out])
    # Pickled weights are fetched for those parts only that have no others.
    parts = [config.parent for config in Path(folder).rglob("*config.json")]
    old = {part for part in parts if not any(part.glob("*.safetensors"))}
    if not old:
        return folder
    patterns = [f"{part.relative_to(folder) / 'pytorch_model'}*.bin*" for part in sorted(old)]
    return snapshot_download(name_or_path, allow_patterns=patterns, ignore_patterns=left_out)


def pretrained(kind: Any, path: str | Path, **settings: Any) -> Any:
    """`kind.from_pretrained(path)` of a class of transformers; the only door through which this package calls it.

    Raises:
        WrongModelError: if the folder needs code of its own, which is never run, or `kind` has none for its family.
    """
    with no_remote_code(path):
        return kind.from_pretrained(str(path), trust_remote_code=False, **settings)


@contextmanager
def no_remote_code(path: str | Path) -> Iterator[None]:
    """Within it, transformers neither runs code that a model brings with it nor asks on standard input whether it may.

    Raises:
        WrongModelError: if the model at `path` can't do without, or transformers has no code for it.
    """
    # Not every call inside of transformers passes `trust_remote_code` on. It asks only where there is time to answer.
    waits = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    except ValueError as error:
        for phrase, found, remedy in _NO_CODE:
            if phrase in str(error):
                raise WrongModelError("a model whose code is in transformers", found, remedy, str(path)) from error
        raise
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = waits


def load_config(path: str | Path, kind: Any = AutoConfig) -> PretrainedConfig:
    """The config at `path`, without references to code elsewhere (`auto_map`, kernels on the hub): nothing can run that later.

    Raises:
        WrongModelError: if the model needs that code, or is an adapter of another model.
    """
    adapter = Path(path) / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        remedy = "merge it into its base with peft (merge_and_unload), and save that"
        raise WrongModelError("a whole model", f"an adapter of peft for {base}", remedy, str(path))
    config: PretrainedConfig = pretrained(kind, path)
    _forget_remote_code(config)
    return config


def _forget_remote_code(config: PretrainedConfig) -> None:
    vars(config).pop("auto_map", None)
    if "/" in str(config._attn_implementation):  # a kernel on the hub; transformers then takes its own
        config._attn_implementation = None
    for part in vars(config).values():  # an encoder-decoder's sides, say
        if isinstance(part, PretrainedConfig):
            _forget_remote_code(part)


def config_with_layers(path: str, num_layers: int | None, dropout: float | None = None) -> PretrainedConfig:
    """The config of an encoder at `path`, cut to its first `num_layers` layers, with all its dropouts set; None changes nothing.

    Raises:
        WrongModelError: if it's a student of ours that is no encoder of transformers.
        ValueError: if the model hasn't that many layers.
    """
    stated = Path(path) / "config.json"
    family = str(json.loads(stated.read_text(encoding="utf-8")).get("model_type")) if stated.is_file() else ""
    if family.startswith(_OWN_FAMILY):
        found = f"a {family.removeprefix(_OWN_FAMILY)} student of rankdistill"
        raise WrongModelError("an encoder of transformers", found, "start from the encoder that it was made of", path)
    config = load_config(path)
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
    """How many tokens the model has positions for; `NO_LIMIT` for one whose positions are relative, such as T5."""
    stated = getattr(config, "max_position_embeddings", None)
    # XLNet says -1.
    return NO_LIMIT if stated is None or stated < 1 else int(stated) - first_position(config)


def first_position(config: PretrainedConfig) -> int:
    """Id of a text's first position: 0, but RoBERTa's kin count from the padding token's id + 1."""
    return int(config.pad_token_id) + 1 if config.model_type in OFFSET_FAMILIES else 0


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
        auto_class: `AutoModel` loads the encoder alone of an encoder-decoder like T5.
        may_be_new: parts of names of weights that may start random.

    Raises:
        BadDataError: if other weights are missing.
        WrongModelError: if `AutoModel` knows no encoder of that family that gives states of tokens.
    """
    if auto_class is AutoModel:
        auto_class = _encoder_class(config, path)
    with quiet():
        model, report = pretrained(auto_class, path, config=config, dtype=torch.float32, output_loading_info=True)
    missing = sorted(name for name in report["missing_keys"] if not any(part in name for part in may_be_new))
    if missing:
        found = f"{len(missing)} missing (first: {missing[0]})"
        raise BadDataError("all weights that config.json speaks of", found, "save the checkpoint again, whole", path)
    body: PreTrainedModel = model
    return body


def _encoder_class(config: PretrainedConfig, path: str) -> Any:
    if config.model_type in _ENCODERS:
        return getattr(transformers, _ENCODERS[config.model_type])
    if config.model_type == "dpr":
        remedy = "start from the BERT inside, saved as a model by itself"
        raise WrongModelError(
            "an encoder that gives states of tokens", "a DPR encoder, which gives one vector", remedy, path
        )
    if hasattr(config, "vision_config") or hasattr(config, "audio_config"):
        found = f"a {config.model_type} model, which reads more than text"
        raise WrongModelError("an encoder of text", found, "start from another model", path)
    if config.is_encoder_decoder and config.model_type not in _TO_THE_END:
        found = f"an encoder-decoder of the family {config.model_type}"
        raise WrongModelError("an encoder", found, "start from an encoder by itself, or from T5's kin", path)
    return AutoModel


def load_tokenizer(path: str | Path, body: Any = None, *, slow: bool = False, with_types: bool = False) -> Any:
    """The tokenizer at `path`, which pads on the right: what a body makes of a text then doesn't depend on the padding.

    Args:
        body: the model that is to read its tokens; checked to have an embedding of each.
        slow: whether a tokenizer without a fast (Rust) form will do. Token stores and tries need a fast one.
        with_types: whether `body` is given token types too, not only ids.

    Raises:
        WrongModelError: if the tokenizer isn't fast but has to be, needs code of its own, has tokens that `body` lacks, or
            gives a single text token types that `body` isn't given.
    """
    with quiet():  # it warns of our own configs, which it has no need of
        tokenizer = pretrained(AutoTokenizer, path)
    if not (slow or tokenizer.is_fast):
        raise WrongModelError(
            "a fast tokenizer (tokenizer.json)",
            f"a {type(tokenizer).__name__}, which runs in Python only",
            "pick a model that has one",
            str(path),
        )
    if body is None or body.config.model_type != "xlnet":  # whose classifier reads the last place
        tokenizer.padding_side = "right"
    if body is not None:
        check_tokens(tokenizer, body, str(path))
    if body is not None and not with_types:
        _check_types(tokenizer, body, str(path))
    return tokenizer


def _check_types(tokenizer: Any, body: Any, path: str) -> None:
    """Checks that a body reads a single text by its ids as it does by its ids and token types."""
    types = tokenizer("a").get("token_type_ids") or ()
    if any(types) or (types and body.config.model_type in _READ_TYPES):
        found = f"a {type(tokenizer).__name__} of a {body.config.model_type} model"
        remedy = "start from a model of another family"
        raise WrongModelError("a tokenizer whose token types of a single text don't count", found, remedy, path)


def check_tokens(tokenizer: Any, body: Any, path: str) -> None:
    """Checks that a model has an embedding of each token of a tokenizer.

    Raises:
        WrongModelError: if it lacks one; names the last such token.
    """
    try:
        num_rows = int(body.get_input_embeddings().num_embeddings)
    except NotImplementedError:  # CANINE hashes characters, it has no table of them
        return
    token, last = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if last >= num_rows:
        raise WrongModelError(
            f"token ids below {num_rows:,}, the rows of the model's embeddings",
            f'a tokenizer with the token "{token}" of id {last:,}',
            "call model.resize_token_embeddings(len(tokenizer)) in transformers, train the new rows and save the model",
            path,
        )


def weights_fingerprint(module: nn.Module, extra: str = "") -> str:
    """A hash of all weights and of `extra`: equal when a model would give the same outputs."""
    digest = hashlib.sha256(extra.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
