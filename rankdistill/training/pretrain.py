"""Pre-training of an encoder with exits on repositories of source text: before it's fine-tuned to rank.

The recipe, in the order in which data flows: repositories -> snippets, tokenised once -> runs of snippets -> packed pairs with
hidden tokens -> states at every exit, in one pass -> two losses at each -> an encoder that any student starts from.

Source: ModularStarEncoder, arXiv:2503.03008: L = Σ α_i (L_MLM + L_ICC)_i over the exits i, with α_i = i / N for N layers.
In-context classification (ICC) asks whether packed snippets are of one repository; half of the time they aren't. The heads are
shared by all exits, and told which one they serve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn import functional
from transformers import set_seed

from rankdistill.data.batches import BatchPlan
from rankdistill.data.masking import NOT_MASKED
from rankdistill.data.packing import Markers, PackedPairs, Runs, find_runs
from rankdistill.data.tokens import TokenStore, cached_tokens
from rankdistill.formats.repositories import open_repositories
from rankdistill.models.pretraining import Predictions, PretrainModel
from rankdistill.options.pretraining import PretrainOptions
from rankdistill.training.exits import exit_weights
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

__all__ = ["hold_out", "pretrain", "pretrain_objective", "pretrain_validator"]


@alone
def pretrain(options: PretrainOptions) -> Path:
    """Pre-trains an encoder.

    Returns:
        The folder of the encoder, which `AutoModel` loads and every student may start from.

    Raises:
        ValueError: for options that make no sense, or a tokenizer without mask, separator or padding token.
        BadDataError: if the corpus hasn't two repositories to tell apart.
        FileExistsError: if the output folder holds a run.
    """
    _check(options)
    state = PartialState(cpu=options.device == "cpu")
    checkpoint = prepare_folder(options, state)
    set_seed(options.seed)
    model = PretrainModel.from_pretrained(
        options.init,
        exits=options.exits,
        pooling=options.pooling,
        device="cpu",
        num_layers=options.num_layers,
        dropout=options.dropout,
    )
    markers = Markers.of(model.tokenizer)
    room, num_special = markers.room(options.max_length), len(markers.before) + len(markers.after)
    if options.max_length > model.max_positions or room < options.min_tokens:
        least = num_special + 1 + 2 * options.min_tokens
        raise ValueError(
            f"expected a --max-length between {least} (for --min-tokens {options.min_tokens}) and {model.max_positions} (the "
            f"positions of {options.init}), found {options.max_length}"
        )
    snippets = open_repositories(options.corpus, options.glob, options.max_files)
    with state.main_process_first():
        tokens = cached_tokens(snippets, "docs", model.tokenizer, room + num_special)
    lengths = tokens.lengths(np.arange(len(tokens))).astype(np.int64) - num_special
    runs = find_runs(lengths, snippets.bounds, room=room, min_tokens=options.min_tokens, name=str(options.corpus))
    train, dev = hold_out(runs, options.dev_repositories)

    def pairs(runs: Runs, plan: BatchPlan) -> PackedPairs:
        return PackedPairs(runs, tokens, plan, markers, room=room, mask_rate=options.mask_rate)

    ranks = {"world_size": state.num_processes, "rank": state.process_index}
    plan = grouped_plan(options, len(train), _run_lengths(train, tokens).__getitem__, **ranks)
    source = pairs(train, plan)
    validate = None
    if dev is not None:
        size = min(options.batch_size, options.dev_pairs, len(dev))
        dev_pairs = pairs(dev, BatchPlan(num_rows=len(dev), batch_size=size, seed=options.seed))
        validate = pretrain_validator(dev_pairs, max(1, min(options.dev_pairs, len(dev)) // size))
    arguments = trainer_arguments(options, source.num_steps, eval_steps=options.eval_steps if dev else None)
    facts = {
        "exits": model.exits,
        "repositories": train.num_repositories,
        "repositories_held_out": dev.num_repositories if dev else 0,
        "repositories_left_out_as_too_small": runs.num_small,
        "files": snippets.num_files,
        "files_left_out_as_not_utf8": snippets.num_undecodable,
        "snippets": len(snippets),
        "snippets_left_out_as_too_short": runs.num_short,
        "runs_of_snippets": len(train),
        "corpus_fingerprint": snippets.fingerprint,
        **plan_facts(plan),
    }
    if arguments.process_index == 0:
        same = same_facts(options, arguments, source.num_steps) | {"--corpus": snippets.fingerprint}
        write_config(options, arguments, same, checkpoint, **facts)
    weights = dict(zip(model.exits, exit_weights(options.weights, model.exits), strict=True))
    trainer = DistillationTrainer(
        model, arguments, source=source, objective=pretrain_objective(weights), validate=validate
    )
    return run_training(trainer, options, checkpoint, facts)


def pretrain_objective(weights: Mapping[int, float]) -> Objective:
    """The terms "exit2/mlm" and "exit2/icc" of each exit, times the exit's weight.

    Args:
        weights: by exit, in order of depth.
    """

    def objective(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        found: Sequence[Predictions] = model(batch)
        terms: dict[str, Tensor] = {}
        with torch.autocast(found[0].same_B2.device.type, enabled=False):  # losses in fp32
            for (exit, weight), said in zip(weights.items(), found, strict=True):
                mlm, icc = _losses(said, batch)
                terms |= {f"exit{exit}/mlm": weight * mlm, f"exit{exit}/icc": weight * icc}
        return terms

    return objective


def _losses(said: Predictions, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of the hidden tokens (0 if there are none), and of the items."""
    targets_T = batch["targets"][batch["targets"] != NOT_MASKED]
    total = functional.cross_entropy(said.tokens_TV.float(), targets_T, reduction="sum")
    return total / max(1, len(targets_T)), functional.cross_entropy(said.same_B2.float(), batch["same_repository"])


