"""The students that `train margin-mse` knows, made from its options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import Model
from rankdistill.models.prett import PrettModel
from rankdistill.options.training import IN_BATCH_TERMS, MarginMSEOptions

__all__ = ["check_terms", "new_student"]


def new_student(options: MarginMSEOptions) -> Model:
    """The student that `options` ask for, on the CPU, starting from `options.init`."""
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
