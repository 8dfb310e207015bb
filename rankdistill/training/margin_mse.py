"""Cross-architecture distillation: a student learns from the scores of a teacher's file.

The recipe, in the order in which data flows: score file -> store -> rows placed in a collection -> batches of token ids ->
one score matrix of all the batch's queries and docs -> named loss terms -> checkpoint.

Source: Hofstätter et al. 2020, arXiv:2010.02666. In-batch terms follow the dual supervision of arXiv:2104.06967, with a dense
teacher whose whole matrix comes from cached vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, set_seed

from rankdistill import losses
from rankdistill.data.batches import BatchPlan
from rankdistill.data.scores import ScoreStore, open_scores
from rankdistill.data.tokens import cached_tokens
from rankdistill.formats.collection import Collection, collection_from_texts, open_collection
from rankdistill.models.loading import ARCHITECTURES, Model
from rankdistill.models.towers import BatchScores, Tower
from rankdistill.options.training import LOSS_TERMS, MarginMSEOptions
from rankdistill.retrieval.bm25 import bm25_search
from rankdistill.training.rows import CrossSource, DenseTeacher, Placed, TowerSource, batch_plan, place
from rankdistill.training.run import prepare_folder, run_training, trainer_arguments, write_config
from rankdistill.training.students import check_terms, new_student
from rankdistill.training.teacher_vectors import cached_vectors
from rankdistill.training.trainer import Batch, DistillationTrainer, Objective
from rankdistill.training.validation import dev_qrels, validator

__all__ = ["parse_loss", "score_objective", "train_margin_mse"]

_FROM_DENSE_TEACHER = {"in-batch-margin-mse", "in-batch-kl"}


def parse_loss(terms: Sequence[str]) -> dict[str, float]:
    """Weights by term, of `NAME` or `NAME:WEIGHT`.

    Raises:
        ValueError: for an unknown name, a weight that is no positive number, or a term given twice.
    """
    weights: dict[str, float] = {}
    for term in terms:
        name, _, weight = term.partition(":")
        if name not in LOSS_TERMS:
            raise ValueError(f'loss "{name}" does not exist: there are {", ".join(LOSS_TERMS)}')
        if name in weights:
            raise ValueError(f'loss "{name}" is given twice; give it once, as {name}:WEIGHT')
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            weights[name] = 0.0
        if not 0 < weights[name] < float("inf"):
            raise ValueError(f'expected a positive weight in "{term}", as in "{name}:0.5"')
    if not weights:
        raise ValueError(f"expected at least one loss term of {', '.join(LOSS_TERMS)}")
    return weights


def score_objective(weights: Mapping[str, float], temperature: float = 1.0, teacher_scale: float = 1.0) -> Objective:
    """The weighted loss terms of a student's scores.

    A student gives the scores [B, M] of every query with every doc of the batch, or those [B, N] of each row's own docs;
    the latter has no in-batch terms.
    """

    def term(name: str, batch: Batch, found: BatchScores) -> Tensor:
        if name == "infonce":
            positives_B = batch["doc_columns"][:, 0]
            return losses.infonce(found.scores, positives_B, temperature=temperature, mask_BM=batch["negatives"])
        if name == "in-batch-margin-mse":
            return losses.margin_mse_all_pairs(found.scores, batch["in_batch_scores"])
        if name == "in-batch-kl":
            return losses.kl_divergence(found.scores, batch["in_batch_scores"], student_temperature=temperature)
        scores_BN = found.own(batch["doc_columns"]) if found.in_batch else found.scores
        if name == "ranknet":
            return losses.ranknet(scores_BN)
        teacher_BN = batch["teacher_scores"] * teacher_scale
        if name == "margin-mse":
            return losses.margin_mse(scores_BN, teacher_BN)
        if name == "margin-mse-all-pairs":
            return losses.margin_mse_all_pairs(scores_BN, teacher_BN)
        assert name == "kl"
        return losses.kl_divergence(scores_BN, teacher_BN, student_temperature=temperature)

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        found: BatchScores = model(batch)
        with torch.autocast(found.scores.device.type, enabled=False):  # losses in fp32
            return {name: weight * term(name, batch, found) for name, weight in weights.items()}

    return objective


def train_margin_mse(options: MarginMSEOptions) -> Path:
    """Trains a student from teacher score files.

    Returns:
        The folder of the trained model, which `rankdistill.load` reads (and sentence-transformers, for a dot student or a
        cross-encoder).

    Raises:
        ValueError: for options that contradict each other.
        MissingIdsError: if the score file names ids that the collection lacks.
        BadDataError: for malformed rows.
        FileExistsError: if the output folder holds a run.
    """
    weights = parse_loss(options.loss)
    needs_dense = bool(_FROM_DENSE_TEACHER & set(weights))
    if needs_dense != (options.in_batch_teacher is not None):
        names = ", ".join(sorted(_FROM_DENSE_TEACHER))
        raise ValueError(f"--in-batch-teacher and the loss terms {names} go together: give both or neither")
    if options.dev_split is not None and options.dev_mode == "retrieve" and options.student != "dot":
        raise ValueError(f"a {options.student} student is validated by --dev-mode rerank; only dot students retrieve")
    check_terms(ARCHITECTURES[options.student], weights)
    checkpoint = prepare_folder(options)
    state = PartialState(cpu=options.device == "cpu")
    with state.main_process_first():  # the first process fills the caches, the others read them
        store = open_scores(options.scores, format=options.format, on_bad_row=options.on_bad_row)
    collection = _collection(options, store)
    set_seed(options.seed)
    model = new_student(options, collection)
    placed = place(store, collection, on_missing=options.on_missing)
    source, plan = _batches(options, state, model, collection, placed, with_negatives="infonce" in weights)
    with_dev = options.dev_split is not None
    arguments = trainer_arguments(
        options,
        source.num_steps,
        eval_steps=options.eval_steps if with_dev else None,
        metric=options.metric if with_dev else None,
    )
    facts = {
        "score_rows": store.num_rows,
        "rows_left_out_for_missing_ids": store.num_rows - placed.num_rows,
        "bad_rows": store.bad_rows,
        "score_fingerprint": store.fingerprint,
        "docs_per_row": store.num_docs_per_row,
        "steps_per_epoch": source.num_steps,
        "rows_dropped_per_epoch": plan.num_dropped_rows,
        **getattr(model, "coverage", {}),
    }
    if arguments.process_index == 0:
        write_config(options, arguments, **facts)
    trainer = DistillationTrainer(
        model,
        arguments,
        source=source,
        objective=score_objective(weights, options.temperature, options.teacher_scale),
        validate=_validation(options, collection) if with_dev else None,
        callbacks=[EarlyStoppingCallback(options.patience)] if with_dev and options.patience else None,
    )
    return run_training(trainer, options, checkpoint, facts)


def _collection(options: MarginMSEOptions, store: ScoreStore) -> Collection:
    if options.collection is not None:
        return open_collection(options.collection)
    if store.format != "text":
        raise ValueError(
            f"score files of the form {store.format} name texts by id: pass --collection, which holds them"
        )
    docs, queries = ({text: text for text in texts} for texts in (store.doc_ids, store.query_ids))
    return collection_from_texts(docs, queries, name="the score file")


def _batches(
    options: MarginMSEOptions,
    state: PartialState,
    model: Model,
    collection: Collection,
    placed: Placed,
    *,
    with_negatives: bool,
) -> tuple[TowerSource | CrossSource, BatchPlan]:
    limits = (model.query_max_length, model.doc_max_length) if isinstance(model, Tower) else (model.max_length,) * 2
    prompts = (model.query_prompt, model.doc_prompt) if isinstance(model, Tower) else ("", "")
    with state.main_process_first():
        queries = cached_tokens(collection, "queries", model.tokenizer, limits[0], prompt=prompts[0])
        docs = cached_tokens(collection, "docs", model.tokenizer, limits[1], prompt=prompts[1])
        teacher = None
        if options.in_batch_teacher is not None:
            teacher_queries, teacher_docs = cached_vectors(options.in_batch_teacher, collection, device=options.device)
            teacher = DenseTeacher(teacher_queries, teacher_docs, options.in_batch_scale)
    plan = batch_plan(options, placed, docs, world_size=state.num_processes, rank=state.process_index)
    if isinstance(model, Tower):
        pad_id = int(model.tokenizer.pad_token_id)
        return TowerSource(placed, plan, queries, docs, pad_id, teacher, with_negatives=with_negatives), plan
    return CrossSource.of(model.tokenizer, placed, plan, queries, docs, max_length=model.max_length), plan


def _validation(options: MarginMSEOptions, collection: Collection) -> Callable[[nn.Module], dict[str, float]]:
    assert options.dev_split is not None
    dev = open_collection(options.dev_collection) if options.dev_collection else collection
    qrels = dev_qrels(dev, options.dev_split, options.dev_queries)
    candidates = bm25_search(dev, list(qrels), options.dev_depth) if options.dev_mode == "rerank" else None
    measures = dict.fromkeys((options.metric, "nDCG@10", "RR@10"))
    return validator(dev, qrels, measures=tuple(measures), candidates=candidates, depth=options.dev_depth)
