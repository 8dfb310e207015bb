"""Options of the single students of `train margin-mse`, named as the student: `--prett.join-layer 3`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["PrettOptions", "TKOptions"]


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
