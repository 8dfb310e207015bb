"""The trie of a decoder's constraint: token sequences (titles), each of which names one or more entities.

Costs: 4.1 bytes a node (6.1 above a vocabulary of 65,536) and 4 an entity, on disk and in memory; opening a file reads its
header and 8 bytes for each 64 KiB. A decoding step is one call for all rows, with the GIL released.

A row is never without a continuation. One that has ended goes on with `pad`; one that begins no title (a dead end) gets what
`on_dead_end` says: exactly the end token ("eos"), exactly padding ("pad"), or an error ("error").

A trie can be read by some threads while others add and remove: a call sees the trie of one moment, and so do `states` until
they are dropped.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rankdistill import _core
from rankdistill.data.tokens import titles_fingerprint
from rankdistill.errors import BadStoreError, MissingIdsError
from rankdistill.generation.arrays import TokenSequences, buffer, flatten, int64, uint32
from rankdistill.generation.states import Allowed, EntityIds, OnDeadEnd, TrieStates
from rankdistill.generation.titles import end_token, title_sequences, tokenize_titles

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Allowed", "EntityIds", "OnDeadEnd", "TokenTrie", "TrieStates"]

# Sequences that are looked up at once, padded to the longest: a few MB.
_ROWS = 4096
_HEADER_BYTES = 256

# Held while a trie changes, and while the process forks: a child must not inherit a lock that a thread of its parent holds.
_changing = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_changing.acquire, after_in_parent=_changing.release, after_in_child=_changing.release)


class TokenTrie:
    """A set of token sequences with entities; made by `build`, `from_titles` or `open`. Picklable."""

    def __init__(self, core: _core.TokenTrie) -> None:
        self._core = core

    @classmethod
    def build(
        cls,
        sequences: TokenSequences,
        *,
        vocab_size: int,
        eos: int,
        pad: int | None = None,
        ids: ArrayLike | None = None,
        fingerprint: str = "",
        on_duplicate: Literal["keep", "error"] = "keep",
    ) -> TokenTrie:
        """The trie of these sequences; the same set of (sequence, id) gives the same file, in whatever order.

        Args:
            sequences: each ends in `eos` and holds it nowhere else; the decoder's start token isn't part of them. One may
                begin another but for its end token.
            vocab_size: tokens are below it; rows of bitmasks and logits are at least as wide.
            pad: what a row that has ended goes on with; `eos` without it.
            ids: the entity of each sequence, below 2^32; 0, 1, 2, ... without it. An entity may have several sequences; the
                same pair counts once.
            fingerprint: `titles_fingerprint` of the tokenizer that the tokens are of.
            on_duplicate: a sequence that occurs with several ids keeps them all, or is an error.

        Raises:
            ValueError: for a sequence that can't be, or occurs twice where that is an error.
        """
        tokens, lengths = flatten(sequences)
        core = _core.TokenTrie.build(
            tokens,
            lengths,
            None if ids is None else uint32(ids, "ids"),
            vocab_size=vocab_size,
            eos=eos,
            pad=eos if pad is None else pad,
            fingerprint=fingerprint,
            keep_duplicates=_keeps(on_duplicate),
        )
        return cls(core)

    @classmethod
    def from_titles(
        cls,
        titles: Iterable[str],
        tokenizer: Any,
        *,
        ids: ArrayLike | None = None,
        eos: int | None = None,
        pad: int | None = None,
        vocab_size: int | None = None,
        max_length: int | None = None,
        on_duplicate: Literal["keep", "error"] = "keep",
        source: str | None = None,
        progress: bool = True,
    ) -> TokenTrie:
        """The trie of these titles, tokenised without special tokens and ended with the end token.

        Titles that are the same tokens (an uncased tokenizer doesn't tell "Apple" from "apple") share a sequence, which keeps
        all their ids: `num_entities - num_sequences` says how many do.

        Args:
            titles: as the model is to write them.
            tokenizer: a fast tokenizer of transformers (or a `tokenizers.Tokenizer`, with `eos`). The file carries its name.
            ids: the entity of each title; 0, 1, 2, ... without it.
            eos: the end token; without it the tokenizer's, or its separator where it has none (BERT).
            pad: what follows the end token; without it the tokenizer's padding, or `eos`.
            vocab_size: the model's, if it's more than the tokenizer's.
            max_length: tokens that the model can write, the end token included.
            source: the file that the titles stand in, one a line, for messages.

        Raises:
            ValueError: if the tokenizer isn't a fast one, or as for `build`.
            BadDataError: for a title that is empty, holds the end token, or is longer than `max_length`.
        """
        eos = end_token(tokenizer) if eos is None else eos
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        sequences = tokenize_titles(titles, tokenizer, eos=eos, max_length=max_length, source=source, progress=progress)
        return cls.build(
            sequences,
            vocab_size=max(backend.get_vocab().values()) + 1 if vocab_size is None else vocab_size,
            eos=eos,
            pad=getattr(tokenizer, "pad_token_id", None) if pad is None else pad,
            ids=ids,
            fingerprint=titles_fingerprint(tokenizer),
            on_duplicate=on_duplicate,
        )

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, tokenizer: Any = None, verify: bool = False) -> TokenTrie:
        """Maps a file; each 64 KiB of it is compared with its checksum before its first use.

        Args:
            tokenizer: the tokenizer that the trie must have been built for.
            verify: compare all of it at once, and check that it is a trie.

        Raises:
            FileNotFoundError: if there's no such file.
            BadStoreError: if the file is torn, foreign, of another version or of another tokenizer; later, at the first use of
                a part that was changed.
        """
        trie = cls(_core.TokenTrie.open(path))
        if tokenizer is not None:
            trie.check_tokenizer(tokenizer)
        if verify:
            trie.verify()
        return trie

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, changes included; it gets its name when it's whole and on the disk.

        Raises:
            OSError: if the disk refuses.
        """
        self._core.save(path)

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Makes sure that the trie is of this tokenizer's tokens.

        Raises:
            BadStoreError: if it's of another's, or it isn't known of which.
        """
        if (wanted := titles_fingerprint(tokenizer)) != self.tokenizer_fingerprint:
            found = self.tokenizer_fingerprint or "one whose tokenizer isn't known"
            remedy = 'build it again for this one with "rankdistill trie build"'
            raise BadStoreError(
                f"a trie built for tokenizer {wanted}", found, remedy, None if self.path is None else str(self.path)
            )

    def verify(self) -> None:
        """Compares the whole file with its checksums, and checks that it is a trie.

        Raises:
            BadStoreError: if it isn't.
        """
        self._core.verify()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._core.path is None or self._core.is_changed:
            return _from_bytes, (self._core.to_bytes(),)
        return _reopen, (str(self._core.path), _header(self._core.path))

    def __repr__(self) -> str:
        return f"TokenTrie({self.num_entities:,} entities, {self.num_nodes:,} nodes, vocab_size={self.vocab_size:,})"

    @property
    def path(self) -> Path | None:
        """The file, if the trie was opened from one and not compacted since."""
        return self._core.path

    @property
    def num_entities(self) -> int:
        """Pairs of a sequence and an entity."""
        return self._core.num_entities

    @property
    def num_sequences(self) -> int:
        """Distinct sequences."""
        return self._core.num_sequences

    @property
    def num_nodes(self) -> int:
        """Nodes held; those of removed sequences count until `compact`."""
        return self._core.num_nodes

    @property
    def max_depth(self) -> int:
        """Tokens of the longest sequence, the end token included; removals lower it at `compact`."""
        return self._core.max_depth

    @property
    def vocab_size(self) -> int:
        """V; tokens are below it."""
        return self._core.vocab_size

    @property
    def eos(self) -> int:
        """The end token."""
        return self._core.eos

    @property
    def pad(self) -> int:
        """What a row that has ended goes on with."""
        return self._core.pad

    @property
    def tokenizer_fingerprint(self) -> str:
        """32 hex characters that name the tokenizer; empty if the trie was built from tokens alone."""
        return self._core.fingerprint

    def allow(self, input_ids: ArrayLike, start: int = 1, *, on_dead_end: OnDeadEnd = "eos") -> Allowed:
        """What each row may go on with, found by walking its tokens from the root.

        Args:
            input_ids: tokens of R rows, [R, L]; a token that no title has is allowed, and leads to a dead end.
            start: tokens in front that aren't the title's: the decoder's start token, or a prompt.

        Raises:
            ValueError: if rows are shorter than `start`, or at a dead end that is an error.
        """
        return Allowed(*self._core.allow(int64(input_ids, 2), start, on_dead_end))

    def fill_bitmask(
        self,
        input_ids: ArrayLike,
        out: NDArray[np.int32] | Tensor,
        start: int = 1,
        *,
        on_dead_end: OnDeadEnd = "eos",
    ) -> None:
        """Writes what each row may go on with as bits, 1 is allowed; the layout of xgrammar and llguidance.

        Args:
            input_ids: as for `allow`.
            out: int32 on the CPU, [R, W] with W >= V / 32: token t is bit t % 32 of word t // 32.

        Raises:
            ValueError: as `allow`, and for another shape of `out`.
        """
        self._core.fill_bitmask(int64(input_ids, 2), buffer(out, np.int32, 2), start, on_dead_end)

    def fill_csr(
        self,
        input_ids: ArrayLike,
        indptr: NDArray[np.int32] | Tensor,
        ids: NDArray[np.int32] | Tensor,
        next_states: NDArray[np.int32] | Tensor,
        start: int = 1,
        *,
        on_dead_end: OnDeadEnd = "eos",
    ) -> int:
        """`allow` into buffers of the caller (pinned memory, say), of which it returns how many tokens were written.

        Args:
            input_ids: as for `allow`.
            indptr: int32 on the CPU, [R + 1].
            ids, next_states: int32 on the CPU, with room for all tokens.

        Raises:
            ValueError: as `allow`, and for buffers without room.
        """
        return self._core.fill_csr(
            int64(input_ids, 2),
            buffer(indptr, np.int32, 1),
            buffer(ids, np.int32, 1),
            buffer(next_states, np.int32, 1),
            start,
            on_dead_end,
        )

    def mask_logits_(
        self,
        input_ids: ArrayLike,
        logits: NDArray[np.float32] | Tensor,
        start: int = 1,
        *,
        on_dead_end: OnDeadEnd = "eos",
    ) -> None:
        """Writes minus infinity over the logits of all tokens that aren't allowed; the others stay as they are.

        Args:
            input_ids: as for `allow`.
            logits: float32 on the CPU, [R, V] or wider.

        Raises:
            ValueError: as `allow`, and for another shape of `logits`.
        """
        self._core.mask_logits(int64(input_ids, 2), buffer(logits, np.float32, 2), start, on_dead_end)

    def states(self, num_rows: int) -> TrieStates:
        """States of rows before their first token, for a decoder that steps instead of walking again."""
        return TrieStates(self._core.states(num_rows))

    def entity_ids(self, input_ids: ArrayLike, start: int = 1) -> EntityIds:
        """Entities of each row that is a whole title, padded or not: what `generate` returned to ids.

        Args:
            input_ids: as for `allow`.
        """
        return EntityIds(*self._core.entity_ids(int64(input_ids, 2), start))

    def ids_of(self, sequence: Sequence[int]) -> NDArray[np.uint32]:
        """Entities of one whole sequence, ascending; none if it isn't in the trie."""
        return self.entity_ids(np.array([sequence], np.int64), start=0).ids

    def contains(self, sequence: Sequence[int]) -> bool:
        """Whether this whole sequence, the end token included, is in the trie."""
        return len(self.ids_of(sequence)) > 0

    __contains__ = contains

    def ids_of_titles(self, titles: Iterable[str], tokenizer: Any) -> EntityIds:
        """Entities of each title; none for one that isn't in the trie."""
        return self._ids_of_all(title_sequences(titles, tokenizer, self.eos))

    def _ids_of_all(self, sequences: Sequence[Sequence[int]]) -> EntityIds:
        indptr, ids, end = [np.zeros(1, np.int64)], [np.zeros(0, np.uint32)], 0
        for at in range(0, len(sequences), _ROWS):
            block = sequences[at : at + _ROWS]
            rows = np.full((len(block), max(1, *map(len, block))), self.pad, np.int64)
            for row, sequence in zip(rows, block, strict=True):
                # An empty one is looked up as a token that no trie has.
                row[: len(sequence) or 1] = sequence or -1
            found = self.entity_ids(rows, start=0)
            indptr.append(found.indptr[1:] + end)
            ids.append(found.ids)
            end += len(found.ids)
        return EntityIds(np.concatenate(indptr), np.concatenate(ids))

    def sequences(
        self, prefix: Sequence[int] = (), limit: int | None = None, *, ids: Iterable[int] | None = None
    ) -> list[tuple[list[int], list[int]]]:
        """The first sequences that begin so, each with its entities, in the order of their tokens.

        Args:
            ids: only sequences that name one of these entities, and of their entities only these; reads all of the trie that
                begins so.
        """
        only = None if ids is None else list(ids)
        return self._core.sequences(list(prefix), 2**63 - 1 if limit is None else limit, only)

    def intersection(self, sequences: Iterable[Sequence[int]]) -> TokenTrie:
        """The trie of those sequences that are in this one, with their entities; it doesn't change when this one does."""
        distinct = list(dict.fromkeys(map(tuple, sequences)))
        indptr, ids = self._ids_of_all(distinct)
        return self._like(
            [tokens for tokens, count in zip(distinct, np.diff(indptr), strict=True) for _ in range(count)], ids
        )

    def subset(
        self,
        titles: Sequence[str] | None = None,
        tokenizer: Any = None,
        *,
        ids: Sequence[int] | None = None,
        on_unknown: Literal["error", "skip"] = "error",
    ) -> TokenTrie:
        """The small trie of some of this one's titles, with their entities: an allow-list. It doesn't change when this one does.

        Args:
            titles: those to keep, with a `tokenizer`. Or `ids`: keep all names of these entities; that reads the whole trie
                (about 0.1 s for a million nodes), so keep the result.
            on_unknown: whether a title or an id that isn't in the trie is an error, or left out.

        Raises:
            ValueError: unless either titles with their tokenizer, or ids, are given.
            MissingIdsError: for what isn't in the trie, where that is an error.
            BadStoreError: if the trie is of another tokenizer.
        """
        if (titles is None) == (ids is None) or (titles is None) != (tokenizer is None):
            raise ValueError("expected either titles with their tokenizer, or ids")
        if titles is not None:
            self.check_tokenizer(tokenizer)
            sequences = title_sequences(titles, tokenizer, self.eos)
            absent = np.flatnonzero(np.diff(self._ids_of_all(sequences).indptr) == 0).tolist()
            found, wanted, what = self.intersection(sequences), list(titles), "titles of the trie"
        else:
            entries, wanted, what = self.sequences(ids=ids), list(map(str, ids or ())), "ids of the trie"
            there = {id_ for _, own in entries for id_ in own}
            absent = [at for at, id_ in enumerate(ids or ()) if id_ not in there]
            found = self._like(
                [tokens for tokens, own in entries for _ in own], [id_ for _, own in entries for id_ in own]
            )
        if absent and on_unknown == "error":
            raise MissingIdsError.among(wanted, absent, what, 'add them, or pass on_unknown="skip" to leave them out')
        return found

    def _like(self, sequences: Sequence[Sequence[int]], ids: ArrayLike) -> TokenTrie:
        return TokenTrie.build(
            sequences,
            ids=ids,
            vocab_size=self.vocab_size,
            eos=self.eos,
            pad=self.pad,
            fingerprint=self.tokenizer_fingerprint,
        )

    def add_titles(self, titles: Sequence[str], tokenizer: Any, ids: ArrayLike) -> int:
        """Adds names, so that a model may write them from its next search on; returns how many weren't there.

        Args:
            titles: names as the model is to write them; several of one entity are its aliases.
            tokenizer: the one that the trie was built for.
            ids: the entity of each name, a new one or one of the trie.

        Raises:
            BadDataError: for a name that is empty or holds the end token; then none is added.
            BadStoreError: if the trie is of another tokenizer.
            ValueError: if there aren't as many ids as names.
        """
        self.check_tokenizer(tokenizer)
        return self.add(tokenize_titles(titles, tokenizer, eos=self.eos, progress=False), ids)

    def remove_titles(self, titles: Sequence[str], tokenizer: Any, ids: ArrayLike | None = None) -> int:
        """Removes names, of all entities or of the given one each; returns how many.

        Raises:
            ValueError: if one isn't there; then none is removed. Otherwise as `add_titles`.
        """
        self.check_tokenizer(tokenizer)
        return self.remove(tokenize_titles(titles, tokenizer, eos=self.eos, progress=False), ids)

    def add(self, sequences: TokenSequences, ids: ArrayLike) -> int:
        """Adds entities, for all readers at once; returns how many weren't there.

        Cost: what was changed since `compact`, plus what is added; so add many in one call. States that were made before don't
        see them.

        Args:
            sequences: as for `build`.
            ids: the entity of each.

        Raises:
            ValueError: for a sequence that can't be; then none is added.
        """
        arrays, entities = flatten(sequences), uint32(ids, "ids")
        with _changing:
            return self._core.add(*arrays, entities)

    def remove(self, sequences: TokenSequences, ids: ArrayLike | None = None) -> int:
        """Removes entities from their sequences, or all entities of the sequences; returns how many.

        Args:
            ids: the entity of each sequence; all of them without it.

        Raises:
            ValueError: if one isn't there; then none is removed.
        """
        arrays, entities = flatten(sequences), None if ids is None else uint32(ids, "ids")
        with _changing:
            return self._core.remove(*arrays, entities)

    def compact(self) -> None:
        """Builds the trie anew (a second for a million titles), so that additions cost no more than the rest; readers go on."""
        with _changing:
            self._core.compact()


def _header(path: Path) -> bytes:
    """A file's first bytes: they hold the checksum of all checksums, so they differ for another content."""
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)


def _reopen(path: str, header: bytes) -> TokenTrie:
    """What a pickled trie of a file becomes.

    Raises:
        BadStoreError: if the file has been replaced meanwhile.
    """
    trie = TokenTrie.open(path)
    if _header(Path(path)) != header:
        expected, found = "the trie that was pickled", "another one in its file"
        raise BadStoreError(expected, found, "pickle it again, or put the file back", path)
    return trie


def _from_bytes(content: bytes) -> TokenTrie:
    return TokenTrie(_core.TokenTrie.from_bytes(content))


def _keeps(on_duplicate: str) -> bool:
    if on_duplicate not in ("keep", "error"):
        raise ValueError(f"expected on_duplicate of keep or error, found {on_duplicate!r}")
    return on_duplicate == "keep"
