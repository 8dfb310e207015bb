"""Options of the students that have some of their own; nested in those of `train margin-mse`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ColbertOptions", "SpladeOptions"]


@dataclass(frozen=True, kw_only=True)
class ColbertOptions:
    """Of the ColBERT student."""

    dim: int = 128
    """Width of a token's vector."""

    normalize: bool = True
    """Compare by cosine (ColBERT) instead of dot product (Hofstätter et al.). Margin-MSE then wants a small
    --teacher-scale: a pair's score can't exceed the number of query tokens."""

    expansion: Literal["none", "fixed", "before-sep", "after-sep"] = "fixed"
    """[MASK] tokens in queries. fixed (ColBERT): after the final [SEP], until the query has --query-max-length tokens.
    before-sep, after-sep (Hofstätter et al.): --colbert.num-masks there; sentence-transformers can't load these."""

    num_masks: int = 8
    """[MASK]s for before-sep and after-sep."""

    attend_masks: bool = True
    """Whether other tokens see the [MASK]s; ColBERT's don't."""

    markers: bool = False
    """Put [Q] before queries and [D] before documents, as tokens of their own."""

    skip_punctuation: bool = False
    """Punctuation in documents doesn't count, as in ColBERT; for prose, not for code."""


@dataclass(frozen=True, kw_only=True)
class SpladeOptions:
    """Of the SPLADE student."""

    new_head: bool = False
    """Let an --init without masked-language-model head (MiniLM, say) get one: tied to the input embeddings, and starting
    as a bag of words."""

    docs_weight: float = 3e-5
    """Weight of the penalty flops-docs, which makes documents sparse."""

    queries_weight: float = 5e-5
    """Weight of the penalty on queries."""

    queries_penalty: Literal["flops", "l1"] = "flops"
    """flops-queries evens out the use of terms; l1-queries makes queries short."""

    penalty_warmup: float = 1 / 3
    """Share of the steps over which the penalties' weights rise from 0, quadratically."""
