"""Teacher score files: published rows, archives, names, and one test a message."""

from __future__ import annotations

import gzip
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rankdistill.errors import BadDataError
from rankdistill.formats.scores import MAX_SCORE, Position, read_scores, resolve_paths, write_scores
from tests.reference import scores as slow

# Rows of sentence-transformers/msmarco, bert-ensemble-margin-mse.
PUBLISHED = [
    ("400296", "1540783", "3518497", 4.028059),
    ("662731", "193249", "2975302", 10.181454),
    ("294432", "2592502", "2592504", -1.826312),
]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("header", ["", "query_id\tpositive_id\tnegative_id\tscore\n"])
def test_published_margins(tmp_path: Path, header: str) -> None:
    lines = "".join("\t".join(map(str, row)) + "\n" for row in PUBLISHED)
    reader = read_scores(write(tmp_path / "margins.tsv", header + lines))
    (block,) = reader
    assert reader.format == "margin"
    assert block.query_ids() == [row[0] for row in PUBLISHED]
    assert block.doc_ids() == [list(row[1:3]) for row in PUBLISHED]
    assert block.query_codes.tolist() == [int(row[0]) for row in PUBLISHED]
    np.testing.assert_array_equal(block.scores, np.array([[row[3], 0] for row in PUBLISHED], np.float32))
    assert block.position == Position(0, len(header + lines), 3 + bool(header), 3, 2)


@pytest.mark.parametrize(
    ("content", "format"),
    [
        ("1\t2\tq\ta\tb\n", "ids"),
        ("1\t2\tq\ta\tb\n1\t2\tq\ta b\tc\n", "text"),
        ("x\ty\n1\t2\tq\ta\tb\n", "ids"),
        ("q\ta\tb\t-3.5\n", "margin"),
        ('["q", ["a", 1], ["b", 2]]\n', "nway"),
    ],
)
def test_sniffs_the_format(tmp_path: Path, content: str, format: str) -> None:
    assert read_scores(write(tmp_path / "f", content), on_bad_row="skip").format == format


def test_many_threads_give_what_one_line_at_a_time_gives(tmp_path: Path) -> None:
    rng = random.Random(3)
    choices = ["1.5\t{a}\t{b}\t{c}\tq{a}\n", "{a}.25\t-7\t{a}\t{b}\t{c}\r\n", "{a}.123456789\t1e1\tä{b}\t{c}\t{a}\n"]
    bad = ["\n", "1\t2\t3\n", "nan\t1\t{a}\t{b}\t{c}\n", "1\t2\t\t3\t4\n"]
    kinds = rng.choices(choices + bad, [300, 300, 300, 1, 1, 1, 1], k=60_000)
    content = "".join(
        kind.format(a=rng.randrange(10**9), b=rng.randrange(10**6), c=rng.randrange(99)) for kind in kinds
    )
    # Enough bytes for several parts a block, whatever the number of cores.
    assert len(content) > 1 << 20
    rows, bad_lines = slow.read(content.encode(), "ids")
    reader = read_scores(write(tmp_path / "f", content), format="ids", on_bad_row="skip")
    found = [slow.Row(*row) for b in reader for row in zip(b.query_ids(), b.doc_ids(), b.scores.tolist(), strict=True)]
    assert found == rows
    assert sum(reader.bad_rows.values()) == len(bad_lines)
    with pytest.raises(BadDataError) as error:
        list(read_scores(tmp_path / "f", format="ids"))
    assert error.value.line == bad_lines[0][0]


def test_arrays_are_read_only_and_outlive_the_block(tmp_path: Path) -> None:
    scores = next(read_scores(write(tmp_path / "f", "1\t2\tq\ta\tb\n"))).scores
    assert scores.tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="read-only"):
        scores[0, 0] = 3


def test_standard_input(tmp_path: Path) -> None:
    code = "from rankdistill.formats.scores import read_scores as r; print([b.query_ids() for b in r('-')])"
    content = gzip.compress(b"1\t2\tq\ta\tb\n" * 3)
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[['q', 'q', 'q']]"


def test_an_interruption_while_waiting_for_input_is_heard() -> None:
    # A suite that runs in the background of a shell hands on SIGINT as ignored.
    code = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from rankdistill.formats.scores import read_scores as r\nprint('ready', flush=True)\nr('-')"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stderr is not None
    assert child.stdout.readline() == b"ready\n"
    time.sleep(0.3)  # it should be inside the system call by then; if it isn't, the test is only easier
    for _ in range(100):
        child.send_signal(signal.SIGINT)
        try:
            child.wait(0.1)
            break
        except subprocess.TimeoutExpired:
            continue
    else:
        child.kill()
    assert b"KeyboardInterrupt" in child.stderr.read()
    for pipe in (child.stdin, child.stdout, child.stderr):
        pipe.close()
    child.wait()


