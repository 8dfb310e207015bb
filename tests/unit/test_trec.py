from __future__ import annotations

import csv
import gzip
import itertools
from pathlib import Path

import pytest

from rankdistill.errors import BadDataError
from rankdistill.formats.trec import read_qrels, read_run, write_qrels, write_run

RUN = {"q1": {"b": 1.5, "a": 1.5, "c": 0.1 + 0.2}, "q2": {"ü\u00a0x": -3e-300, "a": 7.0}}


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_run_reads_back_as_written(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / name, RUN)
    assert read_run(tmp_path / name) == RUN
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_lines_are_in_rank_order_and_ranks_count_from_one(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"q": {"b": 1.0, "a": 1.0, "z": 2.0}}, tag="mine")
    assert (tmp_path / "run").read_text() == "q Q0 z 1 2.0 mine\nq Q0 a 2 1.0 mine\nq Q0 b 3 1.0 mine\n"


def test_numpy_scores_are_written_as_plain_numbers(tmp_path: Path) -> None:
    import numpy as np

    write_run(tmp_path / "run", {"q": {"a": np.float32(0.1)}})  # type: ignore[dict-item]
    assert read_run(tmp_path / "run") == {"q": {"a": float(np.float32(0.1))}}


def test_same_run_gives_same_gzip_bytes(tmp_path: Path) -> None:
    write_run(tmp_path / "a.gz", RUN)
    first = (tmp_path / "a.gz").read_bytes()
    write_run(tmp_path / "a.gz", RUN)
    assert (tmp_path / "a.gz").read_bytes() == first


