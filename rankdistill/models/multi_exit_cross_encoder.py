"""The cross-encoder with exits: a score after several numbers of layers.

Its checkpoint is a CrossEncoder folder of the deepest exit, with the other exits' heads beside it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankdistill.formats.writing import whole
from rankdistill.models.backbone import check_same, resolve, weights_fingerprint
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.exits import (
    Cell,
    ExitScores,
    Learnt,
    ManyExits,
    check_exit,
    chosen_exits,
    cut,
    load_exits,
    save_exits,
    states_at,
)
from rankdistill.models.heads import head_of, with_body
from rankdistill.models.packed import given_to_body
from rankdistill.models.towers import OWN_CONFIG, Card, forgetting, read_json, write_json

__all__ = ["MultiExitCrossEncoder"]


class MultiExitCrossEncoder(ManyExits, CrossEncoderModel):
    """A cross-encoder with several exits: `at(exit=k)` is one of them, an ordinary cross-encoder that runs k layers.

    Used as a cross-encoder itself, it is its deepest exit. A head is whatever the family's classifier puts after its body (and,
    as in BERT, the body's pooler); each exit has its own.

    Attributes:
        exits: layers at each exit, in order of depth; the last is all of the body's.
        heads: of all exits but the deepest, whose head is the classifier's own.
        learnt: what a loss over the exits learns for itself.

    Source:
        Classifiers at each layer of a monoBERT: Xin et al. 2020, "Early Exiting BERT for Efficient Document Ranking".
    """

    architecture = "multi-exit-cross-encoder"
    card = Card(
        scores="Scores are raw logits.",
        library="sentence-transformers",
        load="import rankdistill\n\nmodel = rankdistill.load(PATH)\nmodel.truncate(OTHER_PATH, exit=model.exits[0])",
    )

    def __init__(
        self,
        classifier: PreTrainedModel,
        tokenizer: Any,
        exits: Sequence[int],
        *,
        learnt: Learnt | None = None,
        max_length: int = 256,
    ) -> None:
        super().__init__(classifier, tokenizer, max_length=max_length)
        self.exits = tuple(exits)
        self.heads = nn.ModuleList(nn.ModuleDict(copy.deepcopy(head_of(classifier))) for _ in self.exits[:-1])
        self.learnt = Learnt(len(self.exits)) if learnt is None else learnt

    def at(self, exit: int | None = None) -> CrossEncoderModel:
        """One exit by itself: runs its layers only. It shares them, and its head, with this model.

        Args:
            exit: layers to run; the deepest by default.

        Raises:
            ValueError: for an exit that this model doesn't have; lists those that it has.
        """
        exit = check_exit(self.exits, exit)
        whole: Any = self.classifier.base_model
        body = cut(whole, exit)
        view = CrossEncoderModel(
            with_body(self.classifier, body, self._head_at(exit)), self.tokenizer, max_length=self.max_length
        )
        return view.train(self.training)

    def truncate(self, path: str | Path, *, exit: int | None = None) -> None:
        """Writes one exit as a smaller checkpoint by itself, with its head, which CrossEncoder loads."""
        self.at(exit).save_pretrained(path)

    def _head_at(self, exit: int) -> dict[str, nn.Module]:
        own = [*self.heads, head_of(self.classifier)][self.exits.index(exit)]
        return dict(own.items())

    def exit_scores(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Scores [P] of tokenised pairs [P, L] at each exit, in order of depth, in one pass."""
        given = given_to_body(input_ids, attention_mask, token_type_ids)
        body: Any = self.classifier.base_model
        states = states_at(body, self.exits, given, packed=self.packs())
        heads = map(self._head_at, self.exits)
        return tuple(map(self._scores_of, states, repeat(attention_mask), heads))

    def forward(self, batch: Mapping[str, Tensor], mini_batch_size: int | None = None) -> ExitScores:
        """Scores [B, N] at each exit, in one pass; as in `CrossEncoderModel.forward`."""
        inputs = [batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch]
        parts = forgetting(self.exit_scores, inputs, mini_batch_size)
        scores = [
            torch.cat(scores_P).float().view(batch["teacher_scores"].shape) for scores_P in zip(*parts, strict=True)
        ]
        return self._scored(dict(zip(map(Cell, self.exits), scores, strict=True)), in_batch=False)

    def own_config(self) -> dict[str, Any]:
        """What decides the scores beside weights and tokenizer; written to the checkpoint's rankdistill.json."""
        own = {"exits": list(self.exits), "learnt": sorted(self.learnt.state_dict())}
        return {"architecture": self.architecture, "max_length": self.max_length} | own

    def fingerprint(self) -> str:
        """Equal when two models give the same scores for the same pairs."""
        return weights_fingerprint(self, str(self.own_config()))

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, exits: Sequence[int] | None = None, **settings: Any
    ) -> MultiExitCrossEncoder:
        """Loads a checkpoint of ours, or puts exits into what `CrossEncoderModel.from_pretrained` loads, of a known family.

        Every exit starts with that model's head.

        Args:
            exits: as in `MultiExitEncoder.from_pretrained`.
            settings: as in `CrossEncoderModel.from_pretrained`.

        Raises:
            WrongModelError: for a family of encoders that isn't covered.
            BadDataError: for a torn checkpoint.
            ValueError: for exits that don't exist, or others than a checkpoint has.
        """
        path = Path(resolve(str(name_or_path)))
        own = read_json(path / OWN_CONFIG)
        ours = own.get("architecture") == cls.architecture
        base = CrossEncoderModel.from_pretrained(path, **settings)
        if ours:
            check_same(path, {"exits": sorted(set(exits)) if exits else None}, own)
            exits = own["exits"]
        chosen = chosen_exits(exits, int(base.config.num_hidden_layers))
        whole: Any = base.classifier.base_model
        body = cut(whole, chosen[-1])
        classifier = with_body(base.classifier, body, head_of(base.classifier))
        learnt = Learnt.of(len(chosen), own.get("learnt", ()))
        model = cls(classifier, base.tokenizer, chosen, learnt=learnt, max_length=base.max_length)
        if ours:
            load_exits(path, model._own_parts())
        model.eval()
        return model.to(base.device)

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `MultiExitCrossEncoder.from_pretrained(path)` loads; `CrossEncoder(path)` is the deepest exit."""
        folder = Path(path)
        super().save_pretrained(folder)
        save_exits(folder, self._own_parts())
        write_json(folder / OWN_CONFIG, self.own_config())
