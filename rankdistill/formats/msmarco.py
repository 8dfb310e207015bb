"""MS MARCO's layout: `collection.tsv`, `queries.SPLIT.tsv`, `qrels.SPLIT.tsv` in one folder (any may be `.gz`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rankdistill.errors import BadDataError
from rankdistill.formats.beir import find
from rankdistill.formats.texts import MappingTexts, Parts, read_lines
from rankdistill.formats.trec import is_quoted, read_qrels

__all__ = ["open_msmarco", "tsv"]


def tsv(line: bytes) -> tuple[str, str]:
    """Id and text of one line of `collection.tsv` or `queries.*.tsv`."""
    columns = line.decode().split("\t")
    if len(columns) != 2 or not columns[0]:
        raise ValueError("2 tab-separated columns, id and text", f"{len(columns)} ({line[:80]!r})")
    if is_quoted(columns[0]):
        raise ValueError("an id without quotes; nothing is quoted in this layout", f"{line[:80]!r}")
    return columns[0], columns[1].strip()


def _splits(folder: Path, kind: str) -> dict[str, Path]:
    """Files `kind.SPLIT.tsv[.gz]` by split."""
    paths = sorted(path for path in folder.glob(f"{kind}.*") if path.name.endswith((".tsv", ".tsv.gz")))
    return {
        path.name.removeprefix(f"{kind}.").removesuffix(".gz").removesuffix(".tsv").removesuffix("tsv"): path
        for path in paths
    }


def open_msmarco(path: Path, split: str | None = None, cache_dir: Path | None = None) -> Parts:
    """Opens a folder, or the folder around one `collection.tsv`.

    Args:
        split: read only the queries of this split; by default those of all splits are joined.

    Raises:
        BadDataError: if two splits give one query id different texts, or the split asked for has no queries.
    """
    folder = path if path.is_dir() else path.parent
    collection = find(folder, "collection.tsv") if path.is_dir() else path
    if collection is None:
        raise BadDataError("collection.tsv or collection.tsv.gz", "neither", path=str(folder))
    files = _splits(folder, "queries")
    if split is not None and files and split not in files:
        raise BadDataError(f"queries.{split}.tsv", f"queries of the splits {', '.join(files)}", path=str(folder))
    chosen = [files[split]] if split in files else list(files.values())
    # Splits overlap (dev.small is a part of dev), so several are joined in memory; a million queries take about 150 MB.
    queries = [read_lines(file, tsv, cache_dir=cache_dir) for file in chosen]
    joined: dict[str, str] = {}
    if len(queries) != 1:
        for texts in queries:
            for id_, text in texts.pairs():
                if joined.setdefault(id_, text) != text:
                    raise BadDataError(
                        f'the text that "{id_}" has in another split',
                        repr(text[:80]),
                        "pass split= to read one",
                        texts.name,
                    )
    return Parts(
        docs=read_lines(collection, tsv, cache_dir=cache_dir),
        queries=queries[0] if len(queries) == 1 else MappingTexts(joined, f"{folder}/queries.*.tsv"),
        qrels={name: partial(read_qrels, file) for name, file in _splits(folder, "qrels").items()},
    )
