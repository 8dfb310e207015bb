"""Options of `trie build`, `trie info` and `trie query`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rankdistill.options import Output

__all__ = ["TrieBuildOptions", "TrieInfoOptions", "TrieQueryOptions"]


@dataclass(frozen=True)
class _Titles:  # not keyword-only, so that the command line takes it without a flag
    titles: Path
    """Titles, one a line, or id and title with a tab between; plain or .gz. Without ids, lines are numbered from 0."""


@dataclass(frozen=True, kw_only=True)
class TrieBuildOptions(_Titles):
    """Titles to the trie that a decoder is held to."""

    tokenizer: str
    """The model whose tokens the trie is of: a folder, or an id on the hub."""

    output: Output
    """The trie to write."""

    max_length: int | None = None
    """Tokens that the model can write, the end token included; a longer title is an error."""

    vocab_size: int | None = None
    """The width of the model's logits, if it's more than the tokenizer has tokens."""

    on_duplicate: Literal["keep", "error"] = "keep"
    """Titles that are the same tokens keep all their ids, or are an error."""


@dataclass(frozen=True)
class _File:
    file: Path
    """The trie."""


@dataclass(frozen=True, kw_only=True)
class TrieInfoOptions(_File):
    """What a trie holds."""

    verify: bool = False
    """Compare the whole file with its checksums, and check that it is a trie."""

    json: bool = False
    """Print JSON instead of a page."""


@dataclass(frozen=True)
class _FileAndPrefix(_File):
    prefix: str = ""
    """How titles begin: text, if there is a tokenizer, else token ids with spaces between."""


@dataclass(frozen=True, kw_only=True)
class TrieQueryOptions(_FileAndPrefix):
    """What a trie allows after a prefix, and which titles begin so."""

    tokenizer: str | None = None
    """The model whose tokens the trie is of; shows text instead of tokens."""

    k: int = 10
    """How many tokens and titles are shown."""