def test_msmarco_run_of_three_columns(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("7\t100\t1\n7\t9\t2\n8\t100\t1\n")
    assert read_run(tmp_path / "run") == {"7": {"100": -1.0, "9": -2.0}, "8": {"100": -1.0}}


def test_query_in_two_places_is_one_query(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q Q0 a 1 2 t\nr Q0 a 1 2 t\n\nq Q0 b 2 1 t\n")
    assert read_run(tmp_path / "run") == {"q": {"a": 2.0, "b": 1.0}, "r": {"a": 2.0}}


def test_runs_longer_than_a_block(tmp_path: Path) -> None:
    run = {f"q{q}": {f"d{d}": 1 / (d + 1) for d in range(300)} for q in range(30)}
    write_run(tmp_path / "run", run)
    assert (tmp_path / "run").stat().st_size > 3 * (1 << 16)
    assert read_run(tmp_path / "run") == run


@pytest.mark.parametrize(
    ("bad", "expected", "found"),
    [
        (b"q Q0 c 2 0.5\n", "6 columns", "5 ("),
        (b"q Q0 c 2 0.5 t x\n", "6 columns", "7 ("),
        (b"q Q0 c 2 high t\n", "a finite score", "high"),
        (b"q Q0 c 2 nan t\n", "a finite score", "nan"),
        (b"q Q0 c 2 inf t\n", "a finite score", "inf"),
        (b"q Q0 \xff 2 0.5 t\n", "UTF-8", "\ufffd"),
        (b"q Q0 a 2 0.5 t\n", "each document once", "also in line 1"),
    ],
)
def test_bad_line_of_a_run(tmp_path: Path, bad: bytes, expected: str, found: str) -> None:
    path = tmp_path / "run"
    path.write_bytes(b"q Q0 a 1 1.0 t\n" + bad + b"q Q0 d 3 0.1 t\n")
    with pytest.raises(BadDataError) as caught:
        read_run(path)
    assert (caught.value.path, caught.value.line) == (str(path), 2)
    assert expected in caught.value.expected
    assert found in caught.value.found


def test_columns_lost_and_won_do_not_cancel_out(tmp_path: Path) -> None:
    # As many words as two whole lines have; every score would still be a number.
    (tmp_path / "run").write_text("1 0 2 3 4\n1 0 2 3 4 5 6\n")
    with pytest.raises(BadDataError, match=r"run:1: expected 6 columns .* or 3"):
        read_run(tmp_path / "run")
    (tmp_path / "run3").write_text("1 2 3\n1 2\n1 2 3 4\n")
    with pytest.raises(BadDataError, match=r"run3:2: expected 3 columns"):
        read_run(tmp_path / "run3")


def test_rank_that_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("1 2 first\n")
    with pytest.raises(BadDataError, match="a whole number as rank, found first"):
        read_run(tmp_path / "run")


def test_cut_off_archive(tmp_path: Path) -> None:
    whole = gzip.compress(b"q Q0 a 1 1.0 t\n" * 50)
    (tmp_path / "run.gz").write_bytes(whole[:-12])
    with pytest.raises(BadDataError, match="a whole gzip file"):
        read_run(tmp_path / "run.gz")
    (tmp_path / "run.gz").write_bytes(b"q Q0 a 1 1.0 t\n")
    with pytest.raises(BadDataError, match="a whole gzip file"):
        read_run(tmp_path / "run.gz")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_run(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("run", "tag"),
    [({"q 1": {"a": 1.0}}, "t"), ({"q": {"a b": 1.0}}, "t"), ({"q": {"": 1.0}}, "t"), ({"q": {"a": 1.0}}, "two words")],
)
def test_ids_with_white_space_are_refused_and_leave_nothing(tmp_path: Path, run: dict, tag: str) -> None:
    with pytest.raises(ValueError, match="without white space"):
        write_run(tmp_path / "run", run, tag)
    assert list(tmp_path.iterdir()) == []


def test_scores_that_order_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite scores, found nan for query q, document a"):
        write_run(tmp_path / "run", {"q": {"a": float("nan")}})


@pytest.mark.parametrize("layout", ["trec", "beir"])
@pytest.mark.parametrize("name", ["qrels", "qrels.gz"])
def test_qrels_read_back_as_written(tmp_path: Path, layout: str, name: str) -> None:
    qrels = {"q1": {"a": 1, "b": 0}, "q2": {"c": -2, "ü": 3}}
    write_qrels(tmp_path / name, qrels, layout)  # type: ignore[arg-type]
    assert read_qrels(tmp_path / name) == qrels


def test_conala_qrels(conala: Path) -> None:
    qrels = read_qrels(conala / "qrels" / "test.tsv")
    assert len(qrels) == 500
    assert qrels["test0"] == {"s2326": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q 0 a 1\nq a 1\n", r"qrels:2: expected 4 columns .* found 3"),
        ("query-id\tcorpus-id\tscore\nq\t0\ta\t1\n", r"qrels:2: expected 3 columns .* found 4"),
        ("q 0 a yes\n", r"qrels:1: expected a whole number as relevance"),
        ("q 0 a 1\nq 0 a 2\n", r"qrels:2: expected one relevance for a pair, found 1 and 2"),
        ("q 0 a 0.5\n", r"qrels:1: expected a whole number as relevance, found '0.5' for query q, document a"),
        ("q 0 a 1e30\n", r"qrels:1: expected a whole number as relevance, found '1e30'"),
        ("q 0 a 1000000000000000000000000000000\n", "qrels:1: expected a whole number as relevance"),
        ("q 0 a 1_0\n", "qrels:1: expected a whole number as relevance"),
        ("q 0 a nan\n", "qrels:1: expected a whole number as relevance"),
        ("q a 1\n", r"qrels:1: expected 4 columns .*, or 3 with a first line that names them .* found 3"),
        ("query,document,grade\nq,a,1\n", r"qrels:1: expected 4 columns .* found 1 .*; part the columns with tabs"),
        ("query-id,corpus-id,score\nq,a,1\n", r"qrels:1: expected 4 columns .* found 1 .*; part the columns with tabs"),
        ('"q" 0 "a" 1\n', r"qrels:1: expected ids without quotes"),
        ('query-id\tcorpus-id\tscore\n"q"\t"a"\t"1"\n', r"qrels:2: expected ids without quotes"),
        ("query-id\tcorpus-id\n", r"qrels:1: expected the names of three columns"),
    ],
)
def test_bad_line_of_qrels(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "qrels").write_text(text)
    with pytest.raises(BadDataError, match=message):
        read_qrels(tmp_path / "qrels")


def test_columns_of_qrels_are_those_that_the_first_line_names(tmp_path: Path) -> None:
    rows = [("q1", "a", "1"), ("q1", "b", "0.0"), ("q2", "a", "2.0"), ("q1", "a", "1.0")]
    headers = [
        ("query-id", "corpus-id", "score"),
        ("query_id", "doc_id", "relevance"),
        ("qid", "docid", "rel"),
        ("Query_ID", "Document_ID", "Label"),
    ]
    for names in headers:
        for order in itertools.permutations(range(3)):
            with (tmp_path / "qrels").open("w", newline="") as file:
                writer = csv.writer(file, delimiter="\t")
                writer.writerows([[row[place] for place in order] for row in [names, *rows]])
            # The standard library's reader of named columns as the oracle.
            expected: dict[str, dict[str, int]] = {}
            with (tmp_path / "qrels").open(newline="") as file:
                for row in csv.DictReader(file, delimiter="\t"):
                    expected.setdefault(row[names[0]], {})[row[names[1]]] = int(float(row[names[2]]))
            assert read_qrels(tmp_path / "qrels") == expected == {"q1": {"a": 1, "b": 0}, "q2": {"a": 2}}
    (tmp_path / "qrels").write_text("query_id iteration doc_id relevance\nq 0 a 1\n")
    assert read_qrels(tmp_path / "qrels") == {"q": {"a": 1}}


@pytest.mark.parametrize("row", ["1", "1 2", "1 2 3 4", "1 2 3 4 5", "1 2 3 4 5 6 7", "q,Q0,a,1,2.5,t"])
def test_runs_of_other_layouts_are_refused(tmp_path: Path, row: str) -> None:
    (tmp_path / "run").write_text(f"{row}\n" * 3)
    with pytest.raises(BadDataError, match=r"run:1: expected 6 columns .* or 3 .*, found [124571] \("):
        read_run(tmp_path / "run")


def test_a_rank_beyond_all_floats_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q\ta\t1\nq\tb\t1" + "0" * 400 + "\n")
    with pytest.raises(BadDataError, match="run:2: expected a whole number as rank"):
        read_run(tmp_path / "run")


def test_an_empty_run_has_no_queries(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"\xef\xbb\xbf\n\r\n")
    assert read_run(tmp_path / "run") == {}
