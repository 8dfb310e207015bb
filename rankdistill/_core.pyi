"""The Rust extension: score files and stores, token stores, tries, the linking automaton, seekable shuffling."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, SupportsIndex, final, overload

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DEBUG_BUILD",
    "MAX_SCORE",
    "IdTable",
    "LinkAutomaton",
    "ScoreBlock",
    "ScoreFileWriter",
    "ScoreMerge",
    "ScoreReader",
    "ScoreStore",
    "ScoreStoreWriter",
    "TokenStore",
    "TokenTrie",
    "TokenWriter",
    "TrieStates",
    "__version__",
    "permuted_positions",
    "score_fingerprint",
]

__version__: str
DEBUG_BUILD: bool
MAX_SCORE: float

@final
class IdTable:
    """Distinct ids in order, found by row and by id; about 15 to 20 bytes an id besides its own characters."""

    def __new__(cls) -> IdTable: ...
    def extend(self, ids: Sequence[str]) -> int | None:
        """Appends `ids`, or stops at the first that is there already and returns its position in `ids`."""

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each id, -1 where it isn't there."""

    def parts(self) -> tuple[bytes, NDArray[np.uint64]]:
        """All ids end to end in UTF-8, and where each ends: what `from_parts` takes."""

    @staticmethod
    def from_parts(ids: bytes, ends: NDArray[np.uint64]) -> IdTable:
        """The table that gave these `parts`. Raises BadStoreError if they don't fit together."""

    def __len__(self) -> int: ...
    def __contains__(self, id: object, /) -> bool: ...
    @overload
    def __getitem__(self, index: SupportsIndex, /) -> str: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[str]: ...

@final
class LinkAutomaton:
    """What `rankdistill.generation.link_automaton.LinkAutomaton` wraps."""

    def __new__(
        cls,
        tokens: NDArray[np.uint32],
        lengths: NDArray[np.uint32],
        spans: NDArray[np.int32],
        *,
        entities: TokenTrie,
        sets: Sequence[TokenTrie],
        marks: tuple[int, int, int, int],
    ) -> LinkAutomaton: ...
    def __len__(self) -> int: ...
    def allow(
        self, texts: NDArray[np.int64], states: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]: ...
    def advance(
        self, texts: NDArray[np.int64], states: NDArray[np.int32], tokens: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]: ...
    def forced(
        self, texts: NDArray[np.int64], states: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]: ...
    def ahead(
        self, texts: NDArray[np.int64], states: NDArray[np.int32], room: NDArray[np.int64], max_copies: int
    ) -> tuple[
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int64],
        NDArray[np.int32],
        tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]],
    ]: ...
    def ids(self, text: int, state: Sequence[int]) -> list[int]: ...
    def walk(self, text: int, tokens: NDArray[np.int64]) -> NDArray[np.int32]: ...

