"""Which rows a step has, found without stepping through those before it; and rows -> padded arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdistill.data.shuffle import permuted_positions

__all__ = ["BatchPlan", "Plan", "length_grouped", "named_rows", "pad_lists", "padding_share", "row_blocks"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """Rows of every step of every epoch, as a function of (seed, epoch, step): resuming is asking for another step.

    A step's rows over all ranks are the same for every `world_size` with the same `batch_size * world_size`.

    Attributes:
        num_rows: rows that there are.
        batch_size: rows of a step on one rank.
        seed: decides which rows.
        world_size: number of ranks.
        rank: this one, from 0.
    """

    num_rows: int
    batch_size: int
    seed: int = 0
    world_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of 1 or more, found {getattr(self, name)}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"expected a rank from 0 to {self.world_size - 1}, found {self.rank}")
        if self.seed < 0:
            raise ValueError(f"expected a seed of 0 or more, found {self.seed}")

    @property
    def global_batch(self) -> int:
        """Rows of a step over all ranks."""
        return self.batch_size * self.world_size

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Steps of an epoch."""

    @property
    @abstractmethod
    def num_dropped_rows(self) -> int:
        """Rows of each epoch that no rank gets."""

    @property
    @abstractmethod
    def why_dropped(self) -> str:
        """Why no rank gets them."""

    @abstractmethod
    def _global_rows(self, epoch: int, step: int) -> Rows:
        """Rows of all ranks in one step, which `num_steps` has."""

    def rows(self, epoch: int, step: int) -> Rows:
        """Rows of this rank in one step, the same whenever they're asked for.

        Args:
            epoch: from 0.
            step: from 0, inside the epoch.

        Raises:
            IndexError: if the epoch hasn't that step.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"expected a step from 0 to {self.num_steps - 1}, found {step}")
        # Contiguous parts: where rows are in order of length, each rank pads little.
        return np.array_split(self._global_rows(epoch, step), self.world_size)[self.rank]

    def steps(self, epoch: int, start: int = 0) -> Iterator[Rows]:
        """Rows of this rank for every step of an epoch, from `start`."""
        for step in range(start, self.num_steps):
            yield self.rows(epoch, step)


def named_rows(rows: Rows) -> str:
    """The first of some rows for a message, counted from 1, in order."""
    first = ", ".join(f"{row + 1:,}" for row in np.sort(rows)[:8])
    return f"rows {first}" + (f" and {len(rows) - 8:,} more" if len(rows) > 8 else "")


def row_blocks(num_rows: int) -> Iterator[Rows]:
    """All rows in blocks of a million: what is gathered of a block fits the memory."""
    for start in range(0, num_rows, 1 << 20):
        yield np.arange(start, min(start + (1 << 20), num_rows))


def length_grouped(
    rows: Rows, lengths: NDArray[Any], batch_size: int, *, seed: int, epoch: int, window: int
) -> list[Rows]:
    """Cuts one window of rows into batches of similar lengths, in random order.

    The result depends on the arguments alone. If the window isn't a whole number of batches (only the last of an epoch
    isn't), the rows at its end are the last batch, as they come: so what is left over isn't always the longest.

    Args:
        rows: rows of the window, in shuffled order.
        lengths: length of each.
    """
    num_whole = len(rows) // batch_size * batch_size
    order = np.argsort(lengths[:num_whole], kind="stable")
    batches = rows[:num_whole][order].reshape(-1, batch_size)
    shuffled = np.random.default_rng([seed, epoch, window]).permutation(len(batches))
    rest = [rows[num_whole:]] if num_whole < len(rows) else []
    return [*batches[shuffled], *rest]


@dataclass(frozen=True, kw_only=True)
class BatchPlan(Plan):
    """A plan in which each row occurs exactly once an epoch, over all ranks.

    Cost: O(window) for the first step asked of a window, nothing for the others.

    Attributes:
        window_batches: rows are shuffled globally, then grouped by length inside windows of this many global batches;
            1 doesn't group.
        lengths: rows -> what to group by (tokens of the longest doc, say).
        drop_last: leave out the last global batch of an epoch if it isn't full. Otherwise it's split as evenly as
            possible, and left out only if a rank would get nothing.
    """

    window_batches: int = 1
    lengths: Callable[[Rows], NDArray[Any]] | None = None
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name in ("num_rows", "window_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of 1 or more, found {getattr(self, name)}")
        super().__post_init__()
        if not self.num_steps:
            least = self.global_batch if self.drop_last else self.world_size
            remedy = (
                "lower batch_size or leave drop_last off" if self.drop_last else "start fewer processes or add rows"
            )
            raise ValueError(
                f"expected {least:,} rows or more for a step of {self.world_size} processes, found {self.num_rows:,}; {remedy}"
            )

    @property
    def num_dropped_rows(self) -> int:
        """As in `Plan`: the last global batch, if it's left out."""
        rest = self.num_rows % self.global_batch
        return rest if self.drop_last or rest < self.world_size else 0

    @property
    def why_dropped(self) -> str:
        """As in `Plan`."""
        return f"too few for a last step of {self.world_size} processes"

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return -(-(self.num_rows - self.num_dropped_rows) // self.global_batch)

    def _global_rows(self, epoch: int, step: int) -> Rows:
        window, at = divmod(step, self.window_batches)
        return self._window(epoch, window)[at]

    def _window(self, epoch: int, window: int) -> list[Rows]:
        """Global batches of one window; the last one asked for is kept."""
        kept: tuple[tuple[int, int], list[Rows]] | None = self.__dict__.get("_kept")
        if kept is not None and kept[0] == (epoch, window):
            return kept[1]
        size = self.window_batches * self.global_batch
        count = min(size, self.num_rows - window * size)
        rows = permuted_positions(self.num_rows, self.seed, epoch, window * size, count, 1)
        if self.lengths is None or self.window_batches == 1:
            batches = np.split(rows, range(self.global_batch, count, self.global_batch))
        else:
            lengths = self.lengths(rows)
            batches = length_grouped(rows, lengths, self.global_batch, seed=self.seed, epoch=epoch, window=window)
        self.__dict__["_kept"] = ((epoch, window), batches)
        return batches


def padding_share(mask: NDArray[Any]) -> float:
    """The share of a batch's positions that are padding, from its attention mask."""
    return 1.0 - float(mask.sum()) / mask.size if mask.size else 0.0


def pad_lists(rows: Sequence[Sequence[int] | Rows], fill: int, *, left: bool = False) -> tuple[Rows, Rows]:
    """Lists of numbers as an array [B, L] and its mask; L is the longest one's length, padding on the right, or on the left."""
    lengths = np.array([len(row) for row in rows])
    longest = int(lengths.max())
    padded = np.full((len(rows), longest), fill, np.int64)
    for row, values in enumerate(rows):
        padded[row, longest - len(values) if left else 0 : longest if left else len(values)] = values
    places = np.arange(longest)
    mask = places >= longest - lengths[:, None] if left else places < lengths[:, None]
    return padded, mask.astype(np.int64)
