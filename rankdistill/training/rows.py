"""From rows (a query, its docs, their teacher scores) to batches of token ids: the trainer's batch sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rankdistill.data.batches import BatchPlan, Plan, named_rows, row_blocks
from rankdistill.data.masking import WordDrop
from rankdistill.data.tokens import TokenStore, pair_batch, pair_shape
from rankdistill.data.transforms import ScoreTransform
from rankdistill.errors import MissingIdsError, WrongModelError
from rankdistill.formats.collection import Collection
from rankdistill.models.similarity import Similarity, similarities
from rankdistill.options.training import TrainingOptions
from rankdistill.training.run import grouped_plan

__all__ = [
    "BatchTeacher",
    "CrossSource",
    "DenseTeacher",
    "MemoryRows",
    "Placed",
    "Rows",
    "TowerSource",
    "batch_plan",
    "place",
]

Array = NDArray[Any]


class Rows(Protocol):
    """Rows of (query, N docs, N scores), by dense indices. A `ScoreStore` is one."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        ...

    @property
    def query_ids(self) -> Sequence[str]:
        """Id of each query index."""
        ...

    @property
    def doc_ids(self) -> Sequence[str]:
        """Id of each doc index."""
        ...

    def gather(self, rows: Array) -> tuple[Array, Array, Array]:
        """Query indices [B], doc indices [B, N] and scores [B, N] of the rows."""
        ...


@dataclass(frozen=True)
class MemoryRows:
    """Rows in memory: for triples that come from labels, not from a file of scores."""

    query_ids: Sequence[str]
    doc_ids: Sequence[str]
    queries_R: Array
    docs_RN: Array

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.queries_R)

    def gather(self, rows: Array) -> tuple[Array, Array, Array]:
        """As `Rows.gather`; there are no scores, so they are 0."""
        docs_BN = self.docs_RN[rows]
        return self.queries_R[rows], docs_BN, np.zeros(docs_BN.shape, np.float32)


@dataclass(frozen=True)
class Placed:
    """Rows whose ids have been found in a collection.

    Attributes:
        rows: as given.
        query_rows: row of the collection for each query index.
        doc_rows: the same for docs.
        kept: indices of the usable rows, or None for all.
        transform: what is done to scores, or None.
    """

    rows: Rows
    query_rows: Array
    doc_rows: Array
    kept: Array | None
    transform: ScoreTransform | None = None

    @property
    def num_rows(self) -> int:
        """How many rows are usable."""
        return self.rows.num_rows if self.kept is None else len(self.kept)

    def gather(self, positions: Array) -> tuple[Array, Array, Array]:
        """Collection rows of the queries [B] and docs [B, N], and the scores [B, N]."""
        queries_B, docs_BN, scores_BN = self.rows.gather(positions if self.kept is None else self.kept[positions])
        if self.transform is not None:
            scores_BN = self.transform(scores_BN)
        return self.query_rows[queries_B], self.doc_rows[docs_BN], scores_BN


def place(
    rows: Rows, collection: Collection, *, on_missing: str = "error", transform: ScoreTransform | None = None
) -> Placed:
    """Finds every id of `rows` in the collection.

    Args:
        on_missing: "error", or "skip" to leave out rows that name an unknown id (`rows.num_rows - placed.num_rows` of them).
        transform: done to the scores whenever rows are gathered.

    Raises:
        MissingIdsError: if ids are missing and that isn't to be skipped, or if no row is left.
    """
    query_rows, doc_rows = collection.query_rows(rows.query_ids), collection.doc_rows(rows.doc_ids)
    kept: Array | None = None
    for noun, found, ids in (("queries", query_rows, rows.query_ids), ("documents", doc_rows, rows.doc_ids)):
        absent = np.flatnonzero(found < 0).tolist()
        if absent and on_missing == "error":
            what = f"{noun} of the rows in the collection {collection.name}"
            remedy = 'pass --on-missing skip (on_missing="skip") to leave their rows out'
            raise MissingIdsError.among(ids, absent, what, remedy)
    if (query_rows < 0).any() or (doc_rows < 0).any():
        usable = []
        for block in row_blocks(rows.num_rows):
            queries_B, docs_BN, _ = rows.gather(block)
            usable.append(block[(query_rows[queries_B] >= 0) & (doc_rows[docs_BN] >= 0).all(1)])
        kept = np.concatenate(usable)
        if not len(kept):
            raise MissingIdsError("rows whose ids are in the collection", "none", "is this the right collection?")
    return Placed(rows, query_rows, doc_rows, kept, transform)


