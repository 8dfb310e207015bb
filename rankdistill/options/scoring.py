"""Options of `join`, `triples` and `score`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rankdistill.options import Output

__all__ = ["JoinOptions", "ScoreOptions", "TriplesOptions"]


@dataclass(frozen=True)
class _Named:  # not keyword-only, so that the command line takes it without a flag
    collections: tuple[str, ...]
    """Each NAME=COLLECTION: a BEIR folder, an MS MARCO folder, an ir_datasets id, or hf:NAME. Ids become NAME:ID."""


@dataclass(frozen=True, kw_only=True)
class JoinOptions(_Named):
    """Several collections as one."""

    output: Output
    """BEIR folder to write."""

    balance: str | None = None
    """Split of which to take as many queries of each collection as the one with the fewest has (train, say)."""

    seed: int = 42
    """Decides which those are."""


@dataclass(frozen=True, kw_only=True)
class TriplesOptions:
    """Make training triples out of judgements: negatives are drawn from a ranking."""

    collection: str
    """Documents, queries and qrels: a BEIR folder, an MS MARCO folder, an ir_datasets id, or hf:NAME."""

    output: Output
    """File of query_id, positive_id, negative_id; compressed if it ends in .gz."""

    split: str = "train"
    """Qrels whose relevant documents are the positives."""

    negatives: str = "bm25"
    """bm25, or a TREC run file."""

    num_negatives: int = 2
    """Negatives for each relevant document."""

    depth: int = 30
    """They are drawn from this many first ranks, relevant documents left out."""

    num_random: int = 0
    """More negatives for each relevant document, drawn from the whole collection. A student that reads a query and a document
    together learns of hard negatives only without them, and gets worse the more candidates it re-ranks."""

    max_triples: int | None = None
    """Keep a random sample of this many."""

    seed: int = 42
    """Decides which negatives are drawn."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Let a teacher score triples or candidates, into a file of the published format."""

    teacher: str
    """A CrossEncoder or SentenceTransformer (folder or hub id; ours are such folders), or bm25."""

    collection: str
    """Documents and queries: a BEIR folder, an MS MARCO folder, an ir_datasets id, or hf:NAME."""

    output: Output
    """The score file; compressed if it ends in .gz or .zst."""

    triples: Path | None = None
    """Score these triples (query_id, positive_id, negative_id): gives the 5-column id file."""

    candidates: Path | None = None
    """Score the first --depth documents of each query of this TREC run: gives n-way JSON lines."""

    split: str | None = None
    """With --candidates: put a relevant document of this split first, and leave the query's other relevant documents out of
    its row; without a split (or for a query that has none) the best-scored candidate comes first."""

    depth: int = 30
    """With --candidates: documents a query. Queries with fewer candidates are left out and counted."""

    num_random: int = 0
    """With --candidates: as many more, drawn from the whole collection; every teacher gets the same ones."""

    dtype: Literal["auto", "float32", "bfloat16", "fast"] = "auto"
    """Of matrix products; fast measures whether bfloat16 is faster here, auto is float32."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to score."""

    backend: Literal["torch", "openvino"] = "torch"
    """What runs the teacher. openvino gives the same scores faster on a CPU (pip install 'rankdistill[openvino]')."""

    chunk_pairs: int = 2048
    """Pairs scored between two points from which an interrupted run goes on."""