def test_several_files_and_globs_are_one(tmp_path: Path) -> None:
    for name in ("b.tsv", "a.tsv", "[x].tsv"):
        write(tmp_path / name, f"1\t2\t{name}\ta\tb\n")
    assert [block.query_ids()[0] for block in read_scores(tmp_path / "?.tsv")] == ["a.tsv", "b.tsv"]
    assert [block.query_ids()[0] for block in read_scores(tmp_path / "[x].tsv")] == ["[x].tsv"]
    reader = read_scores([tmp_path / "b.tsv", str(tmp_path / "a.tsv")])
    assert [block.position.file for block in reader] == [0, 1]
    assert reader.bytes_read == reader.total_bytes
    with pytest.raises(FileNotFoundError, match=r"found nothing at .*none\*\.tsv"):
        resolve_paths(tmp_path / "none*.tsv")


MESSAGES = {
    "1\t2\t3\t4\n": (
        "ids",
        'expected 5 tab-separated columns (pos_score, neg_score, query_id, pos_id, neg_id), found 4 ("1\\t2\\t3\\t4"); '
        'correct the row, or pass on_bad_row="skip" to leave such rows out, counted',
    ),
    "\n1\t2\tq\ta\tb\n": (
        "ids",
        "expected 5 tab-separated columns (pos_score, neg_score, query_id, pos_id, neg_id), found an empty line;",
    ),
    "x\t2\tq\ta\tb\n": ("ids", 'expected a finite number as pos_score, found "x";'),
    "1\tnan\tq\ta\tb\n": ("ids", 'expected a finite number as neg_score, found "nan";'),
    "q\ta\tb\tinf\n": ("margin", 'expected a finite number as margin, found "inf";'),
    "1\t1e13\tq\ta\tb\n": (
        "ids",
        'expected a number of at most 1e12 as neg_score, so that gradients stay finite in float32, found "1e13"; clip the '
        "scores (rankdistill scores clean --clip LOW HIGH), correct the row, or pass on_bad_row=",
    ),
    '["q", ["a", -3e38], ["b", 2]]\n': ("nway", "expected a number of at most 1e12 as score, so"),
    "1\t2\tq\ta\ta\n": ("ids", 'expected different docs in a row, found "a" twice; correct the row, or pass'),
    "1\t2\t1\t7\t7\n": ("ids", 'expected different docs in a row, found "7" twice;'),
    "q\ta\ta\t2\n": ("margin", 'expected different docs in a row, found "a" twice;'),
    "1\t2\tq\tsome text\tsome text\n": ("text", 'expected different docs in a row, found "some text" twice;'),
    '["q", ["a", 1], ["b", 2], ["a", 3]]\n': ("nway", 'expected different docs in a row, found "a" twice;'),
    '["q", [7, 1], [3, 2], ["7", 3]]\n': ("nway", 'expected different docs in a row, found "7" twice;'),
    "1\t2\tq\t\tb\n": ("ids", 'expected a positive of at least one character, found none ("1\\t2\\tq\\t\\tb");'),
    "1\t2\tq\ta\t\udcff\n": ("ids", "expected UTF-8, found byte 0xff at column 9 ("),
    "1\t2\tq\ta\t" + "b" * 2000 + "\n": ("ids", "expected a line of at most 1000 bytes, found a longer one ("),
    "y" * 500_000: ("ids", "expected a line of at most 1000 bytes, found a longer one ("),
    '["q", ["a", 1] ["b", 2]]\n': (
        "nway",
        'expected a JSON list [query_id, [doc_id, score], ...], with \']\' at column 16, found "[\\"b\\", 2]]";',
    ),
    '["q", ["a", 1]]\n': ("nway", "expected at least 2 docs a row, found 1 ("),
    '["q", ["a", NaN], ["b", 2]]\n': ("nway", 'expected a finite number as score, found "NaN";'),
    "1\t2\tq\ta 1\tb\n": ("ids", 'expected a positive without white space, found "a 1" ("1'),
    "q\ta\tb\x0b\t1\n": ("margin", "expected a negative_id without white space, found"),
    '["q\\u0020", ["a", 1], ["b", 2]]\n': ("nway", 'expected a query_id without white space, found "q " ('),
    '["\\ud800", ["a", 1], ["b", 2]]\n': (
        "nway",
        "expected a JSON list [query_id, [doc_id, score], ...], with a valid escape at column 3",
    ),
    '["q", ["\\udc00\\ud800", 1], ["b", 2]]\n': (
        "nway",
        "expected a JSON list [query_id, [doc_id, score], ...], with a valid escape at column 9",
    ),
    "[" * 900 + "\n": (
        "nway",
        "expected a JSON list [query_id, [doc_id, score], ...], with a string or a whole number at column 2",
    ),
    '["", ["a", 1], ["b", 2]]\n': ("nway", "expected a query_id of at least one character, found none ("),
}