def batch_plan(options: TrainingOptions, placed: Placed, docs: TokenStore, *, world_size: int, rank: int) -> BatchPlan:
    """Which rows each step has; inside a window, rows are grouped by the length of their longest doc."""

    def longest(rows: Array) -> Array:
        found: Array = docs.lengths(placed.gather(rows)[1].reshape(-1)).reshape(len(rows), -1).max(1)
        return found

    return grouped_plan(options, placed.num_rows, longest, world_size=world_size, rank=rank)


class BatchTeacher(Protocol):
    """Scores a whole batch."""

    def scores(self, query_rows_B: Array, doc_rows_M: Array) -> Array:
        """Scores [B, M] of every query with every doc, by their rows of the collection."""
        ...


@dataclass(frozen=True)
class DenseTeacher:
    """A dense teacher's cached vectors, by collection row: its scores of a whole batch cost one product."""

    queries: Array
    docs: Array
    scale: float
    similarity: Similarity = "dot"

    def scores(self, query_rows_B: Array, doc_rows_M: Array) -> Array:
        """Scores [B, M] of every query with every doc."""
        left, right = np.asarray(self.queries[query_rows_B]), np.asarray(self.docs[doc_rows_M])
        if self.similarity == "dot":
            product: Array = left @ right.T
        else:
            product = similarities(torch.from_numpy(left), torch.from_numpy(right), self.similarity).numpy()
        return product.astype(np.float32) * np.float32(self.scale)


class _Source:
    """What both sources share: which rows a step has."""

    def __init__(self, placed: Placed, plan: Plan) -> None:
        self.placed, self.plan = placed, plan
        self.num_steps, self.num_rows = plan.num_steps, placed.num_rows

    def describe(self, epoch: int, step: int) -> str:
        """Names the rows of a batch, and of them the one with the score that is farthest from 0."""
        rows = self.plan.rows(epoch, step)
        rows = rows if self.placed.kept is None else self.placed.kept[rows]
        queries_B, _, scores_BN = self.placed.rows.gather(rows)
        largest_B = np.abs(scores_BN).max(1)
        worst = int(largest_B.argmax())
        query_id = self.placed.rows.query_ids[int(queries_B[worst])]
        scored = f"; the largest score is {largest_B[worst]:.4g}, in row {rows[worst] + 1:,}, of query {query_id!r}"
        return named_rows(rows) + (scored if largest_B[worst] else "")


