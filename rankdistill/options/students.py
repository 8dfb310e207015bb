"""Options of the single students of `train margin-mse`, named as the student: `--prett.join-layer 3`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ColbertOptions", "MultiExitOptions", "PrettOptions", "SpladeOptions", "TKOptions"]


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
class MultiExitOptions:
    """Of a student with exits. Every exit learns every --loss term, in one pass."""

    exits: tuple[int, ...] | None = None
    """Where the student may stop: after so many layers each. Layers above the deepest exit are left out. By default every
    second layer, the last one among them."""

    head: Literal["linear", "shared", "none"] = "linear"
    """What makes an exit's vectors of its states. linear: a layer for each exit, which starts as the identity, so that
    untrained each exit is --init cut there. shared: one for all, told its exit by 4 more inputs (as ModularStarEncoder was
    pre-trained). none: nothing."""

    dims: tuple[int, ...] = ()
    """Widths that vectors may be cut to, beside the full one (Matryoshka); each is trained at each exit."""

    normalize: bool = False
    """Compare by cosine; Margin-MSE then wants a small --teacher-scale."""

    weights: Literal["depth", "uniform", "normalised", "uncertainty"] = "depth"
    """Of the exits' losses. depth (ModularStarEncoder): layers / layers of the deepest. normalised: the same, with a sum of 1.
    uncertainty: learnt, exp(-s) with a penalty s for each exit (arXiv:1705.07115). An exit's weight is shared out evenly
    among --multi-exit.dims."""

    teacher: Literal["none", "last", "next"] = "none"
    """Exits also learn from deeper ones: the KL divergence between their distributions over the batch's docs, whose
    gradient goes to the shallower one only. last: from the deepest, at full width. next: from the next deeper one. An
    extension: ModularStarEncoder's sources show no such term."""

    teacher_weight: float = 1.0
    """Weight of that term, within its exit's loss."""

    scale: float | None = None
    """Learn what multiplies each exit's scores in infonce, symmetric-infonce, lce and the exits' own teaching, from this on
    (ModularStarEncoder: 10, for cosines), within 0.0001 and 30. By default it isn't learnt."""


@dataclass(frozen=True, kw_only=True)
class SpladeOptions:
    """Of the SPLADE student."""

    new_head: bool = False
    """Let an --init without masked-language-model head (MiniLM, say) get one: tied to the input embeddings, and starting
    as a bag of words. Its scores are large at first: with a --teacher-scale (and --temperature) that brings the
    teacher's near them, training keeps what the words give."""

    docs_weight: float = 3e-5
    """Weight of the penalty flops-docs, which makes documents sparse."""

    queries_weight: float = 5e-5
    """Weight of the penalty on queries."""

    queries_penalty: Literal["flops", "l1"] = "flops"
    """flops-queries evens out the use of terms; l1-queries makes queries short."""

    penalty_warmup: float = 1 / 3
    """Share of the steps over which the penalties' weights rise from 0, quadratically."""


@dataclass(frozen=True, kw_only=True)
class PrettOptions:
    """What only a PreTT student has."""

    join_layer: int | None = None
    """Layers that read query and document apart (their result can be kept for documents); half of them by default, as
    the paper's 3 of 6."""

    compress_dim: int | None = None
    """Squeeze the kept states to this width; by default they're as wide as the encoder."""


@dataclass(frozen=True, kw_only=True)
class TKOptions:
    """What only a TK student has."""

    embeddings: str | None = None
    """Table of word vectors to start from, as GloVe's text files (plain or .gz), in place of --init, of which a TK
    student takes the tokenizer and the input embeddings."""

    vocabulary: Literal["collection", "table"] = "collection"
    """Words of the table that are kept: those that the collection has, or all. The fewer, the faster a step, since the
    optimizer goes over all of them."""

    vector_length: float | None = None
    """Scale word vectors to this mean length, so that what the Transformer makes of them (the square root of their width) and
    positions (that divided by 1.4) don't drown them. By default the embeddings of --init get the square root of their width, and
    those of a table stay as they are (GloVe's are long enough)."""

    num_layers: int = 2
    """Transformer layers, shared by queries and documents."""

    num_heads: int = 10
    """Attention heads; they divide the embeddings' width (10 suits GloVe's 300, 12 an encoder's 384 or 768)."""

    feed_forward: int = 300
    """Width of each layer's inner product."""

    aggregation: Literal["log", "log+length"] = "log"
    """How kernel counts become a score: by their logarithms (matchmaker's later form), or by logarithms and by shares of
    the document's length (the paper's)."""

    doc_position: int = 0
    """Position at which documents begin; 500 sets them apart from queries."""

    kernel_lr_factor: float = 10.0
    """The kernels' learning rate is --learning-rate times this."""

    embedding_lr_factor: float = 1.0
    """The embeddings' learning rate is --learning-rate times this; 0 leaves them as they are."""