@pytest.mark.parametrize("content", MESSAGES)
def test_messages_of_bad_rows(tmp_path: Path, content: str) -> None:
    format, message = MESSAGES[content]
    path = write(tmp_path / "f", content.encode(errors="surrogateescape"))
    with pytest.raises(BadDataError) as error:
        list(read_scores(path, format=format, max_line_bytes=1000))  # type: ignore[arg-type]
    assert str(error.value).startswith(f"{path}:1: {message}")
    assert (error.value.path, error.value.line) == (str(path), 1)
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value)
    assert again.found == error.value.found


def test_the_line_of_a_bad_row_counts_in_its_own_file(tmp_path: Path) -> None:
    good = "1\t2\tq\ta\tb\n"
    paths = [write(tmp_path / "a", good * 5), write(tmp_path / "b", good * 3 + "1\t2\n" + good)]
    with pytest.raises(BadDataError, match=r"b:4: expected 5 tab"):
        list(read_scores(paths, block_rows=2))


def test_rows_of_another_width(tmp_path: Path) -> None:
    path = write(tmp_path / "f", "[1, [2, 3], [4, 5]]\n[1, [2, 3], [4, 5], [6, 7]]\n")
    with pytest.raises(BadDataError, match=r"f:2: expected 2 docs, as in the first row, found 3 .*; cut all rows"):
        list(read_scores(path))
    reader = read_scores(path, on_bad_row="skip")
    assert [len(block) for block in reader] == [1]
    assert reader.bad_rows == {"width": 1}


def test_repeated_docs_and_huge_scores_are_skipped_and_counted(tmp_path: Path) -> None:
    lines = ["3\t1\tq\ta\tb", "3\t1\tq\ta\ta", "1e13\t1\tq\ta\tb", "-1e12\t1e12\tq\ta\tb", "1e308\t1\tq\ta\tb"]
    path = write(tmp_path / "f", "\n".join(lines))
    reader = read_scores(path, on_bad_row="skip")
    assert [block.scores.tolist() for block in reader] == [[[3, 1], [-MAX_SCORE, MAX_SCORE]]]
    assert reader.bad_rows == {"score": 2, "repeated": 1}
    everything = read_scores(path, on_bad_row="skip", max_score=np.inf)
    assert sum(map(len, everything)) == 3
    assert everything.bad_rows == {"score": 1, "repeated": 1}  # 1e308 is infinite in float32
    for name, text in (("huge", '["q", ["a", 1e13], ["b", 2]]'), ("twice", "q\ta\ta\t2")):
        assert read_scores(write(tmp_path / name, text)).format == ("nway" if name == "huge" else "margin")


