"""Options of `scores inspect` and `scores compile`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from rankdistill.options import Output

__all__ = ["ScoresCompileOptions", "ScoresInspectOptions"]


@dataclass(frozen=True)
class _Files:  # not keyword-only, so that the command line takes them without a flag
    # A mistyped option then passes for a file, and is reported as one that isn't there.
    files: Annotated[tuple[str, ...], Parameter(allow_leading_hyphen=True)]
    """Teacher score files, globs, or - for standard input; several are read as one. Plain, gzip or zstd."""


@dataclass(frozen=True, kw_only=True)
class _ScoreFiles(_Files):
    format: Literal["auto", "ids", "text", "margin", "nway"] = "auto"
    """ids: pos_score, neg_score, query_id, pos_id, neg_id. text: the same with texts. margin: query_id, positive_id,
    negative_id, margin. nway: JSON lines [query_id, [doc_id, score], ...]. auto looks at the first lines."""


@dataclass(frozen=True, kw_only=True)
class ScoresInspectOptions(_ScoreFiles):
    """Show what a teacher score file holds."""

    on_bad_row: Literal["error", "skip"] = "skip"
    """Count bad rows by kind, or stop at the first with its line."""

    json: bool = False
    """Print JSON instead of a page."""


@dataclass(frozen=True, kw_only=True)
class ScoresCompileOptions(_ScoreFiles):
    """Compile teacher score files into one memory-mapped store."""

    output: Output
    """The store to write."""

    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at the first bad row with its line, or leave bad rows out, counted by kind."""
