"""What students that read queries and documents apart have in common; the score of a pair comes from what each side became.

A training batch goes through `forward` as a whole and comes out as a matrix of scores; what one side of a pair becomes
(a vector, the states of its tokens) is each architecture's own.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankdistill.models.backbone import weights_fingerprint

__all__ = [
    "CPU_PARTS",
    "OWN_CONFIG",
    "BatchScores",
    "Card",
    "InteractionModel",
    "Kind",
    "Tower",
    "in_parts",
    "pad_cat",
    "read_json",
    "write_json",
]

Kind = Literal["query", "document"]
_T = TypeVar("_T")
OWN_CONFIG = "rankdistill.json"

CPU_PARTS = 4
"""Parts of a batch on the CPU, each padded to its own longest text."""


@dataclass
class BatchScores:
    """A student's scores of a training batch.

    Attributes:
        scores: [B, M] of every query with every doc of the batch, or [B, N] of each row's own docs.
        in_batch: which of the two.
        penalties: named terms of the model's own (a sparse model's FLOPS, say), scalars, not yet weighted.
        scale: what multiplies scores in contrastive terms, where the model learns that; a scalar.
    """

    scores: Tensor
    in_batch: bool
    penalties: dict[str, Tensor] = field(default_factory=dict)
    scale: Tensor | None = None

    def own(self, columns_BN: Tensor) -> Tensor:
        """Scores [B, N] of each row's own docs, whose columns in the batch are `columns_BN`."""
        return self.scores.gather(1, columns_BN) if self.in_batch else self.scores

    def scaled(self, scores: Tensor) -> Tensor:
        """Any of its scores, as contrastive terms take them."""
        return scores if self.scale is None else scores * self.scale


@dataclass(frozen=True)
class Card:
    """What a model card says of a kind of model.

    Attributes:
        scores: what its scores are, in a sentence.
        library: what loads it, as the hub calls it.
        task: the hub's name of what it does.
        load: Python that loads it from PATH.
    """

    scores: str = "Scores are raw."
    library: str = "rankdistill"
    task: str = "text-ranking"
    load: str = "import rankdistill\n\nmodel = rankdistill.load(PATH)"


