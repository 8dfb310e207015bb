"""Folders of what a model makes of a collection's documents: filled shard by shard, resumed after an interruption, checked.

A folder holds `ids.txt` (one doc_id a line), `manifest.json` (what it was made from, and which shards are done), and the files
of its writer. A shard counts as done only after its data are on disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.errors import BadDataError, BadStoreError
from rankdistill.formats.guarded import read_array, read_json, read_lines
from rankdistill.formats.writing import is_marked, locked, mark, replacing_folder, save_json, save_text

if TYPE_CHECKING:
    from rankdistill.formats.collection import Collection

__all__ = [
    "FORMATS",
    "SPARSE",
    "STATES",
    "VECTORS",
    "RaggedWriter",
    "Writer",
    "check_parts",
    "fill_folder",
    "hash_texts",
    "index_facts",
    "load_arrays",
    "open_folder",
    "read_manifest",
    "read_ragged",
    "save_arrays",
    "save_index",
]


VECTORS, STATES, SPARSE = FORMATS = tuple(f"rankdistill-{kind}/1" for kind in ("vectors", "states", "sparse"))

# What a manifest means that was written before it stated these.
_BEFORE = {"similarity": "dot"}
# Of an index, beside its arrays.
_PARTS = ("index.json", "ids.txt", "index.faiss")
# Texts whose items are held at a time: states of 4,000 x 200 tokens x 128 floats are 400 MB.
_PIECE = 4000


class Writer(Protocol):
    """Writes the data of a folder.

    Attributes:
        names: of its files.
    """

    @property
    def names(self) -> Sequence[str]: ...

    def begin(self, num_done: int) -> None:
        """Prepares the files, or finds them as they were after the first `num_done` texts."""
        ...

    def write(self, start: int, texts: Sequence[str]) -> None:
        """Writes what becomes of texts; the first is that of row `start`. They are on disk when it returns."""
        ...


def fill_folder(
    folder: Path,
    job: Mapping[str, Any],
    collection: Collection,
    writer: Writer,
    *,
    shard_size: int,
    progress: bool = True,
) -> None:
    """Writes all documents' data; called again after an interruption, it does only what is missing.

    Args:
        job: goes into the manifest; `format` names the folder's format, the rest is what must be the same on going on.
        shard_size: documents between two points from which an interrupted run can go on.

    Raises:
        BadStoreError: if the folder holds another job's data, or files of the same names that aren't ours.
        InUseError: if another process is filling it.
    """
    with locked(folder):
        _fill(folder, job, collection, writer, shard_size, progress)


def _fill(
    folder: Path, job: Mapping[str, Any], collection: Collection, writer: Writer, shard_size: int, progress: bool
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    doc_ids = list(collection.doc_ids)
    wanted = {
        "format": job["format"],
        "model": job["model"],
        "doc_ids": hash_texts(doc_ids),
        "num_docs": len(doc_ids),
        **{key: value for key, value in job.items() if key not in ("format", "model")},
        "shard_size": shard_size,
    }
    path = folder / "manifest.json"
    done: dict[str, str] = {}
    if path.is_file():
        done = _resume(path, wanted)
    else:
        foreign = next((name for name in ("ids.txt", *writer.names) if os.path.lexists(folder / name)), None)
        if foreign is not None:
            expected, remedy = f"none of our files without {path.name}", "encode into another folder, or move it away"
            raise BadStoreError(expected, foreign, remedy, str(folder))
        # Before the other files: it says that they are ours.
        save_json(path, {**wanted, "shards": done}, indent=1)
    if not (folder / "ids.txt").is_file():
        save_text(folder / "ids.txt", "".join(f"{doc_id}\n" for doc_id in doc_ids))
    writer.begin(min(len(done) * shard_size, len(doc_ids)))
    texts = (text for _, text in collection.docs())
    with tqdm(total=len(doc_ids), desc="encode document", unit="text", disable=not progress) as bar:
        for shard, start in enumerate(range(0, len(doc_ids), shard_size)):
            shard_texts = list(islice(texts, shard_size))
            text_hash = hash_texts(shard_texts)
            known = done.get(str(shard))
            if known is None:
                writer.write(start, shard_texts)  # the data first, then the word that they are there
                done[str(shard)] = text_hash
                save_json(path, {**wanted, "shards": done}, indent=1)
            elif known != text_hash:
                expected = f"the texts that shard {shard} was made from"
                raise BadStoreError(expected, "other texts of the same ids", _remedy(folder), str(path))
            bar.update(len(shard_texts))


def open_folder(folder: Path, format: str) -> tuple[dict[str, Any], list[str]]:
    """The manifest and the doc_ids of a finished folder of this format.

    Raises:
        BadStoreError: if it isn't one, isn't finished, or its ids are others.
    """
    manifest = read_manifest(folder / "manifest.json", format)
    num_shards = -(-manifest["num_docs"] // manifest["shard_size"])
    if len(manifest["shards"]) != num_shards:
        found = f"{len(manifest['shards'])} of {num_shards} shards"
        raise BadStoreError("finished vectors", found, "run the same `rankdistill encode` again to go on", str(folder))
    doc_ids = read_lines(folder / "ids.txt")
    if len(doc_ids) != manifest["num_docs"] or hash_texts(doc_ids) != manifest["doc_ids"]:
        raise BadStoreError("the vectors and ids of the manifest", "others", _remedy(folder), str(folder))
    return manifest, doc_ids


Columns = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name, type and shape of an item of each column."""


