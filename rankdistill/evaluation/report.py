"""Tables for terminals and Markdown pages."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from rankdistill.evaluation.measures import Evaluation
from rankdistill.evaluation.significance import Comparison

__all__ = ["evaluation_rows", "render_table"]

Cell = str | int | float | None


def render_table(
    rows: Sequence[Mapping[str, Cell]], style: str = "plain", decimals: int = 4, columns: Sequence[str] | None = None
) -> str:
    """Renders rows as a table whose columns stand straight in a fixed-width font.

    Args:
        rows: column -> cell, a mapping a row; a row may lack columns.
        style: "plain" or "markdown".
        decimals: places after the point of floats. A ready string is taken as it is.
        columns: which columns in which order; else all, in order of appearance.

    Returns:
        Lines without a newline at the end. Numbers are set flush right, also those with a mark ("0.4120ᵃ").

    Raises:
        ValueError: an unknown style.
    """
    if style not in ("plain", "markdown"):
        raise ValueError(f'expected style "plain" or "markdown", found {style!r}')
    names = list(columns if columns is not None else dict.fromkeys(name for row in rows for name in row))
    cells = [[_text(row.get(name), decimals) for name in names] for row in rows]
    if style == "markdown":
        cells = [[cell.replace("|", r"\|") for cell in line] for line in cells]
    right = [_is_numeric([row.get(name) for row in rows]) for name in names]
    widths = [max(3, _width(name), *(_width(line[i]) for line in cells)) for i, name in enumerate(names)]

    def line(parts: Sequence[str]) -> str:
        padded = [
            " " * (width - _width(part)) + part if flush else part + " " * (width - _width(part))
            for part, width, flush in zip(parts, widths, right, strict=True)
        ]
        return "| " + " | ".join(padded) + " |" if style == "markdown" else "  ".join(padded).rstrip()

    rules = ["-" * (width - 1) + (":" if flush else "-") for width, flush in zip(widths, right, strict=True)]
    rule = line(rules) if style == "markdown" else "  ".join("-" * width for width in widths)
    return "\n".join([line(names), rule, *map(line, cells)])


def evaluation_rows(
    evaluations: Mapping[str, Evaluation],
    comparisons: Sequence[Comparison] = (),
    alpha: float = 0.05,
    decimals: int = 4,
) -> list[dict[str, Cell]]:
    """One row a system, one column a measure; `⁺` and `⁻` mark what differs from the baseline at `alpha`, corrected.

    Args:
        evaluations: name -> evaluation.
        comparisons: from `compare`, for any of the measures.
        alpha: the level that a corrected p-value must stay under.
        decimals: places after the point.
    """
    marks = {
        (each.system, each.measure): "⁺" if each.difference > 0 else "⁻"
        for each in comparisons
        if each.p_corrected < alpha
    }
    marked = {each.measure for each in comparisons}
    rows = []
    for name, evaluation in evaluations.items():
        row: dict[str, Cell] = {"system": name}
        for measure, value in evaluation.mean.items():
            # The blank keeps the digits of marked and unmarked cells under each other.
            mark = marks.get((name, measure), " " if measure in marked else "")
            row[measure] = f"{value:.{decimals}f}{mark}"
        if any(each.num_missing for each in evaluations.values()):
            row["missing"] = evaluation.num_missing
        rows.append(row)
    return rows


def _text(cell: Cell, decimals: int) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.{decimals}f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _is_numeric(cells: Sequence[Cell]) -> bool:
    return any(cell is not None for cell in cells) and all(
        cell is None or isinstance(cell, int | float) or (bool(cell) and cell.lstrip("+-")[:1].isdigit())
        for cell in cells
    )


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)
