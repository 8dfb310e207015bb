"""Arrays on their way into Rust: the types that it takes, or an error that says what was found."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FlatTokens", "TokenSequences", "buffer", "flatten", "int64", "uint32"]


class FlatTokens(NamedTuple):
    """Token sequences in two arrays.

    Attributes:
        tokens: those of all sequences, end to end.
        lengths: how many each sequence has.
    """

    tokens: NDArray[Any]
    lengths: NDArray[Any]


TokenSequences: TypeAlias = Iterable[Sequence[int]] | FlatTokens
"""Sequences of tokens that end in the end token."""

_T = TypeVar("_T", bound=np.generic)


def uint32(values: ArrayLike, name: str) -> NDArray[np.uint32]:
    """Integers of any type as uint32. Raises ValueError for those that don't fit, by `name`."""
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, np.uint32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"expected {name} in one row of integers, found {array.dtype} of shape {array.shape}")
    if array.dtype != np.uint32 and (array.min() < 0 or array.max() >= 1 << 32):
        raise ValueError(f"expected {name} from 0 to 4,294,967,295, found {array.min()} to {array.max()}")
    return np.ascontiguousarray(array, np.uint32)


def flatten(sequences: TokenSequences) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """All tokens end to end, and the length of each sequence.

    Raises:
        ValueError: for values that aren't tokens, and for a pair of arrays, which may be two sequences, or tokens and lengths.
    """
    if isinstance(sequences, FlatTokens):
        return uint32(sequences.tokens, "tokens"), uint32(sequences.lengths, "lengths")
    if isinstance(sequences, tuple) and len(sequences) == 2 and all(isinstance(part, np.ndarray) for part in sequences):
        raise ValueError(
            "expected a list of token sequences, or FlatTokens(tokens, lengths), found a tuple of two arrays, which may be either"
        )
    rows: list[Any] = list(sequences)
    lengths = np.fromiter(map(len, rows), np.uint32, len(rows))
    tokens = np.fromiter(itertools.chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return uint32(tokens, "tokens"), lengths


def int64(values: ArrayLike, rank: int) -> NDArray[np.int64]:
    """Integers as contiguous int64. Raises ValueError for anything else, or another number of axes."""
    array = np.asarray(values)
    if array.ndim != rank or (array.size and array.dtype.kind not in "iu"):
        expected = "token ids of shape (rows, length)" if rank == 2 else "one row of integers"
        raise ValueError(f"expected {expected}, found {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, np.int64)


def buffer(out: NDArray[_T] | Tensor, dtype: type[_T], rank: int) -> NDArray[_T]:
    """The array itself, or the one that shares a tensor's memory: what is written must arrive."""
    array: Any = out if isinstance(out, np.ndarray) else out.numpy()
    if array.dtype != dtype or array.ndim != rank or not array.flags.c_contiguous or not array.flags.writeable:
        found = f"{array.dtype} of shape {array.shape}, strides {array.strides}"
        kind = f"a contiguous, writeable array (or CPU tensor) of {np.dtype(dtype)}, {rank} axes"
        raise ValueError(f"expected {kind}, found {found}")
    return array  # type: ignore[no-any-return]
