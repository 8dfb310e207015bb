"""ColBERT with exits: states of tokens at several layers, each compared by MaxSim.

Its checkpoint is a multi-vector encoder's folder of the deepest exit, with the other exits' heads beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from rankdistill.formats.writing import whole
from rankdistill.models.backbone import check_same, resolve
from rankdistill.models.colbert import ColbertModel
from rankdistill.models.exits import (
    Cell,
    ExitHeads,
    ExitScores,
    HeadKind,
    Learnt,
    ManyExits,
    check_exit,
    chosen_exits,
    cut,
    load_exits,
    save_exits,
    states_at,
)
from rankdistill.models.towers import OWN_CONFIG, Card, Part, read_json, write_json

__all__ = ["MultiExitColbert"]


class MultiExitColbert(ManyExits, ColbertModel):
    """A ColBERT student with several exits: `at(exit=k)` is one of them, an ordinary ColBERT student that runs k layers.

    Used as a ColBERT student itself, it is its deepest exit.

    Attributes:
        exits: layers at each exit, in order of depth; the last is all of the body's.
        learnt: what a loss over the exits learns for itself.
    """

    architecture = "multi-exit-colbert"
    card = Card(
        scores="Pairs are scored by MaxSim of their tokens' vectors.",
        library="sentence-transformers",
        task="sentence-similarity",
        load="import rankdistill\n\nmodel = rankdistill.load(PATH)\nmodel.truncate(OTHER_PATH, exit=model.exits[0])",
    )

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: Any,
        heads: ExitHeads,
        *,
        learnt: Learnt | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(encoder, tokenizer, cast(nn.Linear, heads), **settings)  # a projection for each exit
        self.exits = heads.exits
        self.learnt = Learnt(len(self.exits)) if learnt is None else learnt

    @property
    def heads(self) -> ExitHeads:
        """What makes each exit's vectors of its states."""
        return cast(ExitHeads, self.projection)

    def at(self, exit: int | None = None) -> ColbertModel:
        """One exit by itself: runs its layers only. It shares them with this model; its head is a copy, as it is now.

        Args:
            exit: layers to run; the deepest by default.

        Raises:
            ValueError: for an exit that this model doesn't have; lists those that it has.
        """
        exit = check_exit(self.exits, exit)
        head = self.heads.fold(exit)
        assert head is not None
        view = ColbertModel(cut(self.encoder, exit), self.tokenizer, head, **_settings(self))
        return view.to(self.device).train(self.training)

    def truncate(self, path: str | Path, *, exit: int | None = None) -> None:
        """Writes one exit as a smaller checkpoint by itself, with its head, which MultiVectorEncoder loads."""
        self.at(exit).save_pretrained(path)

    def represent(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Any, inputs_embeds: Tensor | None = None
    ) -> Part:
        """States of tokens [B, L, D] at each exit, in one pass, and last which of them count [B, L]."""
        given = self._given(input_ids, attention_mask, kind, inputs_embeds)
        states = states_at(self.encoder, self.exits, given, packed=self.packs(kind))
        projected = [self._compared(state) for state in self.heads(states)]
        return *projected, self._counts(input_ids, attention_mask, kind)

    def compare(
        self, queries: Sequence[Part], docs: Sequence[Part], columns_BN: Tensor, mini_batch_size: int | None = None
    ) -> ExitScores:
        """Scores [B, M] of every query with every doc at each exit; as in `Tower.compare`."""
        at = {}
        for i, exit in enumerate(self.exits):
            own_queries, own_docs = ([(part[i], part[-1]) for part in side] for side in (queries, docs))
            at[Cell(exit)] = super().compare(own_queries, own_docs, columns_BN).scores
        return self._scored(at, in_batch=True)

    def own_config(self) -> dict[str, Any]:
        """As in `Tower.own_config`."""
        own = {"exits": list(self.exits), "head": self.heads.kind, "learnt": sorted(self.learnt.state_dict())}
        return super().own_config() | own

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        exits: Sequence[int] | None = None,
        head: HeadKind | None = None,
        **settings: Any,
    ) -> MultiExitColbert:
        """Loads a checkpoint of ours, or puts exits into what `ColbertModel.from_pretrained` loads, of a known family.

        Every exit starts with that model's projection.

        Args:
            exits: as in `MultiExitEncoder.from_pretrained`; so for `head`, which can't be "none".
            settings: as in `ColbertModel.from_pretrained`.

        Raises:
            WrongModelError: for a family of encoders that isn't covered.
            BadDataError: for a torn checkpoint.
            ValueError: for exits that don't exist, or others than a checkpoint has.
        """
        if head == "none":
            raise ValueError('a ColBERT student has a head at each exit: expected "linear" or "shared", found "none"')
        path = Path(resolve(str(name_or_path)))
        own = read_json(path / OWN_CONFIG)
        ours = own.get("architecture") == cls.architecture
        base = ColbertModel.from_pretrained(path, **settings)
        if ours:
            check_same(path, {"exits": sorted(set(exits)) if exits else None, "head": head}, own)
            exits, head = own["exits"], own["head"]
        chosen = chosen_exits(exits, int(base.config.num_hidden_layers))
        heads = ExitHeads(head or "linear", chosen, int(base.config.hidden_size), base.dim, base.projection)
        learnt = Learnt.of(len(chosen), own.get("learnt", ()))
        model = cls(cut(base.encoder, chosen[-1]), base.tokenizer, heads, learnt=learnt, **_settings(base))
        if ours:
            load_exits(path, model._own_parts())
        model.eval()
        return model.to(base.device)

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `MultiExitColbert.from_pretrained(path)` loads; `MultiVectorEncoder(path)` is the deepest exit."""
        folder = Path(path)
        self.at().save_pretrained(folder)
        save_exits(folder, self._own_parts())
        write_json(folder / OWN_CONFIG, self.own_config())


def _settings(model: ColbertModel) -> dict[str, Any]:
    names = ("normalize", "expansion", "skip_words", "query_max_length", "doc_max_length", "query_prompt", "doc_prompt")
    return {name: getattr(model, name) for name in names}
