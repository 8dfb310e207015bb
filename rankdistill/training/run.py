"""What every method's run shares: its folder, the Trainer's arguments, config.json, the model card."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from transformers import TrainingArguments

from rankdistill.data.batches import BatchPlan, Plan
from rankdistill.formats.writing import locked, replacing_folder, save_json, save_text
from rankdistill.models.loading import Model
from rankdistill.models.precision import choose_device, fast_dtype
from rankdistill.options.training import TrainingOptions
from rankdistill.training.run_folder import RecordCheckpoints, recorded
from rankdistill.training.same_run import check_same_facts, command_name, input_fingerprints, plain
from rankdistill.training.trainer import DistillationTrainer

__all__ = [
    "alone",
    "grouped_plan",
    "model_card",
    "plan_facts",
    "run_training",
    "same_facts",
    "total_steps",
    "trainer_arguments",
    "write_config",
]

_Options = TypeVar("_Options", bound=TrainingOptions)
_More = ParamSpec("_More")

_PACKAGES = ("rankdistill", "torch", "transformers", "accelerate", "tokenizers", "numpy")


def alone(train: Callable[Concatenate[_Options, _More], Path]) -> Callable[Concatenate[_Options, _More], Path]:
    """Decorates a training: it holds the lock of its folder; of several processes of one run, the first does.

    Raises:
        InUseError: if another run writes there.
    """

    @functools.wraps(train)
    def wrapper(options: _Options, /, *arguments: _More.args, **more: _More.kwargs) -> Path:
        with locked(options.output_dir) if os.environ.get("RANK", "0") == "0" else nullcontext():
            return train(options, *arguments, **more)

    return wrapper


def grouped_plan(
    options: TrainingOptions, num_rows: int, lengths: Callable[[Any], Any], *, world_size: int, rank: int
) -> BatchPlan:
    """Which rows each step has, those of like length together.

    Args:
        lengths: from rows to what they're grouped by, inside windows of `options.window_batches`.
    """
    return BatchPlan(
        num_rows=num_rows,
        batch_size=options.batch_size,
        seed=options.seed,
        world_size=world_size,
        rank=rank,
        window_batches=options.window_batches,
        lengths=lengths,
    )


def plan_facts(plan: Plan) -> dict[str, int]:
    """What config.json says of a plan. Rows that no step has are said on standard error, too."""
    if plan.num_dropped_rows and plan.rank == 0:
        why = plan.why_dropped
        print(f"{plan.num_dropped_rows:,} of {plan.num_rows:,} rows are left out of each epoch: {why}", file=sys.stderr)
    return {"steps_per_epoch": plan.num_steps, "rows_dropped_per_epoch": plan.num_dropped_rows}


def same_facts(options: TrainingOptions, arguments: TrainingArguments, num_steps: int) -> dict[str, Any]:
    """What must be the same when a run goes on, beside its options: processes, the learning rate's schedule, inputs.

    More epochs are the same run where the learning rate stays constant after the warm-up. Where it falls to 0 at the last step,
    they would have had other rates from the first step on.

    Args:
        num_steps: steps an epoch.
    """
    warmup, total = arguments.warmup_steps, total_steps(options, num_steps)
    length = "" if options.lr_scheduler == "constant_with_warmup" else f" over {total} steps"
    return {
        "processes": arguments.world_size,
        "learning rates": f"{options.lr_scheduler}{length}, {warmup:g} of warm-up",
        **input_fingerprints(options),
    }


def total_steps(options: TrainingOptions, num_steps: int) -> int:
    """Steps of the whole run, of `num_steps` an epoch."""
    return options.max_steps if options.max_steps > 0 else math.ceil(num_steps * options.num_epochs)


def trainer_arguments(
    options: TrainingOptions, num_steps: int, *, eval_steps: int | None = None, metric: str | None = None
) -> TrainingArguments:
    """The Trainer's arguments for these options.

    Args:
        num_steps: steps an epoch.
        eval_steps: validate every so many steps; None never does.
        metric: keep the checkpoint that is best by this one.
    """
    device = choose_device(options.device)
    dtype = _dtype(options, device)
    total = total_steps(options, num_steps)
    every = eval_steps or options.save_steps
    return TrainingArguments(
        output_dir=str(options.output_dir / "checkpoints"),
        num_train_epochs=options.num_epochs,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.lr_scheduler,
        warmup_steps=round(options.warmup_ratio * total),
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        seed=options.seed,
        bf16=dtype == torch.bfloat16,
        use_cpu=device.type == "cpu",
        torch_compile=options.torch_compile,
        dataloader_num_workers=options.num_workers,
        remove_unused_columns=False,
        logging_strategy="steps",
        logging_steps=options.logging_steps,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=options.keep_checkpoints,
        logging_nan_inf_filter=False,  # it would log other numbers; the trainer stops instead
        eval_strategy="no" if eval_steps is None else "steps",
        eval_steps=eval_steps,
        load_best_model_at_end=metric is not None,
        metric_for_best_model=None if metric is None else f"eval_{metric}",
        greater_is_better=None if metric is None else True,
        report_to=["tensorboard"],
        disable_tqdm=False,
        run_name=options.output_dir.name,
        ddp_find_unused_parameters=True,  # poolers that some bodies bring along take no part in the loss
    )


def _dtype(options: TrainingOptions, device: torch.device) -> torch.dtype:
    """The asked dtype; for "auto" the one that a resumed run began with, since a second measurement might say otherwise."""
    name: str = options.dtype
    config = options.output_dir / "config.json"
    if name == "auto" and options.resume and config.is_file():
        name = json.loads(config.read_text(encoding="utf-8")).get("dtype", "auto")
    return fast_dtype(device) if name == "auto" else getattr(torch, name)


def write_config(
    options: TrainingOptions,
    arguments: TrainingArguments | None,
    same: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    **facts: Any,
) -> None:
    """config.json: all options, the versions, the machine and what was found in the data; enough to repeat the run.

    Args:
        same: what must be the same when the run goes on.
        checkpoint: what it goes on from, if anything.

    Raises:
        ValueError: if it goes on from a checkpoint, and what must be the same isn't.
    """
    if checkpoint is not None:
        check_same_facts(options.output_dir, same or {})
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    config = {
        "command": command_name(options),
        "options": plain(options),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        **({} if arguments is None else {"dtype": "bfloat16" if arguments.bf16 else "float32"}),
        "versions": versions,
        "python": platform.python_version(),
        "machine": {
            "processor": platform.machine(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        },
    } | {key: _plain(value) for key, value in ({"same": same} | facts if same else facts).items()}
    save_json(options.output_dir / "config.json", config, indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _public(value: Any) -> Any:
    """A value for a model card: of an absolute path, the part below the current folder, or else the name alone."""
    value = _plain(value)
    if isinstance(value, list):
        return [_public(item) for item in value]
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items()}
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path, here = Path(value), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def run_training(
    trainer: DistillationTrainer,
    options: TrainingOptions,
    checkpoint: Path | None,
    card: Mapping[str, Any],
    finish: Callable[[], object] = lambda: None,
) -> Path:
    """Trains, and writes model/ (with its card) and metrics.json.

    Args:
        checkpoint: what to go on from, if anything.
        card: facts for the model's card.
        finish: makes the trained model what is to be written.

    Returns:
        The folder of the trained model.
    """
    trainer.add_callback(RecordCheckpoints(options.output_dir))
    started = time.perf_counter()
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - started
    model_dir = options.output_dir / "model"
    if trainer.is_world_process_zero():
        finish()
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
        model.eval()
        best = {"best_step": trainer.state.best_global_step, "best_metric": trainer.state.best_metric}
        summary = {
            "seconds": seconds,
            "steps": result.global_step,
            **(best if trainer.args.load_best_model_at_end else {}),
        }
        metrics = {"summary": summary, "log": trainer.state.log_history}
        with recorded(options.output_dir, "model"), replacing_folder(model_dir, last="config.json") as folder:
            model.save_pretrained(folder)
            save_text(folder / "README.md", model_card(model, options, {**card, **summary}))
        # Last, since it says that the run is finished.
        save_json(options.output_dir / "metrics.json", metrics, indent=1)
    return model_dir


def model_card(model: Model, options: TrainingOptions, facts: Mapping[str, Any]) -> str:
    """A model card in the hub's form: how it was made, how it's loaded."""
    kind = model.card
    size = sum(parameter.numel() for parameter in model.parameters())
    or_ours = "" if kind.library == "rankdistill" else "or `rankdistill.load(PATH)`.\n\n"
    rows = "".join(f"| {key.replace('_', ' ')} | {_public(value)} |\n" for key, value in facts.items())
    settings = "".join(f"| `{key}` | {_public(value)} |\n" for key, value in dataclasses.asdict(options).items())
    front = f"library_name: {kind.library}\npipeline_tag: {kind.task}\ntags:\n- rankdistill\n- knowledge-distillation"
    return (
        f"---\n{front}\n---\n\n# {options.output_dir.name}\n\n"
        f"Trained with rankdistill from `{_public(options.init)}`; {size:,} parameters. {kind.scores}\n\n"
        f"```python\n{kind.load}\n```\n\n{or_ours}"
        f"## Training\n\n| fact | value |\n|---|---|\n{rows}\n| option | value |\n|---|---|\n{settings}"
    )
