"""Options of the `train` commands: the one place where each is named, typed, defaulted and explained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from cyclopts import Parameter

from rankdistill.options.students import ColbertOptions, MultiExitOptions, PrettOptions, SpladeOptions, TKOptions

__all__ = [
    "LOSS_TERMS",
    "GenreOptions",
    "LoraOptions",
    "LossOptions",
    "MarginMSEOptions",
    "RowOptions",
    "Stage",
    "Stages",
    "TeacherOptions",
    "TrainingOptions",
]

LOSS_TERMS = (
    "margin-mse",
    "margin-mse-all-pairs",
    "pointwise-mse",
    "weighted-ranknet",
    "kl",
    "reverse-kl",
    "listnet",
    "lambdarank",
    "lambda-mrr",
    "adr-mse",
    "rankdistil",
    "in-batch-margin-mse",
    "in-batch-kl",
    "infonce",
    "symmetric-infonce",
    "lce",
    "ranknet",
)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What every training has."""

    init: str
    """Encoder to start from: a folder or hub id of any HF encoder, or of a SentenceTransformer."""

    output_dir: Path
    """Folder of the run: config.json, model/, metrics.json, checkpoints/ (TensorBoard logs are in its runs/)."""

    num_layers: int | None = None
    """Keep the first layers of --init only; all of them by default."""

    dropout: float | None = None
    """Dropout of the body while it's trained; the checkpoint's own by default."""

    num_epochs: float = 1.0
    """Passes over the rows."""

    max_steps: int = -1
    """Stop after this many steps, whatever --num-epochs says; -1 leaves it to the epochs."""

    batch_size: int = 32
    """Rows a step, on each process."""

    learning_rate: float = 1e-4
    """Peak learning rate of AdamW. 1e-4 suits students of 1 to 6 narrow layers; the paper took 7e-6 for DistilBERT."""

    warmup_ratio: float = 0.1
    """Share of the steps over which the learning rate rises from 0."""

    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """How the learning rate falls after the warm-up."""

    weight_decay: float = 0.0
    """Weight decay of AdamW."""

    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 doesn't clip."""

    seed: int = 42
    """Decides the order of rows, dropout and new weights."""

    window_batches: int = 16
    """Rows are shuffled globally, then grouped by length inside windows of this many batches to save padding; 1
    doesn't group."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; auto measures which is faster on this machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""

    torch_compile: bool = False
    """Compile the model (torch.compile). Meant for GPUs: texts of many lengths make it compile anew, which on a CPU
    costs more than it saves."""

    num_workers: int = 0
    """Processes that assemble batches; assembly takes microseconds, so 0 is usually best."""

    logging_steps: int = 10
    """Loss terms are logged every so many steps."""

    save_steps: int = 500
    """A checkpoint to resume from is written every so many steps (with validation: every --eval-steps)."""

    keep_checkpoints: int = 2
    """How many checkpoints are kept."""

    resume: bool = False
    """Go on from the last whole checkpoint in --output-dir; starts afresh if there is none. The options, the inputs' content
    and the number of processes must be the same, but for --device, --torch-compile, --num-workers, --logging-steps,
    --save-steps and --keep-checkpoints. More epochs need --lr-scheduler constant_with_warmup, since the other learning rates
    depend on the number of steps."""

    overwrite: bool = False
    """Delete the run in --output-dir, and start afresh. Only a folder that a run made is emptied, and only if it holds nothing
    but what runs wrote."""


@dataclass(frozen=True, kw_only=True)
class RowOptions(TrainingOptions):
    """What every training on rows of a collection's queries and documents has."""

    on_missing: Literal["error", "skip"] = "error"
    """Rows whose ids the collection lacks: an error, or left out and counted."""


