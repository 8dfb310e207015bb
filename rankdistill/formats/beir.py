"""BEIR's layout: `corpus.jsonl`, `queries.jsonl` (either may be `.gz`), and `qrels/SPLIT.tsv`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rankdistill.errors import BadDataError
from rankdistill.formats.json_lines import json_value
from rankdistill.formats.texts import MappingTexts, Parts, read_lines
from rankdistill.formats.trec import read_qrels

__all__ = ["find", "jsonl", "open_beir", "with_title"]


def with_title(title: str | None, text: str) -> str:
    """BEIR's text of a document: title and text, one space between."""
    return f"{title} {text}".strip() if title else text.strip()


def jsonl(line: bytes) -> tuple[str, str]:
    """Id and text of one line of `corpus.jsonl` or `queries.jsonl`."""
    shape = 'a JSON object with "_id" and "text", strings'
    try:
        row = json_value(line)
    except ValueError as error:
        raise ValueError(shape, f"{line[:80]!r} ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(shape, f"{line[:80]!r}")
    id_, text, title = row.get("_id"), row.get("text"), row.get("title")
    if isinstance(id_, int) and not isinstance(id_, bool):
        id_ = str(id_)
    if not isinstance(id_, str) or not id_ or not isinstance(text, str) or not isinstance(title, str | None):
        raise ValueError(shape, f"{line[:80]!r}")
    return id_, with_title(title, text)


def find(folder: Path, name: str) -> Path | None:
    """`folder/name` or `folder/name.gz`, whichever there is."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def open_beir(folder: Path, cache_dir: Path | None = None) -> Parts:
    """Opens a BEIR folder; one without `queries.jsonl` has no queries."""
    corpus, queries = find(folder, "corpus.jsonl"), find(folder, "queries.jsonl")
    if corpus is None:
        raise BadDataError("corpus.jsonl or corpus.jsonl.gz", "neither", path=str(folder))
    splits = {}
    for path in sorted(folder.glob("qrels/*.tsv*")):
        if path.name.endswith((".tsv", ".tsv.gz")):
            splits[path.name.split(".tsv")[0]] = partial(read_qrels, path)
    return Parts(
        docs=read_lines(corpus, jsonl, cache_dir=cache_dir),
        queries=read_lines(queries, jsonl, cache_dir=cache_dir)
        if queries
        else MappingTexts({}, f"{folder} (no queries)"),
        qrels=splits,
    )
