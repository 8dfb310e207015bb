"""Cross-architecture distillation: a student learns from the scores of a teacher's file.

The recipe, in the order in which data flows: score file -> store -> rows placed in a collection -> batches of token ids ->
one score matrix of all the batch's queries and docs -> named loss terms -> checkpoint.

Source: Hofstätter et al. 2020, arXiv:2010.02666. In-batch terms follow the dual supervision of arXiv:2104.06967, with a dense
teacher whose whole matrix comes from cached vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, set_seed

from rankdistill import losses
from rankdistill.data.batches import Plan
from rankdistill.data.scores import ScoreStore, open_scores
from rankdistill.data.tokens import cached_tokens
from rankdistill.data.transforms import score_transform
from rankdistill.formats.collection import Collection, collection_from_texts, open_collection
from rankdistill.models.dot import DotModel
from rankdistill.options.training import LOSS_TERMS, MarginMSEOptions
from rankdistill.retrieval.bm25 import bm25_search
from rankdistill.training.rows import DenseTeacher, DotSource, Placed, place
from rankdistill.training.run import prepare_folder, run_training, trainer_arguments, write_config
from rankdistill.training.sampling import check_sampler, sampled_plan, sampling_facts
from rankdistill.training.teacher_vectors import cached_vectors
from rankdistill.training.trainer import Batch, DistillationTrainer, Objective
from rankdistill.training.validation import dev_qrels, validator

__all__ = ["dot_objective", "parse_loss", "train_margin_mse"]

_CPU_PARTS = 4
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


def dot_objective(weights: Mapping[str, float], temperature: float = 1.0, teacher_scale: float = 1.0) -> Objective:
    """The weighted loss terms of a dot student.

    Queries and docs are encoded in one pass each. All scores come out of one product [B, M]; those of each row's own N
    docs are picked from it.
    """

    def term(name: str, batch: Batch, scores_BM: Tensor) -> Tensor:
        columns_BN = batch["doc_columns"]
        if name == "infonce":
            return losses.infonce(scores_BM, columns_BN[:, 0], temperature=temperature, mask_BM=batch["negatives"])
        if name == "in-batch-margin-mse":
            return losses.margin_mse_all_pairs(scores_BM, batch["in_batch_scores"])
        if name == "in-batch-kl":
            return losses.kl_divergence(scores_BM, batch["in_batch_scores"], student_temperature=temperature)
        scores_BN = scores_BM.gather(1, columns_BN)
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
        queries_BD, docs_MD = (vectors.float() for vectors in _encode(model, batch))
        with torch.autocast(queries_BD.device.type, enabled=False):  # scores and losses in fp32
            scores_BM = queries_BD @ docs_MD.T
            return {name: weight * term(name, batch, scores_BM) for name, weight in weights.items()}

    return objective


def _encode(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Vectors of the batch's queries [B, D] and docs [M, D], each of which come shortest first."""
    sides = [(batch[f"{side}_ids"], batch[f"{side}_mask"]) for side in ("query", "doc")]
    if sides[0][0].device.type != "cpu":
        # A GPU would rather have few big products, and not wait for lengths.
        queries_BD, docs_MD = (model(ids, mask) for ids, mask in sides)
        return queries_BD, docs_MD
    # A CPU's time grows with tokens, padding too: each side goes in quarters, each padded to its own longest text. All
    # tokens are looked up at once, since every look-up's gradient is as big as the whole table of embeddings.
    plain: Any = getattr(model, "module", model)
    embedded = plain.embed(torch.cat([ids.flatten() for ids, _ in sides]))
    vectors = []
    for (ids, mask), part in zip(sides, embedded.split([ids.numel() for ids, _ in sides]), strict=True):
        embedded_BLD = part.view(*ids.shape, -1)
        quarters = []
        for states, masked in zip(embedded_BLD.chunk(_CPU_PARTS), mask.chunk(_CPU_PARTS), strict=True):
            longest = int(masked.sum(1).max())
            quarters.append(model(None, masked[:, :longest], inputs_embeds=states[:, :longest]))
        vectors.append(torch.cat(quarters))
    return vectors[0], vectors[1]


def train_margin_mse(options: MarginMSEOptions) -> Path:
    """Trains a student from teacher score files.

    Returns:
        The folder of the trained model, a SentenceTransformer.

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
    check_sampler(options)
    checkpoint = prepare_folder(options)
    set_seed(options.seed)
    model = DotModel.from_pretrained(
        options.init,
        device="cpu",
        num_layers=options.num_layers,
        pooling=options.pooling,
        projection_dim=options.projection_dim,
        normalize=False,
        query_max_length=options.query_max_length,
        doc_max_length=options.doc_max_length,
    )
    state = PartialState(cpu=options.device == "cpu")
    with state.main_process_first():  # the first process fills the caches, the others read them
        store = open_scores(options.scores, format=options.format, on_bad_row=options.on_bad_row)
    collection = _collection(options, store)
    transform = score_transform(options.teacher_transform, store.format)
    placed = place(store, collection, on_missing=options.on_missing, transform=transform)
    source, plan = _batches(options, state, model, collection, placed)
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
    }
    if arguments.process_index == 0:
        write_config(options, arguments, **facts)
    trainer = DistillationTrainer(
        model,
        arguments,
        source=source,
        objective=dot_objective(weights, options.temperature, options.teacher_scale),
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
    options: MarginMSEOptions, state: PartialState, model: DotModel, collection: Collection, placed: Placed
) -> tuple[DotSource, Plan]:
    with state.main_process_first():
        tokenizer, prompts = model.tokenizer, (model.query_prompt, model.doc_prompt)
        queries = cached_tokens(collection, "queries", tokenizer, model.query_max_length, prompt=prompts[0])
        docs = cached_tokens(collection, "docs", tokenizer, model.doc_max_length, prompt=prompts[1])
        teacher = None
        if options.in_batch_teacher is not None:
            teacher_queries, teacher_docs = cached_vectors(options.in_batch_teacher, collection, device=options.device)
            teacher = DenseTeacher(teacher_queries, teacher_docs, options.in_batch_scale)
    plan = sampled_plan(options, placed, docs, collection, state)
    pad_id = int(model.tokenizer.pad_token_id)
    return DotSource(placed, plan, queries, docs, pad_id, teacher), plan


def _validation(options: MarginMSEOptions, collection: Collection) -> Callable[[nn.Module], dict[str, float]]:
    assert options.dev_split is not None
    dev = open_collection(options.dev_collection) if options.dev_collection else collection
    qrels = dev_qrels(dev, options.dev_split, options.dev_queries)
    candidates = bm25_search(dev, list(qrels), options.dev_depth) if options.dev_mode == "rerank" else None
    measures = dict.fromkeys((options.metric, "nDCG@10", "RR@10"))
    return validator(dev, qrels, measures=tuple(measures), candidates=candidates, depth=options.dev_depth)
