"""What holds for any scores: what is converted there and back is what it was; what is grouped is all there, once."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.data.scores_convert import convert_scores
from rankdistill.formats.scores import MAX_SCORE, read_scores, write_scores
from tests.reference.scores import Row

_CHARACTERS = st.characters(exclude_categories=["C"], exclude_characters=" ")
IDS = st.text(_CHARACTERS, min_size=1, max_size=4) | st.integers(0, 10**20).map(str)
SCORES = st.floats(-MAX_SCORE, MAX_SCORE, width=32)


def rows_of(width: int, ids: st.SearchStrategy[str] = IDS) -> st.SearchStrategy[list[Row]]:
    docs = st.lists(ids, min_size=width, max_size=width, unique=True)
    scores = st.lists(SCORES, min_size=width, max_size=width)
    return st.lists(st.builds(Row, ids, docs, scores), min_size=1, max_size=9)


def save(path: Path, rows: list[Row], format: str) -> None:
    plain = [(row.query_id, list(zip(row.doc_ids, row.scores, strict=True))) for row in rows]
    write_scores(path, plain, format)  # type: ignore[arg-type]


def load(path: Path, format: str) -> list[Row]:
    blocks = read_scores(path, format=format)  # type: ignore[arg-type]
    parts = [zip(block.query_ids(), block.doc_ids(), block.scores.tolist(), strict=True) for block in blocks]
    return [Row(*row) for part in parts for row in part]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4).flatmap(rows_of), st.sampled_from(["x.jsonl", "x.jsonl.gz", "x.parquet"]))
def test_there_and_back(rows: list[Row], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, there, back = (Path(folder) / name for name in ("in", name, "back"))
        save(source, rows, "nway")
        convert_scores(source, there, "pylate", progress=False)
        convert_scores(there, back, "nway", progress=False)
        assert load(back, "nway") == rows
        assert {path.name for path in Path(folder).iterdir()} == {"in", name, "back"}


@settings(max_examples=60, deadline=None)
@given(rows_of(2, st.sampled_from("abcde")), st.integers(2, 4))
def test_groups_hold_each_negative_once(rows: list[Row], num_docs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in", Path(folder) / "out"
        save(source, rows, "ids")
        distinct = Counter(
            (row.query_id, row.doc_ids[0]) for row in {(row.query_id, *row.doc_ids): row for row in rows}.values()
        )
        expected = {key: count // (num_docs - 1) for key, count in distinct.items() if count >= num_docs - 1}
        if not expected:
            return
        convert_scores(source, out, "nway", num_docs=num_docs, progress=False)
        found = load(out, "nway")
    assert Counter((row.query_id, row.doc_ids[0]) for row in found) == expected
    negatives = [(row.query_id, row.doc_ids[0], doc) for row in found for doc in row.doc_ids[1:]]
    assert len(negatives) == len(set(negatives))
    first = {}
    for row in rows:
        first.setdefault((row.query_id, *row.doc_ids), row.scores[1])
    assert all(
        first[row.query_id, row.doc_ids[0], doc] == score
        for row in found
        for doc, score in zip(row.doc_ids[1:], row.scores[1:], strict=True)
    )
