"""Tables of word vectors: what is read, what is passed over, and which lines are refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from rankdistill.errors import BadDataError
from rankdistill.formats.word_vectors import read_word_vectors

TABLE = "the 1 2\nParis -0.5 1e-3\n. . . 9 9\nTHE 7 7\nof 3 4\n"


@pytest.mark.parametrize("header", ["", "5 2\n"])
@pytest.mark.parametrize("name", ["table.txt", "table.txt.gz"])
def test_words_are_lower_cased_and_the_first_form_counts(tmp_path: Path, name: str, header: str) -> None:
    path = tmp_path / name
    content = (header + TABLE).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    words, vectors = read_word_vectors(path)
    assert words == ["the", "paris", "of"]
    np.testing.assert_array_equal(vectors, np.array([[1, 2], [-0.5, 1e-3], [3, 4]], np.float32))
    assert vectors.dtype == np.float32
    words, vectors = read_word_vectors(path, {"of", "paris"})
    assert words == ["paris", "of"]
    assert vectors.shape == (2, 2)
    assert read_word_vectors(path, set())[1].shape == (0, 2)


def test_spaces_at_the_end_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "table.vec"
    path.write_bytes(b"a 1 2 \r\nb 3 4 \r\n")
    assert read_word_vectors(path)[1].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a 1 2\nb 3\n", 2, "expected a word and 2 numbers, as in the lines before, found 1 numbers"),
        ("a 1 2\nb 3 4 5\n", 2, "expected a word and 2 numbers, as in the lines before, found 3 numbers"),
        ("a 1 2\n\nb\n", 3, "as in the lines before, found 0 numbers"),
        ("word\n", 1, "expected a word and its numbers, found 0 numbers"),
        ("a 1 2\nb 3 x\n", 2, "expected 2 finite numbers, found 'x'"),
        ("a 1 nan\n", 1, 'expected 2 finite numbers, found "one that isn\'t finite"'),
    ],
)
def test_lines_that_are_no_vector_are_named(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "table.txt"
    path.write_text(text)
    with pytest.raises(BadDataError, match=message) as caught:
        read_word_vectors(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)


def test_empty_tables_and_torn_archives(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text("")
    with pytest.raises(BadDataError, match="expected word vectors, found an empty file"):
        read_word_vectors(path)
    torn = tmp_path / "table.txt.gz"
    torn.write_bytes(gzip.compress(TABLE.encode() * 100)[:-20])
    with pytest.raises(BadDataError, match="expected a whole gzip archive"):
        read_word_vectors(torn)