@pytest.mark.parametrize(
    ("docs", "message"),
    [
        ([("a", 1.0), ("b", 2.0), ("a", 3.0)], r'f:1: expected different docs in a row, found "a" twice; leave'),
        ([("7", 1.0), ("7", 2.0)], r'f:1: expected different docs in a row, found "7" twice; leave'),
        ([("a", 1.0), ("b", 2e12)], "f:1: expected scores of at most 1e12, found 2e12; clip them"),
    ],
)
def test_what_would_not_be_read_is_not_written(tmp_path: Path, docs: list[tuple[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_scores(tmp_path / "f", [("q", docs)], "nway")


@pytest.mark.parametrize("archive", ["gzip", "zstd"])
def test_a_truncated_archive(tmp_path: Path, archive: str) -> None:
    lines = [f"{i}.{i * 7919 % 1000}\t{i * i % 7}\t{i}\t{i * 31 + 1}\t{i * 17}\n".encode() for i in range(20_000)]
    content = b"".join(lines)
    packed = gzip.compress(content) if archive == "gzip" else b"".join(slow.zstd(line * 50) for line in lines[:500])
    path = write(tmp_path / "f", packed[: len(packed) * 2 // 3])
    with pytest.raises(
        BadDataError, match=rf"f:\d+: expected a whole {archive} archive, found .*; fetch the file again"
    ):
        list(read_scores(path))
    reader = read_scores(path, on_bad_row="skip")
    blocks = list(reader)
    assert reader.bad_rows == {"archive": 1}
    assert 1000 < sum(map(len, blocks)) < (20_000 if archive == "gzip" else 25_000)
    assert blocks[-1].position.line == blocks[-1].position.row
    # The next file is read as if nothing had been.
    good = write(tmp_path / "good", lines[0])
    assert [block.position.file for block in read_scores([path, good], on_bad_row="skip")][-1] == 1


def test_a_damaged_archive(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"1\t2\tq\ta\tb\n" * 100))
    packed[-6] ^= 1  # its checksum
    with pytest.raises(BadDataError, match="expected a whole gzip archive"):
        list(read_scores(write(tmp_path / "f", bytes(packed))))


def test_messages_of_what_is_no_score_file(tmp_path: Path) -> None:
    with pytest.raises(
        BadDataError, match=r"f:1: expected a row of a teacher score file .* found 2 columns .* name its format"
    ):
        read_scores(write(tmp_path / "f", "a\tb\n"))
    with pytest.raises(BadDataError, match="found an empty file"):
        read_scores(write(tmp_path / "f", ""))
    assert list(read_scores(tmp_path / "f", format="ids")) == []
    with pytest.raises(FileNotFoundError):
        read_scores(tmp_path / "none.tsv")
    with pytest.raises(IsADirectoryError):
        read_scores(tmp_path)


def test_messages_of_arguments(tmp_path: Path) -> None:
    path = write(tmp_path / "f", "1\t2\tq\ta\tb\n")
    with pytest.raises(ValueError, match='expected on_bad_row="error" or "skip", found \'ignore\''):
        read_scores(path, on_bad_row="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='expected a format of auto, ids, text, margin, nway, found "tsv"'):
        read_scores(path, format="tsv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="block_rows of at least 1"):
        read_scores(path, block_rows=0)
    with pytest.raises(ValueError, match="max_line_bytes of at least 128"):
        read_scores(path, max_line_bytes=1)
    with pytest.raises(ValueError, match="expected a position in one of 1 files, found file 2"):
        read_scores(path, start=Position(file=2))
    with pytest.raises(
        ValueError, match="expected a file of at least 99 bytes, found a shorter one; the file has become shorter"
    ):
        list(read_scores(path, start=Position(offset=99)))


@pytest.mark.parametrize(
    ("row", "format", "message"),
    [
        (("q", [("a", 1.0)]), "ids", "f:1: expected 2 docs for format"),
        (("q\t", [("a", 1.0), ("b", 2.0)]), "ids", "f:1: expected ids without white space"),
        (("q", [("a", 1.0), ("b", float("nan"))]), "nway", "f:1: expected finite scores, found NaN"),
        (("q", [("a", 1.0), ("", 2.0)]), "nway", "f:1: expected ids of at least one character"),
        (("q", [("a", 1.0), ("b", 2.0)]), "tsv", 'expected format="ids", "text", "margin" or "nway", found'),
    ],
)
def test_rows_that_cannot_be_written(
    tmp_path: Path, row: tuple[str, list[tuple[str, float]]], format: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_scores(tmp_path / "f", [row], format)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_written_files_repeat_byte_by_byte(tmp_path: Path) -> None:
    rows = [("q", [("a", np.float32(0.1)), ("b", 2.0)])]
    for name in ("x.tsv", "x.tsv.gz", "x.tsv.zst"):
        write_scores(tmp_path / name, rows)
        first = (tmp_path / name).read_bytes()
        write_scores(tmp_path / name, rows)
        assert (tmp_path / name).read_bytes() == first
    assert (tmp_path / "x.tsv").read_text() == "0.1\t2.0\tq\ta\tb\n"
    assert gzip.decompress((tmp_path / "x.tsv.gz").read_bytes()) == (tmp_path / "x.tsv").read_bytes()


def test_a_mark_before_standard_input_and_after_empty_files(tmp_path: Path) -> None:
    code = "import sys\nfrom rankdistill.formats.scores import read_scores\n"
    code += "print([block.query_ids() for block in read_scores([*sys.argv[1:], '-'])])"
    content = b"\xef\xbb\xbf1\t2\tq\ta\tb\n"
    for first in (b"", b"\xef\xbb\xbf"):
        command = [sys.executable, "-c", code, str(write(tmp_path / "empty", first))]
        done = subprocess.run(command, input=content, capture_output=True, check=True)
        assert done.stdout.decode().strip() == "[['q']]"
