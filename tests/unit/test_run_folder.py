"""A run's folder: only what a run wrote is deleted, and a run goes on only as what it began as."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState

from rankdistill.formats.writing import save_json
from rankdistill.options.pretraining import PretrainOptions
from rankdistill.options.training import GenreOptions, MarginMSEOptions, TeacherOptions, TrainingOptions
from rankdistill.training.run import write_config
from rankdistill.training.run_folder import prepare_folder, recorded
from rankdistill.training.same_run import INPUTS, MAY_DIFFER, check_same_facts, input_fingerprints

STATE = PartialState(cpu=True)


def options(folder: Path, **more: Any) -> MarginMSEOptions:
    return MarginMSEOptions(**({"scores": ("s.tsv",), "init": "m", "output_dir": folder} | more))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished_run(of: TrainingOptions) -> Path:
    """A folder as a run leaves it, with a whole checkpoint."""
    folder = of.output_dir
    assert prepare_folder(of, STATE) is None
    write_config(of, None, {"processes": 1})
    for part, name in (("checkpoints/checkpoint-5", "trainer_state.json"), ("model", "config.json")):
        with recorded(folder, part):
            (folder / part).mkdir(parents=True)
            (folder / part / name).write_text("{}")
    events = folder / "checkpoints" / "runs" / "Nov30_host"
    events.mkdir(parents=True)
    (events / "events.out.tfevents.1.host").write_text("")
    (folder / "checkpoints" / "checkpoint-9").mkdir()  # torn: a kill came before its trainer state
    (folder / "checkpoints" / "checkpoint-9" / "model.safetensors").write_text("")
    (folder / ".model.1a.tmp").mkdir()  # a kill came before it got its name
    (folder / ".model.1a.tmp" / "config.json").write_text("")
    (folder / "metrics.json").write_text("{}")
    return folder


def test_overwriting_empties_what_a_run_wrote(tmp_path: Path) -> None:
    run = finished_run(options(tmp_path / "run"))
    with pytest.raises(FileExistsError, match="found a run; pass --resume or --overwrite"):
        prepare_folder(options(run), STATE)
    assert prepare_folder(options(run, overwrite=True), STATE) is None
    assert [path.name for path in run.iterdir()] == [".rankdistill-run"]
    # Stages are runs in the run's folder.
    finished_run(options(run / "stage-1"))
    assert prepare_folder(options(run, overwrite=True), STATE) is None
    assert [path.name for path in run.iterdir()] == [".rankdistill-run"]


@pytest.mark.parametrize("how", ["overwrite", "resume"])
def test_a_folder_that_no_run_made_is_left_alone(tmp_path: Path, tiny_bert_dir: Path, how: str) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(tiny_bert_dir, folder)  # a model of Hugging Face has a config.json, too
    before = contents(folder)
    for init in (str(folder), "m"):
        with pytest.raises(FileExistsError, match=r"bert: expected a folder that a run of rankdistill made"):
            prepare_folder(options(folder, init=init, **{how: True}), STATE)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "name", ["thesis.tex", "model/notes.txt", "checkpoints/checkpoint-5/notes", "mine/config.json"]
)
def test_a_users_file_in_a_run_is_named_and_kept(tmp_path: Path, name: str) -> None:
    run = finished_run(options(tmp_path / "run"))
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("years of work")
    before = contents(run)
    with pytest.raises(FileExistsError, match=rf"expected only files that a run wrote, found {name}; move them"):
        prepare_folder(options(run, overwrite=True), STATE)
    assert contents(run) == before


def test_links_are_not_followed(tmp_path: Path) -> None:
    run = finished_run(options(tmp_path / "run"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    shutil.rmtree(run / "model")
    (run / "model").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match="found model; move them"):
        prepare_folder(options(run, overwrite=True), STATE)
    assert (tmp_path / "elsewhere" / "config.json").is_file()


@pytest.mark.parametrize("how", ["overwrite", "resume"])
def test_no_input_lies_in_the_folder_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    run = finished_run(options(tmp_path / "run"))
    (tmp_path / "link").symlink_to(run / "model")
    monkeypatch.chdir(run)
    for given in (
        options(run, init=str(run / "model"), **{how: True}),
        options(run, init=str(tmp_path / "link"), **{how: True}),
        options(Path("."), init="model", **{how: True}),
        options(run, scores=(str(run / "metrics.js*"),), **{how: True}),
        options(run, collection=str(run), **{how: True}),
        GenreOptions(init="m", files=(f"{run / 'metrics.json'}:2",), output_dir=run, **{how: True}),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="expected no input of the run in its own folder, found"):
            prepare_folder(given, STATE)
    assert (run / "model" / "config.json").is_file()


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of --resume and --overwrite, found both"):
        prepare_folder(options(tmp_path / "run", resume=True, overwrite=True), STATE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep_checkpoints": 0}, "a --keep-checkpoints of at least 1, found 0"),
        ({"num_epochs": 0.0}, "a --num-epochs above 0, found 0.0"),
        ({"num_epochs": float("nan")}, "a --num-epochs above 0, found nan"),
        ({"max_steps": 0}, "a --max-steps of at least 1, or -1, found 0"),
        ({"learning_rate": float("inf")}, "a --learning-rate above 0, found inf"),
        ({"warmup_ratio": 1.5}, "a --warmup-ratio from 0 to 1, found 1.5"),
        ({"dropout": 1.0}, "a --dropout from 0 to below 1, found 1.0"),
    ],
)
def test_numbers_that_make_no_sense(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"expected {message}"):
        prepare_folder(options(tmp_path / "run", **given), STATE)
    assert not (tmp_path / "run").exists()


def made(kind: type[TrainingOptions], folder: Path) -> TrainingOptions:
    needed: dict[type[TrainingOptions], dict[str, Any]] = {
        MarginMSEOptions: {"scores": ("s",)},
        TeacherOptions: {"collection": "c"},
        GenreOptions: {"files": ("f",)},
        PretrainOptions: {"corpus": Path("c")},
    }
    return kind(init="m", output_dir=folder, **needed[kind])


def other_value(value: Any) -> Any:
    """Another value of the type; what an option allows is none of this check's business."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value * 2 + 0.01
    return value + 2 if isinstance(value, int) else "other"


