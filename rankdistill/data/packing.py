"""Packed pairs of snippets for pre-training: is the second half from the first one's repository?

Snippets that follow each other in a repository make runs, each as long as half an item. An item is two runs, their snippets
separated by the tokenizer's separator. It's a function of (seed, epoch, run), and a batch one of (seed, epoch, step).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdistill.data.batches import BatchPlan, named_rows, pad_lists
from rankdistill.data.masking import NOT_MASKED, mask_tokens
from rankdistill.data.tokens import TokenStore, num_special
from rankdistill.errors import BadDataError
from rankdistill.formats.tokenizers import plain_copy

__all__ = ["Markers", "PackedPairs", "Runs", "find_runs"]

Array = NDArray[np.int64]


@dataclass(frozen=True)
class Markers:
    """The special tokens of packed items.

    Attributes:
        before: ids in front of an item.
        after: ids behind it.
        separator: id between two snippets.
        mask: id that hides a token.
        pad: id of padding.
        special: ids that are never hidden.
        vocab_size: ids are below.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    separator: int
    mask: int
    pad: int
    special: Array
    vocab_size: int

    @classmethod
    def of(cls, tokenizer: Any) -> Markers:
        """Those of a tokenizer.

        Raises:
            ValueError: if it has no mask, separator or padding token.
        """
        for kind in ("mask", "sep", "pad"):
            if getattr(tokenizer, f"{kind}_token_id") is None:
                raise ValueError(
                    f"pre-training needs a tokenizer with a {kind} token, and this one has none; start from an encoder that "
                    "was trained with one, or add it to the tokenizer and the embeddings"
                )
        before, after = num_special(tokenizer)
        ids = plain_copy(tokenizer).encode("a").ids
        return cls(
            tuple(ids[:before]),
            tuple(ids[len(ids) - after :]),
            int(tokenizer.sep_token_id),
            int(tokenizer.mask_token_id),
            int(tokenizer.pad_token_id),
            np.array(sorted(tokenizer.all_special_ids), np.int64),
            len(tokenizer),
        )

    def room(self, max_length: int) -> int:
        """Tokens that each half of an item of `max_length` has, separators inside it counted."""
        return (max_length - len(self.before) - len(self.after) - 1) // 2


@dataclass(frozen=True)
class Runs:
    """Runs of snippets that follow each other in a repository, each as long as half an item.

    Attributes:
        rows: rows of the snippets, in order.
        starts: [N + 1], where in `rows` each run begins, and the number of rows.
        bounds: [R + 1], the runs at which each repository begins, and the number of runs.
        num_short: snippets that were left out as too short.
        num_small: repositories that were left out, since they don't have two runs.
    """

    rows: Array
    starts: Array
    bounds: Array
    num_short: int = 0
    num_small: int = 0

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def num_repositories(self) -> int:
        """How many repositories have runs."""
        return len(self.bounds) - 1

    def snippets(self, run: int) -> Array:
        """Rows of a run's snippets."""
        return self.rows[self.starts[run] : self.starts[run + 1]]

    def of(self, repositories: Sequence[int]) -> Runs:
        """The runs of some repositories, by their numbers."""
        spans = [(int(self.bounds[i]), int(self.bounds[i + 1])) for i in repositories]
        runs = [self.snippets(run) for first, last in spans for run in range(first, last)]
        return _runs(runs, [last - first for first, last in spans], self.num_short, self.num_small)

    def draw(self, run: int, rng: np.random.Generator) -> tuple[int, bool]:
        """A run to stand behind `run`: of the same repository or of another, each half of the time; and whether it's the same.

        Any other run of the repository, or any run of all the others, is as likely as the next.
        """
        repository = int(np.searchsorted(self.bounds, run, side="right")) - 1
        first, last = int(self.bounds[repository]), int(self.bounds[repository + 1])
        if rng.random() < 0.5:
            other = first + int(rng.integers(last - first - 1))
            return other + (other >= run), True
        other = int(rng.integers(len(self) - (last - first)))
        return other + (last - first if other >= first else 0), False


