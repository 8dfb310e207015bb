"""Training to write names: pairs of a text and a name, or of a text and itself with links, by cross-entropy with label smoothing.

Source: De Cao et al. 2021, arXiv:2010.00904: label smoothing .1, dropout .1.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import set_seed

from rankdistill.data.batches import Plan, named_rows, pad_lists
from rankdistill.errors import BadDataError
from rankdistill.formats.kilt import END_ENTITY, START_ENTITY, gold_titles, read_kilt, source_text
from rankdistill.formats.linked_texts import is_linked_texts
from rankdistill.formats.tokenizers import encode_texts
from rankdistill.generation.decoding import decoder_prefix
from rankdistill.generation.link_automaton import MARKS as LINK_MARKS
from rankdistill.generation.titles import end_token, tokenize_titles
from rankdistill.models.seq2seq import Seq2SeqModel
from rankdistill.options.training import GenreOptions
from rankdistill.training.linked_pairs import linked_pairs
from rankdistill.training.run import (
    alone,
    grouped_plan,
    plan_facts,
    run_training,
    same_facts,
    trainer_arguments,
    write_config,
)
from rankdistill.training.run_folder import prepare_folder
from rankdistill.training.trainer import Batch, DistillationTrainer, Objective

__all__ = ["PairSource", "Pairs", "mixed_rows", "name_objective", "named_texts", "token_pairs", "train_genre"]


MARKS = (START_ENTITY, END_ENTITY)


@alone
def train_genre(options: GenreOptions) -> Path:
    """Trains an encoder-decoder to write the names that KILT files give, and the links of linked texts.

    Returns:
        The folder of the trained model, which `AutoModelForSeq2SeqLM` loads.

    Raises:
        BadDataError: for malformed lines, or a file without any name.
        ValueError: for weights that aren't numbers above 0.
        FileExistsError: if the output folder holds a run.
    """
    files = [_weighted(file) for file in options.files]
    state = PartialState(cpu=options.device == "cpu")
    checkpoint = prepare_folder(options, state)
    set_seed(options.seed)
    is_linked = [is_linked_texts(path) for path, _ in files]
    model = Seq2SeqModel.from_pretrained(
        options.init,
        device="cpu",
        encoder_layers=options.num_layers if options.encoder_layers is None else options.encoder_layers,
        decoder_layers=options.num_layers if options.decoder_layers is None else options.decoder_layers,
        dropout=options.dropout,
        special_tokens=(*MARKS, *LINK_MARKS) if any(is_linked) else MARKS,
        source_max_length=options.source_max_length,
    )
    linked = {path: linked_pairs(model, path) for (path, _), is_so in zip(files, is_linked, strict=True) if is_so}
    found = [
        linked[path] if path in linked else token_pairs(model, *named_texts(path, options.max_words))
        for path, _ in files
    ]
    pairs = Pairs(
        [source for own in found for source in own.sources],
        [target for own in found for target in own.targets],
        len(decoder_prefix(model.model)) - 1,
    )
    rows = mixed_rows([len(own.sources) for own in found], [weight for _, weight in files], options.seed)
    lengths = np.array([len(source) for source in pairs.sources], np.int64)
    ranks = {"world_size": state.num_processes, "rank": state.process_index}
    plan = grouped_plan(options, len(rows), lambda some: lengths[rows[some]], **ranks)
    source = PairSource(pairs, rows, plan, int(model.tokenizer.pad_token_id))
    arguments = trainer_arguments(options, source.num_steps)
    facts: dict[str, Any] = {
        "pairs": [len(own.sources) for own in found],
        "rows_an_epoch": len(rows),
        **plan_facts(plan),
    }
    if linked:
        counts = {"linked_mentions": "num_mentions", "left_out": "num_left_out", "too_long": "num_too_long"}
        facts |= {name: sum(getattr(own, count) for own in linked.values()) for name, count in counts.items()}
        print(
            "linked texts: {linked_mentions:,} mentions; {left_out:,} left out that don't begin and end with tokens, lie in two "
            "windows, or in one of the {too_long:,} that are too long for the decoder".format(**facts),
            file=sys.stderr,
        )
    if arguments.process_index == 0:
        write_config(options, arguments, same_facts(options, arguments, source.num_steps), checkpoint, **facts)
    objective = name_objective(options.label_smoothing)
    trainer = DistillationTrainer(model, arguments, source=source, objective=objective)
    return run_training(trainer, options, checkpoint, facts)


def named_texts(path: str, max_words: int) -> tuple[list[str], list[str]]:
    """The texts of a KILT file with the names to write: one pair a supporting title; lines without any are left out.

    Raises:
        BadDataError: if no line has one.
    """
    texts, names = list[str](), list[str]()
    for record in read_kilt(path):
        for title in gold_titles(record):
            texts.append(source_text(record, max_words))
            names.append(title)
    if not names:
        raise BadDataError(
            "titles of supporting pages (output, provenance, title)", "none", "is this a KILT file?", path
        )
    return texts, names


def _weighted(file: str) -> tuple[str, float]:
    """FILE, or FILE:WEIGHT."""
    path, colon, weight = file.rpartition(":")
    if not colon or not weight.replace(".", "", 1).isdigit():
        return file, 1.0
    if float(weight) <= 0:
        raise ValueError(f"expected a weight above 0, found {file}")
    return path, float(weight)


@dataclass(frozen=True)
class Pairs:
    """Token ids of texts and of the names to write.

    Attributes:
        sources: of each text, as the encoder reads it.
        targets: of each name: what the decoder begins with, the name, the end token.
        num_given: how many first tokens of a target the decoder is given and need not learn, beside the first.
    """

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]
    num_given: int = 0

    def __len__(self) -> int:
        return len(self.sources)


def token_pairs(model: Seq2SeqModel, texts: Sequence[str], names: Sequence[str]) -> Pairs:
    """Tokens of pairs, names as a trie has them.

    Raises:
        ValueError: if there aren't as many names as texts.
        BadDataError: for a name that is empty or holds the end token.
    """
    if len(texts) != len(names):
        raise ValueError(f"expected as many names as texts, found {len(names)} and {len(texts)}")
    tokenizer = model.tokenizer
    sources = encode_texts(tokenizer, texts, model.source_max_length)
    distinct = {name: row for row, name in enumerate(dict.fromkeys(names))}
    tokens, lengths = tokenize_titles(distinct, tokenizer, eos=end_token(tokenizer), progress=False)
    written = [part.tolist() for part in np.split(tokens, np.cumsum(lengths, dtype=np.int64)[:-1])]
    prefix = decoder_prefix(model.model)
    return Pairs(sources, [[*prefix, *written[distinct[name]]] for name in names], len(prefix) - 1)


def mixed_rows(sizes: Sequence[int], weights: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Rows of an epoch over several sources that lie one after the other: each `weight` times, a fraction of a time by lot.

    Args:
        sizes: rows of each source.
        weights: how often an epoch has each of a source's rows.
        seed: decides the lot.
    """
    random, parts, start = np.random.default_rng(seed), [np.zeros(0, np.int64)], 0
    for size, weight in zip(sizes, weights, strict=True):
        whole, more = divmod(weight, 1.0)
        rows = np.arange(start, start + size)
        parts += [np.tile(rows, int(whole)), np.sort(random.choice(rows, round(more * size), replace=False))]
        start += size
    return np.concatenate(parts)


