"""Hygiene of teacher scores: likely false negatives, extreme margins and scores. Nothing is done that isn't asked for.

Memory: 4 bytes a margin, for its percentiles before and after; the files are streamed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.data.scores_report import Spread, spread_table
from rankdistill.errors import BadDataError
from rankdistill.formats.scores import MAX_SCORE, OnBadRow, ScoreFormat, ScorePaths, ScoreWriter, read_scores
from rankdistill.formats.writing import locked
from rankdistill.options.scores import ScoresCleanOptions

__all__ = ["CleanReport", "clean_scores", "run_clean"]


@dataclass(frozen=True)
class CleanReport:
    """What came of cleaning.

    Attributes:
        rows_before: good rows read.
        rows: rows written.
        below: negatives whose margin is below the least.
        above: negatives whose margin is above the most.
        clipped: scores that were changed, of those written.
        margins_before: of doc 0 over each other doc of its row.
        margins: the same, of what is written.
        negative_before: share of the margins that are below 0.
        negative: the same, of what is written.
        bad_rows: rows left out, by kind.
    """

    output: str
    rows_before: int
    rows: int
    below: int
    above: int
    clipped: int
    margins_before: Spread
    margins: Spread
    negative_before: float
    negative: float
    bad_rows: dict[str, int]

    def render(self) -> str:
        """Plain text: the margins before and after, and what was left out."""
        lines = spread_table({"before": self.margins_before, "after": self.margins})
        lines.append(f"negative margins: {self.negative_before:.2%} before, {self.negative:.2%} after")
        if self.below or self.above:
            lines.append(f"negatives left out: {self.below:,} below the least margin, {self.above:,} above the most")
        if self.clipped:
            lines.append(f"scores clipped: {self.clipped:,}")
        if self.bad_rows:
            lines.append("skipped rows: " + ", ".join(f"{kind} {count:,}" for kind, count in self.bad_rows.items()))
        return "\n".join([*lines, f"{self.output}: {self.rows:,} of {self.rows_before:,} rows"])


def clean_scores(
    paths: ScorePaths,
    output: str | os.PathLike[str],
    *,
    min_margin: float | None = None,
    max_margin: float | None = None,
    clip: tuple[float, float] | None = None,
    num_docs: int | None = None,
    format: ScoreFormat = "auto",
    on_bad_row: OnBadRow = "error",
    progress: bool = True,
) -> CleanReport:
    """Leaves out negatives by their margin, then clips scores, and writes the rest in the same format.

    A margin is t+ - t-, doc 0 over another doc of its row, as the file has it. A row of two docs goes with its negative; an
    n-way row keeps its first negatives that are left.

    Args:
        paths: as for `read_scores`.
        output: compressed if it ends in .gz or .zst.
        min_margin: negatives with a smaller margin are left out: t- > t+ - min_margin.
        max_margin: negatives with a larger margin are left out.
        clip: lowest and highest score; of margin files, lowest and highest margin. Then scores beyond `MAX_SCORE` are read,
            too, as far as float32 holds them.
        num_docs: docs that each n-way row keeps, the positive included; rows that have fewer left are left out. As many
            as it had, without.
        format: as for `read_scores`.
        on_bad_row: as for `read_scores`.
        progress: show a bar.

    Raises:
        ValueError: if nothing is to be done, or bounds exclude each other.
        BadDataError: for a bad row, or if no row is left.

    Source:
        The filter t- > t+ - 3 is the default of sentence-transformers' MS MARCO examples.
    """
    _check(min_margin, max_margin, clip, num_docs)
    max_score = MAX_SCORE if clip is None else np.inf
    reader = read_scores(paths, format=format, on_bad_row=on_bad_row, max_score=max_score)
    low, high = (-np.inf if min_margin is None else min_margin), (np.inf if max_margin is None else max_margin)
    before: list[NDArray[np.floating]] = []
    after: list[NDArray[np.float32]] = []
    below = above = clipped = rows_before = 0
    bar = tqdm(total=reader.total_bytes, desc="clean scores", unit="B", unit_scale=True, disable=not progress)
    with bar, ScoreWriter(output, reader.format, like=reader.paths) as writer:
        for block in reader:
            rows_before += len(block)
            scores_RN = block.scores
            kept = _kept_docs(scores_RN, num_docs)
            is_huge = clip is not None and np.abs(scores_RN).max() > MAX_SCORE
            wide_RN = scores_RN.astype(np.float64) if is_huge else scores_RN  # differences may leave float32
            margins_RN = wide_RN[:, :1] - wide_RN[:, 1:]
            is_below, is_above = margins_RN < low, margins_RN > high
            below, above = below + int(is_below.sum()), above + int(is_above.sum())
            rows, columns_RN = _chosen(~(is_below | is_above), kept)
            chosen_RN = np.take_along_axis(scores_RN[rows], columns_RN, 1)
            if clip is not None:
                raw_RN, chosen_RN = chosen_RN, chosen_RN.clip(np.float32(clip[0]), np.float32(clip[1]))
                if reader.format == "margin":
                    chosen_RN[:, 1] = 0
                clipped += int((raw_RN != chosen_RN).sum())
            writer.write_block(block, rows, columns_RN, chosen_RN)
            before.append(margins_RN.reshape(-1))
            after.append((chosen_RN[:, :1] - chosen_RN[:, 1:]).reshape(-1))
            bar.update(reader.bytes_read - bar.n)
        if not len(writer):
            raise BadDataError(
                "a row that fits the bounds", f"none of {rows_before:,}", "look at `scores inspect`", reader.paths[0]
            )
        num_rows = len(writer)
    margins_before, margins = np.concatenate(before), np.concatenate(after)
    return CleanReport(
        output=str(output),
        rows_before=rows_before,
        rows=num_rows,
        below=below,
        above=above,
        clipped=clipped,
        margins_before=Spread.of(margins_before),
        margins=Spread.of(margins),
        negative_before=float((margins_before < 0).mean()),
        negative=float((margins < 0).mean()),
        bad_rows=reader.bad_rows,
    )


def _check(
    min_margin: float | None, max_margin: float | None, clip: tuple[float, float] | None, num_docs: int | None
) -> None:
    if min_margin is None and max_margin is None and clip is None and num_docs is None:
        raise ValueError(
            "expected something to do, found nothing; pass --min-margin, --max-margin, --clip or --num-docs"
        )
    if min_margin is not None and max_margin is not None and not min_margin <= max_margin:
        raise ValueError(f"expected min_margin <= max_margin, found {min_margin} and {max_margin}")
    if clip is not None and not clip[0] < clip[1]:
        raise ValueError(f"expected clip=(low, high) with low < high, found {clip}")


def _kept_docs(scores_RN: NDArray[np.float32], num_docs: int | None) -> int:
    width = scores_RN.shape[1]
    if num_docs is not None and not 2 <= num_docs <= width:
        raise ValueError(f"expected num_docs from 2 to the {width} docs of each row, found {num_docs}")
    return num_docs or width


def _chosen(fits_RN: NDArray[np.bool_], num_docs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows with enough fitting negatives, [R'], and the columns of doc 0 and its first fitting negatives, [R', num_docs]."""
    rows = np.flatnonzero(fits_RN.sum(1) >= num_docs - 1)
    first = np.argsort(~fits_RN[rows], axis=1, kind="stable")[:, : num_docs - 1] + 1
    return rows, np.concatenate([np.zeros((len(rows), 1), np.int64), first], axis=1)


def run_clean(options: ScoresCleanOptions) -> str:
    """The `rankdistill scores clean` command: cleans, and says what came of it."""
    with locked(options.output):
        return clean_scores(
            options.files,
            options.output,
            min_margin=options.min_margin,
            max_margin=options.max_margin,
            clip=options.clip,
            num_docs=options.num_docs,
            format=options.format,
            on_bad_row=options.on_bad_row,
        ).render()
