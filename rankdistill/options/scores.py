"""Options of the `scores` commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from rankdistill.options import Output

__all__ = [
    "ScoresCleanOptions",
    "ScoresCompileOptions",
    "ScoresConvertOptions",
    "ScoresInspectOptions",
    "ScoresMergeOptions",
]


# A mistyped option then passes for a file, and is reported as one that isn't there.
_FileArguments: TypeAlias = Annotated[tuple[str, ...], Parameter(allow_leading_hyphen=True)]
_Format: TypeAlias = Literal["auto", "ids", "text", "margin", "nway"]


@dataclass(frozen=True)
class _Files:  # not keyword-only, so that the command line takes them without a flag
    files: _FileArguments
    """Teacher score files, globs, or - for standard input; several are read as one. Plain, gzip or zstd."""


@dataclass(frozen=True)
class _Teachers:
    files: _FileArguments
    """Score files, one a teacher, in any order of rows; a quoted glob is one teacher in several files. Plain, gzip or
    zstd."""


@dataclass(frozen=True, kw_only=True)
class _ScoreFiles(_Files):
    format: _Format = "auto"
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


@dataclass(frozen=True, kw_only=True)
class ScoresMergeOptions(_Teachers):
    """Average several teachers' scores of each (query, doc) pair into one file."""

    output: Output
    """The score file to write: the first file's rows, order and format; compressed if it ends in .gz or .zst."""

    weights: tuple[float, ...] | None = None
    """One a file; what counts is their ratio. The plain mean (the paper's T2) without."""

    normalize: Literal["none", "zscore", "minmax", "rank"] = "none"
    """Bring teachers to one scale first. none: as they are (T2). zscore: mean 0, sd 1, over all distinct pairs of the
    file. minmax: 0 to 1, likewise. rank: the share of the query's other docs that a doc beats."""

    per_query: bool = False
    """zscore and minmax over each query's docs, not over all pairs of the file (rank always is)."""

    on_missing_pair: Literal["error", "drop", "average"] = "error"
    """A pair of the first file that another lacks: an error; drop its rows; or average over the files that have it."""

    best_first: bool = False
    """Put each row's docs in the order of their merged scores, best first, as `score --candidates` does without labels:
    losses that want a relevant doc take the first for it. Without, the first file's order, as befits rows with labels."""

    format: _Format = "auto"
    """Format of the files: ids, text, margin or nway, as `scores inspect --help` explains; auto looks at each. Files of
    margins can be merged with each other only: a margin doesn't tell the scores of its pairs."""

    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at the first bad row with its line, or leave bad rows out, counted by kind."""


@dataclass(frozen=True, kw_only=True)
class ScoresCleanOptions(_ScoreFiles):
    """Leave out likely false negatives and extreme margins, and clip scores."""

    output: Output
    """The score file to write, in the same format; compressed if it ends in .gz or .zst."""

    min_margin: Annotated[float | None, Parameter(name=("--min-margin", "--drop-false-negatives"))] = None
    """Leave out negatives whose margin t+ - t- is smaller: likely false negatives, t- > t+ - M. (sentence-transformers
    takes 3 for logits of MS MARCO cross-encoders.) 0 leaves out those that the teacher prefers."""

    max_margin: float | None = None
    """Leave out negatives whose margin is larger: too easy to teach anything."""

    clip: tuple[float, float] | None = None
    """LOW HIGH: bring scores (of margin files: margins) beyond these to them; after margins were looked at."""

    num_docs: int | None = None
    """n-way rows: how many docs each keeps, the positive included: its first negatives that are left. Rows with fewer
    are left out. As many as it had, without."""

    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at the first bad row with its line, or leave bad rows out, counted by kind."""


@dataclass(frozen=True, kw_only=True)
class ScoresConvertOptions(_Files):
    """Write teacher scores in another published format."""

    output: Output
    """The file to write; compressed if it ends in .gz (our formats: or .zst), parquet if it ends in .parquet."""

    to: Literal["ids", "text", "margin", "nway", "hf-margin", "pylate", "hard-negatives"]
    """ids, text, margin, nway: as `scores inspect --help` explains. hf-margin: query_id, positive_id, negative_id, score
    (the margin), as bert-ensemble-margin-mse of sentence-transformers/msmarco. pylate: query_id, document_ids, scores.
    hard-negatives: {"qid", "pos", "neg"} with pid and ce-score, as sentence-transformers' scored msmarco-hard-negatives.
    The first two of these as .jsonl, .jsonl.gz or .parquet, the last as .jsonl or .jsonl.gz."""

    format: Literal["auto", "ids", "text", "margin", "nway", "hf-margin", "pylate", "hard-negatives"] = "auto"
    """The format of the files; auto looks at the first lines, or at parquet's columns."""

    collection: str | None = None
    """Where the texts are, for --to text: a BEIR folder, an MS MARCO folder, an ir_datasets id, or hf:NAME."""

    num_docs: int | None = None
    """For nway and pylate: gather all negatives of a query and positive into rows of this many docs. What doesn't fill a
    row is left out and counted. Rows stay as they are without."""

    system: str = "teacher"
    """For hard-negatives: what the list of negatives is called."""

    on_missing: Literal["error", "skip"] = "error"
    """For --to text: rows whose ids the collection lacks are an error, or left out and counted."""

    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at the first bad row with its line, or leave bad rows out, counted; of our own formats."""
