"""The score store: teacher score files compiled into fixed-width rows, from which training samples at random.

Costs: `4 + 8 N` bytes a row and 8 an id on disk; compiling needs memory for distinct ids only. Opening reads the header and a table
of checksums; each 64 KiB of the rest is compared with its checksum before its first use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill import _core
from rankdistill.data.shuffle import permuted_positions
from rankdistill.errors import BadDataError, BadStoreError
from rankdistill.formats.cache import cache_folder
from rankdistill.formats.scores import OnBadRow, ScoreFormat, ScorePaths, read_scores, resolve_paths
from rankdistill.formats.writing import locked
from rankdistill.options.scores import ScoresCompileOptions

__all__ = ["GatheredRows", "ScoreStore", "StoreIds", "compile_scores", "open_scores", "run_compile"]

_SUFFIX = ".rdscores"
_MAGIC = b"RDSCORES"


class GatheredRows(NamedTuple):
    """Rows of a store, by dense indices.

    Attributes:
        queries: index of each row's query, [B], uint32.
        docs: indices of its docs, [B, N], uint32, the positive first.
        scores: the teacher's scores of them, [B, N], float32; a margin m is (m, 0).
    """

    queries: NDArray[np.uint32]
    docs: NDArray[np.uint32]
    scores: NDArray[np.float32]


class StoreIds(Sequence[str]):
    """Ids (or texts) of a store by dense index, in order of first appearance; read from the file when they're asked for."""

    def __init__(self, store: _core.ScoreStore, kind: str) -> None:
        self._store, self._kind, self._len = store, kind, store.num_ids(kind)

    def __len__(self) -> int:
        return self._len

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            wanted = range(self._len)[index]
            if not wanted:
                return []
            low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])
            return self._store.ids(self._kind, low, high + 1)[:: wanted.step]
        row = range(self._len)[index]
        return self._store.ids(self._kind, row, row + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, self._len, 1 << 16):
            yield from self._store.ids(self._kind, start, min(start + (1 << 16), self._len))


class ScoreStore:
    """A compiled score file. Picklable: a worker maps the file again.

    Args:
        path: a file that `compile_scores` wrote.

    Raises:
        BadStoreError: if the file is torn, foreign or of another version; later, at the first use of a part that was changed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._core = _core.ScoreStore(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = False) -> ScoreStore:
        """Opens a store; with `verify`, compares all of it with its checksums at once."""
        store = cls(path)
        if verify:
            store.verify()
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        return ScoreStore, (str(self.path),)

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        return f"ScoreStore({str(self.path)!r}, {self.num_rows:,} rows of {self.num_docs_per_row} docs)"

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self._core.path)

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self._core.num_rows

    @property
    def num_docs_per_row(self) -> int:
        """N, the docs in each row."""
        return self._core.num_docs_per_row

    @property
    def num_queries(self) -> int:
        """Distinct queries."""
        return self._core.num_ids("query")

    @property
    def num_docs(self) -> int:
        """Distinct docs."""
        return self._core.num_ids("doc")

    @property
    def query_ids(self) -> StoreIds:
        """Id of each query index (its text, in the format `text`)."""
        return StoreIds(self._core, "query")

    @property
    def doc_ids(self) -> StoreIds:
        """Id of each doc index (its text, in the format `text`)."""
        return StoreIds(self._core, "doc")

    @property
    def format(self) -> str:
        """Format of the source: ids, text, margin or nway."""
        return self._core.format

    @property
    def fingerprint(self) -> str:
        """32 hex characters that name the source's content."""
        return self._core.fingerprint

    @property
    def bad_rows(self) -> dict[str, int]:
        """Rows of the source that were skipped, by kind."""
        return self._core.bad_rows

    def verify(self) -> None:
        """Compares the whole file with its checksums.

        Raises:
            BadStoreError: if a byte was changed.
        """
        self._core.verify()

    def gather(self, rows: NDArray[Any]) -> GatheredRows:
        """Queries, docs and scores of some rows, in one call with the GIL released.

        Args:
            rows: row numbers, [B], of any integer type.

        Raises:
            ValueError: for a row that isn't there.
            BadStoreError: if the part of the file that holds a row was changed.
        """
        if rows.dtype.kind not in "iu":
            raise ValueError(f"expected integer row numbers, found {rows.dtype}")
        return GatheredRows(*self._core.gather(np.ascontiguousarray(rows, np.int64)))

    def shuffled_rows(self, seed: int, epoch: int, start: int, count: int, stride: int = 1) -> NDArray[np.int64]:
        """Rows at places `start`, `start + stride`, … of an epoch's shuffled order."""
        return permuted_positions(self.num_rows, seed, epoch, start, count, stride)

    def shuffled_blocks(
        self, seed: int, epoch: int, *, start: int = 0, block_rows: int = 65536, rank: int = 0, world_size: int = 1
    ) -> Iterator[GatheredRows]:
        """An epoch in shuffled order, or one rank's share of it: places p with p % world_size == rank.

        Over all ranks (processes x workers), every row occurs exactly once an epoch.

        Args:
            start: rows of this rank's share to leave out: seeking there costs nothing.

        Raises:
            ValueError: for a rank, start or block size that can't be.
        """
        if not 0 <= rank < world_size or start < 0 or block_rows < 1:
            found = f"rank={rank}, world_size={world_size}, start={start}, block_rows={block_rows}"
            raise ValueError(f"expected 0 <= rank < world_size, start >= 0 and block_rows >= 1, found {found}")
        return self._blocks(seed, epoch, start, block_rows, rank, world_size)

    def _blocks(
        self, seed: int, epoch: int, start: int, block_rows: int, rank: int, world_size: int
    ) -> Iterator[GatheredRows]:
        share = len(range(rank, self.num_rows, world_size))
        for first in range(start, share, block_rows):
            count = min(block_rows, share - first)
            yield self.gather(self.shuffled_rows(seed, epoch, rank + first * world_size, count, world_size))


