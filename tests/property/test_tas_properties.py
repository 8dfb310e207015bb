"""What holds for any plan: it is the plain one's, seeking equals iterating, world size changes nothing, draws are balanced."""

from __future__ import annotations

import pickle
from collections import Counter
from typing import NamedTuple

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rankdistill.data.tas import TASPlan, TASRows
from tests.reference import tas as slow


class Source(NamedTuple):
    queries: list[int]
    margins: list[float]
    cluster_of: dict[int, int]


@st.composite
def sources(draw: st.DrawFn) -> Source:
    num_rows, num_queries = draw(st.integers(2, 80)), draw(st.integers(1, 12))
    queries = draw(st.lists(st.integers(0, num_queries - 1), min_size=num_rows, max_size=num_rows))
    # Halves of tenths: margins often lie at the very border of two bins.
    values = st.integers(-20, 20).map(lambda value: value / 2) | st.floats(-9, 9, width=32)
    margins = draw(st.lists(values, min_size=num_rows, max_size=num_rows))
    clusters = draw(st.lists(st.integers(-1, 4), min_size=num_queries, max_size=num_queries))
    return Source(queries, margins, dict(enumerate(clusters)))


def rows_of(source: Source) -> TASRows:
    return TASRows.of(np.array(source.queries), np.array(source.margins), source.cluster_of)


@settings(max_examples=200, deadline=None)
@given(sources(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1 << 40), st.integers(0, 5))
def test_as_the_twin(source: Source, batch_size: int, world_size: int, seed: int, epoch: int) -> None:
    bins = slow.binned(source.queries, source.margins)
    clusters = slow.clustered(bins, source.cluster_of)
    size = batch_size * world_size
    assume(sum(map(len, clusters)) >= size)
    rows = rows_of(source)
    assert (rows.num_queries, rows.num_clusters) == (sum(map(len, clusters)), len(clusters))
    assert rows.num_few == len(set(source.queries)) - len(bins)
    assert rows.num_outside == len(bins) - rows.num_queries
    plans = [
        TASPlan(
            rows_by_cluster=rows,
            num_rows=len(source.queries),
            batch_size=batch_size,
            seed=seed,
            world_size=world_size,
            rank=rank,
        )
        for rank in range(world_size)
    ]
    usable = [row for query in bins if source.cluster_of[query] >= 0 for own in bins[query] for row in own]
    assert plans[0].num_steps == max(1, len(usable) // size)
    assert plans[0].num_dropped_rows == len(source.queries) - len(usable)
    assert sorted(rows.order.tolist()) == sorted(usable)
    for step in range(plans[0].num_steps):
        expected = slow.draw(bins, clusters, size, seed, epoch, step)
        found = [plan.rows(epoch, step).tolist() for plan in plans]
        assert [row for share in found for row in share] == expected
        assert {len(share) for share in found} == {batch_size}
        assert len({source.queries[row] for row in expected}) == size
        # No more clusters than it takes.
        of_step = Counter(source.cluster_of[source.queries[row]] for row in expected)
        sizes = {source.cluster_of[cluster[0]]: len(cluster) for cluster in clusters}
        assert sum(count < sizes[cluster] for cluster, count in of_step.items()) <= 1


@settings(max_examples=50, deadline=None)
@given(sources(), st.data())
def test_seeking_equals_iterating(source: Source, data: st.DataObject) -> None:
    assume(slow.clustered(slow.binned(source.queries, source.margins), source.cluster_of))
    plan = TASPlan(rows_by_cluster=rows_of(source), num_rows=len(source.queries), batch_size=1, seed=3)
    iterated = [rows.tolist() for rows in plan.steps(2)]
    asked = data.draw(st.lists(st.integers(0, len(iterated) - 1), min_size=1, max_size=8))
    again = pickle.loads(pickle.dumps(plan))
    assert [again.rows(2, step).tolist() for step in asked] == [iterated[step] for step in asked]
    assert [rows.tolist() for rows in plan.steps(2, asked[0])] == iterated[asked[0] :]


def test_clusters_queries_and_bins_are_drawn_evenly() -> None:
    """5 clusters of 8 queries with 41 rows each, 38 of which have nearly the same margin: 4 of 10 bins aren't empty."""
    queries = np.repeat(np.arange(40), 41)
    margins = np.tile([0.0, 3.5, 10.0, *np.linspace(5.01, 5.4, 38)], 40)
    rows = TASRows.of(queries, margins, np.arange(40) % 5)
    plan = TASPlan(rows_by_cluster=rows, num_rows=len(queries), batch_size=4)
    drawn = np.concatenate([plan.rows(epoch, step) for epoch in range(10) for step in range(plan.num_steps)])
    count = len(drawn)
    assert count == 16_400
    bins = Counter(np.digitize(margins[drawn], [1, 4, 9]).tolist())
    for counter, num in (
        (bins, 4),
        (Counter((queries[drawn] % 5).tolist()), 5),
        (Counter(queries[drawn].tolist()), 40),
    ):
        share = count / num
        # Clusters come 4 at a time, so their counts spread twice as wide as those of single draws.
        assert len(counter) == num
        assert max(abs(found - share) for found in counter.values()) < 6 * 2 * share**0.5
    assert len({tuple(plan.rows(0, step)) for step in range(50)}) == 50
