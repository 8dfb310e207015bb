"""What students that read queries and documents apart have in common; the score of a pair comes from what each side became.

A training batch goes through `forward` in two steps: `represent` makes of each text what it becomes by itself (a vector, the
states of its tokens), `compare` makes scores of that. Both are each architecture's own.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rankdistill.errors import WrongModelError
from rankdistill.formats import guarded
from rankdistill.formats.tokenizers import encode_texts
from rankdistill.models.backbone import weights_fingerprint

__all__ = [
    "CPU_PARTS",
    "OWN_CONFIG",
    "BatchScores",
    "Card",
    "InteractionModel",
    "Kind",
    "Part",
    "Tower",
    "check_room",
    "forgetting",
    "in_parts",
    "pad_cat",
    "read_json",
    "write_json",
]

Kind = Literal["query", "document"]
Part: TypeAlias = tuple[Tensor, ...]
"""What some texts of one side became: their vectors, or the states of their tokens and which of them count."""
_T = TypeVar("_T", Tensor, Part)
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

    def set_prompts(self, query_prompt: str | None = None, doc_prompt: str | None = None) -> None:
        """Puts other prompts before texts; None leaves one as it is.

        Raises:
            WrongModelError: if a prompt leaves no room for text.
        """
        self.query_prompt = self.query_prompt if query_prompt is None else query_prompt
        self.doc_prompt = self.doc_prompt if doc_prompt is None else doc_prompt
        self.check_prompts()

    def check_prompts(self) -> None:
        """Checks that both prompts leave room for text.

        Raises:
            WrongModelError: if one doesn't.
        """
        check_room(self.tokenizer, self.query_prompt, self.query_max_length, "query_prompt")
        check_room(self.tokenizer, self.doc_prompt, self.doc_max_length, "doc_prompt")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def backbone(self) -> PreTrainedModel | None:
        """The encoder of transformers inside, whose family it has; None if there is none."""
        return None

    def packs(self, kind: Kind) -> bool:
        """Whether texts of a kind go through the model without padding, as things are now: `represent` sees to that."""
        return False

    def tokenize(self, texts: Sequence[str], kind: Kind) -> list[list[int]]:
        """Token ids of each text after its kind's prompt, specials included, cut at the length of its kind."""
        is_query = kind == "query"
        limit = self.query_max_length if is_query else self.doc_max_length
        prompt = self.query_prompt if is_query else self.doc_prompt
        check_room(self.tokenizer, prompt, limit, "query_prompt" if is_query else "doc_prompt")
        prompted = [prompt + text for text in texts] if prompt else list(texts)
        return encode_texts(self.tokenizer, prompted, limit)

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
        own = self.own_config()
        if getattr(self.tokenizer, "truncation_side", "right") == "left":
            own["truncation_side"] = "left"
        return weights_fingerprint(self, json.dumps(own, sort_keys=True))

    @abstractmethod
    def embed(self, input_ids: Tensor) -> Tensor:
        """Input embeddings of token ids of any shape."""

    def sides(self, batch: Mapping[str, Tensor]) -> dict[Kind, tuple[Tensor, Tensor]]:
        """Token ids and mask of a batch's queries and of its docs, as `represent` takes them."""
        return {"query": (batch["query_ids"], batch["query_mask"]), "document": (batch["doc_ids"], batch["doc_mask"])}

    @abstractmethod
    def represent(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None = None
    ) -> Part:
        """What texts become by themselves; gradients flow.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L].
            kind: which side of a pair they are.
            inputs_embeds: the ids' input embeddings [B, L, D], where they have been looked up already.
        """

    @abstractmethod
    def compare(
        self, queries: Sequence[Part], docs: Sequence[Part], columns_BN: Tensor, mini_batch_size: int | None = None
    ) -> BatchScores:
        """Scores of a batch from what its texts became.

        Args:
            queries: of all queries, in any number of parts; so for `docs`.
            columns_BN: which docs are each row's own.
            mini_batch_size: as in `forward`, for what has to read pairs.
        """

    def forward(self, batch: Mapping[str, Tensor], mini_batch_size: int | None = None) -> BatchScores:
        """Scores of a training batch.

        Args:
            batch: query_ids/query_mask [B, L], doc_ids/doc_mask [M, L] of the M distinct docs, and doc_columns [B, N], which
                of them are each row's own. Queries and docs come shortest first.
            mini_batch_size: texts, or pairs, that go through the model at once. What it needs for their gradients is
                forgotten, and computed again when they come: a forward pass more, for a memory that doesn't grow with the
                batch. Dropout is the same both times.

        Source:
            Gao et al. 2021, arXiv:2101.06983 (gradient caching).
        """
        queries, docs = in_parts(self, batch, mini_batch_size)
        return self.compare(queries, docs, batch["doc_columns"], mini_batch_size)

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

    def represent(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None = None
    ) -> Part:
        """As in `Tower.represent`: `states`."""
        return self.states(input_ids, attention_mask, kind, inputs_embeds)

    def compare(
        self, queries: Sequence[Part], docs: Sequence[Part], columns_BN: Tensor, mini_batch_size: int | None = None
    ) -> BatchScores:
        """Scores [B, N] of each row's own docs; as in `Tower.compare`."""
        query_BLD, query_mask_BL = pad_cat(queries)
        doc_MLD, doc_mask_ML = pad_cat(docs)
        rows = torch.arange(len(columns_BN), device=columns_BN.device).repeat_interleave(columns_BN.shape[1])
        columns = columns_BN.flatten()
        pairs = query_BLD[rows], query_mask_BL[rows], doc_MLD[columns], doc_mask_ML[columns]
        scores = torch.cat(forgetting(self.interact, pairs, mini_batch_size))
        return BatchScores(scores.float().view(columns_BN.shape), in_batch=False)