class TowerSource(_Source):
    """Batches for models that encode queries and docs apart.

    A doc that several rows of a batch share is encoded once: `doc_ids` holds the M distinct docs of the batch, and
    `doc_columns` [B, N] says which of them are the docs of each row. Queries and docs come shortest first.
    """

    def __init__(
        self,
        placed: Placed,
        plan: Plan,
        queries: TokenStore,
        docs: TokenStore,
        pad_id: int,
        teacher: BatchTeacher | None,
        *,
        with_negatives: bool = True,
        word_drop: WordDrop | None = None,
    ) -> None:
        super().__init__(placed, plan)
        self.queries, self.docs, self.pad_id, self.teacher = queries, docs, pad_id, teacher
        self.word_drop = word_drop
        # Which (query, doc) are known to be relevant: they mustn't count as each other's negatives in the batch. Finding
        # them takes a pass over all rows, so only where a loss asks for negatives.
        self._num_docs = 1 + int(placed.doc_rows.max(initial=0))
        self._relevant = self._known_pairs() if with_negatives else None

    def _known_pairs(self) -> Array:
        parts = [np.zeros(0, np.int64)]
        for block in row_blocks(self.placed.num_rows):
            query_rows_B, doc_rows_BN, _ = self.placed.gather(block)
            parts.append(np.unique(query_rows_B.astype(np.int64) * self._num_docs + doc_rows_BN[:, 0]))
        return np.unique(np.concatenate(parts))

    def __call__(self, epoch: int, step: int) -> Mapping[str, Array]:
        """Arrays: query_ids/query_mask [B, L], doc_ids/doc_mask [M, L], doc_columns [B, N], teacher_scores [B, N],
        step (of the whole run, a scalar), with negatives also negatives [B, M] (0 where a doc is another relevant one of
        the query), with a teacher of whole batches in_batch_scores [B, M]."""
        query_rows_B, doc_rows_BN, scores_BN = self.placed.gather(self.plan.rows(epoch, step))
        order = np.argsort(self.queries.lengths(query_rows_B), kind="stable")
        query_rows_B, doc_rows_BN, scores_BN = query_rows_B[order], doc_rows_BN[order], scores_BN[order]
        doc_rows_M, columns = np.unique(doc_rows_BN, return_inverse=True)
        by_length = np.argsort(self.docs.lengths(doc_rows_M), kind="stable")
        doc_rows_M = doc_rows_M[by_length]
        columns_BN = np.argsort(by_length)[columns].reshape(doc_rows_BN.shape)
        query_ids, query_mask = self.queries.batch(query_rows_B, self.pad_id)
        doc_ids, doc_mask = self.docs.batch(doc_rows_M, self.pad_id)
        if self.word_drop is not None:
            doc_ids = self.word_drop(doc_ids, np.random.default_rng([self.plan.seed, epoch, step, self.plan.rank]))
        batch = {
            "query_ids": query_ids,
            "query_mask": query_mask,
            "doc_ids": doc_ids,
            "doc_mask": doc_mask,
            "doc_columns": columns_BN.astype(np.int64),
            "teacher_scores": scores_BN,
            "step": np.asarray(epoch * self.num_steps + step),
        }
        if self._relevant is not None:
            pairs_BM = query_rows_B[:, None].astype(np.int64) * self._num_docs + doc_rows_M[None, :]
            at = np.searchsorted(self._relevant, pairs_BM).clip(max=len(self._relevant) - 1)
            negatives_BM = self._relevant[at] != pairs_BM
            np.put_along_axis(negatives_BM, columns_BN[:, :1], True, axis=1)
            batch["negatives"] = negatives_BM
        if self.teacher is not None:
            batch["in_batch_scores"] = self.teacher.scores(query_rows_B, doc_rows_M)
        return batch


class CrossSource(_Source):
    """Batches for models that read query and doc together: B rows of N docs become B x N pairs, padded once."""

    def __init__(
        self,
        placed: Placed,
        plan: Plan,
        queries: TokenStore,
        docs: TokenStore,
        *,
        max_length: int,
        pad_id: int,
        pair_shape: tuple[Sequence[int], int],
        with_types: bool,
    ) -> None:
        super().__init__(placed, plan)
        self.queries, self.docs = queries, docs
        self.max_length, self.pad_id, self.pair_shape, self.with_types = max_length, pad_id, pair_shape, with_types

    @classmethod
    def of(
        cls, tokenizer: Any, placed: Placed, plan: Plan, queries: TokenStore, docs: TokenStore, *, max_length: int
    ) -> CrossSource:
        """Batches as `tokenizer` would make them.

        Raises:
            WrongModelError: if it cuts texts on the left; pairs are cut on the right here.
        """
        if getattr(tokenizer, "truncation_side", "right") == "left":
            remedy = 'set "truncation_side": "right" in its tokenizer_config.json'
            raise WrongModelError("a tokenizer that truncates on the right", "one that does on the left", remedy)
        return cls(
            placed,
            plan,
            queries,
            docs,
            max_length=max_length,
            pad_id=int(tokenizer.pad_token_id),
            pair_shape=pair_shape(tokenizer),
            with_types="token_type_ids" in tokenizer.model_input_names,
        )

    def __call__(self, epoch: int, step: int) -> Mapping[str, Array]:
        """Arrays: input_ids/attention_mask[/token_type_ids] [B*N, L], teacher_scores [B, N]."""
        query_rows_B, doc_rows_BN, scores_BN = self.placed.gather(self.plan.rows(epoch, step))
        query_rows = np.repeat(query_rows_B, doc_rows_BN.shape[1])
        joiner, second_type = self.pair_shape
        ids, mask, types = pair_batch(
            self.queries,
            query_rows,
            self.docs,
            doc_rows_BN.reshape(-1),
            self.max_length,
            self.pad_id,
            joiner=joiner,
            second_type=second_type,
        )
        batch = {"input_ids": ids, "attention_mask": mask, "teacher_scores": scores_BN}
        return batch | {"token_type_ids": types} if self.with_types else batch
