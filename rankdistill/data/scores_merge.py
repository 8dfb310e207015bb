"""Ensembles of teachers: several score files into one, pair by pair, whatever the order of their rows.

Costs: nothing grows with the files but one 256th of the distinct pairs (about 40 bytes each) and the temporary files, which
lie in a folder beside the output: 20 bytes for each doc of each row of every file. They are removed at the end, also after an
error or Ctrl-C.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tqdm import tqdm

from rankdistill import _core
from rankdistill.formats.scores import OnBadRow, ScoreFormat, ScorePaths, resolve_paths, skips
from rankdistill.formats.writing import locked
from rankdistill.options.scores import ScoresMergeOptions

__all__ = ["MergeReport", "MergedTeacher", "merge_scores", "run_merge"]

Normalize: TypeAlias = Literal["none", "zscore", "minmax", "rank"]
OnMissingPair: TypeAlias = Literal["error", "drop", "average"]

_UNITS = {"read": "B", "write": "B"}


@dataclass(frozen=True)
class MergedTeacher:
    """What one file held.

    Attributes:
        rows: good rows.
        pairs: distinct (query, doc); for margins, distinct rows.
        mean: of the distinct pairs' scores, like the next three, before they're normalised.
        changed: pairs that occur with several scores; the last one was taken.
        largest_change: the largest step between two scores of such a pair.
        missing: pairs of the first file that this one lacks.
        unused: pairs that the first file lacks.
        bad_rows: rows left out, by kind.
    """

    file: str
    rows: int
    pairs: int
    mean: float
    sd: float
    min: float
    max: float
    changed: int
    largest_change: float
    missing: int
    unused: int
    bad_rows: dict[str, int]


@dataclass(frozen=True)
class MergeReport:
    """What came of a merge.

    Attributes:
        format: of the output, which is the first file's.
        rows: rows written.
        dropped_rows: rows of the first file left out, since a file lacks one of their pairs.
        averaged_pairs: pairs of the first file averaged over fewer than all files.
    """

    output: str
    format: str
    rows: int
    dropped_rows: int
    averaged_pairs: int
    teachers: tuple[MergedTeacher, ...]

    def render(self) -> str:
        """Plain text: a table of the files, then what was written and what was left out."""
        return _render(self)


def merge_scores(
    files: Sequence[ScorePaths],
    output: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    normalize: Normalize = "none",
    per_query: bool = False,
    on_missing_pair: OnMissingPair = "error",
    best_first: bool = False,
    format: ScoreFormat = "auto",
    on_bad_row: OnBadRow = "error",
    progress: bool = True,
) -> MergeReport:
    """Averages teachers' scores of each (query, doc) pair into one file, which appears under its name only when it's whole.

    The output has the first file's rows, in its order and format; the others may have theirs in any order and any of the
    formats ids and nway (or all text, or all margin: then a row counts as one pair). If a pair occurs several times in one
    file, its last score is taken, and `changed` counts the pairs whose scores weren't the same.

    Args:
        files: one teacher each; a teacher may be several files, or a glob, read as one.
        output: compressed if it ends in .gz or .zst.
        weights: one a teacher; equal without.
        normalize: what is done to each teacher's scores first. "zscore" (mean 0, sd 1) and "minmax" (0 to 1) go over all
            distinct pairs of the file, unused ones too; "rank" is the share of the query's other docs (in that file)
            that a doc beats, ties counting half.
        per_query: "zscore" and "minmax" over each query's docs instead; equal scores become 0 and 0.5.
        on_missing_pair: "error"; "drop" the rows that have such a pair; "average" over the files that have it.
        best_first: each row's docs by their merged scores, greatest first (the first file's order among equal ones): for rows
            of candidates without labels, whose first doc stands for a relevant one.
        format: as for `read_scores`, of all files.
        on_bad_row: as for `read_scores`.
        progress: show bars.

    Raises:
        BadDataError: for a bad row, a missing pair, files that can't be merged or share no pair, or a file of equal
            scores that is to be normalised.
        ValueError: for weights that aren't positive or not one a file, margins that are to be normalised or ordered, or an
            unknown word.

    Source:
        The plain mean of pair scores is the ensemble "T2" of Hofstätter et al. 2020, arXiv:2010.02666.
    """
    teachers = [resolve_paths(paths) for paths in files]
    if any("-" in names for names in teachers):
        raise ValueError("expected files, found standard input (-); the first file is read twice: save it to a file")
    core = _core.ScoreMerge(
        teachers,
        output,
        weights=[1.0] * len(teachers) if weights is None else list(weights),
        normalize=normalize,
        per_query=per_query,
        on_missing_pair=on_missing_pair,
        best_first=best_first,
        format=format,
        skip=skips(on_bad_row),
    )
    with closing(core):
        bar, stage = tqdm(disable=True), ""
        try:
            while (step := core.advance()) is not None:
                name, done, total = step
                if name != stage:
                    bar.close()
                    unit = _UNITS.get(name, "bucket")
                    bar = tqdm(
                        total=total, desc=f"{name} scores", unit=unit, unit_scale=unit == "B", disable=not progress
                    )
                    stage = name
                bar.update(done - bar.n)
        finally:
            bar.close()
        counts = core.counts()
    names = [", ".join(paths) for paths in teachers]
    found = tuple(MergedTeacher(name, **teacher) for name, teacher in zip(names, counts.pop("teachers"), strict=True))
    return MergeReport(output=str(output), teachers=found, **counts)


def run_merge(options: ScoresMergeOptions) -> str:
    """The `rankdistill scores merge` command: merges, and says what came of it."""
    with locked(options.output):
        return merge_scores(
            options.files,
            options.output,
            weights=options.weights,
            normalize=options.normalize,
            per_query=options.per_query,
            on_missing_pair=options.on_missing_pair,
            best_first=options.best_first,
            format=options.format,
            on_bad_row=options.on_bad_row,
        ).render()


def _render(report: MergeReport) -> str:
    names = ["rows", "pairs", "mean", "sd", "min", "max", "missing", "unused"]
    lines = ["".join(f"{name:>12}" for name in names) + "  file"]
    for teacher in report.teachers:
        values = [getattr(teacher, name) for name in names]
        cells = [f"{value:,}" if isinstance(value, int) else f"{value:.4g}" for value in values]
        lines.append("".join(f"{cell:>12}" for cell in cells) + f"  {teacher.file}")
    for teacher in report.teachers:
        if teacher.changed:
            step = f"{teacher.largest_change:.3g}"
            lines.append(
                f"{teacher.file}: {teacher.changed:,} pairs have several scores, up to {step} apart; the last was taken"
            )
        if teacher.bad_rows:
            skipped = ", ".join(f"{kind} {count:,}" for kind, count in teacher.bad_rows.items())
            lines.append(f"{teacher.file}: skipped rows: {skipped}")
    if report.averaged_pairs:
        lines.append(f"{report.averaged_pairs:,} pairs were averaged over fewer than {len(report.teachers)} files")
    if report.dropped_rows:
        lines.append(f"{report.dropped_rows:,} rows were left out, since a file lacks one of their pairs")
    return "\n".join([*lines, f"{report.output}: {report.rows:,} rows ({report.format})"])
