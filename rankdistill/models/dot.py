"""The dot student: one shared encoder, pooled to one vector; the score of a pair is the dot product.

Checkpoints are SentenceTransformer folders: Transformer + Pooling [+ Dense] [+ Normalize].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from rankdistill.errors import BadDataError
from rankdistill.formats.writing import whole
from rankdistill.models.backbone import config_with_layers, load_tokenizer, load_weights, max_positions, resolve
from rankdistill.models.layout import lengths_within, load_dense, read_lengths, read_modules, read_prompts, write_layout
from rankdistill.models.packed import can_pack, given_to_body, run_body
from rankdistill.models.precision import choose_device
from rankdistill.models.towers import BatchScores, Card, Kind, Part, Tower, read_json

__all__ = ["DotModel", "Pooling", "pool"]

Pooling = Literal["mean", "cls", "lasttoken"]
"""How token states become one vector, by sentence-transformers' names."""


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
        if pooling not in get_args(Pooling):
            raise ValueError(f'pooling must be "mean", "cls" or "lasttoken", not {pooling!r}')
        self.encoder, self.projection = encoder, projection
        self.pooling, self.normalize = pooling, normalize
        self.config: Any = encoder.config
        self.dim: int = projection.out_features if projection is not None else int(encoder.config.hidden_size)

    @property
    def backbone(self) -> PreTrainedModel | None:
        """As in `Tower.backbone`."""
        return self.encoder

    def packs(self, kind: Kind = "document") -> bool:
        """As in `Tower.packs`."""
        return can_pack(self.encoder, self.device)

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
        given = given_to_body(input_ids, attention_mask, token_type_ids, inputs_embeds)
        states_BLD = run_body(self.encoder, given, packed=self.packs())[0]
        pooled = self.pool(states_BLD, attention_mask)
        if self.projection is not None:
            pooled = self.projection(pooled)
        return functional.normalize(pooled, dim=-1) if self.normalize else pooled

    def pool(self, hidden_BLD: Tensor, attention_mask: Tensor) -> Tensor:
        """The vectors [B, D] that token states become, before any projection."""
        return pool(hidden_BLD, attention_mask, self.pooling)

    def represent(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None = None
    ) -> Part:
        """As in `Tower.represent`: `vectors`, of either kind."""
        return (self.vectors(input_ids, attention_mask, None, inputs_embeds),)

    def compare(
        self, queries: Sequence[Part], docs: Sequence[Part], columns_BN: Tensor, mini_batch_size: int | None = None
    ) -> BatchScores:
        """Scores [B, M] of every query with every doc, in fp32; as in `Tower.compare`."""
        queries_BD, docs_MD = (torch.cat([vectors for (vectors,) in side]).float() for side in (queries, docs))
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
        dropout: float | None = None,
        pooling: Pooling | None = None,
        projection_dim: int | None = None,
        normalize: bool | None = None,
        query_max_length: int | None = None,
        doc_max_length: int | None = None,
    ) -> DotModel:
        """Loads a checkpoint of ours, a SentenceTransformer, or any encoder of transformers.

        Args:
            num_layers: keep the first layers only.
            dropout: of the body, in place of the checkpoint's.
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
        config = config_with_layers(str(body), num_layers, dropout)
        # The pooler takes no part in the score, and many checkpoints come without one.
        encoder = load_weights(AutoModel, str(body), config, may_be_new=("pooler",))
        tokenizer = load_tokenizer(str(body))
        projection: nn.Linear | None = None
        if projection_dim is not None:
            projection = nn.Linear(int(config.hidden_size), projection_dim, bias=False)
        elif stored["dense"] is not None:
            projection = load_dense(path / stored["dense"])
        model = cls(
            encoder,
            tokenizer,
            pooling=pooling or stored["pooling"],
            projection=projection,
            normalize=stored["normalize"] if normalize is None else normalize,
            **lengths_within(stored, max_positions(config), query_max_length, doc_max_length),
            query_prompt=stored["query_prompt"],
            doc_prompt=stored["doc_prompt"],
        )
        model.eval()
        return model.to(choose_device(device))

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `SentenceTransformer(path)` and `DotModel.from_pretrained(path)` load."""
        folder = Path(path)
        self._save_parts(folder, self.encoder)
        longest = max(self.query_max_length, self.doc_max_length)
        pooling = {"embedding_dimension": self.config.hidden_size, "pooling_mode": self.pooling, "include_prompt": True}
        write_layout(
            folder,
            [
                ("Transformer", {"max_seq_length": longest, "do_lower_case": False}),
                ("Pooling", pooling),
                *([("Dense", self.projection)] if self.projection is not None else []),
                *([("Normalize", {})] if self.normalize else []),
            ],
            model_type="SentenceTransformer",
            similarity="dot",
            prompts=(self.query_prompt, self.doc_prompt),
        )


def pool(hidden_BLD: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector [B, D] of each text's token states."""
    if pooling != "mean":  # the first or the last token, on whichever side the padding is
        at_B = attention_mask.argmax(1)
        if pooling == "lasttoken":
            at_B = attention_mask.shape[1] - 1 - attention_mask.flip(1).argmax(1)
        return hidden_BLD[torch.arange(len(at_B), device=at_B.device), at_B]
    mask_BL1 = attention_mask.unsqueeze(-1).to(hidden_BLD.dtype)
    return (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1e-9)


def _read_layout(path: Path) -> dict[str, Any]:
    """What a folder says of itself: where its modules are, how they pool, how long texts may be."""
    found: dict[str, Any] = {"transformer": "", "dense": None, "normalize": False, "pooling": "mean"}
    found["query_prompt"], found["doc_prompt"] = read_prompts(path)
    for kind, where in read_modules(path):
        if kind == "Transformer":
            found["transformer"] = where
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
    return found | read_lengths(path, found["transformer"])


def _pooling_mode(config: dict[str, Any], path: Path) -> str:
    mode = config.get("pooling_mode")
    if mode is None:  # layouts before sentence-transformers 5.4 had one flag a mode
        chosen = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        names |= {"pooling_mode_lasttoken": "lasttoken"}
        mode = names.get(chosen[0]) if len(chosen) == 1 else None
    if mode not in get_args(Pooling):
        raise BadDataError(
            'pooling "mean", "cls" or "lasttoken"', repr(config), "pool another way or retrain", str(path / "1_Pooling")
        )
    return str(mode)