@final
class TokenStore:
    """Token ids of many texts in one memory-mapped file. Picklable: a worker maps the file again.

    Args:
        path: a file that `rankdistill.data.tokens.build_tokens` wrote.
        verify: read the file once and compare its checksum.

    Raises:
        BadStoreError: if the file is torn, changed, foreign or of another version.
    """

    def __new__(cls, path: str | PathLike[str], *, verify: bool = True) -> TokenStore: ...
    def __reduce__(self) -> tuple[Any, ...]: ...
    def __len__(self) -> int: ...
    @property
    def path(self) -> Path: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def tokenizer_fingerprint(self) -> str: ...
    @property
    def source_fingerprint(self) -> str: ...
    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Tokens of each row, special ones included. Raises ValueError for a row that isn't there."""

    def distinct_tokens(self) -> NDArray[np.int64]:
        """The tokens that occur in any text, in order, special ones included. One pass over the file."""

    def batch(
        self, rows: NDArray[np.int64], pad_id: int, max_length: int | None = None, pad_to_multiple_of: int = 1
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`(input_ids, attention_mask)`, B x L, as the tokenizer would truncate the texts and pad them on the right.

        Raises:
            ValueError: for a row that isn't there, or a `max_length` that doesn't hold the special tokens.
        """

    def pair_batch(
        self,
        rows: NDArray[np.int64],
        others: TokenStore,
        other_rows: NDArray[np.int64],
        *,
        joiner: Sequence[int],
        second_type: int,
        max_length: int,
        pad_id: int,
        pad_to_multiple_of: int = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """`(input_ids, attention_mask, token_type_ids)` of pairs; see `rankdistill.data.tokens.pair_batch`.

        Raises:
            ValueError: for a row that isn't there, unequal numbers of rows, stores of two tokenizers, or a `max_length`
                that doesn't hold the special tokens.
        """

@final
class TokenWriter:
    """Writes a token store chunk by chunk, and goes on with a build of the same fingerprints that was cut short.

    `len(writer)` is the number of texts that are safely written: where the source has to go on.
    """

    def __new__(
        cls,
        path: str | PathLike[str],
        *,
        tokenizer_fingerprint: str,
        source_fingerprint: str,
        max_length: int,
        num_prefix: int,
        num_suffix: int,
        width: int,
        sources: Sequence[str | PathLike[str]] = ...,
    ) -> TokenWriter: ...
    def __len__(self) -> int: ...
    def push(self, tokens: NDArray[np.uint32], lengths: NDArray[np.uint32]) -> None:
        """Appends texts: their tokens end to end, and the number of each. Raises ValueError if they don't fit."""

    def finish(self) -> None:
        """Completes the file and gives it its name."""

@final
class TokenTrie:
    """What `rankdistill.generation.trie.TokenTrie` wraps."""

    @staticmethod
    def build(
        tokens: NDArray[np.uint32],
        lengths: NDArray[np.uint32],
        ids: NDArray[np.uint32] | None,
        *,
        vocab_size: int,
        eos: int,
        pad: int,
        fingerprint: str,
        keep_duplicates: bool,
    ) -> TokenTrie: ...
    @staticmethod
    def open(path: str | PathLike[str]) -> TokenTrie: ...
    @staticmethod
    def from_bytes(content: bytes) -> TokenTrie:
        """The trie that gave these `to_bytes`, which may come from anywhere. Raises BadStoreError."""

    def to_bytes(self) -> bytes:
        """What `save` would write."""

    def save(self, path: str | PathLike[str]) -> None: ...
    def verify(self) -> None: ...
    @property
    def path(self) -> Path | None: ...
    @property
    def is_changed(self) -> bool:
        """Whether entities were added or removed since the trie was built, opened or compacted."""

    @property
    def num_entities(self) -> int: ...
    @property
    def num_sequences(self) -> int: ...
    @property
    def num_nodes(self) -> int: ...
    @property
    def max_depth(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def eos(self) -> int: ...
    @property
    def pad(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def allow(
        self, input_ids: NDArray[np.int64], start: int, on_dead_end: str
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]: ...
    def fill_csr(
        self,
        input_ids: NDArray[np.int64],
        indptr: NDArray[np.int32],
        ids: NDArray[np.int32],
        next_states: NDArray[np.int32],
        start: int,
        on_dead_end: str,
    ) -> int: ...
    def fill_bitmask(
        self, input_ids: NDArray[np.int64], out: NDArray[np.int32], start: int, on_dead_end: str
    ) -> None: ...
    def mask_logits(
        self, input_ids: NDArray[np.int64], logits: NDArray[np.float32], start: int, on_dead_end: str
    ) -> None: ...
    def entity_ids(self, input_ids: NDArray[np.int64], start: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]: ...
    def sequences(
        self, prefix: Sequence[int], limit: int, only: Sequence[int] | None
    ) -> list[tuple[list[int], list[int]]]: ...
    def states(self, num_rows: int) -> TrieStates: ...
    def add(self, tokens: NDArray[np.uint32], lengths: NDArray[np.uint32], ids: NDArray[np.uint32]) -> int: ...
    def remove(
        self, tokens: NDArray[np.uint32], lengths: NDArray[np.uint32], ids: NDArray[np.uint32] | None
    ) -> int: ...
    def compact(self) -> None: ...

@final
class TrieStates:
    """What `rankdistill.generation.trie.TrieStates` wraps."""

    def __len__(self) -> int: ...
    def values(self) -> NDArray[np.int32]: ...
    def set(self, values: NDArray[np.int32]) -> None: ...
    def copy(self) -> TrieStates: ...
    def advance(self, tokens: NDArray[np.int64], parents: NDArray[np.int64] | None) -> None: ...
    def allow(self, on_dead_end: str) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]: ...
    def fill_csr(
        self,
        indptr: NDArray[np.int32],
        ids: NDArray[np.int32],
        next_states: NDArray[np.int32],
        on_dead_end: str,
    ) -> int: ...
    def fill_bitmask(self, out: NDArray[np.int32], on_dead_end: str) -> None: ...
    def mask_logits(self, logits: NDArray[np.float32], on_dead_end: str) -> None: ...
    def entity_ids(self) -> tuple[NDArray[np.int64], NDArray[np.uint32]]: ...

@final
class ScoreBlock:
    """Columns of some rows; what `rankdistill.formats.scores.ScoreBlock` wraps. Arrays are read-only views."""

    def __len__(self) -> int: ...
    @property
    def position(self) -> tuple[int, int, int, int, int]: ...
    @property
    def query_codes(self) -> NDArray[np.uint64]: ...
    @property
    def doc_codes(self) -> NDArray[np.uint64]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    def query_ids(self) -> list[str]: ...
    def doc_ids(self) -> list[list[str]]: ...

@final
class ScoreReader:
    """What `rankdistill.formats.scores.ScoreReader` wraps."""

    def __new__(
        cls,
        paths: Sequence[str | PathLike[str]],
        *,
        format: str,
        skip: bool,
        block_rows: int,
        max_line_bytes: int,
        max_score: float,
        start: tuple[int, int, int, int, int],
    ) -> ScoreReader: ...
    def next_block(self) -> ScoreBlock | None:
        """The next rows, or None after the last. Raises BadDataError at a bad row, unless those are skipped."""

    @property
    def format(self) -> str: ...
    @property
    def position(self) -> tuple[int, int, int, int, int]: ...
    @property
    def bad_rows(self) -> dict[str, int]: ...
    @property
    def bytes_read(self) -> int: ...

@final
class ScoreFileWriter:
    """What `rankdistill.formats.scores.ScoreWriter` wraps; `finish` gives the file its name, `abort` or dropping removes it."""

    def __new__(
        cls, path: str | PathLike[str], format: str, sources: Sequence[str | PathLike[str]] = ...
    ) -> ScoreFileWriter: ...
    def __len__(self) -> int: ...
    def push_rows(
        self, query_ids: Sequence[str], doc_ids: Sequence[Sequence[str]], scores: Sequence[Sequence[float]]
    ) -> None: ...
    def push_taken(
        self, block: ScoreBlock, rows: NDArray[np.int64], columns: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> None: ...
    def finish(self) -> None: ...
    def abort(self) -> None: ...

@final
class ScoreMerge:
    """What `rankdistill.data.scores_merge.merge_scores` drives, step by step."""

    def __new__(
        cls,
        teachers: Sequence[Sequence[str | PathLike[str]]],
        output: str | PathLike[str],
        *,
        weights: Sequence[float],
        normalize: str,
        per_query: bool,
        on_missing_pair: str,
        best_first: bool,
        format: str,
        skip: bool,
    ) -> ScoreMerge: ...
    def advance(self) -> tuple[str, int, int] | None:
        """The next step; what is being done, how much of it is done, and how much there is. None when all is written."""

    def counts(self) -> dict[str, Any]: ...
    def close(self) -> None: ...

@final
class ScoreStoreWriter:
    """Writes a score store block by block into a temporary file; `finish` gives it its name, `abort` or dropping removes it."""

    def __new__(
        cls, path: str | PathLike[str], format: str, sources: Sequence[str | PathLike[str]] = ...
    ) -> ScoreStoreWriter: ...
    def __len__(self) -> int: ...
    def push(self, block: ScoreBlock) -> None: ...
    def finish(self, fingerprint: str, bad_rows: dict[str, int]) -> None: ...
    def abort(self) -> None: ...

@final
class ScoreStore:
    """What `rankdistill.data.scores.ScoreStore` wraps."""

    def __new__(cls, path: str | PathLike[str]) -> ScoreStore: ...
    @property
    def path(self) -> Path: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def num_docs_per_row(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def bad_rows(self) -> dict[str, int]: ...
    def verify(self) -> None: ...
    def num_ids(self, kind: str) -> int: ...
    def ids(self, kind: str, start: int, stop: int) -> list[str]: ...
    def gather(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float32]]: ...

def permuted_positions(
    num_rows: int, seed: int, epoch: int, start: int, count: int, stride: int = 1
) -> NDArray[np.int64]:
    """Where places `start`, `start + stride`, ... go. Raises ValueError if one is beyond `num_rows`."""

def score_fingerprint(paths: Sequence[str | PathLike[str]]) -> str:
    """32 hex characters that name the content of files."""
