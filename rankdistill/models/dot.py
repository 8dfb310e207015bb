"""The dot student: one shared encoder, pooled to one vector; the score of a pair is the similarity of its vectors.

Checkpoints are SentenceTransformer folders: Transformer + Pooling [+ Dense] [+ Normalize].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from rankdistill.formats.writing import whole
from rankdistill.models.backbone import config_with_layers, load_tokenizer, load_weights, max_positions, resolve
from rankdistill.models.chain import Pooling, read_chain
from rankdistill.models.layout import lengths_within, load_dense, read_lengths, write_layout
from rankdistill.models.packed import can_pack, given_to_body, run_body
from rankdistill.models.precision import choose_device
from rankdistill.models.similarity import SIMILARITIES, Similarity, similarities
from rankdistill.models.towers import BatchScores, Card, Kind, Part, Tower

__all__ = ["DotModel", "Pooling", "pool"]


class DotModel(Tower):
    """An encoder whose pooled output is compared by dot product, or by another similarity that its folder names.

    Attributes:
        dim: width D of the vectors.
        similarity: what compares two vectors, by sentence-transformers' names.

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
        similarity: Similarity = "dot",
        **lengths_and_prompts: Any,
    ) -> None:
        super().__init__(tokenizer, **lengths_and_prompts)
        if similarity not in SIMILARITIES:
            raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, not {similarity!r}")
        if pooling not in get_args(Pooling):
            raise ValueError(f'pooling must be "mean", "cls" or "lasttoken", not {pooling!r}')
        self.encoder, self.projection = encoder, projection
        self.pooling, self.normalize, self.similarity = pooling, normalize, similarity
        self.config: Any = encoder.config
        self.dim: int = projection.out_features if projection is not None else int(encoder.config.hidden_size)

    @property
    def comparison(self) -> Similarity:
        """What compares its vectors. Vectors of length 1 have their dot product for their cosine."""
        return "dot" if self.normalize and self.similarity == "cosine" else self.similarity

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
            return BatchScores(similarities(queries_BD, docs_MD, self.comparison), in_batch=True)

    def own_config(self) -> dict[str, Any]:
        """As in `Tower.own_config`."""
        own = super().own_config() | {"pooling": self.pooling, "normalize": self.normalize}
        # The dot product goes without saying, so that fingerprints of models from before there were others stay.
        return own if self.comparison == "dot" else own | {"similarity": self.comparison}

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
        similarity: Similarity | None = None,
        query_max_length: int | None = None,
        doc_max_length: int | None = None,
    ) -> DotModel:
        """Loads a checkpoint of ours, a SentenceTransformer, or any encoder of transformers.

        A SentenceTransformer may be any chain that `models.chain` reads. `rankdistill.load` also takes the others, which
        sentence-transformers then runs.

        Args:
            num_layers: keep the first layers only.
            dropout: of the body, in place of the checkpoint's.
            pooling: None keeps the checkpoint's ("mean" for a plain encoder, "lasttoken" for a plain causal language model).
            projection_dim: adds a new linear projection to this width, in place of one in the checkpoint.
            normalize: None keeps the checkpoint's; False drops a Normalize module, as a dot student wants.
            similarity: None keeps the checkpoint's ("dot" for a plain encoder).
            query_max_length: None keeps the checkpoint's; never more than the model has positions for. So for
                `doc_max_length`.

        Raises:
            WrongModelError: if the folder holds another chain of modules; names the module.
        """
        path = Path(resolve(str(name_or_path)))
        chain = read_chain(path)
        body = path / chain.transformer
        config = config_with_layers(str(body), num_layers, dropout)
        # The pooler takes no part in the score, and many checkpoints come without one.
        encoder = load_weights(AutoModel, str(body), config, may_be_new=("pooler",))
        tokenizer = load_tokenizer(body, encoder, slow=True)
        projection: nn.Linear | None = None
        if projection_dim is not None:
            projection = nn.Linear(int(config.hidden_size), projection_dim, bias=False)
        elif chain.dense is not None:
            projection = load_dense(path / chain.dense)
        stated = read_lengths(path, chain.transformer)
        model = cls(
            encoder,
            tokenizer,
            pooling=pooling or chain.pooling,
            projection=projection,
            normalize=chain.normalize if normalize is None else normalize,
            similarity=similarity or chain.similarity,
            **lengths_within(stated, max_positions(config), query_max_length, doc_max_length),
            query_prompt=chain.query_prompt,
            doc_prompt=chain.doc_prompt,
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
            similarity=self.similarity,
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
