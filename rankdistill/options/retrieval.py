"""Options of the commands that retrieve and measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rankdistill.options import Output

__all__ = [
    "BeirOptions",
    "EncodeOptions",
    "EvaluateOptions",
    "ExitsOptions",
    "IndexOptions",
    "MeasureOptions",
    "MsmarcoOptions",
    "RerankOptions",
    "SearchOptions",
    "TruncateOptions",
]


@dataclass(frozen=True, kw_only=True)
class _CollectionOptions:
    collection: str
    """A BEIR folder, an MS MARCO folder, an ir_datasets id or a Hugging Face dataset."""


@dataclass(frozen=True, kw_only=True)
class _ModelOptions:
    model: str
    """A checkpoint of ours, a sentence-transformers folder, or the id of one on the hub."""

    exit: int | None = None
    """Of a model with exits: run this many layers; the deepest exit by default."""

    dim: int | None = None
    """Of a multi-exit model with dims: this many numbers of each vector; all by default."""

    device: str = "auto"
    """Where the model runs: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps"."""

    backend: Literal["torch", "openvino"] = "torch"
    """What runs the model. openvino gives the same scores faster on a CPU (pip install 'rankdistill[openvino]')."""

    batch_tokens: int = 8192
    """Tokens, padding included, that go through the model at once (on a CPU 2,048 at most). Memory grows with it."""

    dtype: Literal["auto", "float32", "bfloat16", "fast"] = "auto"
    """What matrix products run in. "auto" is float32, which gives sentence-transformers' scores; "fast" is bfloat16 on
    machines where that is measured to be faster."""


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(_ModelOptions, _CollectionOptions):
    """What a model makes of documents, on disk: vectors, states of their tokens, or weights of terms. Run again after an
    interruption, it goes on."""

    output: Output
    """The folder to write: vectors.npy (or states.bin, or terms.bin and weights.bin, with lengths.bin), ids.txt,
    manifest.json."""

    shard_size: int = 50_000
    """Documents between two points from which an interrupted run can go on."""

    store_dtype: Literal["float32", "float16"] = "float32"
    """What the numbers are stored in; float16 halves the disk space."""

    min_weight: float = 0.0
    """Of sparse models (splade): terms of a document that weigh no more than this are dropped."""


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """An index over what `encode` wrote: exact, by FAISS, over vectors; inverted over weights of terms; over states of tokens
    as --centroids says."""

    vectors: Path
    """The folder that `encode` wrote."""

    output: Output
    """The folder to write: index.faiss (which FAISS reads) or index.json and arrays, ids.txt."""

    centroids: int | None = None
    """For states of T tokens (colbert): centroids that give the shortlist; 0 makes the search exact. By default it is up
    to a million tokens, and there are 16 sqrt(T) beyond."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions(_ModelOptions, _CollectionOptions):
    """Searches an index with a collection's queries, or the collection itself with BM25, and writes a TREC run."""

    output: Output
    """The run file to write; gzip if it ends in .gz."""

    index: Path | None = None
    """The folder that `index` wrote; not for BM25."""

    split: str | None = None
    """Only the queries judged in this split ("test", "dev"); all queries without it."""

    k: int = 1000
    """Documents a query."""

    shortlist: int = 1000
    """Documents a query that an index with centroids scores exactly, at least --k."""

    faiss_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where FAISS searches; "auto" is a GPU if FAISS sees one."""

    latency_queries: int = 20
    """Queries timed one by one, for mean, p50 and p95; 0 times none."""

    tag: str = "rankdistill"
    """The system's name in the run file."""


@dataclass(frozen=True, kw_only=True)
class RerankOptions(_ModelOptions, _CollectionOptions):
    """Scores the first documents of each query of a run anew, with any student or teacher."""

    run: Path
    """The TREC run to re-rank."""

    output: Output
    """The run file to write; gzip if it ends in .gz."""

    vectors: Path | None = None
    """The folder that `encode` wrote with this model; without it documents are encoded anew."""

    depth: int = 1000
    """Documents a query that are scored; the rest is left out."""

    latency_queries: int = 5
    """Queries timed one by one, all their documents each, for mean, p50 and p95; 0 times none."""

    tag: str = "rankdistill"
    """The system's name in the run file."""


