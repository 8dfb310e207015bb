"""The students that `train margin-mse` knows, made from its options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from rankdistill.errors import BadDataError
from rankdistill.formats.collection import Collection
from rankdistill.formats.guarded import reading
from rankdistill.formats.word_vectors import read_word_vectors
from rankdistill.models.colbert import PUNCTUATION, ColbertModel, Expansion
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import ARCHITECTURES, Student
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.models.multi_exit_colbert import MultiExitColbert
from rankdistill.models.multi_exit_cross_encoder import MultiExitCrossEncoder
from rankdistill.models.prett import PrettModel
from rankdistill.models.splade import SpladeModel
from rankdistill.models.tk import TKModel
from rankdistill.models.towers import Tower
from rankdistill.models.words import distinct_words
from rankdistill.options.students import MultiExitOptions
from rankdistill.options.training import MarginMSEOptions
from rankdistill.training.schedules import quadratic_warmup
from rankdistill.training.terms import TERMS, needs_in_batch

__all__ = ["check_terms", "new_student", "penalty_weights", "settled", "warmup_steps"]

_ENCODERS = tuple(name for name in ARCHITECTURES if name != TKModel.architecture)
_TOWERS = tuple(name for name, kind in ARCHITECTURES.items() if issubclass(kind, Tower))
_FOR: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("splade", "prett", "tk")},
    "colbert": ("colbert", "multi-exit-colbert"),
    "multi_exit": ("multi-exit", "multi-exit-colbert", "multi-exit-cross-encoder"),
    "pooling": ("dot", "multi-exit"),
    "projection_dim": ("dot", "multi-exit"),
    "dropout": _ENCODERS,
    **dict.fromkeys(("query_prompt", "doc_prompt", "word_drop"), _TOWERS),
    # Exits are cut out of the body as it is, without what adapters put around it.
    "lora": tuple(name for name in _ENCODERS if not name.startswith("multi-exit")),
}
"""Options, or groups of them, that only some students have."""


def settled(options: MarginMSEOptions) -> MarginMSEOptions:
    """The options, if they go together, with the loss that suits the student if none is asked for.

    An option counts as given if it isn't what it is by default.

    Raises:
        ValueError: if one is for other students, or makes no sense.
    """
    for option, students in _FOR.items():
        given = _given(MarginMSEOptions, options, option)
        if given and options.student not in students:
            raise ValueError(
                f"{given[0]} is for --student {', '.join(students)}, and this is a {options.student} student; leave it out"
            )
    if options.mini_batch_size is not None and options.mini_batch_size < 1:
        raise ValueError(f"expected a --mini-batch-size of at least 1, found {options.mini_batch_size}")
    if options.lora.rank < 0:
        raise ValueError(f"expected a --lora.rank of at least 0, found {options.lora.rank}")
    without_rank = _given(MarginMSEOptions, options, "lora")
    if without_rank and not options.lora.rank:
        raise ValueError(f"{without_rank[0]} is for adapters: give them a --lora.rank")
    if options.dev_split is None:
        validating = ("dev_collection", "dev_queries", "dev_mode", "dev_depth", "eval_steps", "metric", "patience")
        given = [flag for name in validating for flag in _given(MarginMSEOptions, options, name)]
        if given:
            raise ValueError(f"{given[0]} is for validation: give it a --dev-split")
    if options.loss is not None:
        return options
    in_batch = ARCHITECTURES[options.student].scores_in_batch
    return replace(options, loss=("margin-mse:0.05", "infonce") if in_batch else ("margin-mse",))


def _given(kind: type[Any], options: Any, name: str, prefix: str = "--") -> list[str]:
    """The flags of an option, or of a group of options, that isn't what it is by default; None is no value."""
    (field,) = (field for field in fields(kind) if field.name == name)
    default = field.default if field.default_factory is MISSING else field.default_factory()
    value, flag = getattr(options, name), prefix + name.replace("_", "-")
    if is_dataclass(default):
        groups = (_given(type(default), value, part.name, f"{flag}.") for part in fields(default))
        return [given for group in groups for given in group]
    return [] if value is None or value == default else [flag]