@dataclass(frozen=True, kw_only=True)
class GenreOptions(TrainingOptions):
    """Train an encoder-decoder to write the names of entities (GENRE)."""

    init: str
    """Encoder-decoder to start from (BART, T5, mBART): a folder or hub id. Or an encoder (BERT, MiniLM), which becomes both
    sides: the decoder has its layers, and what looks at the text starts random."""

    files: tuple[str, ...]
    """Files of training records (JSON lines, plain or .gz), each FILE or FILE:WEIGHT: how often an epoch has its records. Of
    KILT's, a mention in context is read between [START_ENT] and [END_ENT], and each supporting title is a name to write. Of
    linked texts (id, text, mentions with start, end, title), the text is written with { mention } [ Title ]."""

    encoder_layers: int | None = None
    """Of an encoder that becomes both sides: keep its first layers on this side; --num-layers by default."""

    decoder_layers: int | None = None
    """The same for the decoder."""

    max_words: int = 384
    """Words around a mention that are read, half of them on each side (GENRE's number)."""

    source_max_length: int | None = None
    """Tokens of a text that are read, specials included; by default what the model has positions for, at most 512. With few,
    take --max-words down too, or the mention may be cut off."""

    label_smoothing: float = 0.1
    """Share of the target that is spread evenly over the vocabulary (GENRE: 0.1)."""


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What a student is asked to learn."""

    loss: tuple[str, ...] | None = None
    """Loss terms as NAME or NAME:WEIGHT; by default margin-mse:0.05 infonce, and margin-mse alone for students without
    in-batch losses (prett, tk, cross-encoder). From the file's scores: margin-mse (the paper's; doc 0 against each other
    one), margin-mse-all-pairs, pointwise-mse, weighted-ranknet, kl, reverse-kl, listnet, rankdistil. From their order
    alone: lambdarank, lambda-mrr, adr-mse. From labels (doc 0 is relevant): infonce (against all docs of the batch),
    symmetric-infonce (docs choose among queries too, as in CLIP), lce (against the row's own), ranknet. From
    --in-batch-teacher: in-batch-margin-mse, in-batch-kl. The preset splade-v3 is kl:0.99 margin-mse-all-pairs:0.05."""

    teacher_scale: float = 1.0
    """Multiplies the file's scores. Margin-MSE heeds their scale: cosines, say, want about 20 to suit dot products."""

    teacher_transform: Literal["none", "logit"] = "none"
    """logit undoes a sigmoid, log(p / (1 - p)), before --teacher-scale; for files whose scores lie in [0, 1]. (scores
    inspect tells.)"""

    temperature: float = 1.0
    """Divides the student's scores where they become probabilities: kl, reverse-kl, in-batch-kl, listnet, rankdistil,
    infonce, symmetric-infonce, lce, adr-mse."""

    teacher_share: float = 1.0
    """Targets of kl, reverse-kl, in-batch-kl and listnet are this much the teacher's scores, and for the rest the
    student's own (TAID); raise it by stages."""

    num_top: int | None = None
    """How many of a row's docs, in the teacher's order, are told apart: lambda-mrr and lambdarank give them labels of
    1 / rank, rankdistil learns their order. All by default."""

    rest_labels: tuple[float, ...] = (-0.25, -0.5)
    """Labels of the docs after --num-top in lambda-mrr and lambdarank, cut into as many equal groups."""


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Of low-rank adapters."""

    rank: int = 0
    """Train adapters of this rank in the student's encoder, whose own weights stay as they are, and what is on top of it
    (a projection, a scoring head). The model that is written has them merged, and is loaded as any other. 0 trains all
    weights. Needs the extra lora; not for --student tk."""

    alpha: int = 16
    """The adapters' product is multiplied by alpha / rank."""

    dropout: float = 0.0
    """Dropout of what goes into the adapters."""

    target_modules: tuple[str, ...] = ()
    """Linear layers that get adapters, by the ends of their names (query value), or all-linear; by default those that peft
    takes for the encoder's family, all-linear for families that it doesn't know."""


@dataclass(frozen=True, kw_only=True)
class MarginMSEOptions(LossOptions, RowOptions):
    """Train a student from teacher scores."""

    init: str = ""
    """What the student starts from: a folder or hub id of any HF encoder, or of a SentenceTransformer. Needed, but for
    --student tk with --tk.embeddings."""

    collection: str | None = None
    """Documents and queries: a BEIR folder, an MS MARCO folder, an ir_datasets id, or hf:NAME. Only score files in text
    form, which hold their texts, do without."""

    scores: tuple[str, ...]
    """Teacher score file(s) in a published format (5-column ids or text, margins, n-way JSON lines; plain, .gz or
    .zst), a glob, or a compiled store."""

    dropout: float | None = 0.0
    """Dropout of the student's body. 0 by default: a teacher's scores leave little to overfit, and on a CPU attention
    without dropout is much faster."""

    student: Literal[
        "dot",
        "multi-exit",
        "colbert",
        "multi-exit-colbert",
        "splade",
        "prett",
        "tk",
        "cross-encoder",
        "multi-exit-cross-encoder",
    ] = "dot"
    """Architecture of the student. dot: one vector a text, compared by dot product. multi-exit: a dot student that may
    stop after several numbers of layers, with vectors of its own at each of these exits, all trained at once. colbert: one
    vector a token, compared by MaxSim. splade: weights of the vocabulary's terms, compared by dot product. Those that score
    the rows' own docs only, and so have no in-batch losses: prett, whose lower layers read query and document apart and its
    upper ones together; tk, which compares words by kernels; cross-encoder, which reads both together.
    multi-exit-colbert and multi-exit-cross-encoder have exits too."""

    colbert: ColbertOptions = field(default_factory=ColbertOptions)
    """For --student colbert."""

    multi_exit: MultiExitOptions = field(default_factory=MultiExitOptions)
    """For students with exits."""

    splade: SpladeOptions = field(default_factory=SpladeOptions)
    """For --student splade."""

    pooling: Literal["mean", "cls", "lasttoken"] | None = None
    """How token states become one vector; by default as --init does it, and mean for a plain encoder."""

    projection_dim: int | None = None
    """Add a linear projection to this width; none by default."""

    prett: PrettOptions = field(default_factory=PrettOptions)
    """For --student prett."""

    tk: TKOptions = field(default_factory=TKOptions)
    """For --student tk."""

    lora: LoraOptions = field(default_factory=LoraOptions)
    """Low-rank adapters, instead of training all weights."""

    mini_batch_size: int | None = None
    """Texts that go through the student at once (pairs, where it reads both together); by default all of the batch. The
    memory of a step is that of so many, whatever --batch-size (gradient caching); they are encoded twice, for about a
    third more time."""

    query_max_length: int = 32
    """Tokens of a query that are read, specials included (the paper: 30)."""

    doc_max_length: int = 200
    """Tokens of a document that are read, specials included (the paper: 200)."""

    query_prompt: str | None = None
    """Put before each query, in training and ever after (ModularStarEncoder: "Represent this code description for retrieving
    supporting snippets of code:"); what --init has by default."""

    doc_prompt: str | None = None
    """The same for documents ("Represent this Python code snippet for retrieval:")."""

    word_drop: float = 0.0
    """Probability that a frequent word of a document (a piece with a letter that it has twice or more) is replaced by the mask
    or unknown token, wherever it stands; while training only. ModularStarEncoder: 0.3. 0 leaves documents as they are."""

    in_batch_teacher: str | None = None
    """A second teacher, which scores every query with every doc of the batch. A dense one (SentenceTransformer) by vectors
    that are made once; a ColBERT or SPLADE model reads each batch's texts as they come."""

    in_batch_scale: float = 20.0
    """Multiplies that teacher's scores (cosines, mostly), so that their spread suits dot products; 1 suits a teacher without
    cosines."""

    sampler: Literal["shuffle", "tas"] = "shuffle"
    """shuffle: each row once an epoch, in random order. tas: a step's queries are of one cluster, their rows spread evenly
    over the teacher's margins (TAS-Balanced); needs --clusters, --cluster-model or --in-batch-teacher."""

    clusters: Path | None = None
    """For tas: clusters of queries, one a line, query ids apart by spaces (as published)."""

    cluster_model: str | None = None
    """For tas without --clusters: the SentenceTransformer whose query vectors are clustered (k-means);
    --in-batch-teacher by default."""

    num_clusters: int | None = None
    """For tas without --clusters: how many; by default so many that each has queries for about 8 steps."""

    dev_collection: str | None = None
    """Collection of the validation queries; --collection by default."""

    dev_split: str | None = None
    """Validate on this split of the qrels; no validation by default."""

    dev_queries: int = 200
    """At most this many validation queries, evenly taken from the split."""

    dev_mode: Literal["retrieve", "rerank"] = "retrieve"
    """Validate by searching all documents, or by re-ranking BM25's first --dev-depth."""

    dev_depth: int = 100
    """Documents a query for --dev-mode rerank."""

    eval_steps: int = 500
    """Validate every so many steps."""

    metric: str = "nDCG@10"
    """Measure that decides which checkpoint is best (nDCG@10 and RR@10 are always shown)."""

    patience: int = 0
    """Stop after so many validations without a better one; 0 never stops early."""

    format: Literal["auto", "ids", "text", "margin", "nway"] = "auto"
    """Format of the score files; auto looks at the first rows."""

    on_bad_row: Literal["error", "skip"] = "error"
    """Malformed rows of the score files: an error, or left out and counted by kind."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a training: what differs from the command's own options, where it isn't None."""

    loss: tuple[str, ...] | None = None
    """Loss terms."""

    scores: tuple[str, ...] | None = None
    """Teacher score file(s)."""

    num_epochs: float | None = None
    """Passes over the rows; the command's --max-steps holds no longer."""

    max_steps: int | None = None
    """Stop after this many steps."""

    learning_rate: float | None = None
    """Peak learning rate; each stage warms up anew."""

    teacher_share: float | None = None
    """How much of the targets is the teacher's."""

    num_top: int | None = None
    """How many of a row's docs are told apart."""

    rest_labels: tuple[float, ...] | None = None
    """Labels of the other docs."""


Stages: TypeAlias = Annotated[
    tuple[Stage, ...],
    Parameter(
        help="Train in stages, one after the other, each from the former's model. Best written in the TOML file, a table "
        "[[train.margin-mse.stages]] each, with what differs from the other options: loss, scores, num_epochs, max_steps, "
        "learning_rate, teacher_share, num_top, rest_labels."
    ),
]


@dataclass(frozen=True, kw_only=True)
class TeacherOptions(RowOptions):
    """Train a cross-encoder teacher from triples, or from qrels and negatives."""

    collection: str
    """Documents and queries: a BEIR folder, an MS MARCO folder, an ir_datasets id, or hf:NAME."""

    triples: str | None = None
    """File of query_id, positive_id, negative_id (tab-separated, no header); without it --split and negatives are
    used."""

    split: str = "train"
    """Qrels whose relevant documents are the positives."""

    negatives: str = "bm25"
    """bm25, or a TREC run file: negatives are drawn from its ranking, leaving out relevant documents."""

    num_negatives: int = 2
    """Triples made for each relevant document."""

    negative_depth: int = 30
    """Negatives are drawn from this many first ranks."""

    num_random: int = 0
    """More triples for each relevant document, with negatives drawn from the whole collection."""

    max_length: int = 230
    """Tokens of a pair that are read, specials included (the paper: 30 + 200)."""

    loss: Literal["ranknet", "bce"] = "ranknet"
    """ranknet: cross-entropy on score differences (the paper's); bce: each document by itself."""

    batch_size: int = 16
    """Triples a step, on each process."""

    learning_rate: float = 5e-5
    """Peak learning rate of AdamW."""
