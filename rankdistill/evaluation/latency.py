"""How long one query takes, one at a time: what a user waits for, which throughput in batches doesn't tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

__all__ = ["Latency", "measure_latency"]

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Latency:
    """Milliseconds a query.

    Attributes:
        mean_ms: the mean.
        p50_ms: half of the queries took less.
        p95_ms: 95 of 100 queries took less.
        num_queries: how many were timed.
    """

    mean_ms: float
    p50_ms: float
    p95_ms: float
    num_queries: int

    def __str__(self) -> str:
        return (
            f"{self.mean_ms:.1f} ms a query (p50 {self.p50_ms:.1f}, p95 {self.p95_ms:.1f};"
            f" {self.num_queries} queries, one at a time)"
        )


def measure_latency(answer: Callable[[_Item], object], queries: Iterable[_Item], num_warmup: int = 2) -> Latency | None:
    """Times `answer(query)` for each query; the first is answered `num_warmup` times more, untimed.

    Returns:
        None if there are no queries.
    """
    items = list(queries)
    if not items:
        return None
    for _ in range(num_warmup):
        answer(items[0])
    milliseconds = np.empty(len(items))
    for i, item in enumerate(items):
        start = time.perf_counter()
        answer(item)
        milliseconds[i] = 1000 * (time.perf_counter() - start)
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return Latency(float(milliseconds.mean()), float(p50), float(p95), len(items))
