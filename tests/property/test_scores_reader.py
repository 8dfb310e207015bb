"""What holds for any bytes: the reader is its slow twin, and going on from any position gives the rest."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.errors import BadDataError
from rankdistill.formats.scores import MAX_SCORE, Position, ScoreReader, read_scores, write_scores
from tests.reference import scores as slow

IDS = st.sampled_from(
    [
        "0",
        "7",
        "007",
        "8841822",
        "123456789012345678",
        "99999999999999999999",
        "D-1",
        "é ü",
        "é\u00a0ü",
        "\ufeff",
        "",
        "\r",
    ]
)
IDS |= st.text("0123456789a", max_size=20)
NUMBERS = st.sampled_from(
    ["1.5", "-0.0", "7.25e1", ".5", "5.", "+3", "nan", "inf", "1e39", "", "x", "1e-46", "16777217", "1_0", " 1"]
)
NUMBERS |= st.floats(width=32).map(str) | st.floats(-1e3, 1e3).map(repr) | st.decimals(-99, 99, places=9).map(str)
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n", "\r\n\r\n\n", "\t\n", "\r\r\n"])


def joined(columns: st.SearchStrategy[tuple[str, ...]]) -> st.SearchStrategy[bytes]:
    lines = st.tuples(columns.map("\t".join), ENDS).map("".join)
    texts = st.lists(lines | st.text(max_size=9), max_size=14).map(lambda parts: "".join(parts).encode())
    # Some bytes are struck out or put in, UTF-8 or not.
    spoilt = st.tuples(texts, st.integers(0, 400), st.binary(max_size=3), st.integers(0, 2))
    return texts | spoilt.map(lambda s: s[0][: s[1]] + s[2] + s[0][s[1] + s[3] :])


IDS_FILES = joined(st.tuples(NUMBERS, NUMBERS, IDS, IDS, IDS))
MARGIN_FILES = joined(st.tuples(IDS, IDS, IDS, NUMBERS))
HEADERS = st.sampled_from(
    [
        b"",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbfquery_id\tpositive_id\tnegative_id\tscore\n",
        b"query_id\tpositive_id\tnegative_id\tscore\n",
        b"QID\ta\tb\t1.0\r\n",
        b"\nqid\ta\tb\tc\n",
    ]
)
JSON_IDS = st.one_of(IDS, st.text(max_size=4), st.integers(-9, 10**19)).map(json.dumps) | st.sampled_from(
    ['"\\ud83d\\ude00"', '"\\ud800"', "01", "1.0"]
)
JSON_NUMBERS = (st.floats(width=32) | st.integers(-99, 99)).map(json.dumps) | st.sampled_from(
    ["1.", "-", "1e5", "2E-3", "01", '"1"']
)
JSON_DOCS = st.lists(st.tuples(JSON_IDS, JSON_NUMBERS).map(lambda doc: f"[{doc[0]}, {doc[1]}]"), min_size=1, max_size=3)
NWAY_FILES = joined(st.tuples(st.tuples(JSON_IDS, JSON_DOCS).map(lambda row: f"[{row[0]},{' , '.join(row[1])} ]")))


@contextmanager
def file_of(content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scores"
        path.write_bytes(content)
        yield path


def rows_of(reader: ScoreReader) -> list[slow.Row]:
    rows = []
    for block in reader:
        rows += map(slow.Row, block.query_ids(), block.doc_ids(), block.scores.tolist())
    return rows


def same(rows: list[slow.Row], others: list[slow.Row]) -> bool:
    return repr(rows) == repr(others)  # -0.0 isn't 0.0


MARKS = st.sampled_from([b"", b"\xef\xbb\xbf"])


def check(content: bytes, format: str, block_rows: int, max_line_bytes: int = 1 << 20) -> None:
    rows, bad = slow.read(content, format, max_line_bytes)
    with file_of(content) as path:
        options = {"format": format, "block_rows": block_rows, "max_line_bytes": max_line_bytes}
        reader = read_scores(path, on_bad_row="skip", **options)
        assert same(rows_of(reader), rows)
        if format == "nway":  # a line with two faults may be counted under either
            assert sum(reader.bad_rows.values()) == len(bad)
        else:
            assert reader.bad_rows == dict(Counter(kind for _, kind in bad))
        if bad:
            with pytest.raises(BadDataError) as error:
                rows_of(read_scores(path, **options))
            assert error.value.line == bad[0][0]
        else:
            assert same(rows_of(read_scores(path, **options)), rows)


@settings(max_examples=150, deadline=None)
@given(MARKS, IDS_FILES, st.integers(1, 5))
def test_ids_as_the_twin(mark: bytes, content: bytes, block_rows: int) -> None:
    check(mark + content, "ids", block_rows)


@settings(max_examples=60, deadline=None)
@given(IDS_FILES, st.integers(1, 5))
def test_text_as_the_twin(content: bytes, block_rows: int) -> None:
    check(content, "text", block_rows)


@settings(max_examples=100, deadline=None)
@given(HEADERS, MARGIN_FILES, st.integers(1, 5))
def test_margin_as_the_twin(header: bytes, content: bytes, block_rows: int) -> None:
    check(header + content, "margin", block_rows)


@settings(max_examples=150, deadline=None)
@given(MARKS, NWAY_FILES, st.integers(1, 5))
def test_nway_as_the_twin(mark: bytes, content: bytes, block_rows: int) -> None:
    check(mark + content, "nway", block_rows)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [b"1\t2\t3\t4\t5", b"1\t2\t3\t4\t" + b"x" * 120, b"1\t2\t3\t4\t" + b"x" * 121, b"y" * 300, b""]
        ),
        max_size=9,
    )
)
def test_overlong_lines_as_the_twin(lines: list[bytes]) -> None:
    check(b"\n".join(lines), "ids", 2, max_line_bytes=128)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(MARKS, IDS_FILES).map(b"".join), min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from(["plain", "gzip", "zstd"]),
)
def test_going_on_from_any_position_gives_the_rest(contents: list[bytes], block_rows: int, archive: str) -> None:
    pack = {
        "plain": lambda content: content,
        # Two members, two frames: an archive may hold several.
        "gzip": lambda content: gzip.compress(content[:20]) + gzip.compress(content[20:]),
        "zstd": lambda content: slow.zstd(content[:20]) + slow.zstd(content[20:]),
    }[archive]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(number) for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(pack(content))
        expected = [row for content in contents for row in slow.read(content, "ids")[0]]
        reader = read_scores(paths, format="ids", on_bad_row="skip", block_rows=block_rows)
        places = [Position()]
        count = 0
        for block in reader:
            count += len(block)
            places.append(block.position)
            assert block.position.row == count
        assert places == sorted(places)
        for place in places:
            place = Position(*json.loads(json.dumps(place)))
            rest = rows_of(read_scores(paths, format="ids", on_bad_row="skip", block_rows=3, start=place))
            assert same(rest, expected[place.row :])


GOOD_IDS = st.text(st.characters(exclude_categories=["C"], exclude_characters=" "), min_size=1, max_size=6)
SCORES = st.floats(-MAX_SCORE, MAX_SCORE, width=32)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            GOOD_IDS, st.lists(st.tuples(GOOD_IDS, SCORES), min_size=2, max_size=2, unique_by=lambda doc: doc[0])
        ),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from(["ids", "nway"]),
    st.sampled_from(["tsv", "tsv.gz", "tsv.zst"]),
)
def test_what_is_written_is_read(rows: list[tuple[str, list[tuple[str, float]]]], format: str, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"scores.{suffix}"
        assert write_scores(path, rows, format) == len(rows)  # type: ignore[arg-type]
        expected = [slow.Row(query, [doc for doc, _ in docs], [value for _, value in docs]) for query, docs in rows]
        assert same(rows_of(read_scores(path, format=format)), expected)  # type: ignore[arg-type]
        assert [name.name for name in Path(folder).iterdir()] == [path.name]
