"""The score store: what it holds, when it's used again, what it refuses; and the page about a file."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankdistill.data import scores as scores_module
from rankdistill.data.scores import ScoreStore, compile_scores, open_scores, run_compile
from rankdistill.data.scores_report import inspect_scores
from rankdistill.errors import BadDataError, BadStoreError
from rankdistill.formats.scores import ScoreReader, write_scores
from rankdistill.options.scores import ScoresCompileOptions, ScoresInspectOptions

LINES = ["5.5\t1.25\tq1\t10\t20\n", "4\t-2\t7\td_é\t10\n", "3\t3.5\tq1\t20\t30\n", "3\t3.5\tq1\t20\t30\n"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "train.tsv"
    path.write_text("".join(LINES), encoding="utf-8")
    return path


@pytest.fixture
def store(source: Path) -> ScoreStore:
    return open_scores(source, format="ids", progress=False)


def big_store(folder: Path) -> ScoreStore:
    """Several checksummed blocks, ids of both kinds."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(12_000, 2)).tolist()
    rows = [(str(i % 500), [(f"d{i % 3000}", pair[0]), (str(i), pair[1])]) for i, pair in enumerate(scores)]
    write_scores(folder / "big.tsv", rows)
    return open_scores(folder / "big.tsv", progress=False)


def test_holds_the_rows(store: ScoreStore) -> None:
    assert (store.num_rows, store.num_docs_per_row, store.num_queries, store.num_docs) == (4, 2, 2, 4)
    assert (store.format, store.bad_rows, len(store)) == ("ids", {}, 4)
    assert list(store.query_ids) == ["q1", "7"]
    assert store.doc_ids[:] == ["10", "20", "d_é", "30"]
    queries, docs, scores = store.gather(np.array([3, 1, 1]))
    assert [store.query_ids[i] for i in queries] == ["q1", "7", "7"]
    assert [[store.doc_ids[i] for i in row] for row in docs] == [["20", "30"], ["d_é", "10"], ["d_é", "10"]]
    assert scores.tolist() == [[3, 3.5], [4, -2], [4, -2]]
    assert (queries.dtype, docs.dtype, scores.dtype) == (np.uint32, np.uint32, np.float32)


def test_ids_are_a_sequence(tmp_path: Path) -> None:
    ids = big_store(tmp_path).doc_ids
    plain = list(ids)
    assert len(plain) == len(ids) == len(set(plain))
    for part in (slice(None), slice(3, 9), slice(-4, None, 2), slice(9, 2, -3), slice(5, 5), slice(None, None, -1)):
        assert ids[part] == plain[part]
    assert ids[-1] == plain[-1]
    assert "d17" in ids
    with pytest.raises(IndexError):
        ids[len(plain)]


@pytest.mark.parametrize("dtype", [np.uint64, np.int32, np.uint8])
def test_gathers_by_any_integers(store: ScoreStore, dtype: Any) -> None:
    assert store.gather(np.array([2, 0], dtype)).scores.tolist() == [[3, 3.5], [5.5, 1.25]]
    assert store.gather(np.zeros(0, dtype)).docs.shape == (0, 2)


@pytest.mark.parametrize("row", [4, -1, 2**40])
def test_rows_that_are_not_there(store: ScoreStore, row: int) -> None:
    with pytest.raises(ValueError, match=f"expected rows from 0 to 3, found {row}"):
        store.gather(np.array([0, row]))


def test_row_numbers_must_be_integers(store: ScoreStore) -> None:
    with pytest.raises(ValueError, match="expected integer row numbers, found float64"):
        store.gather(np.array([1.0]))


def gathered(store: ScoreStore) -> list[list[float]]:
    return store.gather(np.arange(4)).scores.tolist()


def test_workers_map_the_file_again(store: ScoreStore) -> None:
    assert gathered(pickle.loads(pickle.dumps(store))) == gathered(store)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(gathered, [store]) == [gathered(store)]


def test_nway_and_several_files(tmp_path: Path) -> None:
    row = ("q", [("a", 3.0), ("b", 1.0), ("c", 2.0)])
    for name in ("x.jsonl.gz", "y.jsonl.zst"):
        write_scores(tmp_path / name, [row], "nway")
    store = open_scores([tmp_path / "x.jsonl.gz", tmp_path / "y.jsonl.zst"], progress=False)
    assert store.path.name == "x.jsonl.gz.and-1-more.rdscores"
    assert (store.num_rows, store.num_docs_per_row, store.num_docs) == (2, 3, 3)
    assert store.gather(np.arange(2)).scores.tolist() == [[3, 1, 2]] * 2


