"""Topic-aware, balanced sampling: a step's queries are of one topic, and their pairs are spread evenly over margins.

Topics are clusters of query vectors; how pairs are balanced: each query's rows go into 10 bins of equal width between its least
and its largest teacher margin, and a row is drawn from a bin that isn't empty, each as likely as another.

Source: Hofstätter et al. 2021, arXiv:2104.06967 (TAS-Balanced).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdistill.data.batches import Plan, Rows
from rankdistill.errors import BadDataError
from rankdistill.formats.gz import opened, text_lines

__all__ = ["NUM_BINS", "TASPlan", "TASRows", "read_clusters"]

NUM_BINS = 10


def read_clusters(path: str | os.PathLike[str]) -> list[list[str]]:
    """Clusters of query ids, as published: one a line, ids apart by spaces; empty ones are left out.

    Raises:
        BadDataError: if a query is in two clusters, a line isn't UTF-8, or there's no cluster.
    """
    clusters: list[list[str]] = []
    line_of: dict[str, int] = {}
    with opened(path) as file:
        for number, line in text_lines(file, path):
            ids = line.split()
            for query_id in ids:
                if line_of.setdefault(query_id, number) != number:
                    found = f'"{query_id}", which is in line {line_of[query_id]}, too'
                    raise BadDataError("each query in one cluster", found, "leave one out", str(path), number)
            if ids:
                clusters.append(list(dict.fromkeys(ids)))
    if not clusters:
        raise BadDataError("a cluster of query ids a line", "an empty file", path=str(path))
    return clusters


@dataclass(frozen=True, eq=False)
class TASRows:
    """Rows by cluster, query and bin of margin.

    Memory: 8 bytes a row and 88 a query; about 50 a row while it is made.

    Attributes:
        order: rows, those of a bin of a query of a cluster side by side.
        bins: where in `order` each bin begins, and the last one ends, [Q, NUM_BINS + 1].
        clusters: where among the Q queries each cluster begins, and the last one ends, [C + 1].
        num_few: queries left out for having fewer than 2 rows.
        num_outside: queries left out for being in no cluster.
    """

    order: Rows
    bins: NDArray[np.int64]
    clusters: NDArray[np.int64]
    num_few: int
    num_outside: int

    @classmethod
    def of(
        cls, queries_R: NDArray[Any], margins_R: NDArray[Any], cluster_of: Mapping[int, int] | NDArray[Any]
    ) -> TASRows:
        """Rows with at least one other of their query, whose query is in a cluster.

        Args:
            queries_R: each row's query, as a number.
            margins_R: the teacher's margin of each row.
            cluster_of: the cluster of each of these numbers, from 0; below 0, or not there, for none.

        Raises:
            ValueError: if no row is left.
        """
        queries, at, counts = np.unique(queries_R, return_inverse=True, return_counts=True)
        if isinstance(cluster_of, Mapping):
            cluster_Q = np.array([cluster_of.get(int(query), -1) for query in queries], np.int64)
        else:
            cluster_Q = np.asarray(cluster_of, np.int64)[queries]
        few_Q, outside_Q = counts < 2, cluster_Q < 0
        usable_Q = ~(few_Q | outside_Q)
        if not usable_Q.any():
            found = f"none of {len(queries):,} queries ({few_Q.sum():,} have fewer rows, {outside_Q.sum():,} are in no cluster)"
            raise ValueError(f"expected a query with 2 rows or more in a cluster, found {found}")
        # Queries by cluster; a cluster without a usable query disappears.
        by_cluster = np.flatnonzero(usable_Q)[np.argsort(cluster_Q[usable_Q], kind="stable")]
        _, sizes = np.unique(cluster_Q[by_cluster], return_counts=True)
        place_Q = np.full(len(queries), -1)
        place_Q[by_cluster] = np.arange(len(by_cluster))
        rows = np.flatnonzero(usable_Q[at])
        place_R = place_Q[at[rows]]
        bin_R = place_R * NUM_BINS + _bins(place_R, np.asarray(margins_R, np.float64)[rows], len(by_cluster))
        starts = np.cumsum(np.bincount(bin_R, minlength=len(by_cluster) * NUM_BINS)).reshape(-1, NUM_BINS)
        first = np.concatenate([[0], starts[:-1, -1]])[:, None]
        return cls(
            order=rows[np.argsort(bin_R, kind="stable")],
            bins=np.concatenate([first, starts], axis=1),
            clusters=np.concatenate([[0], np.cumsum(sizes)]),
            num_few=int(few_Q.sum()),
            num_outside=int((outside_Q & ~few_Q).sum()),
        )

    @property
    def num_queries(self) -> int:
        """Queries that are drawn from."""
        return len(self.bins)

    @property
    def num_clusters(self) -> int:
        """Clusters that hold such a query."""
        return len(self.clusters) - 1


def _bins(places: Rows, margins: NDArray[np.float64], num_queries: int) -> Rows:
    """Which of its query's bins each margin is in; where all are equal, the first."""
    low, high = np.full(num_queries, np.inf), np.full(num_queries, -np.inf)
    np.minimum.at(low, places, margins)
    np.maximum.at(high, places, margins)
    width = np.where(high > low, high - low, 1.0)
    # The largest margin belongs to the last bin, not to one behind it.
    bins: Rows = ((margins - low[places]) / width[places] * NUM_BINS).astype(np.int64)
    return bins.clip(max=NUM_BINS - 1)


