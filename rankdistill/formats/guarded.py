"""What a model's or an index's folder holds, read so that a broken file is an error that names it, whichever library reads it.

Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rankdistill.errors import BadDataError, RankDistillError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "check_json",
    "check_offsets",
    "check_range",
    "read_array",
    "read_json",
    "read_lines",
    "read_tensors",
    "reading",
]

_REMEDY = "copy or make the folder again, whole"
_CONFIGS = (
    "adapter_config.json",
    "added_tokens.json",
    "config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "modules.json",
    "rankdistill.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
"""JSON files that transformers, sentence-transformers or this package read in a model's folder."""
_NOUNS = {dict: "a JSON object", list: "a JSON list"}


def read_json(path: Path, kind: type[dict[Any, Any]] | type[list[Any]] = dict) -> Any:
    """What a JSON file holds.

    Raises:
        BadDataError: for anything but JSON of this kind, in UTF-8; with the file, and the line where it ends to be JSON.
    """
    try:
        value = json.loads(path.read_bytes().decode())
    except json.JSONDecodeError as error:
        raise BadDataError(_NOUNS[kind], error.msg, _REMEDY, os.fspath(path), error.lineno) from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:  # ValueError: an integer of too many digits
        raise BadDataError(_NOUNS[kind], str(error), _REMEDY, os.fspath(path)) from error
    if not isinstance(value, kind):
        raise BadDataError(_NOUNS[kind], f"{type(value).__name__} {str(value)[:60]!r}", _REMEDY, os.fspath(path))
    return value


def check_json(folder: Path) -> None:
    """Reads the JSON configs of a model's folder once, which tells more than the libraries that read them next.

    Other JSON files aren't read: nothing depends on them, and they may hold anything.

    Raises:
        BadDataError: as in `read_json`.
    """
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        if path.name in _CONFIGS:
            read_json(path, list if path.name == "modules.json" else dict)


def read_lines(path: Path) -> list[str]:
    """Lines of a text file that ends with a line's end; UTF-8.

    Raises:
        BadDataError: for other encodings, or a last line that is cut off.
    """
    try:
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BadDataError("text in UTF-8", str(error), _REMEDY, os.fspath(path)) from error
    if rest:
        raise BadDataError("a line's end after the last line", repr(rest[:60]), _REMEDY, os.fspath(path))
    return lines


def read_array(path: Path, mmap_mode: Literal["r", "r+"] | None = "r") -> NDArray[Any]:
    """The array of numbers in a `.npy` file, memory-mapped unless `mmap_mode` is None.

    Raises:
        BadDataError: for anything else, or a file that is cut off.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # of the parser of numpy's header: SyntaxError, TokenError, …
        raise BadDataError(
            "an array in a .npy file", f"{type(error).__name__}: {error}", _REMEDY, os.fspath(path)
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        found = str(getattr(array, "dtype", type(array).__name__))
        raise BadDataError("an array of numbers in a .npy file", found, _REMEDY, os.fspath(path))
    return array


def check_offsets(offsets: NDArray[Any], total: int, path: Path) -> None:
    """Checks that offsets begin at 0, never fall, and end at `total`, the length of what they are offsets into.

    Raises:
        BadDataError: if they don't.
    """
    is_whole = offsets.ndim == 1 and len(offsets) > 0 and offsets.dtype.kind in "iu"
    if not is_whole or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        expected = f"offsets that rise from 0 to {total:,}"
        raise BadDataError(expected, "others", _REMEDY, os.fspath(path))


def check_range(values: NDArray[Any], stop: int, path: Path) -> None:
    """Checks that all values are whole numbers from 0 and below `stop`.

    Raises:
        BadDataError: if they aren't.
    """
    if (
        values.ndim != 1
        or values.dtype.kind not in "iu"
        or (values.size and not 0 <= values.min() <= values.max() < stop)
    ):
        raise BadDataError(f"whole numbers from 0 and below {stop:,}", "others", _REMEDY, os.fspath(path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a `.safetensors` file, by their names.

    Raises:
        BadDataError: for anything else, or a file that is cut off.
    """
    from safetensors.torch import load_file

    with reading(path, "tensors in a .safetensors file"):
        tensors: dict[str, Tensor] = load_file(path)
    return tensors


@contextmanager
def reading(path: str | os.PathLike[str], what: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Around what reads a file or folder: whatever a library raises there becomes a BadDataError that names it.

    A library's own error for a broken file may be any (tokenizers and safetensors raise bare exceptions, configs KeyErrors, weights
    of another shape RuntimeErrors), so none is listed. Its cause is kept: RANKDISTILL_TRACEBACK=1 shows it.

    Args:
        what: should be there.
        passing: errors that are about something else, arguments say, beside our own, those of missing files and of memory.

    Raises:
        BadDataError: for any other exception.
    """
    others: tuple[type[Exception], ...] = (RankDistillError, FileNotFoundError, PermissionError, MemoryError, *passing)
    try:
        yield
    except others:
        raise
    except Exception as error:
        if "out of memory" in str(error):  # of a GPU; torch has a class for it, which would have to be imported
            raise
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise BadDataError(what, f"{type(error).__name__}: {first}", _REMEDY, os.fspath(path)) from error
