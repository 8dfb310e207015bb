"""A cross-encoder teacher, trained on labels: from triples, or from judgements and drawn negatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn import functional
from transformers import set_seed

from rankdistill import losses
from rankdistill.data.tokens import cached_tokens
from rankdistill.formats.cache import fingerprint_of
from rankdistill.formats.collection import open_collection
from rankdistill.formats.triples import Triple, read_triples
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.options.training import TeacherOptions
from rankdistill.retrieval.mine import draw_triples
from rankdistill.training.rows import CrossSource, MemoryRows, batch_plan, place
from rankdistill.training.run import (
    alone,
    plan_facts,
    run_training,
    same_facts,
    trainer_arguments,
    write_config,
)
from rankdistill.training.run_folder import prepare_folder
from rankdistill.training.trainer import Batch, DistillationTrainer, Objective
from rankdistill.training.vocabulary import train_occurring_words

__all__ = ["rows_of_triples", "teacher_objective", "train_teacher"]


def rows_of_triples(triples: list[Triple]) -> MemoryRows:
    """Triples as rows of one query and two docs, by dense indices in order of appearance."""
    queries: dict[str, int] = {}
    docs: dict[str, int] = {}
    table = [
        (
            queries.setdefault(query_id, len(queries)),
            docs.setdefault(positive, len(docs)),
            docs.setdefault(negative, len(docs)),
        )
        for query_id, positive, negative in triples
    ]
    array = np.array(table, np.int64)
    return MemoryRows(list(queries), list(docs), array[:, 0], array[:, 1:])


def teacher_objective(loss: str) -> Objective:
    """RankNet, or binary cross-entropy of each doc by itself; doc 0 of each row is the relevant one."""

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        scores_BN = model(batch).scores
        if loss == "ranknet":
            return {"ranknet": losses.ranknet(scores_BN)}
        labels_BN = torch.zeros_like(scores_BN)
        labels_BN[:, 0] = 1
        return {"bce": functional.binary_cross_entropy_with_logits(scores_BN, labels_BN)}

    return objective


@alone
def train_teacher(options: TeacherOptions) -> Path:
    """Trains a cross-encoder.

    Returns:
        The folder of the trained model, which `sentence_transformers.CrossEncoder` loads.

    Raises:
        MissingIdsError: if the triples name ids that the collection lacks.
        FileExistsError: if the output folder holds a run.
    """
    state = PartialState(cpu=options.device == "cpu")
    checkpoint = prepare_folder(options, state)
    set_seed(options.seed)
    model = CrossEncoderModel.from_pretrained(
        options.init,
        device="cpu",
        num_layers=options.num_layers,
        dropout=options.dropout,
        max_length=options.max_length,
        new_head=True,
    )
    collection = open_collection(options.collection)
    if options.triples is not None:
        triples = read_triples(options.triples)
    else:
        triples = draw_triples(
            collection,
            options.split,
            options.negatives,
            num_negatives=options.num_negatives,
            depth=options.negative_depth,
            num_random=options.num_random,
            seed=options.seed,
            on_missing=options.on_missing,
        )
    placed = place(rows_of_triples(triples), collection, on_missing=options.on_missing)
    with state.main_process_first():
        queries = cached_tokens(collection, "queries", model.tokenizer, model.max_length)
        docs = cached_tokens(collection, "docs", model.tokenizer, model.max_length)
    plan = batch_plan(options, placed, docs, world_size=state.num_processes, rank=state.process_index)
    source = CrossSource.of(model.tokenizer, placed, plan, queries, docs, max_length=model.max_length)
    restore = train_occurring_words(model, (queries, docs), options.weight_decay)
    arguments = trainer_arguments(options, source.num_steps)
    facts = {
        "triples": len(triples),
        "triples_left_out_for_missing_ids": len(triples) - placed.num_rows,
        **plan_facts(plan),
    }
    if arguments.process_index == 0:
        same = same_facts(options, arguments, source.num_steps)
        same |= {"--collection": collection.fingerprint, "triples": fingerprint_of(*triples)}
        write_config(options, arguments, same, checkpoint, **facts)
    trainer = DistillationTrainer(model, arguments, source=source, objective=teacher_objective(options.loss))
    return run_training(trainer, options, checkpoint, facts, restore)