def in_parts(
    model: Tower, batch: Mapping[str, Tensor], mini_batch_size: int | None = None
) -> tuple[list[Part], list[Part]]:
    """What a batch's queries and docs become, in parts.

    A CPU's time grows with tokens, padding too: unless the model does without, each side goes in quarters, each padded to
    its own longest text (they come shortest first). All tokens are looked up at once, since every look-up's gradient is as
    big as the whole table of embeddings. A GPU would rather have few big products, and not wait for lengths.

    Args:
        mini_batch_size: as in `Tower.forward`; the parts are of so many texts then, each looked up by itself.
    """
    sides = model.sides(batch)
    on_cpu = batch["query_ids"].device.type == "cpu"
    if mini_batch_size is not None:
        queries, docs = (
            forgetting(partial(_trimmed, model, kind, on_cpu), side, mini_batch_size) for kind, side in sides.items()
        )
        return queries, docs
    if not on_cpu:
        queries, docs = ([model.represent(ids, mask, kind)] for kind, (ids, mask) in sides.items())
        return queries, docs
    embedded = model.embed(torch.cat([ids.flatten() for ids, _ in sides.values()]))
    found: list[list[Part]] = []
    looked_up = torch.split(embedded, [ids.numel() for ids, _ in sides.values()])
    for (kind, (ids, mask)), part in zip(sides.items(), looked_up, strict=True):
        embedded_BLD = part.view(*ids.shape, -1)
        num_parts = 1 if model.packs(kind) else CPU_PARTS
        found.append([])
        for some_ids, states, masked in zip(
            ids.chunk(num_parts), embedded_BLD.chunk(num_parts), mask.chunk(num_parts), strict=True
        ):
            longest = int(masked.sum(1).max())
            found[-1].append(model.represent(some_ids[:, :longest], masked[:, :longest], kind, states[:, :longest]))
    return found[0], found[1]


def _trimmed(model: Tower, kind: Kind, on_cpu: bool, ids: Tensor, mask: Tensor) -> Part:
    longest = int(mask.sum(1).max()) if on_cpu else mask.shape[1]
    return model.represent(ids[:, :longest], mask[:, :longest], kind)


def forgetting(function: Callable[..., _T], tensors: Sequence[Tensor], size: int | None) -> list[_T]:
    """`function(*tensors)` of `size` rows at a time, each part computed again when its gradient comes; None is all, kept.

    The second time random numbers and autocast are as they were the first.
    """
    if size is None:
        return [function(*tensors)]
    parts = zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
    return [checkpoint(function, *part, use_reentrant=False) for part in parts]


def pad_cat(parts: Sequence[Part]) -> tuple[Tensor, Tensor]:
    """Parts of different lengths as one [B, L, D] and its mask [B, L]."""
    longest = max(mask.shape[1] for _, mask in parts)
    states = [nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part, _ in parts]
    masks = [nn.functional.pad(mask, (0, longest - mask.shape[1])) for _, mask in parts]
    return torch.cat(states), torch.cat(masks)


def check_room(tokenizer: Any, prompt: str, max_length: int, name: str) -> None:
    """Checks that a prompt leaves room for text: otherwise every text would become the same.

    Args:
        tokenizer: of transformers.
        prompt: put before each text.
        max_length: tokens that are read, specials included.
        name: what the prompt is called.

    Raises:
        WrongModelError: if the prompt's tokens and the specials take all of `max_length`.
    """
    if not prompt:
        return
    num_tokens = len(tokenizer(prompt)["input_ids"])
    if num_tokens >= max_length:
        expected = f"a {name} that leaves room for text within {max_length} tokens"
        found = f'one that takes {num_tokens} with the special tokens ("{prompt[:60]}")'
        raise WrongModelError(expected, found, "raise the maximum length, or take a shorter prompt")


def write_json(path: Path, value: object) -> None:
    """Writes a value as a checkpoint's config, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads it back; {} if there's no such file.

    Raises:
        BadDataError: for anything but a JSON object, or in modules.json a list.
    """
    kind = list if path.name == "modules.json" else dict
    return guarded.read_json(path, kind) if path.is_file() else {}
