"""PreTT: one Transformer, split. Its lower layers read query and document apart, its upper ones read them together.

What the lower layers make of a document doesn't depend on the query, so it can be computed once and kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from rankdistill.errors import WrongModelError
from rankdistill.formats.writing import whole
from rankdistill.models.backbone import (
    check_same,
    config_with_layers,
    first_position,
    load_config,
    load_tokenizer,
    load_weights,
    max_positions,
    resolve,
)
from rankdistill.models.chain import check_body
from rankdistill.models.precision import choose_device
from rankdistill.models.towers import CPU_PARTS, OWN_CONFIG, Card, InteractionModel, Kind, read_json

__all__ = ["PrettBody", "PrettConfig", "PrettModel"]

# Where each family keeps its layers. What they share: `embeddings` that take position ids, and layers that take states
# and a mask and nothing else that depends on places (as MPNet's and DeBERTa's relative positions would).
_LAYERS = {
    "bert": "encoder.layer",
    "camembert": "encoder.layer",
    "distilbert": "transformer.layer",
    "electra": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
}


class PrettConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """What a `PrettBody` is made of.

    Args:
        encoder: the config of the Transformer that is split, or its dict.
        join_layer: how many layers read the two texts apart.
        doc_offset: position of a document's first token that is read. Queries are at most as long, whatever the batch,
            or states that were kept would belong to one length of query only.
        compress_dim: width of the states that are kept; None keeps them as they are.
    """

    model_type = "rankdistill-prett"

    def __init__(
        self,
        encoder: PretrainedConfig | dict[str, Any] | None = None,
        join_layer: int = 0,
        doc_offset: int = 0,
        compress_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder: Any = AutoConfig.for_model(**encoder) if isinstance(encoder, dict) else encoder
        self.join_layer, self.doc_offset, self.compress_dim = join_layer, doc_offset, compress_dim
        super().__init__(**kwargs)


class PrettBody(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The weights of a PreTT student: encoder, compressor (if any), and a linear score of the first token.

    The score has no bias, which no difference of scores would feel.
    """

    config_class = PrettConfig
    _supports_sdpa = True

    def __init__(self, config: PrettConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        family, depth = str(config.encoder.model_type), int(config.encoder.num_hidden_layers)
        if family not in _LAYERS:
            found = f"one of the family {family}"
            raise WrongModelError(f"an encoder that can be split ({', '.join(_LAYERS)})", found, "start from another")
        if not 0 <= config.join_layer < depth:
            raise ValueError(
                f"join_layer={config.join_layer} does not exist: of {depth} layers, 0 to {depth - 1} can read the texts apart"
            )
        self.encoder: Any = encoder
        if encoder is None:
            self.encoder = AutoModel.from_config(config.encoder, trust_remote_code=False)  # type: ignore[no-untyped-call]
        if hasattr(self.encoder, "pooler"):
            self.encoder.pooler = None
        width = int(config.encoder.hidden_size)
        self.compress: nn.Module = nn.Identity()
        self.expand: nn.Module = nn.Identity()
        if config.compress_dim is not None:
            self.compress = nn.Sequential(nn.Linear(width, config.compress_dim), nn.GELU())
            self.expand = nn.Sequential(nn.Linear(config.compress_dim, width), nn.LayerNorm(width))
        self.score = nn.Linear(width, 1, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def apart(self, inputs_embeds: Tensor, attention_mask: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
        """What the lower layers make of texts by themselves.

        A document loses its first token ([CLS]), and is of the second token type where the encoder has types.

        Args:
            inputs_embeds: word embeddings [B, L, H].
            attention_mask: [B, L].
            kind: which side of a pair the texts are.

        Returns:
            States [B, L', D] and mask [B, L'].
        """
        is_doc = kind == "document"
        if is_doc:
            inputs_embeds, attention_mask = inputs_embeds[:, 1:], attention_mask[:, 1:]
        length, device = inputs_embeds.shape[1], inputs_embeds.device
        first = first_position(self.encoder.config) + (self.config.doc_offset if is_doc else 0)
        places: dict[str, Tensor] = {"position_ids": torch.arange(first, first + length, device=device)[None]}
        types = getattr(self.encoder.embeddings, "token_type_embeddings", None)
        if types is not None and types.num_embeddings > 1:
            places["token_type_ids"] = torch.full((1, length), int(is_doc), device=device)
        states = self.encoder.embeddings(input_ids=None, inputs_embeds=inputs_embeds, **places)
        if hasattr(self.encoder, "embeddings_project"):  # ELECTRA's embeddings may be narrower than its states
            states = self.encoder.embeddings_project(states)
        return self.compress(self._run(states, attention_mask, 0, self.config.join_layer)), attention_mask

    def joint(self, states_PLD: Tensor, mask_PL: Tensor) -> Tensor:
        """Scores [P] of pairs, from the states of both texts' tokens one after the other, the query's first."""
        states_PLH = self._run(self.expand(states_PLD), mask_PL, self.config.join_layer, None)
        scores_P1: Tensor = self.score(states_PLH[:, 0])
        return scores_P1.squeeze(-1)

    def forward(self, query_ids: Tensor, query_mask: Tensor, doc_ids: Tensor, doc_mask: Tensor) -> Tensor:
        """Scores [P] of pairs of token ids [P, L], both with their special tokens."""
        embed = self.encoder.get_input_embeddings()
        query, query_mask = self.apart(embed(query_ids), query_mask, "query")
        doc, doc_mask = self.apart(embed(doc_ids), doc_mask, "document")
        return self.joint(torch.cat([query, doc], 1), torch.cat([query_mask, doc_mask], 1))

    def _run(self, states: Tensor, mask: Tensor, start: int, stop: int | None) -> Tensor:
        config = self.encoder.config
        whole: Any = create_bidirectional_mask(config=config, inputs_embeds=states, attention_mask=mask)
        for layer in self.encoder.get_submodule(_LAYERS[config.model_type])[start:stop]:
            found = layer(states, whole)
            states = found if isinstance(found, Tensor) else found[0]
        return states


class PrettModel(InteractionModel):
    """A Transformer whose first layers read queries and documents apart.

    Attributes:
        dim: width D of the states that can be kept: the compressor's, or the encoder's.

    Raises:
        ValueError: if a query and a document of the lengths given don't fit the encoder's positions.

    Source:
        MacAvaney et al. 2020, arXiv:2004.14255 (PreTTR; its compressor squeezes both sides); without the compressor and
        with document positions after the query's, a student of Hofstätter et al. 2020, arXiv:2010.02666. There the
        positions begin at the padded length of the batch's queries, so kept states fit some batches only; here they
        begin at `query_max_length`.
    """

    architecture = "prett"
    card = Card(scores="Scores are a linear function of the first token, which has read query and document.")
    scores_in_batch = False

    def __init__(self, body: PrettBody, tokenizer: Any, **lengths_and_prompts: Any) -> None:
        super().__init__(tokenizer, **lengths_and_prompts)
        self.body = body
        self.config: Any = body.config
        self.dim = int(body.config.compress_dim or body.config.encoder.hidden_size)
        needed = body.config.doc_offset + self.doc_max_length - 1
        longest = max_positions(body.config.encoder)
        if needed > longest:
            raise ValueError(
                f"query_max_length={body.config.doc_offset} and doc_max_length={self.doc_max_length} need {needed} "
                f"positions (a document's begin after the longest query's), and this encoder has {longest}; take shorter ones"
            )

    @property
    def backbone(self) -> PreTrainedModel | None:
        """As in `Tower.backbone`."""
        body: PreTrainedModel = self.body.encoder
        return body

    def embed(self, input_ids: Tensor) -> Tensor:
        """As in `Tower.embed`."""
        embedded: Tensor = self.body.encoder.get_input_embeddings()(input_ids)
        return embedded

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As in `InteractionModel.states`; a document has one state less than tokens, its [CLS] is left out."""
        return self.body.apart(self.embed(input_ids) if inputs_embeds is None else inputs_embeds, attention_mask, kind)

    def interact(self, query_PLD: Tensor, query_mask_PL: Tensor, doc_PLD: Tensor, doc_mask_PL: Tensor) -> Tensor:
        """As in `InteractionModel.interact`, by the upper layers.

        On a CPU, whose time grows with padding, pairs go in quarters of like length. Where a token stands no longer matters
        to these layers, so the padding between query and document goes to the end, and off.
        """
        states_PLD = torch.cat([query_PLD, doc_PLD], 1)
        mask_PL = torch.cat([query_mask_PL, doc_mask_PL], 1)
        if states_PLD.device.type != "cpu":
            return self.body.joint(states_PLD, mask_PL)
        lengths_P = mask_PL.sum(1)
        order = lengths_P.argsort()
        scores = []
        for part in order.chunk(CPU_PARTS):
            used = mask_PL[part].argsort(dim=1, descending=True, stable=True)[:, : int(lengths_P[part].max())]
            chosen = part.unsqueeze(1), used
            scores.append(self.body.joint(states_PLD[chosen], mask_PL[chosen]))
        return torch.cat(scores)[order.argsort()]

    def own_config(self) -> dict[str, Any]:
        """As in `Tower.own_config`."""
        return super().own_config() | {"join_layer": self.config.join_layer}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        num_layers: int | None = None,
        dropout: float | None = None,
        join_layer: int | None = None,
        compress_dim: int | None = None,
        query_max_length: int | None = None,
        doc_max_length: int | None = None,
    ) -> PrettModel:
        """Loads a checkpoint of ours, or splits an encoder of transformers, whose score starts random.

        Args:
            num_layers: keep an encoder's first layers only.
            dropout: of the encoder, in place of its own.
            join_layer: how many layers read the texts apart; None is half of them, or the checkpoint's.
            compress_dim: width of the states that are kept; None doesn't compress, or keeps the checkpoint's.
            query_max_length: None is the checkpoint's, or 64; a document's positions begin there.
            doc_max_length: None is the checkpoint's, or as many as positions are left, at most 256.

        Raises:
            WrongModelError: if the encoder is of a family that isn't covered.
            ValueError: if `join_layer` does not exist, the lengths don't fit, or a checkpoint of ours was made otherwise.
        """
        path = Path(resolve(str(name_or_path)))
        own = read_json(path / OWN_CONFIG)
        if own.get("architecture") == cls.architecture:
            config = load_config(path, PrettConfig)
            asked = {"num_layers": num_layers, "join_layer": join_layer, "compress_dim": compress_dim}
            stored = {"num_layers": config.encoder.num_hidden_layers, "join_layer": config.join_layer}
            stored |= {"compress_dim": config.compress_dim, "query_max_length": config.doc_offset}
            check_same(path, asked | {"query_max_length": query_max_length}, stored)
            body: Any = load_weights(PrettBody, str(path), config)
            query_length = int(config.doc_offset)
        else:
            check_body(path)
            encoder_config = config_with_layers(str(path), num_layers, dropout)
            query_length = query_max_length or 64
            config = PrettConfig(
                encoder=encoder_config,
                join_layer=encoder_config.num_hidden_layers // 2 if join_layer is None else join_layer,
                doc_offset=query_length,
                compress_dim=compress_dim,
            )
            encoder = load_weights(AutoModel, str(path), encoder_config, may_be_new=("pooler",))
            body = PrettBody(config, encoder)
        left = max_positions(config.encoder) - query_length + 1
        model = cls(
            body,
            load_tokenizer(path, body.encoder, slow=True),
            query_max_length=query_length,
            doc_max_length=doc_max_length or own.get("doc_max_length") or min(left, 256),
            **{prompt: own.get(prompt, "") for prompt in ("query_prompt", "doc_prompt")},
        )
        model.eval()
        return model.to(choose_device(device))

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `PrettBody.from_pretrained(path)` and `PrettModel.from_pretrained(path)` load."""
        self._save_parts(Path(path), self.body)