class PairSource:
    """Batches of pairs as a function of (epoch, step)."""

    def __init__(self, pairs: Pairs, rows: NDArray[np.int64], plan: Plan, pad_id: int) -> None:
        self.pairs, self.rows, self.plan, self.pad_id = pairs, rows, plan, pad_id
        self.num_steps, self.num_rows = plan.num_steps, len(rows)

    def describe(self, epoch: int, step: int) -> str:
        """Names the pairs of a batch, by their places over all files."""
        return f"{named_rows(self.rows[self.plan.rows(epoch, step)])} of the pairs"

    def __call__(self, epoch: int, step: int) -> Mapping[str, NDArray[Any]]:
        """Arrays: source_ids/source_mask [B, S], target_ids/target_mask [B, T], and labels [B, T], the token after each of
        the targets' (-100 where there's none to learn)."""
        rows = self.rows[self.plan.rows(epoch, step)].tolist()
        source_ids, source_mask = pad_lists([self.pairs.sources[row] for row in rows], self.pad_id)
        targets = [self.pairs.targets[row] for row in rows]
        target_ids, target_mask = pad_lists([target[:-1] for target in targets], self.pad_id)
        labels, is_label = pad_lists([target[1:] for target in targets], self.pad_id)
        labels[is_label == 0] = -100
        labels[:, : self.pairs.num_given] = -100
        return {
            "source_ids": source_ids,
            "source_mask": source_mask,
            "target_ids": target_ids,
            "target_mask": target_mask,
            "labels": labels,
        }


def name_objective(label_smoothing: float) -> Objective:
    """Cross-entropy of each token of the names, of which a share is spread evenly over the vocabulary."""

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits_BTV: Tensor = model(batch)
        with torch.autocast(logits_BTV.device.type, enabled=False):
            loss = functional.cross_entropy(
                logits_BTV.float().flatten(0, 1), batch["labels"].flatten(), label_smoothing=label_smoothing
            )
        return {"cross-entropy": loss}

    return objective