@pytest.mark.parametrize("kind", [MarginMSEOptions, TeacherOptions, GenreOptions, PretrainOptions])
def test_each_option_that_decides_numbers_must_be_the_same(tmp_path: Path, kind: type[TrainingOptions]) -> None:
    begun = made(kind, tmp_path / "run")
    finished_run(begun)
    again = dataclasses.replace(begun, resume=True)
    assert prepare_folder(again, STATE) == tmp_path / "run" / "checkpoints" / "checkpoint-5"
    for field in dataclasses.fields(kind):
        if field.name in ("resume", "overwrite", "output_dir"):
            continue
        old = getattr(begun, field.name)
        flag = "--" + field.name.replace("_", "-")
        if dataclasses.is_dataclass(old):
            first = dataclasses.fields(old)[0].name
            new, flag = dataclasses.replace(old, **{first: other_value(getattr(old, first))}), f"{flag}.{first}"  # type: ignore[type-var]
            flag = flag.replace("_", "-")
        else:
            new = 0.5 if field.name == "dropout" else other_value(old)
        changed = dataclasses.replace(again, **{field.name: new})
        if flag.removeprefix("--").replace("-", "_") in (*MAY_DIFFER, *INPUTS):
            assert prepare_folder(changed, STATE) is not None, field.name
        else:
            with pytest.raises(ValueError, match=rf"found other {flag} \(.* before, .* now\); give the same again"):
                prepare_folder(changed, STATE)


def test_another_command_does_not_go_on_in_the_folder(tmp_path: Path) -> None:
    finished_run(made(TeacherOptions, tmp_path / "run"))
    with pytest.raises(ValueError, match="found other command \\('Teacher' before, 'MarginMSE' now\\)"):
        prepare_folder(options(tmp_path / "run", resume=True), STATE)


def test_inputs_are_named_by_their_content(tmp_path: Path, tiny_bert_dir: Path) -> None:
    model, scores = tmp_path / "bert", tmp_path / "scores.tsv"
    shutil.copytree(tiny_bert_dir, model)
    scores.write_text("1\t0\tq\ta\tb\n")
    given = options(tmp_path / "run", init=str(model), scores=(str(scores),))
    before = input_fingerprints(given)
    assert set(before) == {"--init", "--scores"}
    shutil.copytree(model, tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("a card")
    moved = dataclasses.replace(given, init=str(tmp_path / "moved"), scores=(str(tmp_path / "scor*.tsv"),))
    assert input_fingerprints(moved) == before

    changes: dict[str, Callable[[], object]] = {
        "--init": lambda: save_json(model / "config.json", {"hidden_size": 1}),
        "--scores": lambda: scores.write_text("2\t0\tq\ta\tb\n"),
    }
    run = finished_run(given)
    save_json(run / "config.json", json.loads((run / "config.json").read_text()) | {"same": before})
    check_same_facts(run, before)
    for name, change in changes.items():
        change()
        with pytest.raises(ValueError, match=f"found other .*{name} \\("):
            check_same_facts(run, input_fingerprints(given))


def test_a_weight_of_a_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("{}")
    plain, weighted, other = (
        input_fingerprints(GenreOptions(init="m", files=(name,), output_dir=tmp_path / "run"))["--files"]
        for name in (str(file), f"{file}:2", f"{file}:3")
    )
    assert len({plain, weighted, other}) == 3
