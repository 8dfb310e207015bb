"""What a SentenceTransformer folder says of itself, and whether our own code runs its chain of modules.

A folder is read by its JSON alone. Our own code runs a Transformer, one Pooling, an optional linear Dense and an optional
Normalize, in this order and with nothing added; the tests prove that its vectors equal sentence-transformers'. Every other
chain is sentence-transformers' to run (`models.foreign`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rankdistill.errors import WrongModelError
from rankdistill.models.layout import IDENTITIES, model_type, read_modules, read_prompts, read_transformer
from rankdistill.models.similarity import SIMILARITIES, Similarity
from rankdistill.models.towers import read_json

__all__ = [
    "Chain",
    "Pooling",
    "check_body",
    "foreign_body",
    "foreign_part",
    "foreign_setting",
    "foreign_type",
    "read_chain",
]

Pooling = Literal["mean", "cls", "lasttoken"]
"""How token states become one vector, by sentence-transformers' names."""

PROVEN_FAMILIES = ("bert", "camembert", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta")
"""Bodies, by `model_type`, whose vectors are tested to equal sentence-transformers'."""

# Settings of a Transformer module that change nothing, each with the values for which that is so.
_PLAIN_TRANSFORMER: dict[str, tuple[Any, ...]] = {
    "do_lower_case": (False, None),
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "processing_kwargs": ({}, None),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
    "unpad_inputs": (False, None),
    **dict.fromkeys(("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs"), ({}, None)),
    **dict.fromkeys(("config_args", "config_kwargs"), ({}, None)),
}
_LENGTHS = ("max_seq_length", "query_length", "document_length")
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Layouts before sentence-transformers 5.4 had one flag a mode."""
_ON_VECTORS = (None, "sentence_embedding")


@dataclass(frozen=True)
class Chain:
    """A chain that our own code runs.

    Attributes:
        transformer: the folder of the body, relative to the model's.
        pooling: how token states become one vector.
        dense: the folder of a linear projection; None if there is none.
        normalize: whether vectors are divided by their lengths.
        similarity: what compares two vectors.
        query_prompt: put before each query.
        doc_prompt: put before each document.
    """

    transformer: str = ""
    pooling: Pooling = "mean"
    dense: str | None = None
    normalize: bool = False
    similarity: Similarity = "dot"
    query_prompt: str = ""
    doc_prompt: str = ""


def read_chain(path: Path) -> Chain:
    """The chain in a folder. A plain folder of transformers is its body, mean pooling and the dot product.

    Raises:
        WrongModelError: if it isn't one that our own code runs; names the module.
    """
    part = foreign_part(path)
    if part is not None:
        raise WrongModelError(
            "a Transformer, a Pooling (mean, cls or lasttoken), an optional linear Dense and an optional Normalize",
            part,
            "such a model can encode, search, re-rank and score, but no student starts from it; start from its encoder",
            str(path / "modules.json"),
        )
    modules = dict(read_modules(path))
    if not modules:
        return Chain(pooling=_default_pooling(path))
    query_prompt, doc_prompt = read_prompts(path)
    return Chain(
        transformer=modules["Transformer"],
        pooling=_pooling_modes(read_json(path / modules["Pooling"] / "config.json"))[0],  # type: ignore[arg-type]
        dense=modules.get("Dense"),
        normalize="Normalize" in modules,
        similarity=_similarity(path),
        query_prompt=query_prompt,
        doc_prompt=doc_prompt,
    )


def foreign_part(path: Path) -> str | None:
    """What keeps our own code from running a folder's chain, in a few words; None if nothing does."""
    modules = read_modules(path)
    if not modules:
        return None
    stranger = foreign_type(path)
    if stranger is not None:
        return stranger
    kinds = [kind for kind, _ in modules]
    expected = ["Transformer", "Pooling", *(kind for kind in ("Dense", "Normalize") if kind in kinds)]
    if kinds != expected:
        odd = next((kind for kind in kinds if kind not in expected), None)
        return f'a module "{odd}"' if odd else f"the modules {', '.join(kinds)}"
    config = read_json(path / "config_sentence_transformers.json")
    if config.get("truncate_dim") is not None:
        return f"vectors cut to {config['truncate_dim']} numbers (truncate_dim)"
    configs = {kind: read_json(path / at / "config.json") for kind, at in modules[1:]}
    return (
        foreign_body(path)
        or _foreign_pooling(configs["Pooling"], read_prompts(path))
        or _foreign_dense(configs.get("Dense"))
        or _foreign_names("Normalize", configs.get("Normalize", {}))
    )


def foreign_body(path: Path) -> str | None:
    """What the Transformer of a folder's chain does beyond running the body on the tokenizer's ids; None if nothing."""
    modules = read_modules(path)
    if not modules:
        return None
    where = next((at for kind, at in modules if kind == "Transformer"), None)
    if where is None:
        return f'no module "Transformer" (but {", ".join(kind for kind, _ in modules)})'
    if (path / where / "adapter_config.json").is_file():
        return "an adapter of peft in the Transformer"
    return foreign_setting(read_transformer(path / where))


def foreign_type(path: Path) -> str | None:
    """The module of a chain that isn't of sentence-transformers, in a few words; None if there is none."""
    types = [str(module["type"]) for module in read_json(path / "modules.json")]
    found = next((name for name in types if not name.startswith("sentence_transformers.")), None)
    return None if found is None else f'a module "{found}" that is not part of sentence-transformers'


def foreign_setting(config: Mapping[str, Any], changed: Mapping[str, tuple[Any, ...]] | None = None) -> str | None:
    """The setting of a Transformer module that does more than run the body, in a few words; None if there is none.

    Args:
        changed: values that change nothing in another kind of chain than a SentenceTransformer's.
    """
    plain = _PLAIN_TRANSFORMER | dict(changed or {})
    odd = (name for name, value in config.items() if name not in _LENGTHS and value not in plain.get(name, ()))
    name = next(odd, None)
    return None if name is None else f"a Transformer with {name} {config[name]!r}"


def check_body(path: Path) -> None:
    """Checks that a SentenceTransformer's body may be taken out of its chain, and then reads texts as it does there.

    Folders of other classes of sentence-transformers are for the students of their kind to read.

    Raises:
        WrongModelError: if the folder has none, or its Transformer does more than run it.
    """
    part = foreign_body(path) if model_type(path) == "SentenceTransformer" else None
    if part is not None:
        expected, remedy = "an encoder, or a chain whose Transformer only runs it", "start from another encoder"
        raise WrongModelError(expected, part, remedy, str(path / "modules.json"))


def _foreign_pooling(config: Mapping[str, Any], prompts: tuple[str, str]) -> str | None:
    modes = _pooling_modes(config)
    if len(modes) != 1 or modes[0] not in get_args(Pooling):
        return f"a Pooling of {' and '.join(modes)}"
    if config.get("include_prompt") is False and any(prompts):
        return "a Pooling that leaves the prompt out (include_prompt false)"
    known = {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *_POOLING_FLAGS}
    return next((f"a Pooling with {name}" for name in config if name not in known), None)


def _pooling_modes(config: Mapping[str, Any]) -> list[str]:
    mode = config.get("pooling_mode")
    if mode is None:
        return [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    return [mode] if isinstance(mode, str) else list(mode)


def _foreign_dense(config: Mapping[str, Any] | None) -> str | None:
    if config is None:
        return None
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in IDENTITIES:
        return f"a Dense with the activation {activation}"
    if config.get("use_residual"):
        return "a Dense with a residual connection"
    return _foreign_names("Dense", config)


def _foreign_names(kind: str, config: Mapping[str, Any]) -> str | None:
    names = (config.get("module_input_name"), config.get("module_output_name"))
    odd = next((name for name in names if name not in _ON_VECTORS), None)
    return None if odd is None else f"a {kind} of {odd}"


def _similarity(path: Path) -> Similarity:
    stated = read_json(path / "config_sentence_transformers.json").get("similarity_fn_name")
    return stated if stated in SIMILARITIES else "cosine"  # sentence-transformers' own default


def _default_pooling(path: Path) -> Pooling:
    """Of a plain folder, as sentence-transformers pools it: the last token of a causal language model, else the mean."""
    config = read_json(path / "config.json")
    names = [str(name) for name in config.get("architectures") or []]
    causal = bool(names) and names[0].endswith("ForCausalLM") and config.get("is_causal", True)
    return "lasttoken" if causal else "mean"
