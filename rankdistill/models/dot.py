"""The dot student: one shared encoder, pooled to one vector; the score of a pair is the dot product.

Checkpoints are SentenceTransformer folders (Transformer + Pooling [+ Dense] [+ Normalize]), written and read here without
importing sentence-transformers, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from rankdistill.errors import BadDataError
from rankdistill.models.backbone import config_with_layers, load_tokenizer, load_weights, max_positions, resolve
from rankdistill.models.precision import choose_device
from rankdistill.models.towers import OWN_CONFIG, BatchScores, Card, Tower, in_parts, read_json, write_json

__all__ = ["DotModel", "Pooling"]

Pooling = Literal["mean", "cls"]
# Module names as sentence-transformers 5.4 and later write them; older names end in the same class name.
_ST_TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


class DotModel(Tower):
    """An encoder whose pooled output is compared by dot product.

    Attributes:
        dim: width D of the vectors.

    Source:
        BERT_DOT of Hofstätter et al. 2020, arXiv:2010.02666 (there: CLS pooling, no projection, no normalisation).
    """

    architecture = "dot"
    card = Card(
        scores="Pairs are scored by dot product.",
        library="sentence-transformers",
        task="sentence-similarity",
        load="from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer(PATH)",
    )

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: Any,
        *,
        pooling: Pooling = "mean",
        projection: nn.Linear | None = None,
        normalize: bool = False,
        **lengths_and_prompts: Any,
    ) -> None:
        super().__init__(tokenizer, **lengths_and_prompts)
        if pooling not in ("mean", "cls"):
            raise ValueError(f'pooling must be "mean" or "cls", not {pooling!r}')
        self.encoder, self.projection = encoder, projection
        self.pooling, self.normalize = pooling, normalize
        self.config: Any = encoder.config
        self.dim: int = projection.out_features if projection is not None else int(encoder.config.hidden_size)

    def embed(self, input_ids: Tensor) -> Tensor:
        """The encoder's input embeddings of token ids of any shape, for `vectors(inputs_embeds=…)`."""
        embedded: Tensor = self.encoder.get_input_embeddings()(input_ids)
        return embedded

    def vectors(
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

    def forward(self, batch: Mapping[str, Tensor]) -> BatchScores:
        """Scores [B, M] of every query with every doc of a training batch, in fp32; as in `Tower.forward`."""
        queries, docs = in_parts(self, batch, lambda ids, mask, _, embeds: self.vectors(ids, mask, None, embeds))
        queries_BD, docs_MD = torch.cat(queries).float(), torch.cat(docs).float()
        with torch.autocast(queries_BD.device.type, enabled=False):
            return BatchScores(queries_BD @ docs_MD.T, in_batch=True)

    def own_config(self) -> dict[str, Any]:
        """As in `Tower.own_config`."""
        return super().own_config() | {"pooling": self.pooling, "normalize": self.normalize}

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
        write_json(
            folder / "1_Pooling" / "config.json",
            {"embedding_dimension": self.config.hidden_size, "pooling_mode": self.pooling, "include_prompt": True},
        )
        if self.projection is not None:
            modules.append(("Dense", f"{len(modules)}_Dense"))
            _save_dense(self.projection, folder / modules[-1][1])
        if self.normalize:
            modules.append(("Normalize", f"{len(modules)}_Normalize"))
            write_json(folder / modules[-1][1] / "config.json", {})
        listed = [
            {"idx": i, "name": str(i), "path": at, "type": _ST_TYPES[kind]} for i, (kind, at) in enumerate(modules)
        ]
        write_json(folder / "modules.json", listed)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
        prompts = {"query": self.query_prompt, "document": self.doc_prompt}
        similarity = {"model_type": "SentenceTransformer", "similarity_fn_name": "dot", "prompts": prompts}
        write_json(folder / "config_sentence_transformers.json", similarity)
        write_json(folder / OWN_CONFIG, self.own_config())


def _read_layout(path: Path) -> dict[str, Any]:
    """What a folder says of itself: where its modules are, how they pool, how long texts may be."""
    own = read_json(path / OWN_CONFIG)
    found: dict[str, Any] = {
        "transformer": "",
        "dense": None,
        "normalize": False,
        "pooling": "mean",
        "max_length": None,
    }
    found |= {key: own.get(key) for key in ("query_max_length", "doc_max_length")}
    prompts = read_json(path / "config_sentence_transformers.json").get("prompts") or {}
    found["query_prompt"] = prompts.get("query") or ""
    found["doc_prompt"] = prompts.get("document") or prompts.get("passage") or ""
    for module in read_json(path / "modules.json") or []:
        kind, where = str(module["type"]).rsplit(".", 1)[-1], str(module["path"])
        if kind == "Transformer":
            found["transformer"] = where
            found["max_length"] = read_json(path / where / "sentence_bert_config.json").get("max_seq_length")
        elif kind == "Pooling":
            found["pooling"] = _pooling_mode(read_json(path / where / "config.json"), path)
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
        stated = read_json(path / found["transformer"] / "tokenizer_config.json").get("model_max_length")
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
    write_json(folder / "config.json", config)
    weights = {f"linear.{name}": tensor.detach().cpu().contiguous() for name, tensor in linear.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def _load_dense(folder: Path) -> nn.Linear:
    config = read_json(folder / "config.json")
    if not str(config["activation_function"]).endswith("Identity"):
        found = str(config["activation_function"])
        raise BadDataError(
            "a linear Dense module", f"activation {found}", "retrain without it", str(folder / "config.json")
        )
    linear = nn.Linear(config["in_features"], config["out_features"], bias=config["bias"])
    weights = load_file(folder / "model.safetensors")
    linear.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in weights.items()})
    return linear