def new_student(options: MarginMSEOptions, collection: Collection | None = None) -> Student:
    """The student that `options` ask for, on the CPU, starting from `options.init`.

    Args:
        collection: what it's trained on; only a TK student over a table of words looks at it.

    Raises:
        ValueError: if there's nothing to start from, or too much.
    """
    # Numbers of layers that a model hasn't are ValueErrors, of our own.
    with reading(options.init or "", "a model to start from", passing=(ValueError, OSError)):
        model = _new_student(options, collection)
    if isinstance(model, Tower):
        model.set_prompts(options.query_prompt, options.doc_prompt)
    return model


def _new_student(options: MarginMSEOptions, collection: Collection | None) -> Student:
    if options.student == "tk":
        return _new_tk(options, collection)
    if not options.init:
        raise ValueError(f"a {options.student} student starts from an encoder: pass --init")
    body: dict[str, Any] = {"device": "cpu", "num_layers": options.num_layers, "dropout": options.dropout}
    if options.student.endswith("cross-encoder"):
        body |= {"max_length": options.query_max_length + options.doc_max_length, "new_head": True}
        if options.student == "cross-encoder":
            return CrossEncoderModel.from_pretrained(options.init, **body)
        return _with_exits(options, MultiExitCrossEncoder, body)
    body |= {"query_max_length": options.query_max_length, "doc_max_length": options.doc_max_length}
    if options.student == "colbert":
        return ColbertModel.from_pretrained(options.init, **_colbert(options), **body)
    if options.student == "multi-exit-colbert":
        return _with_exits(options, MultiExitColbert, _colbert(options) | body | {"head": options.multi_exit.head})
    if options.student == "splade":
        return SpladeModel.from_pretrained(options.init, new_head=options.splade.new_head, **body)
    if options.student == "prett":
        own = options.prett
        return PrettModel.from_pretrained(
            options.init, join_layer=own.join_layer, compress_dim=own.compress_dim, **body
        )
    # It is trained by the dot product (or the cosine of --multi-exit.normalize), whatever --init was compared by.
    body |= {"projection_dim": options.projection_dim, "similarity": "dot"}
    if options.student == "multi-exit":
        exits = options.multi_exit
        body |= {"pooling": options.pooling, "normalize": exits.normalize, "head": exits.head, "dims": exits.dims}
        return _with_exits(options, MultiExitEncoder, body)
    assert options.student == "dot"
    return DotModel.from_pretrained(options.init, pooling=options.pooling, normalize=False, **body)


def _colbert(options: MarginMSEOptions) -> dict[str, Any]:
    own = options.colbert
    expansion: Expansion | None = None
    if own.expansion != "none":
        length = options.query_max_length if own.expansion == "fixed" else own.num_masks
        expansion = Expansion(own.expansion, length, own.attend_masks)
    return {
        "dim": own.dim,
        "normalize": own.normalize,
        "expansion": expansion,
        "markers": own.markers,
        "skip_words": PUNCTUATION if own.skip_punctuation else (),
    }


_WithExits = TypeVar("_WithExits", MultiExitEncoder, MultiExitColbert, MultiExitCrossEncoder)


def _with_exits(options: MarginMSEOptions, kind: type[_WithExits], settings: dict[str, Any]) -> _WithExits:
    own = options.multi_exit
    foreign = {MultiExitEncoder: (), MultiExitColbert: ("dims", "normalize")}.get(kind, ("dims", "normalize", "head"))
    for name in foreign:
        if getattr(own, name) != getattr(MultiExitOptions(), name):
            raise ValueError(f"--multi-exit.{name} isn't for --student {options.student}; leave it out")
    model = kind.from_pretrained(options.init, exits=own.exits, **settings)
    model.learn(scale=own.scale, uncertainty=own.weights == "uncertainty")
    return model


