"""Source files of repositories, cut into snippets: what pre-training reads.

Cost: the files are read once when they're opened, and again where their snippets are tokenised; only where each snippet
begins and ends is kept (24 bytes and an id).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdistill._core import IdTable
from rankdistill.errors import BadDataError
from rankdistill.formats.gz import after_mark
from rankdistill.formats.json_lines import json_value
from rankdistill.formats.texts import Texts, id_table

__all__ = ["Snippets", "cut_snippets", "open_repositories"]

_LONG = 20
"""Lines after which any blank line ends a snippet: about as many as half an item of 256 tokens holds."""


class _Source(NamedTuple):
    """One file of a repository, or one line of a file of JSON lines.

    Attributes:
        name: what its snippets' ids begin with.
        path: where it is.
        start: where its line begins; None if it's a file by itself.
    """

    name: str
    path: Path
    start: int | None = None

    def read(self) -> str:
        """Its text. Raises UnicodeDecodeError if it isn't UTF-8."""
        if self.start is None:
            return self.path.read_text(encoding="utf-8-sig")
        with self.path.open("rb") as file:
            file.seek(self.start)
            return str(json_value(file.readline())["text"])


class Snippets(Texts):
    """The snippets of all repositories, in order: a repository's stand together, and so do a file's.

    Attributes:
        name: where they come from.
        repositories: names of those that have snippets.
        bounds: [R + 1], the rows at which each repository begins, and the number of rows.
        num_files: files that were read.
        num_undecodable: files that aren't UTF-8, and were left out.
    """

    def __init__(self, name: str, sources: dict[str, list[_Source]]) -> None:
        self.name = name
        self.repositories: list[str] = []
        self.num_files = self.num_undecodable = 0
        self._files: list[_Source] = []
        self._kept = (-1, "")
        digest, ids = hashlib.blake2b(digest_size=16), list[str]()
        spans, bounds = list[tuple[int, int, int]](), [0]
        for repository, files in sources.items():
            for source in files:
                try:
                    text = source.read()
                except UnicodeDecodeError:
                    self.num_undecodable += 1
                    continue
                at = len(self._files)
                cut = [(at, start, stop) for start, stop in cut_snippets(text)]
                digest.update(f"{source.name}\0{text}\0{cut}\0".encode())
                ids.extend(f"{source.name}#{i}" for i in range(len(cut)))
                spans.extend(cut)
                self._files.append(source)
            if len(spans) > bounds[-1]:
                self.repositories.append(repository)
                bounds.append(len(spans))
        self.num_files = len(self._files)
        self.bounds: NDArray[np.int64] = np.array(bounds, np.int64)
        self._spans: NDArray[np.int64] = np.array(spans, np.int64).reshape(-1, 3)
        self._ids, self._fingerprint = id_table(ids, name, spaced=True), digest.hexdigest()

    @property
    def ids(self) -> IdTable:
        """As in `Texts`: FILE#NUMBER."""
        return self._ids

    @property
    def fingerprint(self) -> str:
        """As in `Texts`."""
        return self._fingerprint

    def take(self, rows: Sequence[int] | NDArray[Any]) -> list[str]:
        """As in `Texts`; the file that was read last is kept, since rows mostly come in order."""
        texts = []
        for at, start, stop in self._spans[np.asarray(rows, np.int64)].tolist():
            if self._kept[0] != at:
                self._kept = (at, self._files[at].read())
            texts.append(self._kept[1][start:stop])
        return texts


def cut_snippets(text: str, long: int = _LONG) -> Iterator[tuple[int, int]]:
    """Where the snippets of a file begin and end.

    A snippet ends at a blank line before a line that isn't indented, and once it has `long` lines at the next blank line of
    any kind: mostly a function, a class or a part of one, in any language that is written so.

    Yields:
        Beginning and end (exclusive), without the blank lines around.
    """
    start = stop = at = num_lines = 0
    after_blank = False
    for line in text.split("\n"):
        if not line.strip():
            after_blank = True
        else:
            if num_lines and after_blank and (not line[0].isspace() or num_lines >= long):
                yield start, stop
                num_lines = 0
            if not num_lines:
                start = at
            stop, num_lines, after_blank = at + len(line), num_lines + 1, False
        at += len(line) + 1
    if num_lines:
        yield start, stop


def open_repositories(path: str | Path, glob: str = "*.py", max_files: int | None = None) -> Snippets:
    """The snippets of repositories.

    Args:
        path: a folder whose sub-folders are repositories, or a file of JSON lines {"repository": …, "text": …}, a source file
            each.
        glob: which files of a folder, at any depth; files beside the repositories belong to none, and aren't read.
        max_files: at most so many of each repository, evenly taken; None takes all.

    Raises:
        FileNotFoundError: if there's nothing.
        BadDataError: for a malformed line, or if there are no snippets at all.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: expected a folder of repositories or a file of JSON lines, found nothing there"
        )
    sources = _folders(path, glob) if path.is_dir() else _lines(path)
    if max_files is not None:
        sources = {repository: _some(files, max_files) for repository, files in sources.items()}
    snippets = Snippets(str(path), sources)
    if not len(snippets):
        expected = f'repositories: folders with files "{glob}"' if path.is_dir() else 'lines of "repository" and "text"'
        raise BadDataError(expected, "none with any text", "check --corpus and --glob", str(path))
    return snippets


def _folders(root: Path, glob: str) -> dict[str, list[_Source]]:
    return {
        folder.name: [
            _Source(str(file.relative_to(root)), file) for file in sorted(folder.rglob(glob)) if file.is_file()
        ]
        for folder in sorted(root.iterdir())
        if folder.is_dir()
    }


def _lines(path: Path) -> dict[str, list[_Source]]:
    found: dict[str, list[_Source]] = {}
    with path.open("rb") as buffered:
        file = after_mark(buffered)
        start = file.tell()
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json_value(line)
                    repository, text = row["repository"], row["text"]
                    valid = isinstance(repository, str) and isinstance(text, str)
                except (ValueError, KeyError, TypeError):
                    valid = False
                if not valid:
                    expected = 'an object with the strings "repository" and "text"'
                    raise BadDataError(expected, repr(line[:80]), path=str(path), line=number)
                found.setdefault(repository, []).append(_Source(f"{repository}:{number}", path, start))
            start += len(line)
    return found


def _some(files: list[_Source], count: int) -> list[_Source]:
    return files if len(files) <= count else [files[i * len(files) // count] for i in range(count)]
