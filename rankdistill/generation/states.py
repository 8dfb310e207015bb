"""What a decoder's rows may go on with, and the states of rows that step through a trie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rankdistill import _core
from rankdistill.generation.arrays import buffer, int64

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Allowed", "EntityIds", "OnDeadEnd", "TrieStates"]

OnDeadEnd: TypeAlias = Literal["eos", "pad", "error"]
"""What a row gets whose tokens begin no title: exactly the end token, exactly padding, or an error."""


class Allowed(NamedTuple):
    """Allowed tokens of R rows: row i's are `ids[indptr[i]:indptr[i + 1]]`, ascending and never none.

    Attributes:
        indptr: where each row begins, and the end, [R + 1], int32.
        ids: tokens, int32.
        next_states: the state after each token, int32; what `TrieStates.set` takes. -1 begins no title.
    """

    indptr: NDArray[np.int32]
    ids: NDArray[np.int32]
    next_states: NDArray[np.int32]


class EntityIds(NamedTuple):
    """Entities of R rows: row i's are `ids[indptr[i]:indptr[i + 1]]`, ascending; none where the row is no whole title.

    Attributes:
        indptr: where each row begins, and the end, [R + 1], int64.
        ids: entities, uint32.
    """

    indptr: NDArray[np.int64]
    ids: NDArray[np.uint32]


class TrieStates:
    """The states of a decoder's rows in the trie of one moment; made by `TokenTrie.states`."""

    def __init__(self, core: _core.TrieStates) -> None:
        self._core = core

    def __len__(self) -> int:
        return len(self._core)

    @property
    def values(self) -> NDArray[np.int32]:
        """The state of each row, -1 for one that begins no title; a copy."""
        return self._core.values()

    def set(self, values: ArrayLike) -> None:
        """Puts rows into these states: `next_states` that `allow` gave for these states, or `values`.

        Raises:
            ValueError: for a state that isn't there.
        """
        self._core.set(np.ascontiguousarray(values, np.int32))

    def copy(self) -> TrieStates:
        """The same states, which then go their own way."""
        return TrieStates(self._core.copy())

    def advance(self, tokens: ArrayLike, parents: ArrayLike | None = None) -> None:
        """Reorders and steps in one pass: new row i is old row `parents[i]`, continued by `tokens[i]`.

        Args:
            tokens: the token of each new row.
            parents: the old row of each new one, as many as there are to be; row i itself without it.

        Raises:
            ValueError: for a parent that isn't there, or another number of tokens.
        """
        self._core.advance(int64(tokens, 1), None if parents is None else int64(parents, 1))

    def allow(self, *, on_dead_end: OnDeadEnd = "eos") -> Allowed:
        """What each row may go on with; as `TokenTrie.allow`."""
        return Allowed(*self._core.allow(on_dead_end))

    def fill_bitmask(self, out: NDArray[np.int32] | Tensor, *, on_dead_end: OnDeadEnd = "eos") -> None:
        """As `TokenTrie.fill_bitmask`."""
        self._core.fill_bitmask(buffer(out, np.int32, 2), on_dead_end)

    def fill_csr(
        self,
        indptr: NDArray[np.int32] | Tensor,
        ids: NDArray[np.int32] | Tensor,
        next_states: NDArray[np.int32] | Tensor,
        *,
        on_dead_end: OnDeadEnd = "eos",
    ) -> int:
        """As `TokenTrie.fill_csr`."""
        return self._core.fill_csr(
            buffer(indptr, np.int32, 1), buffer(ids, np.int32, 1), buffer(next_states, np.int32, 1), on_dead_end
        )

    def mask_logits_(self, logits: NDArray[np.float32] | Tensor, *, on_dead_end: OnDeadEnd = "eos") -> None:
        """As `TokenTrie.mask_logits_`."""
        self._core.mask_logits(buffer(logits, np.float32, 2), on_dead_end)

    def entity_ids(self) -> EntityIds:
        """Entities of each row that is a whole title."""
        return EntityIds(*self._core.entity_ids())