def penalty_weights(options: MarginMSEOptions, num_steps: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """By the name of each of the student's penalties its weight as a function of the step.

    Args:
        num_steps: of the whole run.

    Raises:
        ValueError: if a weight is negative, or the warm-up isn't a share.
    """
    if options.student != "splade":
        return {}
    own = options.splade
    if own.docs_weight < 0 or own.queries_weight < 0 or not 0 <= own.penalty_warmup <= 1:
        found = f"{own.docs_weight}, {own.queries_weight} and {own.penalty_warmup}"
        raise ValueError(f"expected penalties' weights of at least 0 and a warm-up between 0 and 1, found {found}")
    warmup = warmup_steps(options, num_steps)
    peaks = {"flops-docs": own.docs_weight, f"{own.queries_penalty}-queries": own.queries_weight}
    return {name: partial(_warmed, peak, warmup) for name, peak in peaks.items()}


def warmup_steps(options: MarginMSEOptions, num_steps: int) -> int:
    """Steps over which the weights of penalties rise, of `num_steps` of the whole run."""
    return round(options.splade.penalty_warmup * num_steps)


def _warmed(peak: float, warmup: int, step: Tensor) -> Tensor:
    return peak * quadratic_warmup(step, warmup)


def check_terms(student: Student | type[Any], terms: Iterable[str]) -> None:
    """Checks that a student, or its class, gives the scores that the loss terms speak of.

    Raises:
        ValueError: if a term needs scores of every query with every doc, and the student scores its rows' own docs only.
    """
    wrong = list(filter(needs_in_batch, terms))
    if wrong and not student.scores_in_batch:
        raise ValueError(
            f"loss {wrong[0]} needs scores of every query with every doc of the batch, and a {student.architecture} student "
            f"scores each row's own docs only; leave out {', '.join(filter(needs_in_batch, TERMS))}"
        )


def _new_tk(options: MarginMSEOptions, collection: Collection | None) -> TKModel:
    own, table = options.tk, options.tk.embeddings
    if bool(options.init) == bool(table):
        raise ValueError(
            "a tk student starts from an encoder's word pieces (--init) or from a table of word vectors (--tk.embeddings): "
            "pass one of them"
        )
    if options.num_layers is not None:
        raise ValueError("a tk student takes no layers of --init; its own are --tk.num-layers")
    shape: dict[str, Any] = {
        "num_layers": own.num_layers,
        "num_heads": own.num_heads,
        "feed_forward": own.feed_forward,
        "aggregation": own.aggregation,
        "doc_position": own.doc_position,
        "vector_length": own.vector_length,
        "query_max_length": options.query_max_length,
        "doc_max_length": options.doc_max_length,
    }
    if table:
        model = _tk_over_table(table, own.vocabulary == "table", collection, shape)
    else:
        model = TKModel.from_pretrained(options.init, device="cpu", **shape)
    model.learning_rate_factors = {"body.kernels.": own.kernel_lr_factor, "body.embeddings.": own.embedding_lr_factor}
    return model


def _tk_over_table(table: str, keep_all: bool, collection: Collection | None, shape: dict[str, Any]) -> TKModel:
    """A TK student over a table of word vectors, which knows how many of the collection's words that lacks."""
    assert collection is not None
    texts = (text for side in (collection.queries(), collection.docs()) for _, text in side)
    wanted = distinct_words(texts)
    words, vectors = read_word_vectors(table, None if keep_all else set(wanted))
    known = set(words)
    missing = [word for word in wanted if word not in known]
    if len(missing) == len(wanted):
        found = f"none of its {len(wanted):,} (most frequent: {', '.join(wanted[:5])})"
        remedy = "is the table in the collection's language?"
        raise BadDataError(f"a table with words of the collection {collection.name}", found, remedy, table)
    print(
        f"{table}: {len(wanted) - len(missing):,} of the collection's {len(wanted):,} words have a vector; the others are "
        "one unknown word",
        file=sys.stderr,
    )
    model = TKModel.from_words(words, vectors, device="cpu", **shape)
    model.coverage = {
        "words_of_the_collection": len(wanted),
        "words_without_a_vector": len(missing),
        "most_frequent_without_a_vector": missing[:20],
    }
    return model