def pretrain_validator(source: PackedPairs, num_steps: int) -> Callable[[nn.Module], dict[str, float]]:
    """A function from a model to its losses, and the accuracy of in-context classification, at each exit.

    Args:
        source: packed pairs; those of its first steps are looked at, with the same tokens hidden every time.
        num_steps: how many steps.
    """

    @torch.inference_mode()
    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, PretrainModel)
        sums: dict[str, float] = {}
        device = model.heads.bias.device
        for step in range(num_steps):
            batch = {name: torch.from_numpy(array).to(device) for name, array in source(0, step).items()}
            for exit, said in zip(model.exits, model(batch), strict=True):
                mlm, icc = _losses(said, batch)
                right = (said.same_B2.argmax(1) == batch["same_repository"]).float().mean()
                for name, value in (("mlm", mlm), ("icc", icc), ("icc-accuracy", right)):
                    sums[f"exit{exit}/{name}"] = sums.get(f"exit{exit}/{name}", 0.0) + float(value)
        return {name: total / num_steps for name, total in sums.items()}

    return validate


def hold_out(runs: Runs, count: int) -> tuple[Runs, Runs | None]:
    """The runs to train on, and those of `count` repositories to validate on, evenly taken; None for none.

    Raises:
        ValueError: if either part would have a single repository.
    """
    if not count:
        return runs, None
    total = runs.num_repositories
    if not 2 <= count <= total - 2:
        raise ValueError(
            f"expected --dev-repositories from 2 to {total - 2}, so that two of the {total} repositories are left, found {count}"
        )
    held = {i * total // count for i in range(count)}
    return runs.of([i for i in range(total) if i not in held]), runs.of(sorted(held))


def _run_lengths(runs: Runs, tokens: TokenStore) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Tokens of each run, near enough to group them by."""
    return np.add.reduceat(tokens.lengths(runs.rows).astype(np.int64), runs.starts[:-1])


def _check(options: PretrainOptions) -> None:
    for name, least in (("min_tokens", 1), ("dev_pairs", 1), ("max_files", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"expected a --{name.replace('_', '-')} of at least {least}, found {value}")
    if not 0 < options.mask_rate < 1:
        raise ValueError(f"expected a --mask-rate between 0 and 1, found {options.mask_rate}")
