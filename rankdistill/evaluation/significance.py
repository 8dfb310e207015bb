"""Is one run better than another, or lucky? Paired tests over queries, and Holm's correction for asking many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rankdistill.evaluation.measures import Evaluation

__all__ = ["Comparison", "compare", "holm", "paired_t_test", "randomisation_test"]


@dataclass(frozen=True)
class Comparison:
    """One system against the baseline, in one measure.

    Attributes:
        system: the system's name.
        baseline: the name of what it is compared with.
        measure: the measure.
        mean: the system's mean.
        difference: the system's mean less the baseline's.
        wins: queries for which the system is better.
        losses: queries for which it is worse; the rest are ties.
        p_value: two-sided, as the test gave it.
        p_corrected: after the correction for the number of comparisons.
    """

    system: str
    baseline: str
    measure: str
    mean: float
    difference: float
    wins: int
    losses: int
    p_value: float
    p_corrected: float


def paired_t_test(values: ArrayLike, baseline: ArrayLike) -> float:
    """Two-sided p-value of Student's paired t-test.

    Args:
        values: one value a query.
        baseline: the other system's values of the same queries, in the same order.

    Returns:
        The p-value; 1 where no difference is seen at all, and 1 for a single query, which tells nothing.

    Raises:
        ValueError: the lengths differ or there are no values.
    """
    differences = _differences(values, baseline)
    if len(differences) < 2 or not differences.any():
        return 1.0
    if np.ptp(differences) == 0:
        return 0.0  # the same difference for each query: no variance to be lucky with
    from scipy import stats

    return float(stats.ttest_rel(values, baseline).pvalue)


def randomisation_test(values: ArrayLike, baseline: ArrayLike, num_permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of Fisher's paired randomisation test: how often do random signs give a mean as far from 0?

    Args:
        values: one value a query.
        baseline: the other system's values of the same queries, in the same order.
        num_permutations: random sign patterns to draw.
        seed: the same seed gives the same p-value.

    Returns:
        (b + 1) / (num_permutations + 1), where b counts patterns whose mean is at least as far from 0 as the observed
        one; so it's never 0.

    Raises:
        ValueError: the lengths differ or there are no values.

    Source:
        Smucker, Allan and Carterette 2007; the +1 is from Phipson and Smyth 2010.
    """
    differences = _differences(values, baseline)
    observed = abs(differences.sum())
    # Sums of the same numbers in another order differ in the last bits, and ties with the observed sum must count.
    observed -= 1e-12 * max(1.0, float(np.abs(differences).sum()))
    generator = np.random.default_rng(seed)
    as_far = 0
    # Blocks keep the sign matrix under about 8 MB.
    block = max(1, 1_000_000 // len(differences))
    for start in range(0, num_permutations, block):
        shape = (min(block, num_permutations - start), len(differences))
        signs = generator.integers(0, 2, size=shape, dtype=np.int8) * 2.0 - 1.0
        as_far += int(np.count_nonzero(np.abs(signs @ differences) >= observed))
    return (as_far + 1) / (num_permutations + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; the result is in the order of the input.

    The smallest of m p-values is multiplied by m, the next by m - 1, and so on; none becomes smaller than the one
    before it, nor greater than 1.

    Source:
        Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for step, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[position] * (len(p_values) - step)))
        corrected[position] = highest
    return corrected


def compare(
    evaluations: Mapping[str, Evaluation],
    baseline: str,
    measure: str,
    test: Literal["t", "randomisation"] = "t",
    correction: Literal["holm", "none"] = "holm",
    seed: int = 0,
) -> list[Comparison]:
    """Compares each system with the baseline, over the same queries.

    Args:
        evaluations: name -> evaluation; all of the same queries.
        baseline: one of the names.
        measure: one of the measures in all the evaluations.
        test: Student's paired t-test or the randomisation test.
        correction: Holm's over the systems compared, or none.
        seed: for the randomisation test.

    Returns:
        One comparison a system other than the baseline, in the mapping's order.

    Raises:
        ValueError: an unknown baseline, measure, test or correction, or evaluations of different queries.
    """
    if test not in ("t", "randomisation") or correction not in ("holm", "none"):
        raise ValueError(
            f'expected test "t" or "randomisation" and correction "holm" or "none", found {test, correction}'
        )
    if baseline not in evaluations:
        raise ValueError(f"expected one of the systems {list(evaluations)} as baseline, found {baseline!r}")
    for name, evaluation in evaluations.items():
        if measure not in evaluation.per_query:
            raise ValueError(f"expected measure {measure!r} for {name!r}, found only {list(evaluation.per_query)}")
        if evaluation.per_query[measure].keys() != evaluations[baseline].per_query[measure].keys():
            raise ValueError(
                f"expected evaluations of the same queries, found others for {name!r} than for {baseline!r}"
            )
    reference = evaluations[baseline].per_query[measure]
    base = np.array(list(reference.values()))
    rows, p_values = [], []
    for name, evaluation in evaluations.items():
        if name == baseline:
            continue
        values = np.array([evaluation.per_query[measure][query_id] for query_id in reference])
        p_values.append(paired_t_test(values, base) if test == "t" else randomisation_test(values, base, seed=seed))
        rows.append((name, evaluation.mean[measure], int((values > base).sum()), int((values < base).sum())))
    corrected = holm(p_values) if correction == "holm" else p_values
    return [
        Comparison(name, baseline, measure, mean, mean - evaluations[baseline].mean[measure], wins, losses, p, p_fixed)
        for (name, mean, wins, losses), p, p_fixed in zip(rows, p_values, corrected, strict=True)
    ]


def _differences(values: ArrayLike, baseline: ArrayLike) -> NDArray[np.float64]:
    first, second = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(
            f"expected two lists of values of the same queries, found shapes {first.shape}, {second.shape}"
        )
    return first - second