@dataclass(frozen=True, kw_only=True)
class TruncateOptions:
    """Writes one exit of a model that has several as a smaller model by itself."""

    model: str
    """The model with exits."""

    exit: int
    """Layers that are kept."""

    dim: int | None = None
    """Numbers of each vector that are kept; all by default."""

    output: Output
    """The folder to write."""


@dataclass(frozen=True, kw_only=True)
class ExitsOptions(_CollectionOptions):
    """Measures every exit and width of a model in one pass: quality, speed, operations, bytes."""

    model: str
    """The model with exits."""

    split: str = "test"
    """Judgements that they are measured on."""

    output: Path = Path("runs/exits")
    """Folder for exits.json and the runs."""

    measures: tuple[str, ...] = ("nDCG@10", "RR@10", "R@100")
    """Names of ir_measures; the first is the one that plots, the Pareto front and thresholds look at."""

    k: int = 100
    """Documents a query."""

    dev_split: str | None = None
    """Also measure stopping where a query is sure, with thresholds chosen on the queries of this split."""

    tolerance: float = 0.005
    """For --dev-split: how much of the first measure may be lost, against the deepest exit for all."""

    depth: int = 10
    """For --dev-split: how many first results tell whether a query is sure."""

    plot: Path | None = None
    """Draw quality against operations into this file (.svg, .png, .pdf)."""

    device: str = "auto"
    """Where the model runs."""

    dtype: Literal["auto", "float32", "bfloat16", "fast"] = "auto"
    """Of matrix products."""

    latency_queries: int = 20
    """Queries timed one by one."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """How the scripts in eval/ rank and measure a system."""

    split: str | None = None
    """Of the judgements; without it the collection's only one, or "test"."""

    output: Path = Path("runs/measured")
    """Folder for runs, JSON files and vectors."""

    k: int = 1000
    """Documents a query."""

    first_stage: str = "bm25"
    """What a model that re-ranks starts from: "bm25", a run file, or a model that retrieves."""

    depth: int = 100
    """Documents a query that a model which re-ranks scores."""

    device: str = "auto"
    """Where the model runs."""

    backend: Literal["torch", "openvino"] = "torch"
    """What runs the model; openvino is faster on a CPU."""

    faiss_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where FAISS searches."""

    dtype: Literal["auto", "float32", "bfloat16", "fast"] = "auto"
    """Of matrix products."""

    batch_tokens: int = 8192
    """Tokens that go through the model at once."""

    latency_queries: int = 20
    """Queries timed one by one."""


@dataclass(frozen=True, kw_only=True)
class BeirOptions(MeasureOptions):
    """How eval/beir.py ranks and measures."""

    output: Path = Path("runs/beir")
    """Folder for runs, JSON files and vectors."""

    k: int = 100
    """Documents a query."""


@dataclass(frozen=True, kw_only=True)
class MsmarcoOptions(MeasureOptions):
    """How eval/msmarco.py ranks and measures."""

    output: Path = Path("runs/msmarco")
    """Folder for runs, JSON files and vectors."""

    depth: int = 1000
    """Documents a query that a model which re-ranks scores."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measures TREC runs; with several, tests which differ from the baseline."""

    runs: tuple[Path, ...]
    """TREC runs (or MS MARCO's three columns), plain or gzip."""

    qrels: Path | None = None
    """Judgements: TREC qrels or BEIR's tsv, plain or gzip."""

    collection: str | None = None
    """Take the judgements from this collection instead."""

    split: str = "test"
    """The split of the collection whose judgements are taken."""

    measures: tuple[str, ...] = ("nDCG@10", "RR@10", "R@100")
    """Names of ir_measures: nDCG@10, RR(rel=2)@10, AP, R@1000, P@5, …"""

    baseline: Path | None = None
    """The run that the others are compared with; the first without it."""

    test: Literal["t", "randomisation"] = "t"
    """The paired test: Student's t, or Fisher's randomisation test with 10,000 sign patterns."""

    correction: Literal["holm", "none"] = "holm"
    """How p-values are corrected for the number of runs compared."""

    alpha: float = 0.05
    """The level at which the table marks differences from the baseline."""

    style: Literal["plain", "markdown"] = "plain"
    """How the table is set."""

    per_query: Path | None = None
    """Write one line a run, query and measure to this tsv."""

    json: Path | None = None
    """Write means, counts and comparisons to this JSON file."""