def compile_scores(
    paths: ScorePaths,
    out: str | os.PathLike[str],
    *,
    format: ScoreFormat = "auto",
    on_bad_row: OnBadRow = "error",
    progress: bool = True,
) -> ScoreStore:
    """Compiles score files into a store, which appears under its name only when it's whole and on the disk.

    Args:
        paths: as for `read_scores`.
        out: the store to write; replaced if it's there.
        format: as for `read_scores`.
        on_bad_row: as for `read_scores`; what was skipped is kept in the store's `bad_rows`.
        progress: show a bar.

    Raises:
        BadDataError: for a bad row, or if no good row is left.
    """
    reader = read_scores(paths, format=format, on_bad_row=on_bad_row)
    fingerprint = "" if "-" in reader.paths else _core.score_fingerprint(reader.paths)
    writer = _core.ScoreStoreWriter(out, reader.format, reader.paths)
    bar = tqdm(total=reader.total_bytes, desc="compile scores", unit="B", unit_scale=True, disable=not progress)
    try:
        with bar:
            for block in reader:
                writer.push(block._core)
                bar.update(reader.bytes_read - bar.n)
        if not len(writer):
            found = f"none ({sum(reader.bad_rows.values()):,} bad rows)"
            raise BadDataError(
                "at least one good row", found, "look at it with `rankdistill scores inspect`", reader.paths[0]
            )
        writer.finish(fingerprint, reader.bad_rows)
    except BaseException:
        writer.abort()
        raise
    return ScoreStore(out)


def open_scores(
    paths: ScorePaths,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    format: ScoreFormat = "auto",
    on_bad_row: OnBadRow = "error",
    progress: bool = True,
) -> ScoreStore:
    """Opens a store, or the store of some score files, compiling them on first use.

    The store of `train.tsv` is `train.tsv.rdscores` beside it, or in the user's cache if that folder can't be
    written. It's used again if the sources' content is the same (up to 64 MiB the whole file decides, beyond that its
    length and 256 samples), none of them was written to after it, the format fits, and no bad rows were skipped against
    `on_bad_row`. Otherwise it's compiled again.

    Args:
        paths: a store, or as for `read_scores`.
        cache_dir: where the store goes instead.
        format: as for `read_scores`.
        on_bad_row: as for `read_scores`.
        progress: show a bar while compiling.

    Raises:
        BadDataError: for a bad row, or if no good row is left.
        BadStoreError: if `paths` is a store that is torn, foreign or of another version.
    """
    names = resolve_paths(paths)
    if len(names) == 1 and _is_store(names[0]):
        return ScoreStore(names[0])
    if "-" in names:
        raise ValueError(
            "expected files, found standard input (-); compile it first: rankdistill scores compile - --output FILE"
        )
    fingerprint = _core.score_fingerprint(names)
    cached = _cache_path(names, fingerprint, None if cache_dir is None else Path(cache_dir))
    store = _usable(cached, names, fingerprint, format, on_bad_row)
    return store or compile_scores(names, cached, format=format, on_bad_row=on_bad_row, progress=progress)


def _is_store(path: str) -> bool:
    """By its name, so that a damaged one is refused as a store, or by its first bytes."""
    if path.endswith(_SUFFIX):
        return True
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _cache_path(names: list[str], fingerprint: str, cache_dir: Path | None) -> Path:
    first = Path(names[0])
    name = first.name + (f".and-{len(names) - 1}-more" if len(names) > 1 else "")
    if cache_dir is None and os.access(first.parent, os.W_OK):
        return first.with_name(name + _SUFFIX)
    folder = cache_dir or cache_folder("scores")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.{fingerprint[:16]}{_SUFFIX}"


def _usable(path: Path, names: list[str], fingerprint: str, format: str, on_bad_row: str) -> ScoreStore | None:
    """The store at `path`, if it is what compiling would give; one of ours that is damaged is compiled again, too."""
    with suppress(FileNotFoundError, BadStoreError):
        store = ScoreStore.open(path, verify=True)
        # A large file's fingerprint can miss an edit in place; the time of the edit gives it away.
        written = path.stat().st_mtime_ns
        same = store.fingerprint == fingerprint and all(os.stat(name).st_mtime_ns <= written for name in names)
        if same and format in ("auto", store.format) and (on_bad_row == "skip" or not store.bad_rows):
            return store
    return None


def run_compile(options: ScoresCompileOptions) -> str:
    """The `rankdistill scores compile` command: compiles, and says what came of it."""
    with locked(options.output):
        store = compile_scores(options.files, options.output, format=options.format, on_bad_row=options.on_bad_row)
    skipped = ", ".join(f"{kind} {count:,}" for kind, count in store.bad_rows.items())
    return (
        f"{options.output}: {store.num_rows:,} rows of {store.num_docs_per_row} docs, {store.num_queries:,} queries, "
        f"{store.num_docs:,} docs, {options.output.stat().st_size / 1e6:,.1f} MB"
        + (f"; skipped rows: {skipped}" if skipped else "")
    )
