"""Cross-architecture distillation: a student learns from the scores of a teacher's file.

The recipe, in the order in which data flows: score file -> store -> rows placed in a collection -> batches of token ids ->
one score matrix of all the batch's queries and docs -> named loss terms -> checkpoint.

Source: Hofstätter et al. 2020, arXiv:2010.02666. In-batch terms follow the dual supervision of arXiv:2104.06967, with a dense
teacher whose whole matrix comes from cached vectors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn
from tqdm import tqdm
from transformers import EarlyStoppingCallback, set_seed

from rankdistill.data.batches import Plan
from rankdistill.data.masking import WordDrop
from rankdistill.data.scores import ScoreStore, open_scores
from rankdistill.data.tokens import cached_tokens
from rankdistill.data.transforms import score_transform
from rankdistill.formats.cache import fingerprint_of
from rankdistill.formats.collection import Collection, collection_from_texts, open_collection
from rankdistill.models.foreign import DenseModel
from rankdistill.models.loading import ARCHITECTURES, Student, load_model
from rankdistill.models.towers import BatchScores, Tower
from rankdistill.options.training import LossOptions, MarginMSEOptions
from rankdistill.records import Qrels
from rankdistill.retrieval.bm25 import bm25_search
from rankdistill.retrieval.index import searches
from rankdistill.training.exits import ExitLoss, exit_loss
from rankdistill.training.live_teacher import LiveTeacher
from rankdistill.training.lora import add_adapters, count_weights
from rankdistill.training.rows import BatchTeacher, CrossSource, DenseTeacher, Placed, TowerSource, place
from rankdistill.training.run import (
    alone,
    run_training,
    same_facts,
    total_steps,
    trainer_arguments,
    write_config,
)
from rankdistill.training.run_folder import prepare_folder
from rankdistill.training.sampling import check_sampler, sampled_plan, sampling_facts
from rankdistill.training.scales import scale_notice
from rankdistill.training.students import check_terms, new_student, penalty_weights, settled, warmup_steps
from rankdistill.training.teacher_vectors import cached_vectors
from rankdistill.training.terms import (
    TERMS,
    is_contrastive,
    needs_dense_teacher,
    needs_in_batch,
    needs_negatives,
    parse_loss,
    term_loss,
)
from rankdistill.training.trainer import Batch, DistillationTrainer, Objective
from rankdistill.training.validation import dev_qrels, validator
from rankdistill.training.vocabulary import train_occurring_words

__all__ = ["collection_fingerprints", "loss_weights", "score_objective", "train_margin_mse"]


def score_objective(
    weights: Mapping[str, float],
    options: LossOptions,
    penalties: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    exits: ExitLoss | None = None,
    mini_batch_size: int | None = None,
    on_scores: Callable[[BatchScores, Batch], None] | None = None,
) -> Objective:
    """The weighted loss terms of a student's scores.

    A student gives the scores [B, M] of every query with every doc of the batch, or those [B, N] of each row's own docs;
    the latter has no in-batch terms.

    Args:
        weights: of each term.
        options: what the terms heed: temperature, the teacher's scale and so on.
        penalties: by the name of each of the student's own penalties its weight as a function of the step; others count
            nothing.
        exits: of a student that scores at several exits, how each one's terms count; without it, the deepest alone does.
        mini_batch_size: texts that go through the student at once, as in `Tower.forward`.
        on_scores: sees the student's scores of each batch.
    """

    def terms_of(found: BatchScores, batch: Batch) -> dict[str, Tensor]:
        terms = {}
        for name, weight in weights.items():
            scores = found.scores
            if found.in_batch and not needs_in_batch(name):
                scores = found.own(batch["doc_columns"])
            if is_contrastive(name):
                scores = found.scaled(scores)
            terms[name] = weight * term_loss(name, scores, batch, options)
        for name, weight_at in (penalties or {}).items():
            terms[name] = weight_at(batch["step"]) * found.penalties[name]
        return terms

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        found: BatchScores = model(batch, mini_batch_size)
        if on_scores is not None:
            on_scores(found, batch)
        with torch.autocast(found.scores.device.type, enabled=False):  # losses in fp32
            return terms_of(found, batch) if exits is None else exits(found, batch, terms_of)

    return objective


def loss_weights(options: MarginMSEOptions) -> dict[str, float]:
    """Weights of the loss terms that the options ask for; those of `settled` options do.

    Raises:
        ValueError: for terms that don't exist, or that don't go with the other options.
    """
    weights = parse_loss(options.loss or ())
    if any(map(needs_dense_teacher, weights)) != (options.in_batch_teacher is not None):
        names = ", ".join(filter(needs_dense_teacher, TERMS))
        raise ValueError(f"--in-batch-teacher and the loss terms {names} go together: give both or neither")
    return weights


@alone
def train_margin_mse(options: MarginMSEOptions) -> Path:
    """Trains a student from teacher score files.

    Returns:
        The folder of the trained model, which `rankdistill.load` reads.

    Raises:
        ValueError: for options that contradict each other.
        MissingIdsError: if the score file names ids that the collection lacks.
        BadDataError: for malformed rows.
        FileExistsError: if the output folder holds a run.
    """
    options = settled(options)
    weights = loss_weights(options)
    kind = ARCHITECTURES[options.student]
    check_terms(kind, weights)
    if options.dev_split is not None and options.dev_mode == "retrieve" and not searches(kind):
        raise ValueError(
            f"a {options.student} student is validated by --dev-mode rerank; it can't search all documents"
        )
    check_sampler(options)
    state = PartialState(cpu=options.device == "cpu")
    checkpoint = prepare_folder(options, state)
    with state.main_process_first():  # the first process fills the caches, the others read them
        store = open_scores(options.scores, format=options.format, on_bad_row=options.on_bad_row)
    collection = _collection(options, store)
    set_seed(options.seed)
    model = new_student(options, collection)
    adapters = add_adapters(model, options.lora) if options.lora.rank else None
    transform = score_transform(options.teacher_transform, store.format)
    placed = place(store, collection, on_missing=options.on_missing, transform=transform)
    source, plan = _batches(
        options, state, model, collection, placed, with_negatives=any(map(needs_negatives, weights))
    )
    restore = train_occurring_words(model, (source.queries, source.docs), options.weight_decay)
    penalties = penalty_weights(options, total_steps(options, source.num_steps))
    dev = _dev_set(options, collection)
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
        **sampling_facts(plan),
        **getattr(model, "coverage", {}),
    }
    if adapters is not None:
        facts["weights_trained"], facts["weights"] = count_weights(model)
    if arguments.process_index == 0:
        same = same_facts(options, arguments, source.num_steps) | collection_fingerprints(options, collection)
        if penalties:
            same["penalties' warm-up"] = f"{warmup_steps(options, total_steps(options, source.num_steps))} steps"
        write_config(options, arguments, same, checkpoint, **facts)
        if adapters is not None:
            print("{weights_trained:,} of {weights:,} weights are trained".format(**facts), file=sys.stderr)
    is_told = checkpoint is None and arguments.process_index == 0
    notice = scale_notice(weights, options, partial(tqdm.write, file=sys.stderr)) if is_told else None
    trainer = DistillationTrainer(
        model,
        arguments,
        source=source,
        objective=score_objective(weights, options, penalties, exit_loss(options), options.mini_batch_size, notice),
        validate=None if dev is None else _validation(options, *dev),
        only_trained=adapters is not None,
        callbacks=[EarlyStoppingCallback(options.patience)] if with_dev and options.patience else None,
    )
    return run_training(trainer, options, checkpoint, facts, restore if adapters is None else adapters.merge_and_unload)


def _collection(options: MarginMSEOptions, store: ScoreStore) -> Collection:
    if options.collection is not None:
        return open_collection(options.collection)
    if store.format != "text":
        raise ValueError(
            f"score files of the form {store.format} name texts by id: pass --collection, which holds them"
        )
    docs, queries = ({text: text for text in texts} for texts in (store.doc_ids, store.query_ids))
    return collection_from_texts(docs, queries, name="the score file", any_ids=True)


def _batches(
    options: MarginMSEOptions,
    state: PartialState,
    model: Student,
    collection: Collection,
    placed: Placed,
    *,
    with_negatives: bool,
) -> tuple[TowerSource | CrossSource, Plan]:
    limits = (model.query_max_length, model.doc_max_length) if isinstance(model, Tower) else (model.max_length,) * 2
    prompts = (model.query_prompt, model.doc_prompt) if isinstance(model, Tower) else ("", "")
    with state.main_process_first():
        queries = cached_tokens(collection, "queries", model.tokenizer, limits[0], prompt=prompts[0])
        docs = cached_tokens(collection, "docs", model.tokenizer, limits[1], prompt=prompts[1])
        teacher = None
        if options.in_batch_teacher is not None:
            teacher = _batch_teacher(options, collection)
    plan = sampled_plan(options, placed, docs, collection, state)
    if isinstance(model, Tower):
        pad_id = int(model.tokenizer.pad_token_id)
        drop = WordDrop.of(model.tokenizer, options.word_drop, model.doc_prompt) if options.word_drop else None
        source = TowerSource(
            placed, plan, queries, docs, pad_id, teacher, with_negatives=with_negatives, word_drop=drop
        )
        return source, plan
    return CrossSource.of(model.tokenizer, placed, plan, queries, docs, max_length=model.max_length), plan


def _batch_teacher(options: MarginMSEOptions, collection: Collection) -> BatchTeacher:
    """What scores whole batches: by vectors made once, or, if its states of texts are more than a vector, as they come."""
    assert options.in_batch_teacher is not None
    model = load_model(options.in_batch_teacher, device=options.device)
    if isinstance(model, DenseModel):
        queries, docs = cached_vectors(model, collection)
        return DenseTeacher(queries, docs, options.in_batch_scale, model.comparison)
    if options.num_workers:
        raise ValueError("--num-workers must be 0 with a teacher that reads every batch; leave it out")
    return LiveTeacher.of(model, collection, options.in_batch_scale)


def collection_fingerprints(options: MarginMSEOptions, collection: Collection) -> dict[str, str]:
    """Names the content of the training's collection and of what it's validated on.

    Args:
        collection: of `options.collection`; what score files in text form hold, without.
    """
    dev = _dev_set(options, collection)
    same = {} if options.collection is None else {"--collection": collection.fingerprint}
    return same if dev is None else same | {"validation": fingerprint_of(dev[0].fingerprint, dev[1])}


def _dev_set(options: MarginMSEOptions, collection: Collection) -> tuple[Collection, Qrels] | None:
    if options.dev_split is None:
        return None
    dev = open_collection(options.dev_collection) if options.dev_collection else collection
    return dev, dev_qrels(dev, options.dev_split, options.dev_queries)


def _validation(options: MarginMSEOptions, dev: Collection, qrels: Qrels) -> Callable[[nn.Module], dict[str, float]]:
    candidates = bm25_search(dev, list(qrels), options.dev_depth) if options.dev_mode == "rerank" else None
    measures = dict.fromkeys((options.metric, "nDCG@10", "RR@10"))
    return validator(dev, qrels, measures=tuple(measures), candidates=candidates, depth=options.dev_depth)