class Tower(nn.Module):
    """A model that reads queries and documents apart.

    Attributes:
        architecture: its name on the command line and in checkpoints.
        card: what its model card says.
        scores_in_batch: whether `forward` scores every query with every doc of the batch, or each row's own docs only.
        query_max_length: tokens of a query that are read, specials included.
        doc_max_length: the same for documents.
        query_prompt: put before each query ("query: ", say).
        doc_prompt: the same for documents.
    """

    architecture: ClassVar[str]
    card: ClassVar[Card] = Card()
    scores_in_batch: ClassVar[bool] = True

    def __init__(
        self,
        tokenizer: Any,
        *,
        query_max_length: int = 64,
        doc_max_length: int = 256,
        query_prompt: str = "",
        doc_prompt: str = "",
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.query_max_length, self.doc_max_length = query_max_length, doc_max_length
        self.query_prompt, self.doc_prompt = query_prompt, doc_prompt

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def tokenize(self, texts: Sequence[str], kind: Kind) -> list[list[int]]:
        """Token ids of each text after its kind's prompt, specials included, cut at the length of its kind."""
        if not texts:  # which the tokenizer can't do
            return []
        is_query = kind == "query"
        limit = self.query_max_length if is_query else self.doc_max_length
        prompt = self.query_prompt if is_query else self.doc_prompt
        prompted = [prompt + text for text in texts] if prompt else list(texts)
        ids: list[list[int]] = self.tokenizer(prompted, truncation=True, max_length=limit)["input_ids"]
        return ids

    def own_config(self) -> dict[str, Any]:
        """What decides the scores beside weights and tokenizer; written to the checkpoint's rankdistill.json."""
        return {
            "architecture": self.architecture,
            "query_max_length": self.query_max_length,
            "doc_max_length": self.doc_max_length,
            "query_prompt": self.query_prompt,
            "doc_prompt": self.doc_prompt,
        }

    def fingerprint(self) -> str:
        """Equal when two models make the same of the same texts."""
        return weights_fingerprint(self, json.dumps(self.own_config(), sort_keys=True))

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """Input embeddings of token ids of any shape."""

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> BatchScores:
        """Scores of a training batch.

        Args:
            batch: query_ids/query_mask [B, L], doc_ids/doc_mask [M, L] of the M distinct docs, and doc_columns [B, N], which
                of them are each row's own. Queries and docs come shortest first.
        """

    @abstractmethod
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `rankdistill.load` reads back."""

    def _save_parts(self, folder: Path, body: PreTrainedModel) -> None:
        """Writes what every checkpoint has: the body's weights, the tokenizer with its longest text, rankdistill.json."""
        body.save_pretrained(folder)
        self.tokenizer.model_max_length = max(self.query_max_length, self.doc_max_length)
        self.tokenizer.save_pretrained(folder)
        write_json(folder / OWN_CONFIG, self.own_config())


class InteractionModel(Tower):
    """A model whose score of a pair comes from the states of both texts' tokens.

    Attributes:
        dim: width D of a token's state.
    """

    dim: int

    @abstractmethod
    def states(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What each text becomes by itself, to be computed once and kept.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L].
            kind: which side of the pair.
            inputs_embeds: the ids' input embeddings [B, L, D], where they have been looked up already.

        Returns:
            States [B, L', D] and which of them count, [B, L']; L' may differ from L by markers or masks put in.
        """

    @abstractmethod
    def interact(self, query_PLD: Tensor, query_mask_PL: Tensor, doc_PLD: Tensor, doc_mask_PL: Tensor) -> Tensor:
        """Scores [P] of P pairs from their states; positions masked by 0 have no influence."""

    def forward(self, batch: Mapping[str, Tensor]) -> BatchScores:
        """Scores [B, N] of each row's own docs; as in `Tower.forward`."""
        query_BLD, query_mask_BL, doc_MLD, doc_mask_ML = self.both_sides(batch)
        columns_BN = batch["doc_columns"]
        rows = torch.arange(len(columns_BN), device=columns_BN.device).repeat_interleave(columns_BN.shape[1])
        columns = columns_BN.flatten()
        scores = self.interact(query_BLD[rows], query_mask_BL[rows], doc_MLD[columns], doc_mask_ML[columns])
        return BatchScores(scores.float().view(columns_BN.shape), in_batch=False)

    def both_sides(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States and masks of a batch's queries and docs."""
        queries, docs = in_parts(self, batch, self.states)
        return *pad_cat(queries), *pad_cat(docs)


def in_parts(
    model: Tower, batch: Mapping[str, Tensor], encode: Callable[[Tensor, Tensor, Kind, Tensor | None], _T]
) -> tuple[list[_T], list[_T]]:
    """A batch's queries and docs through `encode(input_ids, attention_mask, kind, inputs_embeds)`, in parts.

    A CPU's time grows with tokens, padding too: each side goes in quarters, each padded to its own longest text (they
    come shortest first). All tokens are looked up at once, since every look-up's gradient is as big as the whole table
    of embeddings. A GPU would rather have few big products, and not wait for lengths.

    Returns:
        What `encode` gave for each part of the queries, and of the docs.
    """
    kinds: tuple[Kind, Kind] = ("query", "document")
    sides = [(batch[f"{side}_ids"], batch[f"{side}_mask"]) for side in ("query", "doc")]
    if sides[0][0].device.type != "cpu":
        query_part, doc_part = (encode(ids, mask, kind, None) for (ids, mask), kind in zip(sides, kinds, strict=True))
        return [query_part], [doc_part]
    embedded = model.embed(torch.cat([ids.flatten() for ids, _ in sides]))
    found: list[list[_T]] = []
    looked_up = torch.split(embedded, [ids.numel() for ids, _ in sides])
    for (ids, mask), kind, part in zip(sides, kinds, looked_up, strict=True):
        embedded_BLD = part.view(*ids.shape, -1)
        found.append([])
        for some_ids, states, masked in zip(
            ids.chunk(CPU_PARTS), embedded_BLD.chunk(CPU_PARTS), mask.chunk(CPU_PARTS), strict=True
        ):
            longest = int(masked.sum(1).max())
            found[-1].append(encode(some_ids[:, :longest], masked[:, :longest], kind, states[:, :longest]))
    return found[0], found[1]


def pad_cat(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
    """Parts of different lengths as one [B, L, D] and its mask [B, L]."""
    longest = max(mask.shape[1] for _, mask in parts)
    states = [nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part, _ in parts]
    masks = [nn.functional.pad(mask, (0, longest - mask.shape[1])) for _, mask in parts]
    return torch.cat(states), torch.cat(masks)


def write_json(path: Path, value: object) -> None:
    """Writes a value as a checkpoint's config, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads it back; {} if there's no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
