"""The one trainer: transformers.Trainer, with a loss made of named terms and batches found by (epoch, step).

A method hands over two functions: `batches(epoch, step)`, which makes one batch, and `objective(model, batch)`, which
gives the loss terms. Since a batch is a function of its place, resuming seeks: no data is read to be skipped.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rankdistill.errors import NotFiniteError
from rankdistill.training.lora import load_trained, save_trained

__all__ = ["Batch", "BatchSource", "Checkpointable", "DistillationTrainer", "Objective", "last_checkpoint"]

Batch = Mapping[str, Tensor]
Objective = Callable[[nn.Module, Batch], dict[str, Tensor]]
"""Gives the loss terms by name, each already weighted; the loss is their sum."""


class BatchSource(Protocol):
    """Batches as a function of (epoch, step)."""

    num_steps: int
    """Steps an epoch, on each process."""

    num_rows: int
    """Rows an epoch, over all processes."""

    def __call__(self, epoch: int, step: int) -> Mapping[str, np.ndarray[Any, Any]]:
        """The batch of one step of one epoch, for this process."""
        ...

    def describe(self, epoch: int, step: int) -> str:
        """Names the rows of that batch, for people who look for a bad one."""
        ...


class Checkpointable(Protocol):
    """A model that writes a folder and reads it back."""

    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder."""
        ...

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> nn.Module:
        """Reads it back."""
        ...


class _Steps(Dataset[dict[str, Tensor]]):
    """A data set whose items are whole batches, under the key (epoch, step)."""

    def __init__(self, source: BatchSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.num_rows

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array) for name, array in self.source(*key).items()}


class _StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields the keys of an epoch, one a batch. Skipping keys costs nothing, so the Trainer's own resume is a seek."""

    def __init__(self, num_steps: int, total: int) -> None:
        self.num_steps, self.total, self.epoch = num_steps, total, 0

    @property
    def batch_sampler(self) -> _StepSampler:
        """The Trainer hands the epoch to `loader.batch_sampler.batch_sampler`, as accelerate wraps samplers; we aren't wrapped."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # The Trainer looks whether it's at the end after a step only: a run that is resumed there would take one step too many.
        rest = self.total - self.epoch * self.num_steps
        return ([(self.epoch, step)] for step in range(min(self.num_steps, rest)))


def _only(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    (item,) = items
    return item


class _FiniteCheck(TrainerCallback):
    """Stops a training that isn't finite before anything of it is logged, measured or written."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if control.should_log or control.should_evaluate or control.should_save or control.should_training_stop:
            self._check()


_NEVER = torch.iinfo(torch.int64).max
_SUM, _GRADIENT = "the sum of the terms", "the gradient"


