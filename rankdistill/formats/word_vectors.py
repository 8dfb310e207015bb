"""Tables of word vectors as text: GloVe's, word2vec's and fastText's form, `word number number …`, one word a line."""

from __future__ import annotations

import os
from collections.abc import Container
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdistill.errors import BadDataError
from rankdistill.formats.gz import opened

__all__ = ["read_word_vectors"]


def read_word_vectors(
    path: str | os.PathLike[str], keep: Container[str] | None = None
) -> tuple[list[str], NDArray[np.float32]]:
    """Reads a table of word vectors, plain or .gz.

    Words are lower-cased; of forms that become one, the first is taken, since such files begin with the frequent ones. A
    first line of two whole numbers (word2vec's header) is skipped, and so are words with spaces in them, and blank lines.

    Args:
        path: the table.
        keep: words to read; the numbers of others aren't looked at. None reads all.

    Returns:
        V words, in the file's order, and their vectors [V, D].

    Raises:
        BadDataError: for a line whose length isn't the first one's, or without finite numbers; for an empty file or a
            torn archive.
    """
    name, words, rows = str(path), dict[str, None](), list[NDArray[np.float32]]()
    dim = 0
    with opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            fields = line.rstrip(b" \r\n").split(b" ")
            if number == 1 and len(fields) == 2 and all(field.isdigit() for field in fields):
                continue
            dim = dim or len(fields) - 1
            if dim < 1 or (len(fields) != dim + 1 and (len(fields) <= dim or _is_number(fields[-dim - 1]))):
                expected = f"a word and {dim} numbers, as in the lines before" if dim else "a word and its numbers"
                raise BadDataError(expected, f"{len(fields) - 1} numbers", "mend or remove the line", name, number)
            word = fields[0].decode("utf-8", "replace").lower()
            if len(fields) > dim + 1 or word in words or (keep is not None and word not in keep):
                continue
            rows.append(_numbers(fields[1:], name, number))
            words[word] = None
    if not dim:
        raise BadDataError("word vectors", "an empty file", "pass a table such as glove.6B.300d.txt", name)
    return list(words), np.stack(rows) if rows else np.zeros((0, dim), np.float32)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(fields: list[bytes], path: str, line: int) -> NDArray[np.float32]:
    try:
        vector: NDArray[Any] = np.array(fields).astype(np.float32)
    except ValueError:
        vector = np.array([np.nan])
    if not np.isfinite(vector).all():
        wrong = next((field for field in fields if not _is_number(field)), b"one that isn't finite")
        raise BadDataError(
            f"{len(fields)} finite numbers",
            repr(wrong.decode("utf-8", "replace")),
            "mend or remove the line",
            path,
            line,
        )
    return vector
