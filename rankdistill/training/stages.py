"""Training in stages: a list of what changes, run one after the other, each stage from the former's model.

A curriculum (CL-DRD: more and more docs of a row told apart, arXiv:2204.13679), TAID by steps, or general data before the task's
own: each is such a list.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from rankdistill.formats.collection import open_collection
from rankdistill.formats.writing import replacing_folder, save_json
from rankdistill.options.training import MarginMSEOptions, Stage
from rankdistill.training.margin_mse import collection_fingerprints, loss_weights, train_margin_mse
from rankdistill.training.run import alone, write_config
from rankdistill.training.run_folder import prepare_folder, recorded
from rankdistill.training.same_run import check_same_facts, check_same_options, input_fingerprints
from rankdistill.training.students import settled
from rankdistill.training.terms import needs_dense_teacher, parse_loss

__all__ = ["run_stages", "stage_options"]


def stage_options(options: MarginMSEOptions, stages: Sequence[Stage]) -> list[MarginMSEOptions]:
    """The options of each stage's run: the common ones with what the stage changes.

    Stage k is in `output_dir/stage-k`, starts from the former's best model (without validation, its last), keeps its layers
    and projection, and has a seed of its own. An in-batch teacher goes to the stages whose loss needs it.

    Raises:
        ValueError: for a stage whose loss doesn't exist or doesn't go with the other options.
    """
    runs: list[MarginMSEOptions] = []
    for number, stage in enumerate(stages, 1):
        changes = _changes(stage)
        if "num_epochs" in changes:
            changes.setdefault("max_steps", -1)
        if runs:
            changes |= {"init": str(runs[-1].output_dir / "model"), "num_layers": None, "projection_dim": None}
            changes["tk"] = dataclasses.replace(options.tk, embeddings=None)  # they're in the former's model
        changes |= {"output_dir": options.output_dir / f"stage-{number}", "seed": options.seed + number - 1}
        runs.append(settled(dataclasses.replace(options, **changes)))
    needing = [any(map(needs_dense_teacher, parse_loss(run.loss or ()))) for run in runs]
    if any(needing):
        runs = [
            run if needs else dataclasses.replace(run, in_batch_teacher=None)
            for run, needs in zip(runs, needing, strict=True)
        ]
    for run in runs:
        loss_weights(run)
    return runs


@alone
def run_stages(options: MarginMSEOptions, stages: Sequence[Stage] = ()) -> Path:
    """Trains a student in stages; without any, as `train_margin_mse` does.

    With `options.resume`, finished stages aren't run again, and the one that was interrupted goes on where it was.

    Returns:
        The folder of the last stage's model, copied to `output_dir/model`.

    Raises:
        ValueError: for options that contradict each other, or a finished stage that was trained with others.
        FileExistsError: if the output folder holds a run, and neither resume nor overwrite is asked for.
    """
    if not stages:
        return train_margin_mse(options)
    runs = stage_options(options, stages)
    state = PartialState(cpu=options.device == "cpu")
    prepare_folder(options, state)
    finished = [_finished(run) for run in runs]
    state.wait_for_everyone()
    if state.is_main_process:
        write_config(options, None, stages=[_changes(stage) for stage in stages])
    for run, done in zip(runs, finished, strict=True):
        if not done:
            train_margin_mse(run)
        state.wait_for_everyone()  # the next stage reads what the main process wrote
    model_dir = options.output_dir / "model"
    if state.is_main_process:
        with recorded(options.output_dir, "model"), replacing_folder(model_dir, last="config.json") as folder:
            shutil.copytree(runs[-1].output_dir / "model", folder, dirs_exist_ok=True)
        summaries = [_read(run.output_dir / "metrics.json")["summary"] for run in runs]
        total = {key: sum(summary[key] for summary in summaries) for key in ("seconds", "steps")}
        metrics = {"summary": total, "stages": summaries}
        save_json(options.output_dir / "metrics.json", metrics, indent=1)
    state.wait_for_everyone()
    return model_dir


def _changes(stage: Stage) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(stage).items() if value is not None}


def _finished(run: MarginMSEOptions) -> bool:
    """Whether a stage was run to its end. It must have been this one: a changed stage isn't passed off as trained."""
    try:
        _read(run.output_dir / "metrics.json")
    except (OSError, ValueError):  # not begun, killed, or killed while writing
        return False
    check_same_options(run.output_dir, run, is_finished=True)
    same = input_fingerprints(run)
    if run.collection is not None:
        same |= collection_fingerprints(run, open_collection(run.collection))
    # How many processes trained it is no matter now; the options' numbers say how long.
    check_same_facts(run.output_dir, same, without=("processes", "learning rates", "penalties' warm-up"))
    return True


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
