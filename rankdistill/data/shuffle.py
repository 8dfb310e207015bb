"""A global shuffle without a list in memory: positions of a pseudo-random permutation, computed as they're needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rankdistill import _core

__all__ = ["permuted_positions"]


def permuted_positions(
    num_rows: int, seed: int, epoch: int, start: int, count: int, stride: int = 1
) -> NDArray[np.int64]:
    """Rows at places `start`, `start + stride`, … of an epoch's order: a bijection on `range(num_rows)` for each (seed, epoch).

    Cost: about 20 ns a position, no memory besides the result; the GIL is released.

    Args:
        num_rows: rows of an epoch.
        seed: decides, with `epoch`, the order.
        epoch: from 0.
        start: the first place.
        count: how many places.
        stride: distance of places. With `start=rank` and `stride=world_size`, the ranks share out every row exactly once.

    Returns:
        Rows, [count].

    Raises:
        ValueError: if a place lies beyond the last row.
    """
    return _core.permuted_positions(num_rows, seed, epoch, start, count, stride)
