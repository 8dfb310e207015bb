"""The students that `train margin-mse` knows, made from its options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor

from rankdistill.models.colbert import PUNCTUATION, ColbertModel, Expansion
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import Model
from rankdistill.models.splade import SpladeModel
from rankdistill.options.training import MarginMSEOptions
from rankdistill.training.schedules import quadratic_warmup
from rankdistill.training.terms import TERMS, needs_in_batch

__all__ = ["check_terms", "new_student", "penalty_weights"]


def new_student(options: MarginMSEOptions) -> Model:
    """The student that `options` ask for, on the CPU, starting from `options.init`."""
    lengths = {"query_max_length": options.query_max_length, "doc_max_length": options.doc_max_length}
    if options.student == "cross-encoder":
        return CrossEncoderModel.from_pretrained(
            options.init,
            device="cpu",
            num_layers=options.num_layers,
            dropout=options.dropout,
            max_length=options.query_max_length + options.doc_max_length,
            new_head=True,
        )
    if options.student == "colbert":
        return _colbert(options)
    if options.student == "splade":
        return SpladeModel.from_pretrained(
            options.init,
            device="cpu",
            num_layers=options.num_layers,
            dropout=options.dropout,
            new_head=options.splade.new_head,
            **lengths,
        )
    assert options.student == "dot"
    return DotModel.from_pretrained(
        options.init,
        device="cpu",
        num_layers=options.num_layers,
        dropout=options.dropout,
        pooling=options.pooling,
        projection_dim=options.projection_dim,
        normalize=False,
        **lengths,
    )


def _colbert(options: MarginMSEOptions) -> ColbertModel:
    own = options.colbert
    expansion: Expansion | None = None
    if own.expansion != "none":
        length = options.query_max_length if own.expansion == "fixed" else own.num_masks
        expansion = Expansion(own.expansion, length, own.attend_masks)
    return ColbertModel.from_pretrained(
        options.init,
        device="cpu",
        num_layers=options.num_layers,
        dropout=options.dropout,
        dim=own.dim,
        normalize=own.normalize,
        expansion=expansion,
        markers=own.markers,
        skip_words=PUNCTUATION if own.skip_punctuation else (),
        query_max_length=options.query_max_length,
        doc_max_length=options.doc_max_length,
    )


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
    warmup = round(own.penalty_warmup * num_steps)
    peaks = {"flops-docs": own.docs_weight, f"{own.queries_penalty}-queries": own.queries_weight}
    return {name: partial(_warmed, peak, warmup) for name, peak in peaks.items()}


def _warmed(peak: float, warmup: int, step: Tensor) -> Tensor:
    return peak * quadratic_warmup(step, warmup)


def check_terms(student: Model, terms: Iterable[str]) -> None:
    """Checks that a student gives the scores that the loss terms speak of.

    Raises:
        ValueError: if a term needs scores of every query with every doc, and the student scores its rows' own docs only.
    """
    wrong = list(filter(needs_in_batch, terms))
    if wrong and not student.scores_in_batch:
        raise ValueError(
            f"loss {wrong[0]} needs scores of every query with every doc of the batch, and a {student.architecture} student "
            f"scores each row's own docs only; leave out {', '.join(filter(needs_in_batch, TERMS))}"
        )