class RaggedWriter:
    """Appends rows of differing numbers of items to flat files: `lengths.bin` (int32), and one file a column."""

    def __init__(
        self,
        folder: Path,
        columns: Columns,
        encode: Callable[[Sequence[str]], tuple[NDArray[Any], Mapping[str, NDArray[Any]]]],
    ) -> None:
        """Makes a writer.

        Args:
            folder: where the files are.
            columns: what they hold.
            encode: from texts to their lengths, and their items one after the other in each column.
        """
        self._folder, self._columns, self._encode = folder, columns, encode
        self.names = [f"{name}.bin" for name in ("lengths", *columns)]

    def begin(self, num_done: int) -> None:
        """Cuts the files after the first `num_done` rows, which drops what an interrupted shard left.

        Raises:
            BadStoreError: if they are shorter than that.
        """
        lengths_path = self._folder / "lengths.bin"
        there = num_done and lengths_path.is_file()
        lengths = np.fromfile(lengths_path, "<i4", num_done) if there else np.zeros(0, np.int32)
        sizes = {lengths_path: (4 * num_done, 4 * len(lengths))}
        num_items = int(lengths.sum(dtype=np.int64))
        for name, (dtype, shape) in self._columns.items():
            path = self._folder / f"{name}.bin"
            wanted = num_items * np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
            sizes[path] = (wanted, path.stat().st_size if path.is_file() else 0)
        for path, (wanted, found) in sizes.items():
            if found < wanted:
                raise BadStoreError(f"{wanted:,} bytes", f"{found:,}", _remedy(self._folder), str(path))
            with path.open("ab") as file:
                file.truncate(wanted)

    def write(self, start: int, texts: Sequence[str]) -> None:
        """Appends the rows of `texts`."""
        with ExitStack() as stack:
            names = (*self._columns, "lengths")
            files = {name: stack.enter_context((self._folder / f"{name}.bin").open("ab")) for name in names}
            for at in range(0, len(texts), _PIECE):
                lengths, columns = self._encode(texts[at : at + _PIECE])
                for name, array in {**columns, "lengths": lengths}.items():
                    dtype = "<i4" if name == "lengths" else self._columns[name][0]
                    files[name].write(np.ascontiguousarray(array, dtype=dtype).tobytes())
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())


def read_ragged(folder: Path, num_rows: int, columns: Columns) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """Reads what `RaggedWriter` wrote.

    Returns:
        Offsets [num_rows + 1] of the rows' items, and each column, memory-mapped.

    Raises:
        BadStoreError: if a file hasn't the size that it should have.
    """
    lengths = np.fromfile(folder / "lengths.bin", "<i4")
    if len(lengths) != num_rows or (lengths < 0).any():
        raise BadStoreError(f"the lengths of {num_rows:,} rows", f"{len(lengths):,}", _remedy(folder), str(folder))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    found: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in columns.items():
        path = folder / f"{name}.bin"
        whole = (int(offsets[-1]), *shape)
        wanted = int(np.prod(whole, dtype=np.int64)) * np.dtype(dtype).itemsize
        if path.stat().st_size != wanted:
            raise BadStoreError(f"{wanted:,} bytes", f"{path.stat().st_size:,}", _remedy(folder), str(path))
        found[name] = np.memmap(path, dtype, "r", shape=whole) if wanted else np.zeros(whole, dtype)
    return offsets, found


def save_arrays(
    folder: str | os.PathLike[str],
    format: str,
    doc_ids: Sequence[str],
    arrays: Mapping[str, NDArray[Any]],
    model: str | None = None,
) -> None:
    """Writes an index that is a number of arrays: `NAME.npy` of each, ids.txt, and index.json, which says what there is."""

    def write(path: Path) -> None:
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)

    shapes = {name: array.shape for name, array in arrays.items()}
    save_index(folder, write, doc_ids, {"format": format, "model": model, "shapes": shapes})


