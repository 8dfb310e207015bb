"""Training in stages as a user runs it: from a TOML file, killed and resumed, changed afterwards."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rankdistill.formats.collection import open_collection
from rankdistill.options.training import MarginMSEOptions, Stage
from rankdistill.training import stages as stages_module
from rankdistill.training.stages import run_stages, stage_options

STAGES = (
    Stage(loss=("lambda-mrr",), num_top=1, max_steps=8, learning_rate=3e-3),
    Stage(loss=("lambda-mrr", "rankdistil:0.1"), num_top=2, num_epochs=6),
)


@pytest.fixture(scope="session")
def nway_file(tmp_path_factory: pytest.TempPathFactory, conala: Path) -> Path:
    """64 rows of four docs of conala; the scores are random, but always the same."""
    collection, random = open_collection(conala), np.random.default_rng(3)
    path = tmp_path_factory.mktemp("nway") / "scores.jsonl"
    with path.open("w") as file:
        for query_id, judged in list(collection.qrels("train").items())[:64]:
            others = [collection.doc_ids[int(row)] for row in random.integers(collection.num_docs, size=3)]
            row = [[doc_id, float(random.normal())] for doc_id in (next(iter(judged)), *others)]
            file.write(json.dumps([query_id, *row]) + "\n")
    return path


def options(nway_file: Path, conala: Path, tiny_bert_dir: Path, output_dir: Path, **more: object) -> MarginMSEOptions:
    settings: dict[str, object] = {
        "scores": (str(nway_file),),
        "collection": str(conala),
        "init": str(tiny_bert_dir),
        "output_dir": output_dir,
        "batch_size": 8,
        "num_layers": 1,
        "projection_dim": 16,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 5,
        "device": "cpu",
        "dtype": "float32",
    }
    return MarginMSEOptions(**(settings | more))  # type: ignore[arg-type]


TOML = """
[train.margin-mse]
scores = ["{nway_file}"]
collection = "{conala}"
init = "{tiny_bert_dir}"
output-dir = "{output_dir}"
batch-size = 8
num-layers = 1
projection-dim = 16
learning-rate = 1e-3
logging-steps = 1
save-steps = 5
device = "cpu"
dtype = "float32"

[[train.margin-mse.stages]]
loss = ["lambda-mrr"]
num_top = 1
max_steps = 8
learning_rate = 3e-3

