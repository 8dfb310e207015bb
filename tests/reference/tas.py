"""TAS-Balanced the plain way: dictionaries of lists, one query after the other."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

Bins = list[list[int]]


def binned(queries: Sequence[int], margins: Sequence[float]) -> dict[int, Bins]:
    """Ten lists of rows for each query that has at least two rows."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, query in enumerate(queries):
        rows[query].append(row)
    found = {}
    for query, own in rows.items():
        if len(own) < 2:
            continue
        low, high = min(margins[row] for row in own), max(margins[row] for row in own)
        bins: Bins = [[] for _ in range(10)]
        for row in own:
            share = (margins[row] - low) / (high - low) if high > low else 0.0
            bins[min(9, math.floor(share * 10))].append(row)
        found[query] = bins
    return found


def clustered(bins: Mapping[int, Bins], cluster_of: Mapping[int, int]) -> list[list[int]]:
    """The usable queries of each cluster that has any, in order of their numbers."""
    clusters: dict[int, list[int]] = defaultdict(list)
    for query in sorted(bins):
        if cluster_of.get(query, -1) >= 0:
            clusters[cluster_of[query]].append(query)
    return [clusters[cluster] for cluster in sorted(clusters)]


def draw(
    bins: Mapping[int, Bins], clusters: Sequence[Sequence[int]], size: int, seed: int, epoch: int, step: int
) -> list[int]:
    """The rows of one step over all ranks; asks for random numbers in the same order as the fast one."""
    random = np.random.default_rng([seed, epoch, step])
    queries: list[int] = []
    for cluster in random.permutation(len(clusters)):
        order = random.permutation(len(clusters[cluster]))
        queries += [clusters[cluster][i] for i in order][: size - len(queries)]
        if len(queries) == size:
            break
    filled = [[rows for rows in bins[query] if rows] for query in queries]
    chosen = [own[i] for own, i in zip(filled, random.integers([len(own) for own in filled]), strict=True)]
    return [own[i] for own, i in zip(chosen, random.integers([len(own) for own in chosen]), strict=True)]
