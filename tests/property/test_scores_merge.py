"""What holds for any merge: it is the plain one's, the order of the other files doesn't matter, nothing is left behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rankdistill.data.scores_merge import MergeReport, merge_scores
from rankdistill.errors import BadDataError
from rankdistill.formats.scores import read_scores, write_scores
from tests.reference import merge as slow
from tests.reference.scores import Row

IDS = st.sampled_from(["1", "2", "03", "é", "doc-4", "99999999999999999999"])
SCORES = st.sampled_from([-2.5, -1.0, 0.0, 0.25, 1.0, 7.0]) | st.floats(-100, 100, width=32)


def rows_of(width: int) -> st.SearchStrategy[list[Row]]:
    docs = st.lists(IDS, min_size=width, max_size=width, unique=True)
    scores = st.lists(SCORES, min_size=width, max_size=width)
    return st.lists(st.builds(Row, IDS, docs, scores), min_size=1, max_size=12)


def save(path: Path, rows: list[Row], format: str) -> Path:
    plain = [(row.query_id, list(zip(row.doc_ids, row.scores, strict=True))) for row in rows]
    write_scores(path, plain, format)  # type: ignore[arg-type]
    return path


def load(path: Path, format: str) -> list[Row]:
    blocks = read_scores(path, format=format, block_rows=3)  # type: ignore[arg-type]
    parts = [zip(block.query_ids(), block.doc_ids(), block.scores.tolist(), strict=True) for block in blocks]
    return [Row(*row) for part in parts for row in part]


def same(found: list[Row], expected: list[Row], scale: float = 1.0) -> bool:
    ids = [(row.query_id, row.doc_ids) for row in found] == [(row.query_id, row.doc_ids) for row in expected]
    values = [np.array([row.scores for row in rows]) for rows in (found, expected)]
    return ids and np.allclose(*values, rtol=1e-5, atol=1e-5 * scale)


def merged(
    folder: Path, formats: list[str], teachers: list[list[Row]], **options: Any
) -> tuple[list[Row], MergeReport]:
    paths = [
        save(folder / f"{number}.{format}", rows, format)
        for number, (rows, format) in enumerate(zip(teachers, formats, strict=True))
    ]
    report = merge_scores(paths, folder / "out", format="auto", progress=False, **options)
    assert {path.name for path in folder.iterdir()} == {"out", *(path.name for path in paths)}
    return load(folder / "out", formats[0]), report


@settings(max_examples=100, deadline=None)
@given(
    st.data(),
    st.integers(1, 4),
    st.sampled_from([("none", False), ("zscore", True), ("minmax", True), ("rank", False)]),
    st.sampled_from(["drop", "average"]),
)
def test_as_the_twin(data: st.DataObject, num_teachers: int, how: tuple[str, bool], on_missing: str) -> None:
    widths = [data.draw(st.integers(2, 4)) for _ in range(num_teachers)]
    teachers = [data.draw(rows_of(width)) for width in widths]
    weights = data.draw(st.lists(st.floats(0.1, 9), min_size=num_teachers, max_size=num_teachers))
    known = [slow.pair_scores(rows, False) for rows in teachers]
    first = known[0][0].keys()
    assume(all(first & scores.keys() for scores, _ in known))
    expected = slow.merge(teachers, weights, *how, on_missing=on_missing)
    assume(expected)
    with tempfile.TemporaryDirectory() as folder:
        options = {"weights": weights, "normalize": how[0], "per_query": how[1], "on_missing_pair": on_missing}
        found, report = merged(Path(folder), ["nway"] * num_teachers, teachers, **options)
    assert same(found, expected, 100)
    assert (report.rows, report.dropped_rows) == (len(expected), len(teachers[0]) - len(expected))
    for teacher, rows, (scores, changed) in zip(report.teachers, teachers, known, strict=True):
        assert (teacher.rows, teacher.pairs, teacher.changed) == (len(rows), len(scores), len(changed))
        assert (teacher.missing, teacher.unused) == (len(first - scores.keys()), len(scores.keys() - first))
        values = np.array(list(scores.values()))
        np.testing.assert_allclose([teacher.mean, teacher.sd], [values.mean(), values.std()], rtol=1e-9, atol=1e-9)
        assert (teacher.min, teacher.max) == (values.min(), values.max())
    lacking = {key for key in first if not all(key in scores for scores, _ in known)}
    assert report.averaged_pairs == (len(lacking) if on_missing == "average" else 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(rows_of(2), min_size=1, max_size=3), st.sampled_from(["zscore", "minmax"]))
def test_normalised_over_whole_files_as_the_twin(teachers: list[list[Row]], how: str) -> None:
    known = [slow.pair_scores(rows, False)[0] for rows in teachers]
    assume(all(known[0].keys() & scores.keys() for scores in known))
    constant = any(len(set(scores.values())) == 1 for scores in known)
    with tempfile.TemporaryDirectory() as folder:
        options = {"normalize": how, "on_missing_pair": "average"}
        if constant:
            with pytest.raises(BadDataError, match="expected scores that differ"):
                merged(Path(folder), ["ids"] * len(teachers), teachers, **options)
            return
        found, _ = merged(Path(folder), ["ids"] * len(teachers), teachers, **options)
    # A spread of 1e-30 between scores near 100 is lost in either.
    assume(min(np.ptp(list(scores.values())) for scores in known) > 1e-3)
    assert same(found, slow.merge(teachers, [1.0] * len(teachers), how, on_missing="average"), 10)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows_of(4), min_size=1, max_size=3))
def test_best_first_sorts_each_row_and_nothing_else(teachers: list[list[Row]]) -> None:
    shared = [[*rows, teachers[0][0]] for rows in teachers]
    with tempfile.TemporaryDirectory() as folder:
        plain, _ = merged(Path(folder), ["nway"] * len(teachers), shared, on_missing_pair="average")
    with tempfile.TemporaryDirectory() as folder:
        found, _ = merged(Path(folder), ["nway"] * len(teachers), shared, on_missing_pair="average", best_first=True)
    for row, before in zip(found, plain, strict=True):
        order = sorted(range(4), key=lambda at: -before.scores[at])  # which keeps the order of equal ones
        assert row == Row(before.query_id, [before.doc_ids[at] for at in order], [before.scores[at] for at in order])


@settings(max_examples=40, deadline=None)
@given(st.lists(rows_of(2), min_size=2, max_size=3))
def test_margins_as_the_twin(teachers: list[list[Row]]) -> None:
    shared = [[*rows, teachers[0][0]] for rows in teachers]
    teachers = [[Row(row.query_id, row.doc_ids, [row.scores[0], 0.0]) for row in rows] for rows in shared]
    with tempfile.TemporaryDirectory() as folder:
        found, report = merged(Path(folder), ["margin"] * len(teachers), teachers, on_missing_pair="average")
    weights = [1.0] * len(teachers)
    assert same(found, slow.merge(teachers, weights, on_missing="average", margins=True), 100)
    assert report.format == "margin"


@settings(max_examples=40, deadline=None)
@given(rows_of(2), st.randoms(use_true_random=False), st.sampled_from(["none", "zscore", "rank"]))
def test_the_order_and_layout_of_the_other_files_do_not_matter(rows: list[Row], random: Any, how: str) -> None:
    # Each pair once, or which score is the last would depend on the order.
    scores = slow.pair_scores(rows, False)[0]
    assume(len(set(scores.values())) > 1)
    rows = [Row(row.query_id, row.doc_ids, [scores[row.query_id, doc] for doc in row.doc_ids]) for row in rows]
    other = [Row(row.query_id, row.doc_ids[::-1], [-value for value in row.scores[::-1]]) for row in rows]
    random.shuffle(other)
    with tempfile.TemporaryDirectory() as folder:
        found, _ = merged(Path(folder), ["ids", "ids"], [rows, other], normalize=how)
    with tempfile.TemporaryDirectory() as folder:
        again, _ = merged(Path(folder), ["ids", "nway"], [rows, sorted(other)], normalize=how)
    assert found == again
    # A teacher and its opposite cancel out.
    middle = 0.5 if how == "rank" else 0.0
    np.testing.assert_allclose([row.scores for row in found], middle, atol=1e-5)