[[train.margin-mse.stages]]
loss = ["lambda-mrr", "rankdistil:0.1"]
num_top = 2
num_epochs = 6
"""


def losses(run: Path) -> list[float]:
    log = json.loads((run / "metrics.json").read_text())["log"]
    return [entry["loss"] for entry in log if "loss" in entry]


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_stages_killed_and_resumed_are_the_same_to_the_last_bit_and_a_finished_one_is_left_alone(
    tmp_path: Path, nway_file: Path, conala: Path, tiny_bert_dir: Path
) -> None:
    whole = run_stages(options(nway_file, conala, tiny_bert_dir, tmp_path / "whole"), STAGES)
    config = tmp_path / "stages.toml"
    killed = tmp_path / "killed"
    places = {"nway_file": nway_file, "conala": conala, "tiny_bert_dir": tiny_bert_dir, "output_dir": killed}
    config.write_text(TOML.format(**places))
    words = [sys.executable, "-m", "rankdistill", "train", "margin-mse", "--resume", "--config", str(config)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = killed / "stage-2" / "checkpoints" / "checkpoint-10" / "trainer_state.json"
    while process.poll() is None and not begun.is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (killed / "stage-2" / "metrics.json").exists()
    before = stamps(killed / "stage-1")
    run_stages(options(nway_file, conala, tiny_bert_dir, killed, resume=True), STAGES)
    assert stamps(killed / "stage-1") == before
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, killed / "model"))
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        np.testing.assert_array_equal(found[name], weights, err_msg=name)
    for stage, steps in (("stage-1", 8), ("stage-2", 48)):
        assert losses(killed / stage) == losses(tmp_path / "whole" / stage)
        assert len(losses(killed / stage)) == steps
    assert json.loads((killed / "metrics.json").read_text())["summary"]["steps"] == 56
    written = json.loads((killed / "config.json").read_text())["stages"]
    assert written[0] == {"loss": ["lambda-mrr"], "num_top": 1, "max_steps": 8, "learning_rate": 0.003}
    # The second stage starts from the first's model, with its one layer and its projection.
    assert json.loads((killed / "stage-2" / "config.json").read_text())["options"]["init"].endswith("stage-1/model")
    assert json.loads((killed / "model" / "config.json").read_text())["num_hidden_layers"] == 1
    assert (killed / "model" / "2_Dense").is_dir()


def test_a_finished_run_is_not_trained_again_and_a_changed_stage_is_not_passed_off_as_trained(
    tmp_path: Path, nway_file: Path, conala: Path, tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = (Stage(max_steps=2), Stage(max_steps=2, loss=("lce",)))
    run = options(nway_file, conala, tiny_bert_dir, tmp_path / "run")
    first = run_stages(run, short)
    with pytest.raises(FileExistsError, match="found a run; pass --resume or --overwrite"):
        run_stages(run, short)
    again = dataclasses.replace(run, resume=True)
    trained: list[str] = []
    train = stages_module.train_margin_mse
    monkeypatch.setattr(stages_module, "train_margin_mse", lambda of: trained.append(of.output_dir.name) or train(of))
    assert run_stages(again, short) == first
    assert trained == []
    message = r"stage-2: expected what the run began with, found other --loss \(\['lce'\] before, \['kl'\] now\)"
    with pytest.raises(ValueError, match=message):
        run_stages(again, (short[0], Stage(max_steps=2, loss=("kl",))))
    with pytest.raises(ValueError, match=r"stage-1: .* found other --batch-size \(8 before, 4 now\)"):
        run_stages(dataclasses.replace(again, batch_size=4), short)
    with pytest.raises(ValueError, match=r"stage-2: .* found other --max-steps \(2 before, 3 now\)"):
        run_stages(again, (short[0], Stage(max_steps=3, loss=("lce",))))
    # A stage added to a finished run is trained from where it ended.
    run_stages(again, (*short, Stage(max_steps=1)))
    assert trained == ["stage-3"]
    (tmp_path / "run" / "stage-3" / "metrics.json").write_text('{"summ')  # killed while writing
    run_stages(again, (*short, Stage(max_steps=1)))
    assert trained == ["stage-3", "stage-3"]
    run_stages(dataclasses.replace(run, overwrite=True), short[:1])
    assert trained[2:] == ["stage-1"]
    assert not (tmp_path / "run" / "stage-2").exists()


def test_each_stage_has_its_own_options(tmp_path: Path) -> None:
    common = MarginMSEOptions(
        scores=("s",), init="m", output_dir=tmp_path, num_layers=2, max_steps=9, seed=5, in_batch_teacher="t"
    )
    first, second, third = stage_options(
        common, [Stage(loss=("in-batch-kl",)), Stage(num_epochs=2, scores=("r",)), Stage(learning_rate=1.0)]
    )
    assert (first.init, first.num_layers, first.max_steps, first.seed, first.in_batch_teacher) == ("m", 2, 9, 5, "t")
    model = str(tmp_path / "stage-1" / "model")
    assert (second.init, second.num_layers, second.max_steps, second.seed) == (model, None, -1, 6)
    assert (second.in_batch_teacher, second.scores, second.loss) == (None, ("r",), ("margin-mse:0.05", "infonce"))
    assert (third.max_steps, third.learning_rate, third.scores) == (9, 1.0, ("s",))


def test_a_loss_that_a_later_stage_cannot_have_is_found_before_the_first_is_trained(tmp_path: Path) -> None:
    common = MarginMSEOptions(scores=("s",), init="m", output_dir=tmp_path / "run")
    with pytest.raises(ValueError, match='loss "x" does not exist'):
        run_stages(common, [Stage(), Stage(loss=("x",))])
    with pytest.raises(ValueError, match="go together: give both or neither"):
        run_stages(common, [Stage(), Stage(loss=("in-batch-kl",))])
    with pytest.raises(ValueError, match="go together: give both or neither"):
        run_stages(dataclasses.replace(common, in_batch_teacher="t"), [Stage()])
    assert not (tmp_path / "run").exists()
