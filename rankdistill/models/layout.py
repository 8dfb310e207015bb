"""The layout of sentence-transformers' folders, written and read without importing sentence-transformers, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rankdistill.errors import WrongModelError
from rankdistill.models.towers import OWN_CONFIG, read_json, write_json

__all__ = [
    "IDENTITIES",
    "Module",
    "lengths_within",
    "load_dense",
    "model_type",
    "read_lengths",
    "read_modules",
    "read_prompts",
    "read_transformer",
    "save_dense",
    "write_layout",
]

Module = tuple[str, str]
"""The class's name, and the folder in which the module is."""

# Module names as sentence-transformers 5.4 and later write them; older names end in the same class name.
_TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "MultiVectorMask": "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
    "SpladePooling": "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling",
}

IDENTITIES = ("torch.nn.modules.linear.Identity", "torch.nn.Identity")
"""Names of the activation of a Dense module that is linear."""

# A tokenizer without a limit states a huge number.
_NO_LIMIT = 1_000_000
# What sentence-transformers has called the config of its Transformer module; the first that is there counts.
_TRANSFORMER_CONFIGS = tuple(
    f"sentence_{body}_config.json"
    for body in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


def read_modules(path: Path) -> list[Module]:
    """The modules in order; none for a plain folder of transformers."""
    listed = read_json(path / "modules.json") or []
    return [(str(module["type"]).rsplit(".", 1)[-1], str(module["path"])) for module in listed]


def model_type(path: Path) -> str | None:
    """Which of sentence-transformers' model classes wrote the folder; None if none did."""
    if not (path / "modules.json").is_file():
        return None
    return str(read_json(path / "config_sentence_transformers.json").get("model_type") or "SentenceTransformer")


def read_transformer(folder: Path) -> dict[str, Any]:
    """The config of a Transformer module, under whichever of its names; {} if there is none."""
    configs = (read_json(folder / name) for name in _TRANSFORMER_CONFIGS)
    return next((dict(config) for config in configs if config), {})


def read_lengths(path: Path, transformer: str) -> dict[str, int | None]:
    """`query_max_length`, `doc_max_length` (ours, or a multi-vector encoder's) and `max_length`; None where none is stated."""
    own, body = read_json(path / OWN_CONFIG), read_transformer(path / transformer)
    stated = body.get("max_seq_length")
    if stated is None:
        stated = read_json(path / transformer / "tokenizer_config.json").get("model_max_length")
        stated = int(stated) if stated and stated < _NO_LIMIT else None
    if stated is None and (path / "modules.json").is_file():
        stated = _NO_LIMIT  # sentence-transformers then reads as many tokens as the body has positions
    return {
        "query_max_length": own.get("query_max_length") or body.get("query_length"),
        "doc_max_length": own.get("doc_max_length") or body.get("document_length"),
        "max_length": stated,
    }


def lengths_within(
    stated: Mapping[str, Any], longest: int, query_max_length: int | None, doc_max_length: int | None
) -> dict[str, int]:
    """The `query_max_length` and `doc_max_length` of a model: as asked for, or as `read_lengths` found; at most `longest`."""
    limit = stated["max_length"] or min(longest, 512)
    return {
        "query_max_length": min(query_max_length or stated["query_max_length"] or limit, longest),
        "doc_max_length": min(doc_max_length or stated["doc_max_length"] or limit, longest),
    }


def read_prompts(path: Path) -> tuple[str, str]:
    """What is put before queries, and before documents: what `encode_query` and `encode_document` put there.

    These take the prompts named "query" and "document", which are empty where the folder has none. So a prompt under another
    name ("passage", say) isn't used, nor is `default_prompt_name`.
    """
    prompts = read_json(path / "config_sentence_transformers.json").get("prompts") or {}
    return prompts.get("query") or "", prompts.get("document") or ""


def write_layout(
    folder: Path,
    modules: Sequence[tuple[str, Mapping[str, Any] | nn.Linear]],
    *,
    model_type: str,
    similarity: str,
    prompts: tuple[str, str],
) -> None:
    """Writes modules.json, config_sentence_transformers.json, and each module's own files.

    The files of transformers (weights and tokenizer) are in the folder itself; the first module is the Transformer.

    Args:
        modules: class name, and config or (for a Dense) layer, in order.
        model_type: the class of sentence-transformers that is to load the folder.
        similarity: name of its similarity function.
        prompts: put before queries, and before documents.
    """
    listed = []
    for i, (kind, content) in enumerate(modules):
        at = f"{i}_{kind}" if i else ""
        listed.append({"idx": i, "name": str(i), "path": at, "type": _TYPES[kind]})
        if isinstance(content, nn.Linear):
            save_dense(content, folder / at, on_tokens=model_type == "MultiVectorEncoder")
        else:
            write_json(folder / at / ("config.json" if i else "sentence_bert_config.json"), dict(content))
    write_json(folder / "modules.json", listed)
    config = {
        "model_type": model_type,
        "similarity_fn_name": similarity,
        "prompts": dict(zip(("query", "document"), prompts, strict=True)),
    }
    write_json(folder / "config_sentence_transformers.json", config)


def save_dense(linear: nn.Linear, folder: Path, *, on_tokens: bool = False) -> None:
    """Writes a Dense module without activation; `on_tokens` says that it reads states of tokens, not a pooled vector."""
    config = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    if on_tokens:
        config |= {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    write_json(folder / "config.json", config)
    weights = {f"linear.{name}": tensor.detach().cpu().contiguous() for name, tensor in linear.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def load_dense(folder: Path) -> nn.Linear:
    """Reads a Dense module, from `model.safetensors` or else `pytorch_model.bin`.

    Raises:
        WrongModelError: if it's more than a linear layer.
    """
    config = read_json(folder / "config.json")
    activation, residual = str(config.get("activation_function", "Tanh")), bool(config.get("use_residual"))
    if activation not in IDENTITIES or residual:
        found = "a residual connection" if residual else f"activation {activation}"
        raise WrongModelError("a linear Dense module", found, "retrain without it", str(folder / "config.json"))
    linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    weights = load_file(safe) if safe.is_file() else torch.load(pickled, map_location="cpu", weights_only=True)
    linear.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in weights.items()})
    return linear
