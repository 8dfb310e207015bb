"""Ensembles on small, worked examples; one test a message. What holds in general is in tests/property."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

from rankdistill.cli import app
from rankdistill.data import scores_merge
from rankdistill.data.scores_merge import MergeReport, merge_scores
from rankdistill.errors import BadDataError
from rankdistill.formats.scores import read_scores, write_scores
from tests.reference.scores import zstd

A = "3\t1\tq1\ta\tb\n3\t2\tq1\ta\tc\n0\t-4\t7\ta\tb\n"
B = "-2\t10\t7\tb\ta\n6\t5\tq1\tc\ta\n8\t9\tq1\tb\tz\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two teachers of the same pairs, in different rows; the second has one more."""
    (tmp_path / "a.tsv").write_text(A)
    (tmp_path / "b.tsv").write_text(B)
    return tmp_path


def merge(folder: Path, *names: str, **options: Any) -> tuple[str, MergeReport]:
    report = merge_scores([folder / name for name in names], folder / "out.tsv", progress=False, **options)
    return (folder / "out.tsv").read_text(), report


def test_the_plain_mean(folder: Path) -> None:
    text, report = merge(folder, "a.tsv", "b.tsv")
    assert text == "4.0\t4.5\tq1\ta\tb\n4.0\t4.0\tq1\ta\tc\n5.0\t-3.0\t7\ta\tb\n"
    assert (report.rows, report.dropped_rows, report.averaged_pairs, report.format) == (3, 0, 0, "ids")
    assert [(teacher.pairs, teacher.missing, teacher.unused) for teacher in report.teachers] == [(5, 0, 0), (6, 0, 1)]
    assert {path.name for path in folder.iterdir()} == {"a.tsv", "b.tsv", "out.tsv"}


def test_the_published_ensemble(folder: Path) -> None:
    """neural-ranking-kd averages in double precision what the files say; so do we, and round once, to float32."""
    scores = ["4.028059", "10.181454", "-1.826312"]
    for name, score in zip("xyz", scores, strict=True):
        (folder / name).write_text(f"{score}\t0\tq\ta\tb\n")
    text, _ = merge(folder, "x", "y", "z")
    assert np.float32(text.split("\t")[0]) == np.float32(sum(map(float, scores)) / 3)


def test_weights(folder: Path) -> None:
    text, _ = merge(folder, "a.tsv", "b.tsv", weights=[1, 3])
    assert text.splitlines()[0] == "4.5\t6.25\tq1\ta\tb"
    assert merge(folder, "a.tsv", "b.tsv", weights=[0.5, 1.5])[0] == text


@pytest.mark.parametrize(
    ("normalize", "per_query", "first"),
    [
        # Over all pairs: a has 3, 1, 2, 0, -4; b has 5, 8, 6, -2, 10, 9.
        ("minmax", False, [(1 + 7 / 12) / 2, (5 / 7 + 10 / 12) / 2]),
        # Query q1: a has 3, 1, 2 and b has 5, 8, 6, 9 of a, b, c, z.
        ("minmax", True, [(1 + 0) / 2, (0 + 3 / 4) / 2]),
        ("rank", False, [(1 + 0) / 2, (0 + 2 / 3) / 2]),
        ("zscore", True, [(1 / (2 / 3) ** 0.5 - 2 / 2.5**0.5) / 2, (-1 / (2 / 3) ** 0.5 + 1 / 2.5**0.5) / 2]),
    ],
)
def test_normalised(folder: Path, normalize: Any, per_query: bool, first: list[float]) -> None:
    text, _ = merge(folder, "a.tsv", "b.tsv", normalize=normalize, per_query=per_query)
    np.testing.assert_allclose([float(cell) for cell in text.split("\t")[:2]], first, rtol=1e-6)


def test_zscores_over_the_whole_file(folder: Path) -> None:
    _, report = merge(folder, "a.tsv", "b.tsv")
    text, _ = merge(folder, "a.tsv", "b.tsv", normalize="zscore")
    a, b = (np.array(values) for values in ([3, 1, 2, 0, -4], [-2, 10, 6, 5, 8, 9]))
    assert [(teacher.mean, teacher.sd) for teacher in report.teachers] == [
        (pytest.approx(values.mean()), pytest.approx(values.std())) for values in (a, b)
    ]
    expected = ((3 - a.mean()) / a.std() + (5 - b.mean()) / b.std()) / 2
    assert float(text.split("\t")[0]) == pytest.approx(expected, rel=1e-6)


