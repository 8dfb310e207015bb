"""The named loss terms of `train margin-mse`: one table of what each needs and how it's computed.

A student that scores only each row's own docs takes the terms for which `needs_in_batch` is false.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from rankdistill import losses
from rankdistill.data.curriculum import interpolated_scores, rank_labels
from rankdistill.options.training import LossOptions
from rankdistill.training.trainer import Batch

__all__ = [
    "PRESETS",
    "TERMS",
    "Needs",
    "Term",
    "is_contrastive",
    "needs_dense_teacher",
    "needs_in_batch",
    "needs_negatives",
    "parse_loss",
    "term_loss",
]

Needs = Literal["own", "labels", "in-batch labels", "in-batch teacher"]
"""What a term is made of.

own: scores [B, N] of each row's own docs, and the teacher's (`teacher_scores` in the batch). labels: the same without the
teacher; doc 0 is the relevant one. in-batch labels: scores [B, M] of all docs of the batch, with `doc_columns` and `negatives`.
in-batch teacher: the same, with a dense teacher's `in_batch_scores`.
"""


class Term(NamedTuple):
    """A loss term: what it needs, and its value for the student's scores, a batch and the options."""

    needs: Needs
    loss: Callable[[Tensor, Batch, LossOptions], Tensor]


def _teacher(batch: Batch, options: LossOptions) -> Tensor:
    return batch["teacher_scores"] * options.teacher_scale


def _target(scores: Tensor, teacher_scores: Tensor, options: LossOptions) -> Tensor:
    """The teacher's scores, or with --teacher-share something between what the loss makes of the student's and them."""
    if options.teacher_share == 1:
        return teacher_scores
    return interpolated_scores(scores / options.temperature, teacher_scores, options.teacher_share)


def _labels(batch: Batch, options: LossOptions) -> Tensor:
    return rank_labels(batch["teacher_scores"], options.num_top, options.rest_labels)


# Orders drawn a row and step; each costs a sort of N numbers, and several make the gradient less noisy.
_NUM_ORDERS = 8


def _rankdistil(scores_BN: Tensor, batch: Batch, options: LossOptions) -> Tensor:
    orders_BSN = losses.plackett_luce_orders(_teacher(batch, options), _NUM_ORDERS)
    return losses.rankdistil(scores_BN / options.temperature, orders_BSN, top_k=options.num_top)


TERMS: dict[str, Term] = {
    "margin-mse": Term("own", lambda s, b, o: losses.margin_mse(s, _teacher(b, o))),
    "margin-mse-all-pairs": Term("own", lambda s, b, o: losses.margin_mse_all_pairs(s, _teacher(b, o))),
    "pointwise-mse": Term("own", lambda s, b, o: losses.pointwise_mse(s, _teacher(b, o))),
    "weighted-ranknet": Term("own", lambda s, b, o: losses.weighted_ranknet(s, _teacher(b, o))),
    "kl": Term(
        "own",
        lambda s, b, o: losses.kl_divergence(s, _target(s, _teacher(b, o), o), student_temperature=o.temperature),
    ),
    "reverse-kl": Term(
        "own",
        lambda s, b, o: losses.kl_divergence(
            s, _target(s, _teacher(b, o), o), student_temperature=o.temperature, direction="reverse"
        ),
    ),
    "listnet": Term(
        "own", lambda s, b, o: losses.listnet(s, _target(s, _teacher(b, o), o), student_temperature=o.temperature)
    ),
    "lambdarank": Term("own", lambda s, b, o: losses.lambdarank(s, _labels(b, o))),
    "lambda-mrr": Term("own", lambda s, b, o: losses.lambda_mrr(s, _labels(b, o))),
    "adr-mse": Term("own", lambda s, b, o: losses.adr_mse(s, b["teacher_scores"], temperature=o.temperature)),
    "rankdistil": Term("own", _rankdistil),
    "in-batch-margin-mse": Term(
        "in-batch teacher", lambda s, b, _: losses.margin_mse_all_pairs(s, b["in_batch_scores"])
    ),
    "in-batch-kl": Term(
        "in-batch teacher",
        lambda s, b, o: losses.kl_divergence(s, _target(s, b["in_batch_scores"], o), student_temperature=o.temperature),
    ),
    "infonce": Term(
        "in-batch labels",
        lambda s, b, o: losses.infonce(s, b["doc_columns"][:, 0], temperature=o.temperature, mask_BM=b["negatives"]),
    ),
    "symmetric-infonce": Term(
        "in-batch labels",
        lambda s, b, o: losses.symmetric_infonce(
            s, b["doc_columns"][:, 0], temperature=o.temperature, mask_BM=b["negatives"]
        ),
    ),
    "lce": Term("labels", lambda s, _, o: losses.localized_contrastive(s, temperature=o.temperature)),
    "ranknet": Term("labels", lambda s, _, __: losses.ranknet(s)),
}

PRESETS: dict[str, tuple[str, ...]] = {
    # The weights are those of `kldiv_mse_margin_with_weights` in naver/splade (arXiv:2403.06789: KL and Margin-MSE, 8
    # negatives); see `margin_mse_all_pairs` for how its mean differs. What regularises sparse vectors isn't part of it.
    "splade-v3": ("kl:0.99", "margin-mse-all-pairs:0.05"),
}


def needs_in_batch(term: str) -> bool:
    """Whether a term needs scores of every query with every doc of the batch, not those of each row's own docs."""
    return TERMS[term].needs.startswith("in-batch")


def is_contrastive(term: str) -> bool:
    """Whether a term makes probabilities of the student's scores without a teacher's, so that their scale may be learnt."""
    return term in ("infonce", "symmetric-infonce", "lce")


def needs_negatives(term: str) -> bool:
    """Whether a term needs to know which docs of the batch aren't a query's negatives."""
    return TERMS[term].needs == "in-batch labels"


def needs_dense_teacher(term: str) -> bool:
    """Whether a term needs a dense teacher's scores of the whole batch."""
    return TERMS[term].needs == "in-batch teacher"


def term_loss(term: str, scores: Tensor, batch: Batch, options: LossOptions) -> Tensor:
    """A term's value, not yet weighted.

    Args:
        scores: the student's: [B, M] if `needs_in_batch(term)`, else [B, N]; gradients flow.
        batch: what `Needs` lists.
    """
    return TERMS[term].loss(scores, batch, options)


def parse_loss(terms: Sequence[str]) -> dict[str, float]:
    """Weights by term, of `NAME` or `NAME:WEIGHT`, where a preset stands for its terms.

    Raises:
        ValueError: for an unknown name, a weight that is no positive number, or a term given twice.
    """
    weights: dict[str, float] = {}
    for term in (term for given in terms for term in PRESETS.get(given, (given,))):
        name, _, weight = term.partition(":")
        if name not in TERMS:
            known = f"{', '.join(TERMS)}, and the preset {', '.join(PRESETS)}, which takes no weight"
            raise ValueError(f'loss "{name}" does not exist: there are {known}')
        if name in weights:
            raise ValueError(f'loss "{name}" is given twice; give it once, as {name}:WEIGHT')
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            weights[name] = 0.0
        if not 0 < weights[name] < float("inf"):
            raise ValueError(f'expected a positive weight in "{term}", as in "{name}:0.5"')
    if not weights:
        raise ValueError(f"expected at least one loss term of {', '.join(TERMS)}")
    return weights
