"""Options of `train pretrain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rankdistill.options.training import TrainingOptions

__all__ = ["PretrainOptions"]


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(TrainingOptions):
    """Pre-train an encoder with exits on repositories of source text."""

    corpus: Path
    """A folder whose sub-folders are repositories, or a file of JSON lines {"repository": …, "text": …}, a source file
    each."""

    glob: str = "*.py"
    """Which files of a folder are read, at any depth."""

    max_files: int | None = None
    """Read at most this many files of each repository, evenly taken, so that big ones don't crowd out the others; all by
    default."""

    min_tokens: int = 16
    """Shorter snippets are left out."""

    max_length: int = 256
    """Tokens of a packed pair, specials included; half for each run of snippets (the paper: 2,048)."""

    mask_rate: float = 0.15
    """Share of the tokens that are to be guessed, as BERT's; ModularStarEncoder's isn't in its sources."""

    exits: tuple[int, ...] | None = None
    """Where the encoder learns to stop: after so many layers each. Layers above the deepest exit are left out. By default
    every second layer, the last one among them."""

    weights: Literal["depth", "uniform", "normalised"] = "depth"
    """Of the exits' losses. depth (the paper's): layers / layers of the deepest. normalised: the same, with a sum of 1."""

    pooling: Literal["mean", "cls", "lasttoken"] | None = None
    """How token states become the one vector that says whether both runs are of one repository; best as in fine-tuning.
    By default as --init pools, and mean for a plain encoder."""

    dev_repositories: int = 0
    """Hold out this many repositories, evenly taken, and validate on them; 0 validates never."""

    dev_pairs: int = 256
    """Packed pairs of the held-out repositories that are looked at (fewer, if there aren't so many)."""

    eval_steps: int = 500
    """Validate every so many steps."""

    num_epochs: float = 1.0
    """Passes over the runs of snippets."""

    batch_size: int = 32
    """Packed pairs a step, on each process."""
