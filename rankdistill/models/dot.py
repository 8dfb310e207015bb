"""The dot student: one shared encoder, pooled to one vector; the score of a pair is the dot product.

Checkpoints are SentenceTransformer folders (Transformer + Pooling [+ Dense] [+ Normalize]), written and read here without
importing sentence-transformers, which takes seconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from rankdistill.errors import BadDataError
from rankdistill.models.backbone import (
    config_with_layers,
    load_tokenizer,
    load_weights,
    max_positions,
    weights_fingerprint,
)
from rankdistill.models.precision import choose_device

__all__ = ["DotModel", "Pooling", "resolve"]

Pooling = Literal["mean", "cls"]
_OWN_CONFIG = "rankdistill.json"
# Module names as sentence-transformers 5.4 and later write them; older names end in the same class name.
_ST_TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


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


class DotModel(nn.Module):
    """An encoder whose pooled output is compared by dot product.

    Attributes:
        dim: width D of the vectors.
        query_max_length: tokens of a query that are read, specials included.
        doc_max_length: the same for documents.
        query_prompt: put before each query ("query: ", say).
        doc_prompt: the same for documents.

    Source:
        BERT_DOT of Hofstätter et al. 2020, arXiv:2010.02666 (there: CLS pooling, no projection, no normalisation).
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: Any,
        *,
        pooling: Pooling = "mean",
        projection: nn.Linear | None = None,
        normalize: bool = False,
        query_max_length: int = 64,
        doc_max_length: int = 256,
        query_prompt: str = "",
        doc_prompt: str = "",
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ValueError(f'pooling must be "mean" or "cls", not {pooling!r}')
        self.encoder, self.tokenizer, self.projection = encoder, tokenizer, projection
        self.pooling, self.normalize = pooling, normalize
        self.query_max_length, self.doc_max_length = query_max_length, doc_max_length
        self.query_prompt, self.doc_prompt = query_prompt, doc_prompt
        self.config: Any = encoder.config
        self.dim: int = projection.out_features if projection is not None else int(encoder.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def embed(self, input_ids: Tensor) -> Tensor:
        """The encoder's input embeddings of token ids of any shape, for `forward(inputs_embeds=…)`."""
        embedded: Tensor = self.encoder.get_input_embeddings()(input_ids)
        return embedded

    def forward(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Vectors [B, D] of token ids [B, L], or of their embeddings; positions masked by 0 have no influence."""
        given: dict[str, Tensor | None] = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        given |= {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        hidden_BLD: Tensor = self.encoder(**{key: value for key, value in given.items() if value is not None})[0]
        if self.pooling == "cls":
            pooled = hidden_BLD[:, 0]
        else:
            mask_BL1 = attention_mask.unsqueeze(-1).to(hidden_BLD.dtype)
            pooled = (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1e-9)
        if self.projection is not None:
            pooled = self.projection(pooled)
        return functional.normalize(pooled, dim=-1) if self.normalize else pooled

    def tokenize(self, texts: Sequence[str], kind: Literal["query", "document"]) -> list[list[int]]:
        """Token ids of each text after its kind's prompt, specials included, cut at the length of its kind."""
        is_query = kind == "query"
        limit = self.query_max_length if is_query else self.doc_max_length
        prompt = self.query_prompt if is_query else self.doc_prompt
        prompted = [prompt + text for text in texts] if prompt else list(texts)
        ids: list[list[int]] = self.tokenizer(prompted, truncation=True, max_length=limit)["input_ids"]
        return ids

    def fingerprint(self) -> str:
        """Equal when two models give the same vectors for the same texts."""
        return weights_fingerprint(self, json.dumps(self._own_config(), sort_keys=True))

    def _own_config(self) -> dict[str, Any]:
        return {
            "architecture": "dot",
            "pooling": self.pooling,
            "normalize": self.normalize,
            "query_max_length": self.query_max_length,
            "doc_max_length": self.doc_max_length,
            "query_prompt": self.query_prompt,
            "doc_prompt": self.doc_prompt,
        }

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        num_layers: int | None = None,
        pooling: Pooling | None = None,
        projection_dim: int | None = None,
        normalize: bool | None = None,
        query_max_length: int | None = None,
        doc_max_length: int | None = None,
    ) -> DotModel:
        """Loads a checkpoint of ours, a SentenceTransformer, or any encoder of transformers.

        Args:
            num_layers: keep the first layers only.
            pooling: None keeps the checkpoint's ("mean" for a plain encoder).
            projection_dim: adds a new linear projection to this width, in place of one in the checkpoint.
            normalize: None keeps the checkpoint's; False drops a Normalize module, as a dot student wants.
            query_max_length: None keeps the checkpoint's; never more than the model has positions for. So for
                `doc_max_length`.

        Raises:
            BadDataError: if the folder holds SentenceTransformer modules other than the four named above.
        """
        path = Path(resolve(str(name_or_path)))
        stored = _read_layout(path)
        body = path / stored["transformer"]
        config = config_with_layers(str(body), num_layers)
        # The pooler takes no part in the score, and many checkpoints come without one.
        encoder = load_weights(AutoModel, str(body), config, may_be_new=("pooler",))
        tokenizer = load_tokenizer(str(body))
        projection: nn.Linear | None = None
        if projection_dim is not None:
            projection = nn.Linear(int(config.hidden_size), projection_dim, bias=False)
        elif stored["dense"] is not None:
            projection = _load_dense(path / stored["dense"])
        longest = max_positions(config)
        limit = stored["max_length"] or min(longest, 512)
        model = cls(
            encoder,
            tokenizer,
            pooling=pooling or stored["pooling"],
            projection=projection,
            normalize=stored["normalize"] if normalize is None else normalize,
            query_max_length=min(query_max_length or stored["query_max_length"] or limit, longest),
            doc_max_length=min(doc_max_length or stored["doc_max_length"] or limit, longest),
            query_prompt=stored["query_prompt"],
            doc_prompt=stored["doc_prompt"],
        )
        model.eval()
        return model.to(choose_device(device))

    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `SentenceTransformer(path)` and `DotModel.from_pretrained(path)` load."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder.save_pretrained(folder)
        longest = max(self.query_max_length, self.doc_max_length)
        self.tokenizer.model_max_length = longest
        self.tokenizer.save_pretrained(folder)
        modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
        _write_json(
            folder / "1_Pooling" / "config.json",
            {"embedding_dimension": self.config.hidden_size, "pooling_mode": self.pooling, "include_prompt": True},
        )
        if self.projection is not None:
            modules.append(("Dense", f"{len(modules)}_Dense"))
            _save_dense(self.projection, folder / modules[-1][1])
        if self.normalize:
            modules.append(("Normalize", f"{len(modules)}_Normalize"))
            _write_json(folder / modules[-1][1] / "config.json", {})
        listed = [
            {"idx": i, "name": str(i), "path": at, "type": _ST_TYPES[kind]} for i, (kind, at) in enumerate(modules)
        ]
        _write_json(folder / "modules.json", listed)
        _write_json(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
        prompts = {"query": self.query_prompt, "document": self.doc_prompt}
        similarity = {"model_type": "SentenceTransformer", "similarity_fn_name": "dot", "prompts": prompts}
        _write_json(folder / "config_sentence_transformers.json", similarity)
        _write_json(folder / _OWN_CONFIG, self._own_config())


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_layout(path: Path) -> dict[str, Any]:
    """What a folder says of itself: where its modules are, how they pool, how long texts may be."""
    own = _read_json(path / _OWN_CONFIG)
    found: dict[str, Any] = {
        "transformer": "",
        "dense": None,
        "normalize": False,
        "pooling": "mean",
        "max_length": None,
    }
    found |= {key: own.get(key) for key in ("query_max_length", "doc_max_length")}
    prompts = _read_json(path / "config_sentence_transformers.json").get("prompts") or {}
    found["query_prompt"] = prompts.get("query") or ""
    found["doc_prompt"] = prompts.get("document") or prompts.get("passage") or ""
    for module in _read_json(path / "modules.json") or []:
        kind, where = str(module["type"]).rsplit(".", 1)[-1], str(module["path"])
        if kind == "Transformer":
            found["transformer"] = where
            found["max_length"] = _read_json(path / where / "sentence_bert_config.json").get("max_seq_length")
        elif kind == "Pooling":
            found["pooling"] = _pooling_mode(_read_json(path / where / "config.json"), path)
        elif kind == "Dense":
            found["dense"] = where
        elif kind == "Normalize":
            found["normalize"] = True
        else:
            raise BadDataError(
                "the modules Transformer, Pooling, Dense and Normalize",
                f'a module "{kind}"',
                "such a SentenceTransformer isn't a plain dot model; export it with those modules",
                str(path / "modules.json"),
            )
    if found["max_length"] is None:
        stated = _read_json(path / found["transformer"] / "tokenizer_config.json").get("model_max_length")
        found["max_length"] = int(stated) if stated and stated < 1e6 else None
    return found


def _pooling_mode(config: dict[str, Any], path: Path) -> str:
    mode = config.get("pooling_mode")
    if mode is None:  # layouts before sentence-transformers 5.4 had one flag a mode
        chosen = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        mode = names.get(chosen[0]) if len(chosen) == 1 else None
    if mode not in ("mean", "cls"):
        raise BadDataError(
            'pooling "mean" or "cls"', repr(config), "pool another way or retrain", str(path / "1_Pooling")
        )
    return str(mode)


def _save_dense(linear: nn.Linear, folder: Path) -> None:
    config = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    _write_json(folder / "config.json", config)
    weights = {f"linear.{name}": tensor.detach().cpu().contiguous() for name, tensor in linear.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def _load_dense(folder: Path) -> nn.Linear:
    config = _read_json(folder / "config.json")
    if not str(config["activation_function"]).endswith("Identity"):
        found = str(config["activation_function"])
        raise BadDataError(
            "a linear Dense module", f"activation {found}", "retrain without it", str(folder / "config.json")
        )
    linear = nn.Linear(config["in_features"], config["out_features"], bias=config["bias"])
    weights = load_file(folder / "model.safetensors")
    linear.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in weights.items()})
    return linear
