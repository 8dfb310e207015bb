"""Options of `entities link`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

__all__ = ["EntitiesLinkOptions"]


@dataclass(frozen=True)
class _Model:  # not keyword-only, so that the command line takes it without a flag
    model: str
    """The encoder-decoder that links, trained on linked texts: a folder, or an id on the hub."""


@dataclass(frozen=True, kw_only=True)
class EntitiesLinkOptions(_Model):
    """Find mentions of entities in texts, and the entities."""

    trie: Path
    """The trie of titles (`trie build`)."""

    titles: Path | None = None
    """The file that the trie was built of; titles come out as they stand there, not as the tokenizer has them."""

    mentions: Path | None = None
    """The only surfaces that may be mentions, one a line, plain or .gz; any text without it."""

    candidates: Path | None = None
    """Table of mentions (entities mentions): only what it has is linked, each mention to titles that it has there."""

    num_candidates: int | None = 30
    """Titles of a mention in that table, the likeliest first."""

    input: Path = Path("-")
    """Texts, plain or .gz; - is standard input. Of JSON lines (--format) "text" is read, and all keys come out again."""

    format: Literal["auto", "text", "jsonl"] = "auto"
    """A text a line, or JSON lines; auto goes by the file's name (.jsonl), and takes standard input as text."""

    output: Annotated[Path | None, Parameter(alias="-o")] = None
    """Write JSON lines with "mentions" here, gzip if it ends in .gz; standard output without it, where a terminal gets
    marked text."""

    num_beams: int = 4
    """Beams at a place of the text, and titles of a mention that are followed; 1 is greedy."""

    max_gap: float = 7.0
    """How much less probable than the best a beam may be, in nats: 7 is a thousand times."""

    bonus: float = 0.0
    """Nats that count for each mention when outputs are compared: above 0 more is linked, below 0 less. Try 5, 10, 15 with a model
    that finds too little."""

    max_mention_length: int = 12
    """Tokens of a mention."""

    window: int | None = None
    """Tokens of a text that are read at once; by default what suits the model, at most 256. Longer texts are read in several
    windows that overlap."""

    overlap: int | None = None
    """Tokens that windows have in common at least; a quarter of a window by default."""

    min_score: float | None = None
    """Leave out mentions whose log-probability is lower."""

    batch_size: int = 8
    """Windows at once."""

    device: str = "auto"
    """Where the model runs."""

    dtype: Literal["auto", "float32", "bfloat16", "fast"] = "auto"
    """Of the model's weights: auto is float32; fast is bfloat16 where that is measured to be faster, which takes about half of the
    time, and moves scores by about a hundredth."""