def test_missing_pairs(folder: Path) -> None:
    (folder / "b.tsv").write_text(B.splitlines(keepends=True)[0] + "6\t5\tq1\tc\ta\n")
    with pytest.raises(
        BadDataError,
        match=r'a\.tsv: expected all 5 pairs of the first file in the others, found 1 missing in .*b\.tsv \(first: query "q1", '
        r'doc "b"\); pass on_missing_pair="drop"',
    ):
        merge(folder, "a.tsv", "b.tsv")
    assert {path.name for path in folder.iterdir()} == {"a.tsv", "b.tsv"}
    text, report = merge(folder, "a.tsv", "b.tsv", on_missing_pair="drop")
    assert [line.split("\t")[2:] for line in text.splitlines()] == [["q1", "a", "c"], ["7", "a", "b"]]
    assert (report.rows, report.dropped_rows, report.averaged_pairs) == (2, 1, 0)
    text, report = merge(folder, "a.tsv", "b.tsv", on_missing_pair="average")
    assert text.splitlines()[0] == "4.0\t1.0\tq1\ta\tb"
    assert (report.rows, report.dropped_rows, report.averaged_pairs) == (3, 0, 1)
    assert "1 pairs were averaged over fewer than 2 files" in report.render()


def test_a_pair_with_several_scores_is_counted(folder: Path) -> None:
    (folder / "b.tsv").write_text(B + "4.5\t7\tq1\ta\tb\n4.5\t7\tq1\ta\tb\n")
    text, report = merge(folder, "a.tsv", "b.tsv")
    assert text.splitlines()[0] == "3.75\t4.0\tq1\ta\tb"
    assert [(teacher.changed, teacher.largest_change) for teacher in report.teachers] == [(0, 0), (2, 1)]
    assert "b.tsv: 2 pairs have several scores, up to 1 apart; the last was taken" in report.render()


def test_one_teacher_in_several_archives(folder: Path) -> None:
    lines = B.splitlines(keepends=True)
    (folder / "b0.gz").write_bytes(gzip.compress("".join(lines[:2]).encode()))
    (folder / "b1.zst").write_bytes(zstd(lines[2].encode()))
    expected, _ = merge(folder, "a.tsv", "b.tsv")
    report = merge_scores([folder / "a.tsv", folder / "b[01].*"], folder / "out.tsv.gz", progress=False)
    assert gzip.decompress((folder / "out.tsv.gz").read_bytes()).decode() == expected
    assert report.teachers[1].file == f"{folder}/b0.gz, {folder}/b1.zst"


def test_texts_and_a_file_alone(folder: Path) -> None:
    text = "3\t1\twhat is it\tthis one\tthat one\n0\t1\twhat else\tthat one\tno\n"
    (folder / "t.tsv").write_text(text)
    assert merge(folder, "t.tsv", "t.tsv")[0] == text.replace("3\t1\t", "3.0\t1.0\t").replace("0\t1\t", "0.0\t1.0\t")
    ranked, report = merge(folder, "t.tsv", normalize="rank")
    assert ranked.startswith("1.0\t0.0\twhat is it")
    assert report.format == "text"


def test_many_rows_fill_many_chunks(tmp_path: Path) -> None:
    """More rows than one block, more pairs than one read of a stream, whatever the number of buckets."""
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(200_000, 2)).astype(np.float32)
    # One query: by query, all of it falls into one bucket.
    rows = [("7", [("p", 1.0), (str(i), float(pair[1]))]) for i, pair in enumerate(scores)]
    write_scores(tmp_path / "a", rows)
    write_scores(tmp_path / "b", ((query, [docs[1], docs[0]]) for query, docs in reversed(rows)))
    for options in ({}, {"normalize": "rank"}):
        merge_scores([tmp_path / "a", tmp_path / "b"], tmp_path / "out", progress=False, **options)  # type: ignore[arg-type]
        found = np.concatenate([block.scores for block in read_scores(tmp_path / "out")])
        if not options:
            np.testing.assert_array_equal(found[:, 1], scores[:, 1])
        assert found[:, 1].argmax() == scores[:, 1].argmax()


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        (
            "q1\ta\tb\t3.5\n",
            {},
            r"other: expected pair scores, as in the first file, found margins, which can't be",
        ),
        (
            "1\t2\ta text\ta\tb\n",
            {},
            r"other: expected ids, as in the first file, found texts; merge files of",
        ),
        (
            "1\t2\tq9\ta\tb\n",
            {},
            r"other: expected pairs of .*a\.tsv among its own, found none \(2 other pairs\); do both",
        ),
        ("1\t2\tq1\ta\tb\n1\n", {}, r"other:2: expected 5 tab-separated columns"),
        (
            "1\t1\tq1\ta\tb\n",
            {"normalize": "zscore"},
            r"other: expected scores that differ, to normalise them, found 2 pairs of score 1; leave the file out",
        ),
    ],
)
def test_messages_of_files(folder: Path, other: str, options: dict[str, Any], message: str) -> None:
    (folder / "other").write_text(other)
    with pytest.raises(BadDataError, match=message):
        merge(folder, "a.tsv", "other", **options)
    assert {path.name for path in folder.iterdir()} == {"a.tsv", "b.tsv", "other"}


