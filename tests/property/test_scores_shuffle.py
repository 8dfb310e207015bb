"""What holds for any shuffle: every row exactly once an epoch, over any number of ranks, from any start."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.data.scores import ScoreStore, open_scores
from rankdistill.data.shuffle import permuted_positions
from rankdistill.formats.scores import write_scores

NUM_ROWS = 1013
SEEDS = st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module")
def store() -> Iterator[ScoreStore]:
    """The score of row i's positive is i."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.tsv"
        write_scores(path, ((str(i % 7), [(str(i), float(i)), ("n", -1.0)]) for i in range(NUM_ROWS)))
        yield open_scores(path, progress=False)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), SEEDS, st.integers(0, 9), st.integers(1, 9))
def test_strides_share_out_a_bijection(num_rows: int, seed: int, epoch: int, stride: int) -> None:
    whole = permuted_positions(num_rows, seed, epoch, 0, num_rows)
    assert np.array_equal(np.sort(whole), np.arange(num_rows))
    for start in range(stride):
        count = len(range(start, num_rows, stride))
        assert np.array_equal(permuted_positions(num_rows, seed, epoch, start, count, stride), whole[start::stride])


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 5), st.integers(1, 6), st.integers(1, 400), st.integers(0, NUM_ROWS + 3))
def test_ranks_see_every_row_once_and_seek_anywhere(
    store: ScoreStore, seed: int, epoch: int, world_size: int, block_rows: int, start: int
) -> None:
    shares = []
    for rank in range(world_size):
        options = {"block_rows": block_rows, "rank": rank, "world_size": world_size}
        blocks = list(store.shuffled_blocks(seed, epoch, **options))
        assert all(len(block.queries) == block_rows for block in blocks[:-1])
        share = np.concatenate([block.scores[:, 0] for block in blocks])
        rest = [block.scores[:, 0] for block in store.shuffled_blocks(seed, epoch, start=start, **options)]
        assert np.array_equal(np.concatenate([share[:0], *rest]), share[start:])
        shares.append(share)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(NUM_ROWS))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(permuted_positions(50, seed, epoch, 0, 50)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize(("start", "count", "stride"), [(0, 11, 1), (10, 1, 1), (1, 4, 3), (0, 2, 2**63), (0, 1, 0)])
def test_positions_that_are_not_there(start: int, count: int, stride: int) -> None:
    with pytest.raises(ValueError, match=f"expected {count} positions below 10, found a start of {start}"):
        permuted_positions(10, 0, 0, start, count, stride)


@pytest.mark.parametrize("options", [{"rank": 2, "world_size": 2}, {"start": -1}, {"block_rows": 0}, {"rank": -1}])
def test_shares_that_cannot_be(store: ScoreStore, options: dict[str, int]) -> None:
    with pytest.raises(
        ValueError, match="expected 0 <= rank < world_size, start >= 0 and block_rows >= 1, found rank="
    ):
        store.shuffled_blocks(0, 0, **options)
