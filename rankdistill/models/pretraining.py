"""An encoder while it's pre-trained: its exits, and the two heads that all of them share.

Its checkpoint is the encoder's, as transformers writes it, with the heads in a folder beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from rankdistill.formats.writing import whole
from rankdistill.models.backbone import check_same, max_positions, resolve
from rankdistill.models.dot import DotModel, Pooling, pool
from rankdistill.models.exits import CONDITION_SIZE, chosen_exits, cut, load_exits, save_exits, states_at
from rankdistill.models.towers import Card, read_json, write_json

__all__ = ["Predictions", "PretrainHeads", "PretrainModel"]

HEADS = "pretraining"
"""Folder of the heads beside the encoder."""


class Predictions(NamedTuple):
    """What the heads say at one exit.

    Attributes:
        tokens_TV: logits of the T tokens that are to be guessed.
        same_B2: logits of "the halves are of two repositories", and of "of one".
    """

    tokens_TV: Tensor
    same_B2: Tensor


class PretrainHeads(nn.Module):
    """The masked-language-model head and the same-repository head, told the exit by a vector that is put behind their input.

    The decoder is tied to the input embeddings; only its bias is here.

    Args:
        num_exits: how many exits there are.
        width: of states, H.
        embeddings: the input embeddings [V, E].
        std: spread of new weights.

    Source:
        ModularStarEncoder, arXiv:2503.03008 (`conditional_size` 4); the heads themselves are BERT's.
    """

    def __init__(self, num_exits: int, width: int, embeddings: Tensor, std: float) -> None:
        super().__init__()
        vocab_size, embedding_width = embeddings.shape
        self.condition = nn.Embedding(num_exits, CONDITION_SIZE)
        self.transform = nn.Linear(width + CONDITION_SIZE, embedding_width)
        self.norm = nn.LayerNorm(embedding_width)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.pooler = nn.Linear(width, width)
        self.same = nn.Linear(width + CONDITION_SIZE, 2)
        for linear in (self.transform, self.pooler, self.same):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(self, i: int, states_TH: Tensor, pooled_BH: Tensor, embeddings_VE: Tensor) -> Predictions:
        """What is said at the exit at position `i`.

        Args:
            states_TH: of the tokens that are to be guessed.
            pooled_BH: of the items.
        """
        states_TE = self.norm(functional.gelu(self.transform(self._told(i, states_TH))))
        same_B2 = self.same(self._told(i, torch.tanh(self.pooler(pooled_BH))))
        return Predictions(functional.linear(states_TE, embeddings_VE, self.bias), same_B2)

    def _told(self, i: int, states: Tensor) -> Tensor:
        return torch.cat([states, self.condition.weight[i].to(states.dtype).expand(len(states), -1)], -1)


class PretrainModel(nn.Module):
    """An encoder with exits that guesses hidden tokens, and whether two runs of snippets are of one repository.

    Attributes:
        encoder: the body.
        exits: layers at each exit, in order of depth; the last is all of the body's.
        pooling: how the states of an item's tokens become one.
    """

    card: ClassVar[Card] = Card(
        scores="It scores nothing by itself: start a student from it, `rankdistill train margin-mse --init PATH`.",
        library="transformers",
        task="feature-extraction",
        load="from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained(PATH)",
    )

    def __init__(self, encoder: PreTrainedModel, tokenizer: Any, exits: Sequence[int], pooling: Pooling) -> None:
        super().__init__()
        self.encoder, self.tokenizer, self.exits, self.pooling = encoder, tokenizer, tuple(exits), pooling
        config: Any = encoder.config
        std = float(getattr(config, "initializer_range", 0.02))
        self.heads = PretrainHeads(len(self.exits), int(config.hidden_size), self._embeddings(), std)

    @property
    def max_positions(self) -> int:
        """How many tokens an item may have."""
        return max_positions(self.encoder.config)

    def forward(self, batch: Mapping[str, Tensor]) -> list[Predictions]:
        """What is said at each exit, in one pass.

        Args:
            batch: input_ids, attention_mask and targets, [B, L]; tokens with a target of 0 or more are to be guessed.
        """
        mask_BL, guessed_BL = batch["attention_mask"], batch["targets"] >= 0
        given = {"input_ids": batch["input_ids"], "attention_mask": mask_BL}
        return [
            self.heads(i, states_BLH[guessed_BL], pool(states_BLH, mask_BL, self.pooling), self._embeddings())
            for i, states_BLH in enumerate(states_at(self.encoder, self.exits, given))
        ]

    def _embeddings(self) -> Tensor:
        weight: Any = self.encoder.get_input_embeddings().weight
        return weight  # type: ignore[no-any-return]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        exits: Sequence[int] | None = None,
        pooling: Pooling | None = None,
        device: str = "auto",
        num_layers: int | None = None,
        dropout: float | None = None,
    ) -> PretrainModel:
        """Loads a checkpoint of ours with its heads, or puts new heads on any encoder of a known family.

        Args:
            exits: layers at each exit; None keeps the checkpoint's, or is every second layer. Layers above the deepest exit
                are left out.
            pooling: None keeps the checkpoint's ("mean" for a plain encoder).
            device: where to put it.
            num_layers: keep the first layers only; the heads are new then.
            dropout: of the body, in place of the checkpoint's.

        Raises:
            WrongModelError: for a family of encoders that isn't covered.
            BadDataError: for a torn checkpoint.
            ValueError: for exits that don't exist, or others than the checkpoint's heads were trained at.
        """
        path = Path(resolve(str(name_or_path)))
        own = read_json(path / HEADS / "config.json") if num_layers is None else {}
        if own:
            check_same(path, {"exits": sorted(set(exits)) if exits else None, "pooling": pooling}, own)
            exits, pooling = own["exits"], own["pooling"]
        base = DotModel.from_pretrained(path, device=device, num_layers=num_layers, dropout=dropout)
        chosen = chosen_exits(exits, int(base.config.num_hidden_layers))
        model = cls(cut(base.encoder, chosen[-1]), base.tokenizer, chosen, pooling or base.pooling)
        if own:
            load_exits(path / HEADS, {"heads": model.heads})
        model.eval()
        return model.to(base.device)

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `AutoModel` and every student's `--init` load, and `PretrainModel.from_pretrained` with heads."""
        folder = Path(path)
        self.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_json(folder / HEADS / "config.json", {"exits": list(self.exits), "pooling": self.pooling})
        save_exits(folder / HEADS, {"heads": self.heads})