def test_no_row_has_all_its_pairs(folder: Path) -> None:
    (folder / "b.tsv").write_text("1\t2\tq1\ta\tz\n")
    (folder / "a.tsv").write_text(A.splitlines()[0] + "\n")
    with pytest.raises(
        BadDataError, match=r"expected a row whose pairs are in all files, found none of 1; pass on_missing"
    ):
        merge(folder, "a.tsv", "b.tsv", on_missing_pair="drop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1]}, "expected a weight for each file, found 1 for 2 files"),
        ({"weights": [1, 0]}, "expected weights above 0, found 0; leave out"),
        ({"weights": [1, float("nan")]}, "expected weights above 0, found NaN"),
        ({"normalize": "softmax"}, 'expected normalize of none, zscore, minmax, rank, found "softmax"'),
        ({"on_missing_pair": "skip"}, 'expected on_missing_pair of error, drop, average, found "skip"'),
        ({"on_bad_row": "ignore"}, 'expected on_bad_row="error" or "skip"'),
    ],
)
def test_messages_of_arguments(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge(folder, "a.tsv", "b.tsv", **options)


def test_best_first(folder: Path) -> None:
    (folder / "a.jsonl").write_text('["q1", ["a", 3], ["b", 1], ["c", 2]]\n')
    (folder / "b.jsonl").write_text('["q1", ["a", 1], ["b", 5], ["c", 2]]\n')
    text, _ = merge(folder, "a.jsonl", "b.jsonl", best_first=True)
    assert text == '["q1", ["b", 3.0], ["a", 2.0], ["c", 2.0]]\n'  # a and c in the first file's order
    files = [str(folder / name) for name in ("a.jsonl", "b.jsonl")]
    app(["scores", "merge", *files, "--output", str(folder / "o.jsonl"), "--best-first"], result_action="return_value")
    assert (folder / "o.jsonl").read_text() == text
    assert merge(folder, "a.jsonl", "b.jsonl")[0] == '["q1", ["a", 2.0], ["b", 3.0], ["c", 2.0]]\n'


def test_margins_are_not_ordered(folder: Path) -> None:
    (folder / "m").write_text("q\ta\tb\t3.5\n")
    with pytest.raises(ValueError, match=r"expected pair scores, .* found margins; leave out best_first"):
        merge(folder, "m", "m", best_first=True)


def test_margins_are_not_normalised(folder: Path) -> None:
    (folder / "m").write_text("q\ta\tb\t3.5\nq\tb\ta\t1\n")
    assert merge(folder, "m", "m")[0] == "q\ta\tb\t3.5\nq\tb\ta\t1.0\n"
    with pytest.raises(
        ValueError, match=r'expected normalize="none" .* for files of margins, found rank; a margin has no'
    ):
        merge(folder, "m", "m", normalize="rank")
    with pytest.raises(BadDataError, match=r"expected margins, which .*, found ids; merge files of one kind"):
        merge(folder, "m", "a.tsv")


def test_standard_input_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"expected files, found standard input \(-\)"):
        merge_scores([folder / "a.tsv", "-"], folder / "out.tsv")


def test_the_output_folder_must_be_there(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        merge_scores([folder / "a.tsv"], folder / "nowhere" / "out.tsv")


@pytest.mark.parametrize("num_steps", [1, 100, 300, 517])  # while reading, surveying, joining, writing
def test_an_interrupted_merge_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, num_steps: int) -> None:
    steps, seen = 0, set()

    class Bar(tqdm):  # type: ignore[type-arg]
        def update(self, n: float | None = 1) -> None:
            nonlocal steps
            steps += 1
            if steps == num_steps:
                seen.update(path.name for path in folder.iterdir())
                raise KeyboardInterrupt

    monkeypatch.setattr(scores_merge, "tqdm", Bar)
    with pytest.raises(KeyboardInterrupt):
        merge_scores([folder / "a.tsv", folder / "b.tsv"], folder / "out.tsv", normalize="zscore")
    assert len(seen) == (4 if num_steps == 517 else 3)  # the folder, and at last the unfinished output
    assert {path.name for path in folder.iterdir()} == {"a.tsv", "b.tsv"}


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(folder / name) for name in ("a.tsv", "b.tsv")]
    app(
        ["scores", "merge", *files, "-o", str(folder / "out.tsv"), "--weights", "1", "3", "--on-missing-pair", "drop"],
        result_action="return_value",
    )
    printed = capsys.readouterr().out
    assert printed.endswith(f"{folder}/out.tsv: 3 rows (ids)\n")
    assert (
        f"           3           5         0.4       2.417          -4           3           0           0  {files[0]}"
        in printed
    )
    assert (folder / "out.tsv").read_text().startswith("4.5\t6.25\tq1")
