"""What a teacher score file holds, on one page.

Memory: 12 bytes a row and 8 a (row, doc) while counting, on top of the mapped store.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdistill.data.scores import ScoreStore, compile_scores, open_scores
from rankdistill.options.scores import ScoresInspectOptions

__all__ = ["Histogram", "ScoreReport", "Spread", "describe_store", "inspect_scores", "spread_table"]

_BLOCK = 1 << 18
_NUM_BINS = 24
_WIDTH = 100


@dataclass(frozen=True)
class Spread:
    """Some numbers in a few: percentiles are those of the sorted values, linearly interpolated."""

    mean: float
    sd: float
    min: float
    p5: float
    p25: float
    p50: float
    p75: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Spread:
        """Of all these values, at least one."""
        numbers = [values.mean(dtype=np.float64), values.std(dtype=np.float64)]
        numbers += [*np.percentile(values, [0, 5, 25, 50, 75, 95, 100])]
        return cls(*(float(number) for number in numbers))


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; the first and last bin hold everything outside, too."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class ScoreReport:
    """The page of `rankdistill scores inspect`.

    Attributes:
        pairs: distinct (query, doc).
        duplicates: rows that repeat an earlier row's query and docs, in order; their scores may differ.
        rows_per_query: of the queries that occur.
        docs_per_query: distinct ones.
        scores: spread by column: "positive" and "negative" for two docs, "doc 0" and "others" for more; none for margins.
        margins: of doc 0 over each other doc of its row.
        negative_margins: share of the margins that are below 0.
        bad_rows: rows left out, by kind.
        warnings: what to mind before training.
    """

    files: list[str]
    format: str
    rows: int
    docs_per_row: int
    queries: int
    docs: int
    pairs: int
    duplicates: int
    rows_per_query: Spread
    docs_per_query: Spread
    scores: dict[str, Spread]
    margins: Spread
    negative_margins: float
    histogram: Histogram
    bad_rows: dict[str, int]
    fingerprint: str
    warnings: list[str]

    def to_json(self) -> str:
        """All of it, as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def render(self) -> str:
        """The page: plain text, at most 100 columns."""
        return _render(self)


def inspect_scores(options: ScoresInspectOptions) -> ScoreReport:
    """The `rankdistill scores inspect` command. The store it compiles on the way is the one that training uses.

    Raises:
        BadDataError: for a bad row with on_bad_row="error", or if no good row is left.
    """
    if "-" not in options.files:
        store = open_scores(options.files, format=options.format, on_bad_row=options.on_bad_row)
        return describe_store(store, options.files)
    with tempfile.TemporaryDirectory(prefix="rankdistill") as folder:
        out = Path(folder) / "stdin.rdscores"
        store = compile_scores(options.files, out, format=options.format, on_bad_row=options.on_bad_row)
        return describe_store(store, ["standard input" if name == "-" else name for name in options.files])


