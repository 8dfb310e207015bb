"""Cleaning score files: worked examples, a twin, one test a message."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rankdistill.cli import app
from rankdistill.data.scores_clean import clean_scores
from rankdistill.errors import BadDataError
from rankdistill.formats.scores import read_scores, write_scores
from tests.reference.scores import Row

LINES = ["3\t1\tq1\ta\tb\n", "3\t2.5\tq1\ta\tc\n", "0\t-4\t7\ta\tb\n", "1\t2\t7\ta\tc\n"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "train.tsv"
    path.write_text("".join(LINES))
    return path


def cleaned(source: Path, **options: Any) -> list[str]:
    clean_scores(source, source.with_name("out"), progress=False, **options)
    return source.with_name("out").read_text().splitlines()


def test_by_margin(source: Path) -> None:
    assert [line.split("\t")[0] for line in cleaned(source, min_margin=2)] == ["3.0", "0.0"]
    assert [line.split("\t")[0] for line in cleaned(source, max_margin=0.5)] == ["3.0", "1.0"]
    report = clean_scores(source, source.with_name("out"), min_margin=0.0, max_margin=2.0, progress=False)
    assert (report.rows_before, report.rows, report.below, report.above, report.clipped) == (4, 2, 1, 1, 0)
    assert (report.margins_before.mean, report.margins_before.min, report.margins.max) == (1.375, -1, 2)
    assert (report.negative_before, report.negative) == (0.25, 0)
    page = report.render()
    assert "negative margins: 25.00% before, 0.00% after" in page
    assert "negatives left out: 1 below the least margin, 1 above the most" in page
    assert page.endswith("out: 2 of 4 rows")


def test_clipping_comes_after_the_margins(source: Path) -> None:
    assert cleaned(source, min_margin=2, clip=(-2, 2.5)) == ["2.5\t1.0\tq1\ta\tb", "0.0\t-2.0\t7\ta\tb"]
    report = clean_scores(source, source.with_name("out"), clip=(-2, 2.5), progress=False)
    assert (report.rows, report.clipped) == (4, 3)


@pytest.mark.filterwarnings("error")
def test_huge_scores_are_read_to_be_clipped(tmp_path: Path) -> None:
    source = tmp_path / "train.tsv"
    source.write_text("3e38\t-3e38\tq\ta\tb\n-1e30\t2\tq\ta\tc\n")
    with pytest.raises(BadDataError, match=r"train.tsv:1: expected a number of at most 1e12 as pos_score"):
        cleaned(source, min_margin=0)
    report = clean_scores(source, tmp_path / "out", clip=(-10, 10), progress=False)
    assert (tmp_path / "out").read_text() == "10.0\t-10.0\tq\ta\tb\n-10.0\t2.0\tq\ta\tc\n"
    assert report.margins_before.max == pytest.approx(6e38, rel=1e-6)
    assert (report.margins.max, report.clipped) == (20, 3)


def test_a_margin_file_clips_margins(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("q\ta\tb\t3.5\nq\ta\tc\t-1\n")
    assert cleaned(tmp_path / "m", clip=(0.5, 3)) == ["q\ta\tb\t3.0", "q\ta\tc\t0.5"]
    assert cleaned(tmp_path / "m", min_margin=0) == ["q\ta\tb\t3.5"]


def test_rows_of_many_docs_keep_their_first_negatives_that_are_left(tmp_path: Path) -> None:
    rows = ['[1, ["a", 5], ["b", 4], ["c", 1], ["d", 0]]', '[2, ["a", 5], ["b", 0], ["c", 5], ["d", 4.5]]']
    (tmp_path / "n").write_text("\n".join(rows))
    assert cleaned(tmp_path / "n", min_margin=2, num_docs=3) == ['[1, ["a", 5.0], ["c", 1.0], ["d", 0.0]]']
    assert cleaned(tmp_path / "n", num_docs=2) == ['[1, ["a", 5.0], ["b", 4.0]]', '[2, ["a", 5.0], ["b", 0.0]]']
    # As many as there were: a row that lost one goes.
    assert cleaned(tmp_path / "n", min_margin=1) == ['[1, ["a", 5.0], ["b", 4.0], ["c", 1.0], ["d", 0.0]]']


ROWS = st.integers(2, 4).flatmap(
    lambda width: st.lists(
        st.builds(
            Row,
            st.sampled_from(["1", "q"]),
            st.just([f"d{i}" for i in range(width)]),
            st.lists(st.floats(-8, 8, width=32), min_size=width, max_size=width),
        ),
        min_size=1,
        max_size=9,
    )
)
BOUNDS = st.one_of(st.none(), st.floats(-4, 4, width=32))


@settings(max_examples=150, deadline=None)
@given(ROWS, BOUNDS, BOUNDS, st.integers(2, 4), st.booleans())
def test_as_the_twin(rows: list[Row], low: float | None, high: float | None, num_docs: int, clip: bool) -> None:
    assume(num_docs <= len(rows[0].doc_ids) and (low is None or high is None or low <= high))
    expected = []
    for row in rows:
        kept = [0]
        for column, score in enumerate(row.scores[1:], 1):
            margin = float(np.float32(row.scores[0]) - np.float32(score))
            if (low is None or margin >= low) and (high is None or margin <= high):
                kept.append(column)
        if len(kept) >= num_docs:
            scores = [min(max(row.scores[i], -2.0), 2.0) if clip else row.scores[i] for i in kept[:num_docs]]
            expected.append(Row(row.query_id, [row.doc_ids[i] for i in kept[:num_docs]], scores))
    with tempfile.TemporaryDirectory() as folder:
        plain = [(row.query_id, list(zip(row.doc_ids, row.scores, strict=True))) for row in rows]
        write_scores(Path(folder) / "in", plain, "nway")
        options: dict[str, Any] = {"min_margin": low, "max_margin": high, "num_docs": num_docs}
        options["clip"] = (-2.0, 2.0) if clip else None
        try:
            report = clean_scores(Path(folder) / "in", Path(folder) / "out", progress=False, **options)
        except BadDataError:
            assert not expected
            assert [path.name for path in Path(folder).iterdir()] == ["in"]
            return
        blocks = list(read_scores(Path(folder) / "out"))
        found = [Row(*row) for b in blocks for row in zip(b.query_ids(), b.doc_ids(), b.scores.tolist(), strict=True)]
    assert found == expected
    assert (report.rows_before, report.rows) == (len(rows), len(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected something to do, found nothing; pass --min-margin"),
        ({"min_margin": 2, "max_margin": 1}, "expected min_margin <= max_margin, found 2 and 1"),
        ({"clip": (1, 1)}, r"expected clip=\(low, high\) with low < high, found \(1, 1\)"),
        ({"num_docs": 3}, "expected num_docs from 2 to the 2 docs of each row, found 3"),
    ],
)
def test_messages_of_arguments(source: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cleaned(source, **options)
    assert [path.name for path in source.parent.iterdir()] == ["train.tsv"]


def test_messages_of_files(source: Path) -> None:
    with pytest.raises(
        BadDataError, match=r"train\.tsv: expected a row that fits the bounds, found none of 4; look at"
    ):
        cleaned(source, min_margin=9)
    source.write_text(LINES[0] + "1\t2\n")
    with pytest.raises(BadDataError, match=r"train\.tsv:2: expected 5 tab-separated columns"):
        cleaned(source, min_margin=0)
    report = clean_scores(source, source.with_name("out"), min_margin=0, on_bad_row="skip", progress=False)
    assert "skipped rows: columns 1" in report.render()


def test_the_command(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = source.with_name("out.tsv")
    app(
        ["scores", "clean", str(source), "-o", str(out), "--drop-false-negatives", "2", "--clip", "-3", "2.5"],
        result_action="return_value",
    )
    assert out.read_text() == "2.5\t1.0\tq1\ta\tb\n0.0\t-3.0\t7\ta\tb\n"
    assert "scores clipped: 2" in capsys.readouterr().out