@dataclass(frozen=True, kw_only=True)
class TASPlan(Plan):
    """A plan in which each step is of one topic, or of few, and its pairs are spread over margins.

    A step takes a random cluster, each as likely as another, and draws queries from it without repeats; if they don't fill
    the step, it goes on with another cluster. Each query gives one row. A row may be drawn several times an epoch, or
    never: an epoch is as many steps as the rows would fill.

    Attributes:
        rows_by_cluster: what is drawn from.
    """

    rows_by_cluster: TASRows

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows_by_cluster.num_queries < self.global_batch:
            raise ValueError(
                f"expected at least {self.global_batch} queries with 2 rows or more, one for each row of a step, "
                f"found {self.rows_by_cluster.num_queries}; lower batch_size"
            )

    @property
    def num_dropped_rows(self) -> int:
        """Rows that are never drawn: their query has no other row, or no cluster."""
        return self.num_rows - len(self.rows_by_cluster.order)

    @property
    def why_dropped(self) -> str:
        """As in `Plan`."""
        return "their query has no other row, or no cluster"

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return max(1, len(self.rows_by_cluster.order) // self.global_batch)

    def _global_rows(self, epoch: int, step: int) -> Rows:
        random = np.random.default_rng([self.seed, epoch, step])
        bins = self.rows_by_cluster.bins[self._queries(random)]
        counts = np.diff(bins)
        filled = np.cumsum(counts > 0, axis=1)
        # The first bin by which so many aren't empty is the one that is drawn.
        drawn = random.integers(filled[:, -1])
        chosen = (filled <= drawn[:, None]).sum(1)
        each = np.arange(self.global_batch)
        places = bins[each, chosen] + random.integers(counts[each, chosen])
        drawn_rows: Rows = self.rows_by_cluster.order[places]
        return drawn_rows

    def _queries(self, random: np.random.Generator) -> Rows:
        """Distinct queries of one cluster, or of as few as fill the step."""
        starts, parts, missing = self.rows_by_cluster.clusters, [], self.global_batch
        for cluster in random.permutation(len(starts) - 1):
            size = int(starts[cluster + 1] - starts[cluster])
            parts.append(starts[cluster] + random.permutation(size)[:missing])
            missing -= len(parts[-1])
            if not missing:
                break
        return np.concatenate(parts)