def find_runs(lengths: Array, bounds: Array, *, room: int, min_tokens: int, name: str = "the corpus") -> Runs:
    """Fills halves of items with snippets, in order; none spans two repositories.

    Args:
        lengths: [S], tokens of each snippet, special ones not counted.
        bounds: [R + 1], rows at which each repository begins, and the number of rows.
        room: tokens of half an item; longer snippets are cut there.
        min_tokens: shorter snippets are left out.
        name: of the corpus, for messages.

    Raises:
        BadDataError: if fewer than two repositories have two runs.
    """
    runs, counts = list[Array](), list[int]()
    kept = np.flatnonzero(lengths >= min_tokens)
    num_small = 0
    for rows in np.split(kept, np.searchsorted(kept, bounds[1:-1])):
        found: list[list[int]] = []
        used = room
        for row, length in zip(rows.tolist(), lengths[rows].tolist(), strict=True):
            if used + 1 + length > room:  # a separator and the snippet
                found.append([])
                used = -1
            found[-1].append(row)
            used += 1 + length
        if len(found) < 2:
            num_small += 1
            continue
        runs.extend(np.array(run, np.int64) for run in found)
        counts.append(len(found))
    if len(counts) < 2:
        expected = f"two repositories or more with two runs of snippets of {min_tokens} to {room} tokens"
        num_short = f"{len(lengths) - len(kept):,} of {len(lengths):,}"
        found_there = f"{len(counts)} of {len(bounds) - 1:,} ({num_short} snippets are shorter)"
        remedy = "take more repositories, or lower --min-tokens or --max-length"
        raise BadDataError(expected, found_there, remedy, name)
    return _runs(runs, counts, len(lengths) - len(kept), num_small)


def _runs(runs: Sequence[Array], counts: Sequence[int], num_short: int, num_small: int) -> Runs:
    starts = np.cumsum([0, *map(len, runs)])
    return Runs(np.concatenate(runs), starts, np.cumsum([0, *counts]), num_short, num_small)


class PackedPairs:
    """Batches of packed pairs with hidden tokens, as a function of (epoch, step). Each run comes first in one item an epoch.

    Args:
        runs: which snippets go together.
        tokens: the snippets, tokenised.
        plan: which runs each step has.
        markers: the special tokens.
        room: tokens of half an item.
        mask_rate: share of the tokens that are to be guessed.
    """

    def __init__(
        self, runs: Runs, tokens: TokenStore, plan: BatchPlan, markers: Markers, *, room: int, mask_rate: float
    ) -> None:
        self.runs, self.tokens, self.plan, self.markers = runs, tokens, plan, markers
        self.room, self.mask_rate = room, mask_rate
        self.num_steps, self.num_rows = plan.num_steps, plan.num_rows

    def describe(self, epoch: int, step: int) -> str:
        """Names the snippets that a batch's items begin with, by their places in the corpus."""
        return named_rows(self.runs.rows[self.runs.starts[self.plan.rows(epoch, step)]]) + " of the snippets"

    def item(self, epoch: int, run: int) -> tuple[Array, Array, bool]:
        """Token ids [L] as the model sees them, targets [L], and whether both halves are of one repository."""
        markers = self.markers
        rng = np.random.default_rng([self.plan.seed, epoch, run])
        other, same = self.runs.draw(run, rng)
        halves = [self._tokens(self.runs.snippets(half)) for half in (run, other)]
        whole = np.concatenate([markers.before, halves[0], [markers.separator], halves[1], markers.after])
        ids, targets = mask_tokens(
            whole.astype(np.int64),
            ~np.isin(whole, markers.special),
            rng,
            rate=self.mask_rate,
            mask_id=markers.mask,
            vocab_size=markers.vocab_size,
        )
        return ids, targets, same

    def _tokens(self, rows: Array) -> Array:
        """Snippets with the separator between them."""
        ids_SL, mask_SL = self.tokens.batch(rows, self.markers.pad)
        first, after = len(self.markers.before), len(self.markers.after)
        parts: list[Any] = []
        for ids, length in zip(ids_SL, mask_SL.sum(1), strict=True):
            parts += [ids[first : length - after][: self.room], [self.markers.separator]]
        return np.concatenate(parts[:-1])

    def __call__(self, epoch: int, step: int) -> Mapping[str, NDArray[Any]]:
        """Arrays: input_ids/attention_mask/targets [B, L], same_repository [B] (1 if it is)."""
        items = [self.item(epoch, int(run)) for run in self.plan.rows(epoch, step)]
        input_ids, attention_mask = pad_lists([ids for ids, _, _ in items], self.markers.pad)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "targets": pad_lists([targets for _, targets, _ in items], NOT_MASKED)[0],
            "same_repository": np.array([same for _, _, same in items], np.int64),
        }
