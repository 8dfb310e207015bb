"""What holds for any plan: each row once over all ranks, seeking equals iterating, and world size changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rankdistill.data.batches import BatchPlan


def lengths_of(rows: NDArray[np.int64]) -> NDArray[Any]:
    """Lengths with many ties, as texts have."""
    return (rows * 7919) % 13


@st.composite
def plans(draw: st.DrawFn) -> Callable[[int], BatchPlan]:
    """A function from rank to its plan."""
    world_size, batch_size = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    options = {
        "num_rows": draw(st.integers(world_size * batch_size, 300)),
        "batch_size": batch_size,
        "world_size": world_size,
        "seed": draw(st.integers(0, 1 << 40)),
        "window_batches": draw(st.integers(1, 9)),
        "lengths": draw(st.sampled_from([None, lengths_of])),
        "drop_last": draw(st.booleans()),
    }
    return lambda rank: BatchPlan(rank=rank, **options)


@settings(max_examples=150, deadline=None)
@given(plan=plans(), epoch=st.integers(0, 1000))
def test_every_row_once_an_epoch(plan: Callable[[int], BatchPlan], epoch: int) -> None:
    ranks = [plan(rank) for rank in range(plan(0).world_size)]
    steps = [[rows.tolist() for rows in rank.steps(epoch)] for rank in ranks]
    seen = [row for rank in steps for rows in rank for row in rows]
    assert len(seen) == len(set(seen)) == ranks[0].num_rows - ranks[0].num_dropped_rows
    assert set(seen) <= set(range(ranks[0].num_rows))
    # All ranks take the same number of steps, and none is ever without a row: DDP would hang.
    assert {len(rank) for rank in steps} == {ranks[0].num_steps}
    for at in range(ranks[0].num_steps):
        sizes = [len(rank[at]) for rank in steps]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert at == ranks[0].num_steps - 1 or set(sizes) == {ranks[0].batch_size}
    limit = ranks[0].global_batch if ranks[0].drop_last else ranks[0].world_size
    assert ranks[0].num_dropped_rows < limit


@settings(max_examples=100, deadline=None)
@given(plan=plans(), data=st.data())
def test_seeking_equals_iterating(plan: Callable[[int], BatchPlan], data: st.DataObject) -> None:
    iterated = [rows.tolist() for rows in plan(0).steps(2)]
    asked = data.draw(st.lists(st.integers(0, len(iterated) - 1), min_size=1, max_size=8))
    fresh = plan(0)
    assert [fresh.rows(2, step).tolist() for step in asked] == [iterated[step] for step in asked]
    start = asked[0]
    assert [rows.tolist() for rows in plan(0).steps(2, start)] == iterated[start:]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), num_rows=st.integers(24, 300), window=st.integers(1, 6), seed=st.integers(0, 99))
def test_world_size_does_not_change_a_step(data: st.DataObject, num_rows: int, window: int, seed: int) -> None:
    world_size = data.draw(st.sampled_from([2, 3, 4, 6, 12]))

    def step_sets(world_size: int) -> list[set[int]]:
        ranks = [
            BatchPlan(
                num_rows=num_rows,
                batch_size=12 // world_size,
                world_size=world_size,
                rank=rank,
                seed=seed,
                window_batches=window,
                lengths=lengths_of,
            )
            for rank in range(world_size)
        ]
        return [{int(row) for rank in ranks for row in rank.rows(1, step)} for step in range(ranks[0].num_steps)]

    alone, shared = step_sets(1), step_sets(world_size)
    # The last batch may be too small to share.
    assert shared == alone[: len(shared)]
    assert len(alone) - len(shared) <= 1


@settings(max_examples=50, deadline=None)
@given(plan=plans(), epoch=st.integers(0, 9))
def test_batches_of_a_window_do_not_overlap_in_length(plan: Callable[[int], BatchPlan], epoch: int) -> None:
    one = plan(0)
    if one.lengths is None or one.window_batches == 1 or one.world_size > 1:
        return
    batches = list(one.steps(epoch))
    for first in range(0, len(batches), one.window_batches):
        whole = [batch for batch in batches[first : first + one.window_batches] if len(batch) == one.batch_size]
        ranges = sorted((int(lengths_of(batch).min()), int(lengths_of(batch).max())) for batch in whole)
        assert all(left[1] <= right[0] for left, right in pairwise(ranges))


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [int(row) for rows in BatchPlan(num_rows=200, batch_size=8, seed=seed).steps(epoch) for row in rows]

    assert len({tuple(order(*key)) for key in ((0, 0), (0, 1), (1, 0))}) == 3
