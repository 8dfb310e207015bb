"""The multi-exit student: a dot student that may stop at several layers, each with vectors of its own.

Its checkpoint is a SentenceTransformer folder of the deepest exit, with the other exits' heads beside it; `truncate` writes
any one exit as a dot student by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from rankdistill.formats.writing import whole
from rankdistill.models.backbone import check_same, resolve
from rankdistill.models.dot import DotModel, Pooling
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
    final_norm,
    load_exits,
    save_exits,
    states_at,
)
from rankdistill.models.packed import given_to_body
from rankdistill.models.segments import segments
from rankdistill.models.similarity import similarities
from rankdistill.models.towers import OWN_CONFIG, Card, Kind, Part, read_json, write_json

__all__ = ["MultiExitEncoder"]


class MultiExitEncoder(ManyExits, DotModel):
    """A dot student with several exits: `at(exit=k)` is one of them, an ordinary dot student that runs k layers.

    Used as a dot student itself, it is its deepest exit.

    Attributes:
        exits: layers at each exit, in order of depth; the last is all of the body's.
        dims: widths that its vectors may be cut to (Matryoshka), the full one first.
        learnt: what a loss over the exits learns for itself.

    Source:
        ModularStarEncoder, arXiv:2503.03008, for the exits and their heads; arXiv:2205.13147 for widths.
    """

    architecture = "multi-exit"
    card = Card(
        scores="Pairs are scored by dot product.",
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
        dims: Sequence[int] = (),
        learnt: Learnt | None = None,
        pooling: Pooling = "mean",
        **settings: Any,
    ) -> None:
        projection = cast(nn.Linear, heads)  # a projection for each exit
        super().__init__(encoder, tokenizer, pooling=pooling, projection=projection, **settings)
        self.exits = heads.exits
        self.learnt = Learnt(len(self.exits)) if learnt is None else learnt
        self.dims = tuple(sorted({self.dim, *dims}, reverse=True))
        if self.dims[0] != self.dim or self.dims[-1] < 1:
            raise ValueError(f"expected dims between 1 and the vectors' {self.dim}, found {', '.join(map(str, dims))}")

    @property
    def heads(self) -> ExitHeads:
        """What makes each exit's vectors of its pooled states."""
        return cast(ExitHeads, self.projection)

    def at(self, exit: int | None = None, dim: int | None = None) -> DotModel:
        """One exit by itself: runs its layers only. It shares them with this model; its head is a copy, as it is now.

        Args:
            exit: layers to run; the deepest by default.
            dim: first numbers of the vectors that are kept; all by default.

        Raises:
            ValueError: for an exit or a width that this model doesn't have; lists those that it has.
        """
        exit = check_exit(self.exits, exit)
        if dim is not None and dim not in self.dims:
            raise ValueError(f"dim {dim} does not exist: this model has dims {', '.join(map(str, self.dims))}")
        view = DotModel(
            cut(self.encoder, exit),
            self.tokenizer,
            pooling=self.pooling,
            projection=self.heads.fold(exit, dim),
            normalize=self.normalize,
            similarity=self.similarity,
            query_max_length=self.query_max_length,
            doc_max_length=self.doc_max_length,
            query_prompt=self.query_prompt,
            doc_prompt=self.doc_prompt,
        )
        return view.train(self.training)

    def truncate(self, path: str | Path, *, exit: int | None = None, dim: int | None = None) -> None:
        """Writes one exit as a smaller checkpoint by itself, with its head, which SentenceTransformer loads.

        Args:
            path: the folder to write.
            exit: as in `at`; so for `dim`.
        """
        self.at(exit, dim).save_pretrained(path)

    def vectors(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Vectors [B, D] of the deepest exit."""
        return self.exit_vectors(input_ids, attention_mask, token_type_ids, inputs_embeds)[-1]

    def exit_vectors(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        dim: int | None = None,
    ) -> Tensor:
        """Vectors [E, B, D] at all exits, in order of depth, in one pass; of the first `dim` numbers, if that is given."""
        given = given_to_body(input_ids, attention_mask, token_type_ids, inputs_embeds)
        return torch.stack([self._cut(vectors_BD, dim) for vectors_BD in self._at_all(given)])

    def _at_all(self, given: Mapping[str, Tensor]) -> list[Tensor]:
        """Vectors [B, D] at each exit, of full width and not normalised."""
        states = states_at(self.encoder, self.exits, given, packed=self.packs())
        found: list[Tensor] = self.heads([self.pool(state, given["attention_mask"]) for state in states])
        return found

    def _cut(self, vectors: Tensor, dim: int | None) -> Tensor:
        vectors = vectors[..., :dim]
        return functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def pieces(self) -> list[Callable[..., tuple[Tensor, Tensor]]]:
        """Functions that run the layers up to the first exit, from there to the second, and so on.

        Each takes the attention mask [B, L] and, by name, the first one `input_ids` [B, L], the others `inputs_embeds`: the states
        [B, L, H] that the one before gave. Each gives states to go on from, and its exit's vectors [B, D].
        """
        return [partial(self._advance, i, body) for i, body in enumerate(segments(self.encoder, self.exits))]

    def _advance(self, i: int, body: PreTrainedModel, attention_mask: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        states_BLH: Tensor = body(attention_mask=attention_mask, **given)[0]
        pooled_BH = self.pool(final_norm(self.encoder)(states_BLH), attention_mask)
        return states_BLH, self._cut(self.heads.at(i, pooled_BH), None)

    def represent(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None = None
    ) -> Part:
        """What texts of either kind become by themselves: vectors [B, D] at each exit, not normalised, for `compare`."""
        return tuple(self._at_all(given_to_body(input_ids, attention_mask, None, inputs_embeds)))

    def compare(
        self, queries: Sequence[Part], docs: Sequence[Part], columns_BN: Tensor, mini_batch_size: int | None = None
    ) -> ExitScores:
        """Scores [B, M] of every query with every doc at each exit and width, in fp32; as in `Tower.compare`."""
        at = {}
        with torch.autocast(columns_BN.device.type, enabled=False):
            for i, exit in enumerate(self.exits):
                query_BD, doc_MD = (torch.cat([part[i] for part in side]).float() for side in (queries, docs))
                for dim in (None, *self.dims[1:]):
                    at[Cell(exit, dim)] = similarities(
                        self._cut(query_BD, dim), self._cut(doc_MD, dim), self.comparison
                    )
            return self._scored(at, in_batch=True)

    def own_config(self) -> dict[str, Any]:
        """As in `Tower.own_config`."""
        return super().own_config() | {
            "exits": list(self.exits),
            "dims": list(self.dims),
            "head": self.heads.kind,
            "learnt": sorted(self.learnt.state_dict()),
        }

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        exits: Sequence[int] | None = None,
        dims: Sequence[int] | None = None,
        head: HeadKind | None = None,
        projection_dim: int | None = None,
        **settings: Any,
    ) -> MultiExitEncoder:
        """Loads a checkpoint of ours, or puts exits into any dot student, SentenceTransformer or encoder of a known family.

        Untrained, each exit's vectors are those of the encoder cut there: a linear head starts as the identity, or as the
        projection that the checkpoint has.

        Args:
            exits: layers at each exit; None keeps the checkpoint's, or is every second layer. Layers above the deepest exit
                are left out.
            dims: widths that vectors may be cut to beside the full one; None keeps the checkpoint's, or is none.
            head: None keeps the checkpoint's, or is "linear".
            projection_dim: full width of the vectors; None keeps the checkpoint's, or is the encoder's.
            settings: as in `DotModel.from_pretrained`.

        Raises:
            BadDataError: for a family of encoders that isn't covered, or a torn checkpoint.
            ValueError: for exits that don't exist, or others than a checkpoint has.
        """
        path = Path(resolve(str(name_or_path)))
        own = read_json(path / OWN_CONFIG)
        ours = own.get("architecture") == cls.architecture
        base = DotModel.from_pretrained(path, **settings)  # for a checkpoint of ours, its deepest exit
        if ours:
            full = int(own["dims"][0])
            wanted = {
                "exits": sorted(set(exits)) if exits else None,
                "dims": sorted({full, *dims}, reverse=True) if dims else None,
                "head": head,
            }
            check_same(path, wanted | {"projection_dim": projection_dim}, own | {"projection_dim": full})
            exits, dims, head = own["exits"], own["dims"], own["head"]
        chosen = chosen_exits(exits, int(base.config.num_hidden_layers))
        start = base.projection if projection_dim in (None, base.dim) else None
        heads = ExitHeads(head or "linear", chosen, int(base.config.hidden_size), projection_dim or base.dim, start)
        model = cls(
            cut(base.encoder, chosen[-1]),
            base.tokenizer,
            heads,
            dims=dims or (),
            learnt=Learnt.of(len(chosen), own.get("learnt", ())),
            pooling=base.pooling,
            normalize=base.normalize,
            similarity=base.similarity,
            query_max_length=base.query_max_length,
            doc_max_length=base.doc_max_length,
            query_prompt=base.query_prompt,
            doc_prompt=base.doc_prompt,
        )
        if ours:
            load_exits(path, model._own_parts())
        model.eval()
        return model.to(base.device)

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `MultiExitEncoder.from_pretrained(path)` loads; `SentenceTransformer(path)` is the deepest exit."""
        folder = Path(path)
        self.at().save_pretrained(folder)
        save_exits(folder, self._own_parts())
        write_json(folder / OWN_CONFIG, self.own_config())
