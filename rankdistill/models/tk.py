"""TK: a shallow Transformer over word embeddings; kernels count how similar the words of query and document are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from rankdistill.formats.writing import whole
from rankdistill.models.backbone import (
    check_same,
    config_with_layers,
    load_config,
    load_tokenizer,
    load_weights,
    resolve,
)
from rankdistill.models.chain import check_body
from rankdistill.models.precision import choose_device
from rankdistill.models.towers import OWN_CONFIG, Card, InteractionModel, Kind, read_json
from rankdistill.models.words import without_specials, word_tokenizer

__all__ = ["Aggregation", "TKBody", "TKConfig", "TKModel"]

Aggregation = Literal["log", "log+length"]
_CENTRES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, -0.1, -0.3, -0.5, -0.7, -0.9)
_WIDTH = 0.1  # of all kernels, also of the one at 1, where KNRM took .001
_TINY = 1e-10  # what a count of nothing is, before its logarithm


class TKConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """What a `TKBody` is made of.

    Args:
        vocab_size: words, or word pieces.
        hidden_size: width D of their embeddings.
        num_layers: Transformer layers, shared by queries and documents.
        num_heads: attention heads of each.
        feed_forward: width of each layer's inner product.
        aggregation: "log" of each query word's kernel counts, or "log+length", which also takes the counts divided by the
            document's length.
        doc_position: position at which documents begin (queries begin at 0).
    """

    model_type = "rankdistill-tk"

    def __init__(
        self,
        vocab_size: int = 0,
        hidden_size: int = 300,
        num_layers: int = 2,
        num_heads: int = 10,
        feed_forward: int = 300,
        aggregation: Aggregation = "log",
        doc_position: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_layers, self.num_heads, self.feed_forward = num_layers, num_heads, feed_forward
        self.aggregation, self.doc_position = aggregation, doc_position
        super().__init__(**kwargs)


def _small(size: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(size).uniform_(-0.014, 0.014))


class _LogKernels(nn.Module):
    """`weights . sum_i ln(scales * count_i)`."""

    def __init__(self) -> None:
        super().__init__()
        self.scales, self.weights = nn.Parameter(torch.ones(len(_CENTRES))), _small(len(_CENTRES))

    def forward(self, counts_PIK: Tensor, query_mask_PI: Tensor, doc_mask_PJ: Tensor) -> Tensor:
        logs_PIK = (counts_PIK * self.scales).clamp(min=_TINY).log() * query_mask_PI.unsqueeze(-1)
        scores_P: Tensor = logs_PIK.sum(1) @ self.weights
        return scores_P


class _LogAndLengthKernels(nn.Module):
    """`both . (log_weights . sum_i log2(count_i), length_weights . sum_i count_i / (doc length + 1)) * scale`."""

    def __init__(self) -> None:
        super().__init__()
        self.log_weights, self.length_weights = _small(len(_CENTRES)), _small(len(_CENTRES))
        self.scale = nn.Parameter(torch.tensor(0.01))
        self.both = nn.Linear(2, 1, bias=False)

    def forward(self, counts_PIK: Tensor, query_mask_PI: Tensor, doc_mask_PJ: Tensor) -> Tensor:
        query_mask_PI1 = query_mask_PI.unsqueeze(-1)
        logs_PK = (counts_PIK.clamp(min=_TINY).log2() * query_mask_PI1).sum(1)
        shares_PK = (counts_PIK * query_mask_PI1).sum(1) / (doc_mask_PJ.sum(1, keepdim=True) + 1)
        branches_P2 = torch.stack([logs_PK @ self.log_weights, shares_PK @ self.length_weights], 1) * self.scale
        scores_P1: Tensor = self.both(branches_P2)
        return scores_P1.squeeze(-1)


_KERNELS: dict[str, type[nn.Module]] = {"log": _LogKernels, "log+length": _LogAndLengthKernels}


class TKBody(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The weights of a TK student: embeddings, Transformer, mix of the two, kernels."""

    config_class = TKConfig
    centres: Tensor

    def __init__(self, config: TKConfig, table_VD: Tensor | None = None) -> None:
        super().__init__(config)
        width, heads = config.hidden_size, config.num_heads
        if width % heads:
            fitting = ", ".join(str(n) for n in range(1, min(width, 64) + 1) if width % n == 0)
            raise ValueError(
                f"num_heads={heads} does not divide the embeddings' width {width}; choose one of {fitting}"
            )
        if config.aggregation not in _KERNELS:
            raise ValueError(f"aggregation must be one of {', '.join(_KERNELS)}, not {config.aggregation!r}")
        self.embeddings = nn.Embedding(config.vocab_size, width, _weight=table_VD)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, config.feed_forward, dropout=0.0, batch_first=True)
            for _ in range(config.num_layers)
        )
        self.mix = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("centres", torch.tensor(_CENTRES))
        self.kernels = _KERNELS[config.aggregation]()
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: torch's own initialisation stays."""

    def get_input_embeddings(self) -> nn.Module:
        """The table of word embeddings."""
        return self.embeddings

    def contextualise(self, embedded_BLD: Tensor, mask_BL: Tensor, kind: Kind) -> Tensor:
        """Word embeddings [B, L, D], mixed with what the Transformer makes of them, of length 1."""
        length = embedded_BLD.shape[1]
        start = self.config.doc_position if kind == "document" else 0
        context_BLD = embedded_BLD + positions(start, length, embedded_BLD.shape[2], embedded_BLD.device)
        padding_BL = ~mask_BL.bool()
        padding_BL[:, :1] = False  # an empty text must look at something; it counts for nothing later
        if length:
            for layer in self.layers:
                context_BLD = layer(context_BLD, src_key_padding_mask=padding_BL)
        mixed_BLD = self.mix * embedded_BLD + (1 - self.mix) * context_BLD
        return functional.normalize(mixed_BLD.float(), dim=-1)

    def pool(self, cosines_PIJ: Tensor, query_mask_PI: Tensor, doc_mask_PJ: Tensor) -> Tensor:
        """Scores [P] from the cosines of I query words with J document words; masked words add nothing."""
        distances_PIJK = cosines_PIJ.unsqueeze(-1) - self.centres
        activations_PIJK = torch.exp(distances_PIJK.square() / (-2 * _WIDTH**2))
        counts_PIK = (activations_PIJK * doc_mask_PJ[:, None, :, None]).sum(2)
        scores_P: Tensor = self.kernels(counts_PIK, query_mask_PI, doc_mask_PJ)
        return scores_P

    def match(self, query_PID: Tensor, query_mask_PI: Tensor, doc_PJD: Tensor, doc_mask_PJ: Tensor) -> Tensor:
        """Scores [P] from contextualised words. In fp32: kernels are so narrow that a bf16 cosine would change their counts."""
        with torch.autocast(query_PID.device.type, enabled=False):
            return self.pool(query_PID.float() @ doc_PJD.float().mT, query_mask_PI, doc_mask_PJ)

    def forward(self, query_ids: Tensor, query_mask: Tensor, doc_ids: Tensor, doc_mask: Tensor) -> Tensor:
        """Scores [P] of pairs of token ids [P, L]."""
        query = self.contextualise(self.embeddings(query_ids), query_mask, "query")
        return self.match(
            query, query_mask, self.contextualise(self.embeddings(doc_ids), doc_mask, "document"), doc_mask
        )


