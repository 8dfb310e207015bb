from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from rankdistill.evaluation.measures import Evaluation
from rankdistill.evaluation.report import evaluation_rows, render_table
from rankdistill.evaluation.significance import compare, holm, paired_t_test, randomisation_test

BETTER, BASE = [0.9, 0.4, 0.7, 0.55, 0.8, 0.3], [0.5, 0.45, 0.6, 0.5, 0.35, 0.2]


def evaluation(values: list[float]) -> Evaluation:
    per_query = {f"q{i}": value for i, value in enumerate(values)}
    return Evaluation({"AP": sum(values) / len(values)}, {"AP": per_query}, len(values), 0)


def test_t_test_is_scipys() -> None:
    assert paired_t_test(BETTER, BASE) == stats.ttest_rel(BETTER, BASE).pvalue


def test_t_test_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 2 sqrt(3), 2 degrees of freedom:
    # p = 1 - t / sqrt(2 + t^2).
    t = 2 * 3**0.5
    assert paired_t_test([1, 2, 3], [0, 0, 0]) == pytest.approx(1 - t / (2 + t * t) ** 0.5)


def test_t_test_where_there_is_no_variance() -> None:
    assert paired_t_test([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert paired_t_test([1.0], [0.0]) == 1.0
    assert paired_t_test([1.0, 2.0], [0.5, 1.5]) == 0.0


def test_randomisation_comes_near_the_exact_test() -> None:
    differences = np.subtract(BETTER, BASE)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product([-1, 1], repeat=len(differences))]
    exact = np.mean([value >= abs(differences.sum()) - 1e-12 for value in sums])
    # 10,000 draws: the standard error is under .003.
    assert randomisation_test(BETTER, BASE) == pytest.approx(exact, abs=0.012)


def test_randomisation_is_seeded_and_never_zero() -> None:
    assert randomisation_test(BETTER, BASE, seed=3) == randomisation_test(BETTER, BASE, seed=3)
    assert randomisation_test(BETTER, BASE, seed=3) != randomisation_test(BETTER, BASE, seed=4)
    assert randomisation_test([1.0] * 60, [0.0] * 60, num_permutations=99) == 0.01


def test_randomisation_without_a_difference_is_one() -> None:
    assert randomisation_test(BASE, BASE, num_permutations=50) == 1.0


@pytest.mark.parametrize("test", [paired_t_test, randomisation_test])
def test_lengths_must_agree(test) -> None:  # type: ignore[no-untyped-def]
    for values, base in (([1.0, 2.0], [1.0]), ([], []), ([[1.0]], [[1.0]])):
        with pytest.raises(ValueError, match="two lists of values of the same queries"):
            test(values, base)


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, and none may fall below the one before it.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_compare() -> None:
    systems = {"base": evaluation(BASE), "better": evaluation(BETTER), "same": evaluation(BASE)}
    better, same = compare(systems, "base", "AP")
    assert (better.system, better.wins, better.losses) == ("better", 5, 1)
    assert better.difference == pytest.approx(np.mean(BETTER) - np.mean(BASE))
    assert better.p_value == stats.ttest_rel(BETTER, BASE).pvalue
    assert better.p_corrected == pytest.approx(2 * better.p_value)
    assert (same.difference, same.p_value, same.p_corrected) == (0.0, 1.0, 1.0)
    plain = compare(systems, "base", "AP", test="randomisation", correction="none", seed=5)
    assert plain[0].p_corrected == plain[0].p_value == randomisation_test(BETTER, BASE, seed=5)


def test_compare_matches_queries_by_id_not_by_place() -> None:
    turned = evaluation(BETTER)
    turned.per_query["AP"] = dict(reversed(turned.per_query["AP"].items()))
    systems = {"base": evaluation(BASE), "better": evaluation(BETTER), "turned": turned}
    better, again = compare(systems, "base", "AP")
    assert (better.p_value, better.wins) == (again.p_value, again.wins)


def test_compare_refuses_what_cannot_be_compared() -> None:
    systems = {"base": evaluation(BASE), "short": evaluation(BASE[:3])}
    for arguments, message in (
        (("nothing", "AP"), "as baseline, found 'nothing'"),
        (("base", "RR"), "expected measure 'RR'"),
        (("base", "AP"), "the same queries"),
        (("base", "AP", "z"), "expected test"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(systems, *arguments)  # type: ignore[arg-type]


def test_table() -> None:
    rows = [{"system": "a|b", "AP": 0.25, "queries": 1234}, {"system": "long name", "AP": None}]
    assert render_table(rows, decimals=2).splitlines() == [
        "system       AP  queries",
        "---------  ----  -------",
        "a|b        0.25    1,234",
        "long name",
    ]
    assert render_table(rows, "markdown", decimals=2, columns=["system", "AP"]).splitlines() == [
        "| system    |   AP |",
        "| --------- | ---: |",
        r"| a\|b      | 0.25 |",
        "| long name |      |",
    ]
    with pytest.raises(ValueError, match="expected style"):
        render_table(rows, "latex")


def test_rows_mark_what_is_significant_against_the_baseline() -> None:
    clear = [value + 0.3 + 0.001 * i for i, value in enumerate(BASE)]
    systems = {"base": evaluation(BASE), "up": evaluation(clear), "down": evaluation([-v for v in clear])}
    cells = [row["AP"] for row in evaluation_rows(systems, compare(systems, "base", "AP"))]
    assert [str(cell)[-1] for cell in cells] == [" ", "⁺", "⁻"]
