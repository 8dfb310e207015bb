"""What can go wrong, in four parts: where, what was expected, what was found, what to do.

People read the message, programs read the attributes. The Rust core raises these classes too. Python's own exceptions are
used where their meaning fits (`FileNotFoundError`, `ValueError`).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BadDataError",
    "BadStoreError",
    "InUseError",
    "MissingDependencyError",
    "MissingIdsError",
    "NotFiniteError",
    "NothingDoneError",
    "RankDistillError",
    "WrongModelError",
]


class RankDistillError(Exception):
    """Base of the errors that this package defines."""

    def __init__(
        self, expected: str, found: str, remedy: str = "", path: str | None = None, line: int | None = None
    ) -> None:
        self.expected, self.found, self.remedy, self.path, self.line = expected, found, remedy, path, line
        # All parts go to Exception, so that the error pickles (it crosses process borders in workers).
        super().__init__(expected, found, remedy, path, line)

    def __str__(self) -> str:
        where = "" if self.path is None else self.path + ("" if self.line is None else f":{self.line}") + ": "
        return f"{where}expected {self.expected}, found {self.found}" + (f"; {self.remedy}" if self.remedy else "")


class BadDataError(RankDistillError):
    """A file that a user gave isn't in the format that was expected."""


class BadStoreError(RankDistillError):
    """A store of ours (scores, tokens, vectors) is torn, changed, foreign, of a later version, or built from something else."""


class NotFiniteError(RankDistillError, ArithmeticError):
    """A training whose loss or gradient is infinite or not a number; no model is written."""


class WrongModelError(RankDistillError, ValueError):
    """A model, or an index of one, that is whole but can't be used for what was asked; one of another kind, say."""


class NothingDoneError(RankDistillError):
    """A command that had nothing to do, or whose result would be empty.

    Every command raises it instead of writing an empty result: a wrong file or split must not look like success.
    """

    @classmethod
    def check(cls, count: int, what: str, path: object, remedy: str) -> None:
        """Raises the error if `count`, of what the command was to do or found in `path`, is 0."""
        if not count:
            raise cls(f"at least one {what}", "none", remedy, str(path))


class InUseError(RankDistillError):
    """An output that another process or thread is writing."""


class MissingIdsError(RankDistillError):
    """Ids that one file names and another lacks.

    Attributes:
        missing: the ids, or the first hundred of them.
    """

    def __init__(
        self,
        expected: str,
        found: str,
        remedy: str = "",
        path: str | None = None,
        line: int | None = None,
        missing: tuple[str, ...] = (),
    ) -> None:
        super().__init__(expected, found, remedy, path, line)
        self.missing = missing
        self.args = (expected, found, remedy, path, line, missing)

    @classmethod
    def among(cls, ids: Sequence[str], absent: Sequence[int], what: str, remedy: str) -> MissingIdsError:
        """The error for `ids` of which those at the positions `absent` weren't found, as `what` says where."""
        names = tuple(ids[int(i)] for i in absent[:100])
        found = f'{len(absent):,} that are not there (first: "{names[0]}")'
        return cls(f"all {len(ids):,} {what}", found, remedy, missing=names)


class MissingDependencyError(RankDistillError, ImportError):
    """An optional package is needed; the message gives the install line."""