class TestReuse:
    @pytest.fixture(autouse=True)
    def count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compiled = 0

        def counting(*args: Any, **kwargs: Any) -> ScoreStore:
            self.compiled += 1
            return compile_scores(*args, **kwargs)

        monkeypatch.setattr(scores_module, "compile_scores", counting)

    def test_is_used_again_until_the_source_changes(self, source: Path) -> None:
        first = open_scores(source, progress=False)
        assert open_scores(source, progress=False).fingerprint == first.fingerprint
        assert open_scores(first.path).num_rows == 4
        assert self.compiled == 1
        source.write_text("".join(LINES[:3]), encoding="utf-8")
        second = open_scores(source, progress=False)
        assert (second.num_rows, self.compiled) == (3, 2)
        assert second.fingerprint != first.fingerprint
        # The content is the same, but it was written to: who knows what the samples of a large file miss.
        os.utime(source, ns=(0, second.path.stat().st_mtime_ns + 1))
        open_scores(source, progress=False)
        assert self.compiled == 3

    def test_another_format_or_skipped_rows_are_compiled_again(self, source: Path) -> None:
        open_scores(source, format="ids", progress=False)
        assert open_scores(source, format="text", progress=False).format == "text"
        assert self.compiled == 2
        source.write_text(LINES[0] + "bad\n", encoding="utf-8")
        assert open_scores(source, on_bad_row="skip", progress=False).bad_rows == {"columns": 1}
        assert open_scores(source, on_bad_row="skip", progress=False).num_rows == 1
        assert self.compiled == 3
        with pytest.raises(BadDataError, match=r"train\.tsv:2: expected 5"):
            open_scores(source, progress=False)

    def test_a_damaged_cache_is_compiled_again(self, source: Path) -> None:
        path = open_scores(source, progress=False).path
        path.write_bytes(path.read_bytes()[:-1])
        assert open_scores(source, progress=False).num_rows == 4
        assert self.compiled == 2


