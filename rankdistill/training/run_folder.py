"""A run's folder: whose it is, and what of it may be deleted.

The marker `.rankdistill-run` says that a run of ours made the folder, and which files it wrote below `model/` and `checkpoints/`.
Nothing else is ever deleted, and no run goes on in a folder without it.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rankdistill.formats.writing import save_json
from rankdistill.options.training import TrainingOptions
from rankdistill.training.same_run import check_same_options, input_paths
from rankdistill.training.trainer import last_checkpoint

__all__ = ["RecordCheckpoints", "prepare_folder", "recorded"]

_MARKER = ".rankdistill-run"
# What a run writes under names of its own, so that it needn't be recorded.
_WRITTEN = (
    _MARKER,
    "config.json",
    "metrics.json",
    ".*.lock",
    "checkpoints/runs/*/events.out.tfevents.*",
    "checkpoints/checkpoint-*/rng_state*.pth",
)


def prepare_folder(options: TrainingOptions, state: PartialState) -> Path | None:
    """Makes the run's folder, in the first process; the others wait for it.

    Returns:
        The checkpoint to resume from, if that's asked for and there is one.

    Raises:
        FileExistsError: if the folder is used, and neither --resume nor --overwrite was given, or a run of ours didn't make it,
            or it holds files that no run wrote.
        ValueError: if a run is to go on with other options, or an input lies in the folder, or a number makes no sense.
    """
    _check_numbers(options)
    if options.resume and options.overwrite:
        raise ValueError("expected one of --resume and --overwrite, found both")
    folder = options.output_dir
    if state.is_main_process:
        _prepare(options, folder)
        if options.resume and last_checkpoint(folder / "checkpoints") is not None:
            check_same_options(folder, options)
    state.wait_for_everyone()
    return last_checkpoint(folder / "checkpoints") if options.resume else None


# The Trainer takes some of these for something else: 0 checkpoints for all, 0 epochs for a model as it was.
_AT_LEAST = {
    "batch_size": 1,
    "window_batches": 1,
    "logging_steps": 1,
    "save_steps": 1,
    "keep_checkpoints": 1,
    "num_workers": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
}


def _check_numbers(options: TrainingOptions) -> None:
    wanted = {name: (f"of at least {least}", getattr(options, name) >= least) for name, least in _AT_LEAST.items()}
    for name in ("num_epochs", "learning_rate"):
        wanted[name] = ("above 0", 0 < getattr(options, name) < math.inf)
    wanted["max_steps"] = ("of at least 1, or -1", options.max_steps >= 1 or options.max_steps == -1)
    wanted["warmup_ratio"] = ("from 0 to 1", 0 <= options.warmup_ratio <= 1)
    wanted["dropout"] = ("from 0 to below 1", options.dropout is None or 0 <= options.dropout < 1)
    for name, (what, is_good) in wanted.items():
        if not is_good:
            raise ValueError(f"expected a --{name.replace('_', '-')} {what}, found {getattr(options, name)}")


def _prepare(options: TrainingOptions, folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        if not (options.resume or options.overwrite):
            found = "a run; pass --resume or --overwrite" if _is_run(folder) else "files; choose another --output-dir"
            raise FileExistsError(f"{folder}: expected an empty folder, found {found}")
        if not _is_run(folder):
            raise FileExistsError(
                f"{folder}: expected a folder that a run of rankdistill made (with {_MARKER}), found other files; "
                "choose another --output-dir"
            )
        inside = _inputs_inside(options, folder)
        if inside:
            raise ValueError(
                f"{folder}: expected no input of the run in its own folder, found {', '.join(inside)}; copy it elsewhere, or "
                "choose another --output-dir"
            )
        if options.overwrite:
            _clear(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_json(folder / _MARKER, {"files": []})


def _is_run(folder: Path) -> bool:
    return (folder / _MARKER).is_file() and not (folder / _MARKER).is_symlink()


def _inputs_inside(options: TrainingOptions, folder: Path) -> list[str]:
    """Paths among the options that lie in the folder."""
    return [str(path) for path in input_paths(options) if path.resolve().is_relative_to(folder.resolve())]


def _clear(folder: Path) -> None:
    """Deletes what runs wrote, if that is all there is; the marker stays."""
    foreign = sorted(_foreign(folder))
    if foreign:
        more = f" and {len(foreign) - 5:,} more" if len(foreign) > 5 else ""
        raise FileExistsError(
            f"{folder}: expected only files that a run wrote, found {', '.join(foreign[:5])}{more}; move them elsewhere, or "
            "choose another --output-dir"
        )
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _MARKER:
            path.unlink()
    save_json(folder / _MARKER, {"files": []})


def _foreign(folder: Path) -> Iterator[str]:
    """Files, links and folders of a run's folder that no run wrote, relative to it."""
    written = _recorded(folder)
    for root, folders, names in os.walk(folder):
        for name in [*folders]:
            path = Path(root, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink():
                yield relative
            elif relative.startswith("stage-") and _is_run(path):
                folders.remove(name)
                yield from (f"{relative}/{file}" for file in _foreign(path))
            elif _is_torn(path, relative) or _is_aside(name):
                folders.remove(name)
        for name in names:
            path = Path(root, name)
            relative = path.relative_to(folder).as_posix()
            ours = (
                _is_aside(name)
                or _plain_name(relative) in written
                or any(_matches(relative, pattern) for pattern in _WRITTEN)
            )
            if path.is_symlink() or not ours:
                yield relative


def _is_torn(path: Path, relative: str) -> bool:
    """Whether it's a checkpoint that a kill tore: nobody else writes there meanwhile."""
    return bool(re.fullmatch(r"checkpoints/checkpoint-\d+", relative)) and not (path / "trainer_state.json").is_file()


def _is_aside(name: str) -> bool:
    """Whether it's what a kill left of something that had not got its name yet."""
    return name.startswith(".") and name.endswith(".tmp")


def _matches(relative: str, pattern: str) -> bool:
    return relative.count("/") == pattern.count("/") and fnmatch(relative, pattern)


def _plain_name(relative: str) -> str:
    """The same name for a file of every checkpoint."""
    return re.sub(r"^checkpoints/checkpoint-\d+/", "checkpoints/checkpoint-N/", relative)


def _recorded(folder: Path) -> set[str]:
    try:
        return set(json.loads((folder / _MARKER).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


@contextmanager
def recorded(run_dir: Path, part: str) -> Iterator[None]:
    """Records which files are new in a part of a run's folder when the block is done: only those may be deleted later."""
    before = _files(run_dir, part)
    yield
    _record(run_dir, _files(run_dir, part) - before)


def _record(run_dir: Path, names: set[str]) -> None:
    written = _recorded(run_dir)
    new = {_plain_name(name) for name in names} - written
    if new:
        save_json(run_dir / _MARKER, {"files": sorted(written | new)}, indent=1)


class RecordCheckpoints(TrainerCallback):
    """Records the files of each checkpoint of a run when it has been written."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            _record(self._run_dir, _files(self._run_dir, f"checkpoints/{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))


def _files(run_dir: Path, part: str) -> set[str]:
    return {path.relative_to(run_dir).as_posix() for path in (run_dir / part).rglob("*") if not path.is_dir()}
