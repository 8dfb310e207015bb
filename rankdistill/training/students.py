"""The students that `train margin-mse` knows, made from its options."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rankdistill.errors import BadDataError
from rankdistill.formats.collection import Collection
from rankdistill.formats.word_vectors import read_word_vectors
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import Model
from rankdistill.models.prett import PrettModel
from rankdistill.models.tk import TKModel
from rankdistill.models.words import distinct_words
from rankdistill.options.training import IN_BATCH_TERMS, MarginMSEOptions

__all__ = ["check_terms", "new_student"]


def new_student(options: MarginMSEOptions, collection: Collection | None = None) -> Model:
    """The student that `options` ask for, on the CPU, starting from `options.init`.

    Args:
        collection: what it's trained on; only a TK student over a table of words looks at it.

    Raises:
        ValueError: if there's nothing to start from, or too much.
    """
    if options.student == "tk":
        return _new_tk(options, collection)
    if not options.init:
        raise ValueError(f"a {options.student} student starts from an encoder: pass --init")
    lengths = {"query_max_length": options.query_max_length, "doc_max_length": options.doc_max_length}
    if options.student == "cross-encoder":
        return CrossEncoderModel.from_pretrained(
            options.init,
            device="cpu",
            num_layers=options.num_layers,
            max_length=options.query_max_length + options.doc_max_length,
            new_head=True,
        )
    if options.student == "prett":
        return PrettModel.from_pretrained(
            options.init,
            device="cpu",
            num_layers=options.num_layers,
            join_layer=options.prett.join_layer,
            compress_dim=options.prett.compress_dim,
            **lengths,
        )
    assert options.student == "dot"
    return DotModel.from_pretrained(
        options.init,
        device="cpu",
        num_layers=options.num_layers,
        pooling=options.pooling,
        projection_dim=options.projection_dim,
        normalize=False,
        **lengths,
    )


def check_terms(student: Model | type[Any], terms: Iterable[str]) -> None:
    """Checks that a student, or its class, gives the scores that the loss terms speak of.

    Raises:
        ValueError: if a term needs scores of every query with every doc, and the student scores its rows' own docs only.
    """
    wrong = [name for name in terms if name in IN_BATCH_TERMS]
    if wrong and not student.scores_in_batch:
        raise ValueError(
            f"loss {wrong[0]} needs scores of every query with every doc of the batch, and a {student.architecture} student "
            f"scores each row's own docs only; leave out {', '.join(IN_BATCH_TERMS)}"
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