def test_the_cache_goes_where_it_may(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_scores(source, cache_dir=tmp_path / "here", progress=False).path.parent == tmp_path / "here"
    monkeypatch.setenv("RANKDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert open_scores(source, progress=False).path.parent == tmp_path / "cache" / "scores"


def test_an_interrupted_or_failed_compile_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(source.parent.iterdir())
    source.write_text("bad\n")
    with pytest.raises(BadDataError):
        compile_scores(source, source.with_suffix(".rdscores"), format="ids", progress=False)
    with pytest.raises(
        BadDataError, match=r"train\.tsv: expected at least one good row, found none \(1 bad rows\); look at it"
    ):
        compile_scores(source, source.with_suffix(".rdscores"), format="ids", on_bad_row="skip", progress=False)

    def interrupted(reader: Any) -> Any:
        raise KeyboardInterrupt

    source.write_text(LINES[0])
    monkeypatch.setattr(ScoreReader, "__next__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compile_scores(source, source.with_suffix(".rdscores"), progress=False)
    assert set(source.parent.iterdir()) == before


def test_standard_input_needs_a_name(source: Path) -> None:
    with pytest.raises(ValueError, match="expected files, found standard input"):
        open_scores("-")


def refused(path: Path, content: bytes) -> str:
    """The message with which a changed store is refused: when it's opened, or at the first use of what was changed."""
    path.write_bytes(content)

    def use() -> None:
        store = ScoreStore(path)
        store.gather(np.arange(store.num_rows))
        list(store.query_ids)
        list(store.doc_ids)
        store.verify()

    with pytest.raises(BadStoreError) as error:
        use()
    assert error.value.path == str(path)
    assert "compiled again" in error.value.remedy
    return str(error.value)


def test_refuses_torn_stores(tmp_path: Path) -> None:
    content = big_store(tmp_path).path.read_bytes()
    path = tmp_path / "torn.rdscores"
    for length in [0, 1, 7, 8, 11, 12, 100, 255, 256, 257, 1000, len(content) // 2, len(content) - 8, len(content) - 1]:
        refused(path, content[:length])
    assert "so it is torn" in refused(path, content[:-1])
    assert "so it is torn" in refused(path, content + b"\0")


def test_refuses_flipped_bytes_everywhere(tmp_path: Path) -> None:
    content = big_store(tmp_path).path.read_bytes()
    path = tmp_path / "flipped.rdscores"
    for at in [
        *range(0, 256, 5),
        *range(256, len(content), len(content) // 60),
        *range(len(content) - 20, len(content)),
    ]:
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        refused(path, bytes(flipped))


def test_a_flipped_byte_is_never_used(tmp_path: Path) -> None:
    store = big_store(tmp_path)
    content = bytearray(store.path.read_bytes())
    content[256 + 20 * 11_000] ^= 1
    path = tmp_path / "flipped.rdscores"
    path.write_bytes(content)
    changed = ScoreStore(path)
    np.testing.assert_array_equal(changed.gather(np.arange(100)).scores, store.gather(np.arange(100)).scores)
    with pytest.raises(
        BadStoreError, match=r"expected bytes 196864 to 262400 as they were written, found changed ones"
    ):
        changed.gather(np.array([5, 11_000]))
    with pytest.raises(BadStoreError, match="changed ones"):
        ScoreStore.open(path, verify=True)


def test_refuses_foreign_and_future_stores(store: ScoreStore, tmp_path: Path) -> None:
    content = store.path.read_bytes()
    path = tmp_path / "other.rdscores"
    assert "expected a score store of rankdistill, found 20 bytes that don't begin" in refused(
        path, b"%PDF-1.7" + b"x" * 12
    )
    future = content[:8] + (3).to_bytes(4, "little") + content[12:]
    assert "expected version 2 of the score store, found version 3" in refused(path, future)
    with pytest.raises(BadStoreError, match="found version 3"):
        open_scores(path)


def test_the_compile_command(source: Path, tmp_path: Path) -> None:
    options = ScoresCompileOptions(
        files=(str(source),), output=tmp_path / "o.rdscores", format="ids", on_bad_row="skip"
    )
    assert run_compile(options).startswith(f"{tmp_path}/o.rdscores: 4 rows of 2 docs, 2 queries, 4 docs, 0.0 MB")
    with source.open("a") as file:
        file.write("bad\n")
    assert run_compile(options).endswith("; skipped rows: columns 1")


def test_the_page_about_a_file(source: Path) -> None:
    with source.open("a") as file:
        file.write("nan\t1\tq\ta\tb\n1\n")
    report = inspect_scores(ScoresInspectOptions(files=(str(source),), format="ids"))
    assert (report.rows, report.queries, report.docs, report.pairs, report.duplicates) == (4, 2, 4, 5, 1)
    assert report.bad_rows == {"columns": 1, "score": 1}
    assert report.negative_margins == 0.5
    assert (report.rows_per_query.max, report.docs_per_query.max, report.docs_per_query.min) == (3, 3, 2)
    assert (report.margins.mean, report.margins.min, report.margins.max) == (2.3125, -0.5, 6)
    assert (report.scores["positive"].max, report.scores["negative"].min) == (5.5, -2)
    assert sum(report.histogram.counts) == 4
    page = report.render()
    assert max(map(len, page.splitlines())) <= 100
    for part in (
        "rows            4 of 2 docs",
        "duplicate rows  1 (25.00%)",
        "bad rows        columns 1, score 1",
        "50.00% are negative",
    ):
        assert part in page
    assert "50% of the margins are negative" in page
    assert "2 bad rows were left out" in page
    assert json.loads(report.to_json())["margins"]["mean"] == 2.3125
    with pytest.raises(BadDataError, match=r"train\.tsv:5"):
        inspect_scores(ScoresInspectOptions(files=(str(source),), format="ids", on_bad_row="error"))


@pytest.mark.parametrize(
    ("scores", "format", "warning"),
    [
        (
            [0.9, 0.1],
            "ids",
            "look like sigmoid outputs. Margin-MSE needs raw scores: train with --teacher-transform logit",
        ),
        ([0.0, 1.0], "nway", "look like sigmoid outputs"),
        (
            [0.9, -0.1],
            "ids",
            "scores lie in [-1, 1]: they look like cosines. A student's dot products spread far wider",
        ),
        ([0.9, 0.0], "margin", "All margins lie in [-1, 1]: differences of cosines or of sigmoid outputs?"),
        ([1.1, 0.0], "margin", "All margins are the same"),
        ([8.0, 3.0], "ids", "All margins are the same"),
        ([8.0, 3.0, 1.0], "nway", None),
    ],
)
def test_warnings(tmp_path: Path, scores: list[float], format: str, warning: str | None) -> None:
    docs = [(f"d{i}", score) for i, score in enumerate(scores)]
    write_scores(tmp_path / "f", [("q", docs)], format)  # type: ignore[arg-type]
    warnings = inspect_scores(ScoresInspectOptions(files=(str(tmp_path / "f"),))).warnings
    assert any(warning in text for text in warnings) if warning else not warnings


@pytest.mark.parametrize("margins", [[0.7, -0.1], [3.0, 3.0], [0.0, 0.0], [1e12, -1e-30], [5.0]])
def test_the_histogram_counts_every_margin(tmp_path: Path, margins: list[float]) -> None:
    write_scores(tmp_path / "f", [("q", [("a", margin), ("b", 0.0)]) for margin in margins])
    report = inspect_scores(ScoresInspectOptions(files=(str(tmp_path / "f"),)))
    assert sum(report.histogram.counts) == len(margins)
    assert report.histogram.edges == sorted(set(report.histogram.edges))
    assert "%" in report.render()