class DistillationTrainer(Trainer):
    """Trains `model` on `source` by `objective`, logging each term by its name.

    Raises `NotFiniteError` at the first loss or gradient that is infinite or not a number. On a CPU that is in the step itself. A
    GPU, or several processes, are asked only when something is logged, measured or written, since asking waits for all that they
    have been given to do; the step that is named is the first all the same.

    A model may have `learning_rate_factors`, a mapping from the beginning of weights' names to what multiplies their
    learning rate; the schedule is the same for all.

    Args:
        validate: gives measures by name; called where the arguments say to evaluate.
        only_trained: checkpoints hold the weights that are trained only, not those that stay what `model` has.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        source: BatchSource,
        objective: Objective,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        only_trained: bool = False,
        **kwargs: Any,
    ) -> None:
        self._source, self._objective, self._validate = source, objective, validate
        self._only_trained = only_trained
        self._start_sums()
        self._first_bad_steps: dict[str, Tensor] = {}
        # The Trainer asks for an eval data set when it's told to evaluate; ours is behind `validate`.
        super().__init__(model, args, train_dataset=_Steps(source), eval_dataset={} if validate else None, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.add_callback(_FiniteCheck(self.check_finite))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's, with weights in groups of their own where the model has learning rate factors."""
        fresh = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        trained: Any = self.model
        factors: Mapping[str, float] = getattr(trained, "learning_rate_factors", {})
        if fresh and factors:
            names = {parameter: name for name, parameter in trained.named_parameters()}
            optimizer.param_groups = _by_factor(optimizer.param_groups, names, factors)
        return optimizer

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Whole batches under (epoch, step); not handed to accelerate, since the source splits rows over ranks itself."""
        return DataLoader(
            _Steps(self._source),
            batch_sampler=_StepSampler(self._source.num_steps, self._total_steps()),
            collate_fn=_only,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=self.args.dataloader_num_workers > 0,
            pin_memory=self.args.device.type == "cuda",
            # Its own generator, or making an iterator would draw from the global one and shift dropout.
            generator=torch.Generator().manual_seed(0),
        )

    def _total_steps(self) -> int:
        if self.args.max_steps > 0:
            return self.args.max_steps
        return math.ceil(self._source.num_steps * self.args.num_train_epochs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's. In bfloat16 on a CPU, attention is taken apart into products: PyTorch's fused kernel (2.15) needs ten
        times as long for its gradients there, up to half of a step."""
        slow = self.args.bf16 and self.args.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if slow else nullcontext():
            loss: Tensor = super().training_step(*args, **kwargs)
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum of the objective's terms."""
        terms = self._objective(model, inputs)
        values = torch.stack(list(terms.values()))
        loss = values.sum()
        # Sums stay where they are until they're logged: a number asked of a GPU waits for all that it has been given to do.
        for name, term in terms.items():
            self._term_sums[name] = self._term_sums.get(name, 0) + term.detach()
        self._term_count += 1
        self._watch(_SUM, torch.cat([values, loss.reshape(1)]))
        for name, array in inputs.items():
            if name.endswith("_mask"):
                self._num_positions += array.numel()
                self._num_tokens += array.sum()
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each term and the share of padding since the last log."""
        if "loss" in logs and self._term_count:
            names, totals = list(self._term_sums), self._over_ranks([*self._term_sums.values()])
            count = self._term_count * self.args.world_size
            logs |= {f"loss/{name}": total / count for name, total in zip(names, totals, strict=True)}
            num_tokens, num_positions = self._over_ranks([self._num_tokens, self._num_positions])
            logs["padding"] = round(1 - num_tokens / max(1, num_positions), 4)
            self._start_sums()
        super().log(logs, start_time)

    def _over_ranks(self, values: list[Tensor | int]) -> list[float]:
        """Sums over all processes, as the Trainer's own mean of the loss is over all of them."""
        if self.args.world_size == 1:
            return [float(value) for value in values]
        column = torch.stack([torch.as_tensor(value, dtype=torch.float64).to(self.args.device) for value in values])
        sums: list[float] = self.accelerator.reduce(column, "sum").tolist()
        return sums

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        if isinstance(norm, Tensor):
            self._watch(_GRADIENT, norm)
        return norm

    def _watch(self, kind: str, values: Tensor) -> None:
        """Remembers the first step with a value that isn't finite, where the values are; a CPU by itself says so at once."""
        bad = torch.where(values.detach().isfinite(), _NEVER, self.state.global_step).reshape(-1)
        before = self._first_bad_steps.get(kind)
        self._first_bad_steps[kind] = bad if before is None else torch.minimum(before, bad)
        if bad.device.type == "cpu" and self.args.world_size == 1:
            self.check_finite()

    def check_finite(self) -> None:
        """Refuses to go on after a loss or gradient that wasn't finite, in any process; all of them must call.

        Raises:
            NotFiniteError: with the step, its terms and its rows.
        """
        if not self._first_bad_steps:
            return
        local = torch.cat(list(self._first_bad_steps.values()))
        first = int(local.min() if self.args.world_size == 1 else self.accelerator.gather(local).min())
        if first == _NEVER:
            return
        names = [
            name
            for name, step in zip([*self._term_sums, _SUM, _GRADIENT], local.tolist(), strict=False)
            if step == first
        ]
        said = [self._bad_step(first, names)] if names else []
        said = said if self.args.world_size == 1 else gather_object(said)
        remedy = "correct or leave out such a row if its scores are large; otherwise lower --learning-rate or --teacher-scale"
        raise NotFiniteError("finite losses and gradients", "; ".join(said), f"{remedy}. No model was written")

    def _bad_step(self, step: int, names: list[str]) -> str:
        what = ", ".join(name for name in names if name not in (_SUM, _GRADIENT)) or names[0]
        return f"inf or nan in {what} of step {step + 1:,} ({self._source.describe(*divmod(step, self._source.num_steps))})"

    def _start_sums(self) -> None:
        self._term_sums: dict[str, Tensor | int] = {}
        self._num_tokens: Tensor | int = 0
        self._term_count = self._num_positions = 0

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measures of the dev set, as `eval_<measure>`."""
        assert self._validate is not None
        model: nn.Module = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        try:
            measures = {f"{metric_key_prefix}_{name}": value for name, value in self._validate(model).items()}
        finally:
            model.train(was_training)
        self.log(measures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, measures)
        return measures

    # The three places where the Trainer would write or read a bare state dict: ours are folders that the ecosystem loads,
    # or the trained weights alone.

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        model: Any = self.accelerator.unwrap_model(self.model)
        if self._only_trained:
            save_trained(model, folder)
        else:
            model.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target: Any = self.accelerator.unwrap_model(self.model)
        if self._only_trained:
            load_trained(target, Path(resume_from_checkpoint))
        else:
            stored: nn.Module = type(target).from_pretrained(resume_from_checkpoint, device="cpu")
            target.load_state_dict(stored.state_dict())

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def _by_factor(
    groups: list[dict[str, Any]], names: Mapping[Tensor, str], factors: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Parameter groups, split by the factor of each weight's learning rate; weights without one come first."""

    def factor(parameter: Tensor) -> float:
        return next((factors[start] for start in factors if names[parameter].startswith(start)), 1.0)

    split = []
    for group in groups:
        for value in dict.fromkeys([1.0, *factors.values()]):
            chosen = [parameter for parameter in group["params"] if factor(parameter) == value]
            split.append(group | {"params": chosen, "lr": group["lr"] * value})
    return split


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`. One that a kill tore is deleted: the trainer state, written last, tells.

    Returns:
        None if there is none.
    """
    whole: dict[int, Path] = {}
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if path.is_symlink() or not path.is_dir() or not path.name.rpartition("-")[2].isdigit():
            continue  # a user's
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            whole[int(path.name.rsplit("-", 1)[1])] = path
    return whole[max(whole)] if whole else None