def save_index(
    folder: str | os.PathLike[str], write: Callable[[Path], None], doc_ids: Sequence[str], facts: Mapping[str, Any]
) -> None:
    """Writes an index aside and gives the folder its name: the parts that `write` writes, ids.txt, and index.json.

    Args:
        facts: what index.json is to say, besides the number of documents and the bytes of each part.

    Raises:
        FileExistsError: if the folder holds files of such names that no index of ours is made of.
        InUseError: if another process writes there.
    """
    with locked(folder):
        _claim_index(Path(folder))
        with replacing_folder(folder, last="index.json") as path:
            write(path)
            save_text(path / "ids.txt", "".join(f"{doc_id}\n" for doc_id in doc_ids))
            sizes = {part.name: part.stat().st_size for part in sorted(path.iterdir())}
            save_json(path / "index.json", {**facts, "num_docs": len(doc_ids), "bytes": sizes})
            mark(path, "index")


def _claim_index(folder: Path) -> None:
    """Makes sure that what an index will replace is an index of ours."""
    if is_marked(folder, "index"):
        return
    with suppress(ValueError, AttributeError):  # an index.json of somebody else's
        if str(index_facts(folder).get("format")).startswith("rankdistill-"):
            mark(folder, "index")  # one of before there were marks
            return
    foreign = [path.name for path in (*folder.glob("*.npy"), *(folder / name for name in _PARTS)) if path.exists()]
    if foreign:
        expected = "an index of ours, or a folder without files of such names"
        raise FileExistsError(f"{folder}: expected {expected}, found {foreign[0]}; choose another --output")


def check_parts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Compares the parts of an index with what index.json says of them.

    Raises:
        BadStoreError: if one is missing, or of another size.
    """
    for name, wanted in facts.get("bytes", {}).items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != wanted:
            shown = "no such file" if found is None else f"{found:,}"
            raise BadStoreError(f"{wanted:,} bytes, as index.json says", shown, "build the index again", str(path))


def load_arrays(folder: str | os.PathLike[str], format: str) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """Reads what `save_arrays` wrote: ids, and the arrays, memory-mapped.

    Raises:
        BadStoreError: if the folder isn't such an index, or its parts don't belong together.
    """
    path = Path(folder)
    stated = index_facts(path)
    if stated.get("format") != format:
        remedy = "make one with `rankdistill index`"
        raise BadStoreError(f"an index of format {format}", str(stated.get("format")), remedy, str(path))
    check_parts(path, stated)
    arrays: dict[str, Any] = {name: read_array(path / f"{name}.npy") for name in stated["shapes"]}
    doc_ids = read_lines(path / "ids.txt")
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if shapes != stated["shapes"] or stated["num_docs"] != len(doc_ids):
        found = f"{shapes} of {len(doc_ids)}"
        raise BadStoreError(
            f"arrays {stated['shapes']} of {stated['num_docs']} docs", found, "build it again", str(path)
        )
    return doc_ids, arrays


def index_facts(folder: Path) -> dict[str, Any]:
    """What index.json says; {} where there is none."""
    path = folder / "index.json"
    facts: dict[str, Any] = read_json(path) if path.is_file() else {}
    return facts


def _resume(path: Path, wanted: Mapping[str, Any]) -> dict[str, str]:
    """The finished shards of an interrupted run; BadStoreError unless it was the same job."""
    manifest = read_manifest(path, wanted["format"])
    for name, value in wanted.items():
        if manifest.get(name, _BEFORE.get(name)) != value:
            expected, found = f"vectors of {name} {value}", f"{manifest.get(name, _BEFORE.get(name))}"
            raise BadStoreError(expected, found, _remedy(path.parent), str(path))
    shards: dict[str, str] = manifest["shards"]
    return shards


def read_manifest(path: Path, format: str | None = None) -> dict[str, Any]:
    """A manifest of `format`, or of any of our formats.

    Raises:
        BadStoreError: if there's none, or it's something else.
    """
    known = (format,) if format else FORMATS
    if not path.is_file():
        remedy = "make one with `rankdistill encode`"
        raise BadStoreError("a folder of vectors", f"no {path.name}", remedy, str(path.parent))
    try:
        manifest: dict[str, Any] = read_json(path)
        found = manifest.get("format", "something else")
    except BadDataError:
        found = "something else"
    else:
        kinds = {"num_docs": int, "shard_size": int, "shards": dict, "doc_ids": str}
        if any(not isinstance(manifest.get(name), kind) for name, kind in kinds.items()) or manifest["shard_size"] < 1:
            found = "something else"
    if found not in known:
        raise BadStoreError(f"a manifest of format {' or '.join(known)}", str(found), _remedy(path.parent), str(path))
    return manifest


def _remedy(folder: Path) -> str:
    return f"encode into another folder, or delete {folder} first"


def hash_texts(texts: Sequence[str]) -> str:
    """32 hex characters that change when a text does."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        # The length keeps ["ab", "c"] and ["a", "bc"] apart.
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
