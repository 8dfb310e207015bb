"""TAS on small, worked examples; cluster files; one test a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankdistill.data.tas import TASPlan, TASRows, read_clusters
from rankdistill.errors import BadDataError


def test_bins_are_of_equal_width_between_a_querys_own_margins() -> None:
    # Query 0 from -1 to 9: bins of width 1. Query 1 has one margin only. Query 2 has one row, query 3 no cluster.
    queries = np.array([0, 1, 0, 2, 0, 1, 0, 3, 3])
    margins = np.array([9.0, 4.0, -1.0, 5.0, -0.01, 4.0, 0.5, 1.0, 2.0])
    rows = TASRows.of(queries, margins, {0: 7, 1: 3, 2: 7})
    # Cluster 3 comes before cluster 7.
    assert rows.order.tolist() == [1, 5, 2, 4, 6, 0]
    assert rows.bins.tolist() == [[0] + [2] * 10, [2, 4, *[5] * 8, 6]]
    assert rows.clusters.tolist() == [0, 1, 2]
    assert (rows.num_queries, rows.num_clusters, rows.num_few, rows.num_outside) == (2, 2, 1, 1)
    plan = TASPlan(rows_by_cluster=rows, num_rows=9, batch_size=2)
    assert (plan.num_steps, plan.num_dropped_rows) == (3, 3)
    assert sorted(queries[plan.rows(0, 0)].tolist()) == [0, 1]


def test_a_step_is_of_one_cluster_where_that_is_big_enough() -> None:
    queries = np.repeat(np.arange(30), 3)
    rows = TASRows.of(queries, np.arange(90.0), np.arange(30) // 10)
    for step in range(9):
        found = queries[TASPlan(rows_by_cluster=rows, num_rows=90, batch_size=10, seed=1).rows(0, step)]
        assert len(set(found.tolist())) == 10
        assert len(set((found // 10).tolist())) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "expected batch_size of 1 or more, found 0"),
        ({"rank": 1}, "expected a rank from 0 to 0, found 1"),
        ({"seed": -1}, "expected a seed of 0 or more, found -1"),
        (
            {"batch_size": 3},
            "expected at least 3 queries with 2 rows or more, one for each row of a step, found 2; lower",
        ),
        ({"world_size": 3}, "expected at least 3 queries"),
    ],
)
def test_impossible_plans(options: dict[str, Any], message: str) -> None:
    rows = TASRows.of(np.array([0, 0, 1, 1]), np.zeros(4), np.zeros(2))
    with pytest.raises(ValueError, match=message):
        TASPlan(**({"rows_by_cluster": rows, "num_rows": 4, "batch_size": 1} | options))
    plan = TASPlan(rows_by_cluster=rows, num_rows=4, batch_size=1)
    with pytest.raises(IndexError, match="expected a step from 0 to 3, found 4"):
        plan.rows(0, 4)


def test_no_query_is_usable() -> None:
    with pytest.raises(ValueError, match=r"found none of 2 queries \(1 have fewer rows, 1 are in no cluster\)"):
        TASRows.of(np.array([0, 1, 1]), np.zeros(3), {0: 0})


def test_cluster_files(tmp_path: Path) -> None:
    path = tmp_path / "clusters.txt"
    path.write_text("1 22  3\n\n4\n5 5\n")
    assert read_clusters(path) == [["1", "22", "3"], ["4"], ["5"]]
    path.write_text("1 2\n3 1\n")
    with pytest.raises(
        BadDataError, match=r'clusters\.txt:2: expected each query in one cluster, found "1", which is in line 1'
    ):
        read_clusters(path)
    path.write_text("\n")
    with pytest.raises(BadDataError, match="expected a cluster of query ids a line, found an empty file"):
        read_clusters(path)
