"""TK one pair, one word and one kernel at a time, in double precision, from a state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MU = [1.0, 0.9, 0.7, 0.5, 0.3, 0.1, -0.1, -0.3, -0.5, -0.7, -0.9]
Weights = Mapping[str, NDArray[np.float64]]


def kernel_counts(cosines: Sequence[Sequence[float]], doc_mask: Sequence[int]) -> list[list[float]]:
    """For each query word and kernel: how many document words are about so similar."""
    return [
        [
            sum(math.exp(-((c - mu) ** 2) / (2 * 0.1**2)) for c, used in zip(row, doc_mask, strict=True) if used)
            for mu in MU
        ]
        for row in cosines
    ]


def log_score(
    cosines: Sequence[Sequence[float]],
    query_mask: Sequence[int],
    doc_mask: Sequence[int],
    scales: Sequence[float],
    weights: Sequence[float],
) -> float:
    score = 0.0
    for counts, used in zip(kernel_counts(cosines, doc_mask), query_mask, strict=True):
        if used:
            score += sum(w * math.log(max(n * a, 1e-10)) for n, a, w in zip(counts, scales, weights, strict=True))
    return score


def log_and_length_score(
    cosines: Sequence[Sequence[float]],
    query_mask: Sequence[int],
    doc_mask: Sequence[int],
    log_weights: Sequence[float],
    length_weights: Sequence[float],
    scale: float,
    both: Sequence[float],
) -> float:
    logs = shares = 0.0
    for counts, used in zip(kernel_counts(cosines, doc_mask), query_mask, strict=True):
        if used:
            logs += sum(w * math.log2(max(n, 1e-10)) * scale for n, w in zip(counts, log_weights, strict=True))
            shares += sum(w * n / (sum(doc_mask) + 1) * scale for n, w in zip(counts, length_weights, strict=True))
    return both[0] * logs + both[1] * shares


def position(at: int, dim: int) -> list[float]:
    half = dim // 2
    angles = [at / 10_000 ** (i / (half - 1)) for i in range(half)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def _normalised(x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any]) -> NDArray[Any]:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def _layer(weights: Weights, name: str, words: list[NDArray[Any]], num_heads: int) -> list[NDArray[Any]]:
    w = {key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)}
    width = len(words[0])
    head = width // num_heads
    projected = [w["self_attn.in_proj_weight"] @ x + w["self_attn.in_proj_bias"] for x in words]
    q, k, v = ([p[part * width : (part + 1) * width] for p in projected] for part in range(3))
    found = []
    for i, x in enumerate(words):
        read = np.zeros(width)
        for h in range(num_heads):
            own = slice(h * head, (h + 1) * head)
            powers = np.exp([q[i][own] @ other[own] / math.sqrt(head) for other in k])
            for power, value in zip(powers / powers.sum(), v, strict=True):
                read[own] += power * value[own]
        read = w["self_attn.out_proj.weight"] @ read + w["self_attn.out_proj.bias"]
        x = _normalised(x + read, w["norm1.weight"], w["norm1.bias"])
        inner = np.maximum(0, w["linear1.weight"] @ x + w["linear1.bias"])
        x = _normalised(x + w["linear2.weight"] @ inner + w["linear2.bias"], w["norm2.weight"], w["norm2.bias"])
        found.append(x)
    return found


def contextualised(weights: Weights, config: Any, ids: Sequence[int], start: int) -> list[NDArray[Any]]:
    embedded = [weights["embeddings.weight"][i] for i in ids]
    words = [x + position(start + at, len(x)) for at, x in enumerate(embedded)]
    for number in range(config.num_layers if ids else 0):
        words = _layer(weights, f"layers.{number}.", words, config.num_heads)
    mix = float(weights["mix"])
    return [mix * x + (1 - mix) * c for x, c in zip(embedded, words, strict=True)]


def tk_score(weights: Weights, config: Any, query_ids: Sequence[int], doc_ids: Sequence[int]) -> float:
    query = contextualised(weights, config, query_ids, 0)
    doc = contextualised(weights, config, doc_ids, config.doc_position)
    cosines = [[float(q @ d / np.linalg.norm(q) / np.linalg.norm(d)) for d in doc] for q in query]
    masks = [1] * len(query), [1] * len(doc)
    kernels = {name.removeprefix("kernels."): value for name, value in weights.items() if name.startswith("kernels.")}
    if config.aggregation == "log":
        return log_score(cosines, *masks, kernels["scales"], kernels["weights"])
    return log_and_length_score(
        cosines,
        *masks,
        kernels["log_weights"],
        kernels["length_weights"],
        float(kernels["scale"]),
        kernels["both.weight"][0],
    )