def _scaled(table_VD: Tensor, length: float) -> Tensor:
    """Vectors with this mean length."""
    found = float(table_VD.norm(dim=1).mean())
    if length <= 0 or not math.isfinite(length) or found == 0:
        raise ValueError(
            f"expected word vectors, and a positive mean length for them, found {found:g} to become {length:g}"
        )
    return table_VD * (length / found)


def positions(start: int, length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Encodings [L, D] of the positions from `start` on: sines, then cosines, of periods from 2 pi to 2 pi x 10,000."""
    half = dim // 2
    rates = torch.exp(torch.arange(half, device=device) * (-math.log(1e4) / max(1, half - 1)))
    angles = torch.arange(start, start + length, device=device)[:, None] * rates
    return functional.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, dim % 2))


class TKModel(InteractionModel):
    """Word embeddings with a little context, compared by kernels; runs on a CPU at the speed of the old neural rankers.

    Its tokenizer puts no special tokens around texts. Gradients of the embeddings are dense, since AdamW has no sparse
    ones: keep the table small.

    Attributes:
        dim: width D of a word's state, which has length 1.
        coverage: what was found when it was made from a table of words; empty if it wasn't.
        learning_rate_factors: by the beginning of a weight's name, what multiplies its learning rate.

    Source:
        Hofstätter et al. 2020, arXiv:2002.01854; "log" is how matchmaker has it, "log+length" the paper's own code.
    """

    architecture = "tk"
    scores_in_batch = False
    card = Card(scores="Scores are weighted kernel counts of word similarities, and may all be negative.")

    def __init__(self, body: TKBody, tokenizer: Any, **lengths_and_prompts: Any) -> None:
        super().__init__(tokenizer, **lengths_and_prompts)
        self.body = body
        self.config: Any = body.config
        self.dim = int(body.config.hidden_size)
        self.coverage: Mapping[str, Any] = {}
        self.learning_rate_factors: Mapping[str, float] = {"body.kernels.": 10.0}

    def embed(self, input_ids: Tensor) -> Tensor:
        """As in `Tower.embed`."""
        embedded: Tensor = self.body.embeddings(input_ids)
        return embedded

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As in `InteractionModel.states`."""
        embedded = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        return self.body.contextualise(embedded, attention_mask, kind), attention_mask

    def interact(self, query_PLD: Tensor, query_mask_PL: Tensor, doc_PLD: Tensor, doc_mask_PL: Tensor) -> Tensor:
        """As in `InteractionModel.interact`; without a query word the score is 0."""
        return self.body.match(query_PLD, query_mask_PL, doc_PLD, doc_mask_PL)

    def own_config(self) -> dict[str, Any]:
        """As in `Tower.own_config`."""
        shape = {name: getattr(self.config, name) for name in ("num_heads", "aggregation", "doc_position")}
        return super().own_config() | shape

    @classmethod
    def from_words(
        cls,
        words: Sequence[str],
        vectors_VD: NDArray[np.float32],
        *,
        device: str = "auto",
        query_max_length: int | None = None,
        doc_max_length: int | None = None,
        vector_length: float | None = None,
        **shape: Any,
    ) -> TKModel:
        """A new model over word vectors; unknown words share their mean.

        Args:
            words: V distinct words, lower-cased.
            vectors_VD: their vectors.
            vector_length: scales them to this mean length; None leaves them as they are.
            query_max_length: words of a query that are read; None is 64.
            doc_max_length: words of a document that are read; None is 256.
            shape: `num_layers`, `num_heads`, `feed_forward`, `aggregation`, `doc_position` of `TKConfig`.

        Raises:
            ValueError: if a word occurs twice or lacks its vector, the heads don't divide the width, or vectors can't have
                that length.
        """
        if len(set(words)) != len(words) or len(words) != len(vectors_VD):
            raise ValueError(
                f"expected distinct words with a vector each, found {len(set(words))} distinct of {len(words)} and "
                f"{len(vectors_VD)} vectors"
            )
        table = torch.from_numpy(vectors_VD)
        table = table if vector_length is None else _scaled(table, vector_length)
        table = torch.cat([torch.zeros(1, table.shape[1]), table.mean(0, keepdim=True), table])
        return cls._over(table, word_tokenizer(words), device, query_max_length, doc_max_length, shape)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        query_max_length: int | None = None,
        doc_max_length: int | None = None,
        vector_length: float | None = None,
        **shape: Any,
    ) -> TKModel:
        """Loads a checkpoint of ours, or makes a new model over the input embeddings of an encoder of transformers.

        Args:
            query_max_length: None is the checkpoint's, or 64; so for `doc_max_length`, 256.
            vector_length: mean length that an encoder's embeddings are scaled to; None is the square root of their width D,
                the length of what the Transformer makes of them. An encoder has a norm after its embeddings, so these may have
                any length: MiniLM's is about 1, and positions, whose length is the square root of D / 2, would be all that a new
                model saw.
            shape: as in `from_words`; of a checkpoint of ours, it can't be changed.

        Raises:
            ValueError: if a checkpoint of ours was made otherwise, the heads don't divide the width, or embeddings can't
                have that length.
        """
        path = Path(resolve(str(name_or_path)))
        own = read_json(path / OWN_CONFIG)
        if own.get("architecture") != cls.architecture:
            check_body(path)
            encoder: Any = load_weights(
                AutoModel, str(path), config_with_layers(str(path), None), may_be_new=("pooler",)
            )
            table = encoder.get_input_embeddings().weight.detach().clone()
            table = _scaled(table, math.sqrt(table.shape[1]) if vector_length is None else vector_length)
            tokenizer = without_specials(load_tokenizer(path, encoder))
            return cls._over(table, tokenizer, device, query_max_length, doc_max_length, shape)
        config = load_config(path, TKConfig)
        check_same(path, shape, vars(config))
        body: Any = load_weights(TKBody, str(path), config)
        model = cls(
            body,
            load_tokenizer(str(path)),
            query_max_length=query_max_length or own["query_max_length"],
            doc_max_length=doc_max_length or own["doc_max_length"],
            query_prompt=own["query_prompt"],
            doc_prompt=own["doc_prompt"],
        )
        model.eval()
        return model.to(choose_device(device))

    @classmethod
    def _over(
        cls,
        table_VD: Tensor,
        tokenizer: Any,
        device: str,
        query_max_length: int | None,
        doc_max_length: int | None,
        shape: Mapping[str, Any],
    ) -> TKModel:
        config = TKConfig(vocab_size=table_VD.shape[0], hidden_size=table_VD.shape[1], **shape)
        lengths = {"query_max_length": query_max_length or 64, "doc_max_length": doc_max_length or 256}
        model = cls(TKBody(config, table_VD), tokenizer, **lengths)
        model.eval()
        return model.to(choose_device(device))

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `TKBody.from_pretrained(path)` and `TKModel.from_pretrained(path)` load."""
        self._save_parts(Path(path), self.body)