def _mixed(hashes: NDArray[np.uint64], values: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser over a running hash and the next column."""
    x = hashes * np.uint64(0x9E3779B97F4A7C15) + values.astype(np.uint64) + np.uint64(1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _num_distinct(sorted_values: NDArray[np.uint64]) -> int:
    return int(np.count_nonzero(sorted_values[1:] != sorted_values[:-1])) + 1


def describe_store(store: ScoreStore, files: tuple[str, ...] | list[str]) -> ScoreReport:
    """Counts what a store holds.

    Args:
        store: any store.
        files: names for the page's title.
    """
    num_rows, width = store.num_rows, store.num_docs_per_row
    scores_RN = np.empty((num_rows, width), np.float32)
    row_hashes = np.empty(num_rows, np.uint64)
    pairs_RN = np.empty((num_rows, width), np.uint64)
    rows_of_query = np.zeros(store.num_queries, np.int64)
    for start in range(0, num_rows, _BLOCK):
        stop = min(start + _BLOCK, num_rows)
        block = store.gather(np.arange(start, stop))
        scores_RN[start:stop] = block.scores
        rows_of_query += np.bincount(block.queries, minlength=store.num_queries)
        hashes = _mixed(np.zeros(stop - start, np.uint64), block.queries)
        for column in block.docs.T:
            hashes = _mixed(hashes, column)
        row_hashes[start:stop] = hashes
        pairs_RN[start:stop] = block.queries[:, None].astype(np.uint64) << np.uint64(32) | block.docs
    row_hashes.sort()
    pairs = pairs_RN.reshape(-1)
    pairs.sort()
    firsts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    docs_of_query = np.bincount((pairs[firsts] >> np.uint64(32)).astype(np.int64), minlength=store.num_queries)
    margins = (scores_RN[:, :1] - scores_RN[:, 1:]).reshape(-1)
    spread = Spread.of(margins)
    if store.format == "margin":
        columns = {}
    elif width == 2:
        columns = {"positive": Spread.of(scores_RN[:, 0]), "negative": Spread.of(scores_RN[:, 1])}
    else:
        columns = {"doc 0": Spread.of(scores_RN[:, 0]), "others": Spread.of(scores_RN[:, 1:].reshape(-1))}
    negative = float(np.count_nonzero(margins < 0)) / margins.size
    duplicates = num_rows - _num_distinct(row_hashes)
    return ScoreReport(
        files=[str(name) for name in files],
        format=store.format,
        rows=num_rows,
        docs_per_row=width,
        queries=store.num_queries,
        docs=store.num_docs,
        pairs=len(firsts),
        duplicates=duplicates,
        rows_per_query=Spread.of(rows_of_query),
        docs_per_query=Spread.of(docs_of_query),
        scores=columns,
        margins=spread,
        negative_margins=negative,
        histogram=_histogram(margins),
        bad_rows=store.bad_rows,
        fingerprint=store.fingerprint,
        warnings=_warnings(columns, spread, negative, duplicates, num_rows, store.bad_rows),
    )


def _histogram(margins: NDArray[np.float32]) -> Histogram:
    """Bins of a round width from the 0.1th to the 99.9th percentile, one of them beginning at 0 if 0 is inside."""
    low, high = (float(value) for value in np.percentile(margins, [0.1, 99.9]))
    raw = max((high - low) / _NUM_BINS, 1e-6 * max(abs(low), abs(high)), 1e-30)
    power = 10.0 ** np.floor(np.log10(raw))
    size = float(next(step for step in (1, 2, 2.5, 5, 10) if step * power >= raw * 0.999) * power)
    first, last = int(np.floor(low / size)), int(np.floor(high / size)) + 1
    edges = [size * step for step in range(first, last + 1)]
    counts = np.zeros(len(edges) - 1, np.int64)
    for start in range(0, len(margins), _BLOCK):
        # As float64: an outer edge, rounded to float32, may lie outside, where nothing is counted.
        block = margins[start : start + _BLOCK].astype(np.float64).clip(edges[0], edges[-1])
        counts += np.histogram(block, bins=np.asarray(edges))[0]
    return Histogram(edges, counts.tolist())


def _warnings(
    columns: dict[str, Spread], margins: Spread, negative: float, duplicates: int, rows: int, bad: dict[str, int]
) -> list[str]:
    found = []
    low = min((column.min for column in columns.values()), default=margins.min)
    high = max((column.max for column in columns.values()), default=margins.max)
    nouns = "scores" if columns else "margins"
    if low >= 0 and high <= 1 and columns:
        found.append(
            "All scores lie in [0, 1]: they look like sigmoid outputs. Margin-MSE needs raw scores: "
            "train with --teacher-transform logit, which undoes the sigmoid."
        )
    elif low >= -1 and high <= 1:
        origin = "they look like cosines" if columns else "differences of cosines or of sigmoid outputs?"
        found.append(
            f"All {nouns} lie in [-1, 1]: {origin}. A student's dot products spread far wider: train with a "
            "--teacher-scale of about 20, or take raw scores."
        )
    if margins.sd == 0:
        found.append("All margins are the same: there is nothing to learn from them.")
    if negative > 0.2:
        found.append(
            f"{negative:.0%} of the margins are negative (a few per cent are usual): are the columns of scores or docs swapped?"
        )
    if duplicates > 0.01 * rows:
        found.append(f"{duplicates:,} rows repeat an earlier query and docs: was a file given twice?")
    if bad:
        found.append(f"{sum(bad.values()):,} bad rows were left out; on_bad_row=error shows the first with its line.")
    return found


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def spread_table(spreads: dict[str, Spread]) -> list[str]:
    """A line of names, and one for each spread."""
    names = list(Spread.__dataclass_fields__)
    lines = [f"{'':<10}" + "".join(f"{name:>10}" for name in names)]
    for title, spread in spreads.items():
        lines.append(f"{title:<10}" + "".join(f"{_number(getattr(spread, name)):>10}" for name in names))
    return lines


def _per_query(spread: Spread) -> str:
    return f"{_number(spread.mean)} a query (median {_number(spread.p50)}, at most {_number(spread.max)})"


def _wrapped(text: str, first: str, indent: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=indent)


def _render(report: ScoreReport) -> str:
    title = ", ".join(report.files)
    bad = ", ".join(f"{kind} {count:,}" for kind, count in report.bad_rows.items()) or "none"
    share = report.duplicates / report.rows
    facts = [
        ("format", report.format),
        ("rows", f"{report.rows:,} of {report.docs_per_row} docs"),
        ("queries", f"{report.queries:,}; rows: {_per_query(report.rows_per_query)}"),
        ("docs", f"{report.docs:,}; distinct: {_per_query(report.docs_per_query)}"),
        ("distinct pairs", f"{report.pairs:,}"),
        ("duplicate rows", f"{report.duplicates:,}" + (f" ({share:.2%})" if report.duplicates else "")),
        ("bad rows", bad),
        ("fingerprint", report.fingerprint),
    ]
    lines = [title if len(title) <= _WIDTH else title[: _WIDTH - 1] + "…", "─" * min(len(title), _WIDTH)]
    lines += [f"{name:<16}{value}" for name, value in facts]
    lines += ["", *spread_table({**report.scores, "margin": report.margins})]
    lines += ["", f"Margins, positive - negative; {report.negative_margins:.2%} are negative", ""]
    lines += _bars(report.histogram)
    if report.warnings:
        lines += ["", "Mind:"]
        lines += [line for text in report.warnings for line in _wrapped(text, "  ! ", "    ")]
    return "\n".join(lines)


def _bars(histogram: Histogram) -> list[str]:
    """A line for each bin, drawn to an eighth of a column."""
    room = 70
    total, most = sum(histogram.counts), max(histogram.counts)
    lines = []
    for left, count in zip(histogram.edges, histogram.counts, strict=False):
        eighths = round(8 * room * count / most) if count else 0
        bar = "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")
        # A bin that isn't empty shows, however small it is.
        bar = bar or ("▏" if count else "")
        mark = "┼" if abs(left) < 1e-9 * abs(histogram.edges[-1] - histogram.edges[0]) else "│"
        lines.append(f"{_number(left):>10} {mark}{bar} {count / total:.1%}" if count else f"{_number(left):>10} {mark}")
    return lines
