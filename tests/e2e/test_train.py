"""Training as a user runs it: resumed after kill -9 it gives the same bits, two processes share the rows, the parts fit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rankdistill.errors import NotFiniteError
from rankdistill.formats.collection import open_collection
from rankdistill.models.dot import DotModel
from rankdistill.options.training import LoraOptions, MarginMSEOptions, TeacherOptions
from rankdistill.retrieval.encode import encode_texts
from rankdistill.training.margin_mse import train_margin_mse
from rankdistill.training.teacher import train_teacher
from tests.commandline import command

NUM_ROWS = 96


@pytest.fixture(scope="session")
def score_file(tmp_path_factory: pytest.TempPathFactory, conala: Path) -> Path:
    """96 triples of conala in the published id form; the scores are random, but always the same."""
    collection = open_collection(conala)
    random = np.random.default_rng(3)
    qrels = list(collection.qrels("train").items())[:NUM_ROWS]
    path = tmp_path_factory.mktemp("scores") / "scores.tsv"
    lines = []
    for query_id, judged in qrels:
        positive, negative = next(iter(judged)), collection.doc_ids[int(random.integers(collection.num_docs))]
        above, below = random.normal(5, 1), random.normal(-2, 1)
        lines.append(f"{above:.4f}\t{below:.4f}\t{query_id}\t{positive}\t{negative}\n")
    path.write_text("".join(lines))
    return path


def options(score_file: Path, conala: Path, tiny_bert_dir: Path, output_dir: Path, **more: object) -> MarginMSEOptions:
    settings: dict[str, object] = {
        "scores": (str(score_file),),
        "collection": str(conala),
        "init": str(tiny_bert_dir),
        "output_dir": output_dir,
        "batch_size": 8,
        "loss": ("margin-mse:0.1", "infonce"),
        "logging_steps": 1,
        "device": "cpu",
        "window_batches": 2,
    }
    return MarginMSEOptions(**(settings | more))  # type: ignore[arg-type]


def history(run: Path) -> list[dict[str, float]]:
    """The logged losses; without what depends on the clock."""
    log = json.loads((run / "metrics.json").read_text())["log"]
    return [
        {key: value for key, value in entry.items() if "loss" in key or key == "step"}
        for entry in log
        if "loss" in entry
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_killed_and_resumed_is_the_same_to_the_last_bit(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path, dtype: str
) -> None:
    # Which dtype is faster is asked of the machine, and another process may hear another answer.
    more = {"num_epochs": 4, "save_steps": 7, "dtype": dtype}  # 12 steps an epoch: checkpoints in the midst of epochs
    train_margin_mse(options(score_file, conala, tiny_bert_dir, tmp_path / "whole", **more))
    killed = options(score_file, conala, tiny_bert_dir, tmp_path / "killed", resume=True, **more)
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / "killed" / "checkpoints" / "checkpoint-14" / "trainer_state.json"
    while process.poll() is None and not state.is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (tmp_path / "killed" / "metrics.json").exists()
    finished = train_margin_mse(killed)
    whole, resumed = (load_file(path / "model.safetensors") for path in (tmp_path / "whole" / "model", finished))
    assert whole.keys() == resumed.keys()
    for name, weights in whole.items():
        np.testing.assert_array_equal(resumed[name], weights, err_msg=name)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert len(history(tmp_path / "whole")) == 48


def resumed_from(whole: Path, step: int, run: Path) -> None:
    """Makes `run` what `whole` was when its checkpoint of a step had been written."""
    shutil.copytree(whole, run)
    shutil.rmtree(run / "model")
    (run / "metrics.json").unlink()
    for checkpoint in (run / "checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.rsplit("-", 1)[1]) > step:
            shutil.rmtree(checkpoint)


def assert_same_run(left: Path, right: Path) -> None:
    """Equal to the last bit: weights, and all losses that were logged."""
    assert history(left) == history(right)
    weights, others = (load_file(run / "model" / "model.safetensors") for run in (left, right))
    assert weights.keys() == others.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(others[name], values, err_msg=name)


def test_a_run_killed_behind_its_last_checkpoint_takes_no_step_more(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path
) -> None:
    more = {"max_steps": 3, "save_steps": 3, "lr_scheduler": "constant_with_warmup", "query_max_length": 16}
    run = tmp_path / "run"
    weights = train_margin_mse(options(score_file, conala, tiny_bert_dir, run, **more)) / "model.safetensors"
    expected = weights.read_bytes()
    shutil.rmtree(run / "model")
    (run / "metrics.json").unlink()
    train_margin_mse(options(score_file, conala, tiny_bert_dir, run, resume=True, **more))
    assert weights.read_bytes() == expected
    assert sorted(path.name for path in (run / "checkpoints").glob("checkpoint-*")) == ["checkpoint-3"]


def test_mini_batches_change_nothing_and_are_resumed_to_the_last_bit(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path, tiny_sentence_transformer_dir: Path
) -> None:
    more: dict[str, object] = {"max_steps": 8, "save_steps": 3, "keep_checkpoints": 9, "dtype": "float32"}
    more |= {"loss": ("margin-mse:0.1", "in-batch-kl"), "in_batch_teacher": str(tiny_sentence_transformer_dir)}
    plain, parts = tmp_path / "plain", tmp_path / "parts"
    train_margin_mse(options(score_file, conala, tiny_bert_dir, plain, learning_rate=1e-5, **more))
    train_margin_mse(options(score_file, conala, tiny_bert_dir, parts, learning_rate=1e-5, mini_batch_size=3, **more))
    for expected, found in zip(history(plain), history(parts), strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
    more |= {"dropout": 0.2, "mini_batch_size": 3}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_margin_mse(options(score_file, conala, tiny_bert_dir, whole, **more))
    resumed_from(whole, 3, resumed)
    train_margin_mse(options(score_file, conala, tiny_bert_dir, resumed, resume=True, **more))
    assert_same_run(whole, resumed)


def test_adapters_are_trained_resumed_to_the_last_bit_and_merged(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    more: dict[str, object] = {"max_steps": 8, "save_steps": 3, "keep_checkpoints": 9, "dtype": "float32"}
    more |= {"lora": LoraOptions(rank=2, dropout=0.1), "projection_dim": 8, "dropout": 0.1, "learning_rate": 1e-2}
    more |= {"dev_split": "test", "dev_queries": 5, "eval_steps": 3, "mini_batch_size": 5}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    folder = train_margin_mse(options(score_file, conala, tiny_bert_dir, whole, **more))
    num_trained = 2 * 2 * 2 * 2 * 32 + 8 * 32  # layers, query and value, A and B of rank 2; the projection
    num_weights = num_trained + sum(values.size for values in load_file(tiny_bert_dir / "model.safetensors").values())
    assert f"{num_trained:,} of {num_weights:,} weights are trained" in capsys.readouterr().err
    config = json.loads((whole / "config.json").read_text())
    assert (config["weights_trained"], config["weights"]) == (num_trained, num_weights)
    kept = load_file(whole / "checkpoints" / "checkpoint-3" / "trained.safetensors")
    assert sum(values.size for values in kept.values()) == num_trained
    resumed_from(whole, 3, resumed)
    train_margin_mse(options(score_file, conala, tiny_bert_dir, resumed, resume=True, **more))
    assert_same_run(whole, resumed)
    before, after = (load_file(path / "model.safetensors") for path in (tiny_bert_dir, folder))
    assert before.keys() == after.keys()
    assert {name.rsplit(".", 2)[1] for name in after if (after[name] != before[name]).any()} == {"query", "value"}
    texts = ["sort a list", "read a file line by line"]
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts)
    ours = encode_texts(DotModel.from_pretrained(folder, device="cpu"), texts, kind="query", progress=False)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_resumed_run_keeps_the_dtype_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rankdistill.training import run

    begun = MarginMSEOptions(scores=("s",), init="m", output_dir=tmp_path, device="cpu", resume=True)
    answers = iter([torch.bfloat16, torch.float32])
    monkeypatch.setattr(run, "fast_dtype", lambda device: next(answers))
    run.write_config(begun, run.trainer_arguments(begun, 10))
    assert run.trainer_arguments(begun, 10).bf16


def test_resuming_reads_no_batch_that_was_trained_on(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rankdistill.training.rows import TowerSource

    asked: list[tuple[int, int]] = []
    original = TowerSource.__call__

    def spy(self: TowerSource, epoch: int, step: int) -> object:
        asked.append((epoch, step))
        return original(self, epoch, step)

    monkeypatch.setattr(TowerSource, "__call__", spy)
    more: dict[str, object] = {"save_steps": 15, "lr_scheduler": "constant_with_warmup"}
    train_margin_mse(options(score_file, conala, tiny_bert_dir, tmp_path / "run", max_steps=15, **more))
    assert asked == [(0, step) for step in range(12)] + [(1, step) for step in range(3)]
    asked.clear()
    longer = options(score_file, conala, tiny_bert_dir, tmp_path / "run", max_steps=20, resume=True, **more)
    train_margin_mse(longer)
    assert asked == [(1, step) for step in range(3, 8)]
    # Where the learning rate stays constant, a run made longer is the long run.
    train_margin_mse(options(score_file, conala, tiny_bert_dir, tmp_path / "long", max_steps=20, **more))
    assert_same_run(tmp_path / "long", tmp_path / "run")
    falling = dataclasses.replace(longer, lr_scheduler="linear")
    with pytest.raises(ValueError, match=r"other --lr-scheduler \('constant_with_warmup' before, 'linear' now\)"):
        train_margin_mse(falling)


def test_a_loss_that_is_not_finite_names_its_rows_and_leaves_no_model(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path
) -> None:
    lines = score_file.read_text().splitlines(keepends=True)
    _, negative, query_id, *docs = lines[4].rstrip().split("\t")
    lines[4] = "\t".join(["1e12", negative, query_id, *docs]) + "\n"
    (tmp_path / "scores.tsv").write_text("".join(lines))
    given = options(
        tmp_path / "scores.tsv", conala, tiny_bert_dir, tmp_path / "run", teacher_scale=1e8, loss=("margin-mse",)
    )
    message = rf"inf or nan in margin-mse of step \d+ \(rows .*; the largest score is 1e\+12, in row 5, of query '{query_id}'\)"
    with pytest.raises(NotFiniteError, match=message):
        train_margin_mse(given)
    assert not (tmp_path / "run" / "model").exists()
    assert not list((tmp_path / "run").glob("checkpoints/checkpoint-*"))


WORKER = """
import os, sys
from rankdistill.cli import main
from rankdistill.training.rows import TowerSource
original = TowerSource.__call__
def spy(self, epoch, step):
    with open(f"{sys.argv[1]}.{os.environ['RANK']}", "a") as log:
        log.write("".join(f"{row}\\n" for row in self.plan.rows(epoch, step)))
    return original(self, epoch, step)
TowerSource.__call__ = spy
main(sys.argv[2:])
"""


@pytest.mark.parametrize("mini_batch_size", [None, 3])
def test_two_processes_see_each_row_once_and_train_the_same_model_as_one(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path, mini_batch_size: int | None
) -> None:
    # Margin-MSE only, since in-batch terms depend on the batch of each process; no dropout in 1e-5 comparisons.
    bert = tmp_path / "bert"
    bert.mkdir()
    for file in tiny_bert_dir.iterdir():
        (bert / file.name).write_bytes(file.read_bytes())
    config = json.loads((bert / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (bert / "config.json").write_text(json.dumps(config))
    more = {"loss": ("margin-mse",), "dtype": "float32", "learning_rate": 1e-3}
    one = train_margin_mse(options(score_file, conala, bert, tmp_path / "one", batch_size=16, **more))
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    more |= {"mini_batch_size": mini_batch_size, "overwrite": True}
    two = options(score_file, conala, bert, tmp_path / "two", batch_size=8, **more)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=0",
        "--rdzv-backend=c10d",
    ]
    launch += ["--rdzv-endpoint=localhost:0", str(worker), str(tmp_path / "rows"), *command(two)[3:]]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(launch, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = Counter(int(row) for rank in (0, 1) for row in (tmp_path / f"rows.{rank}").read_text().split())
    assert seen == Counter(range(NUM_ROWS))
    # Terms are means over both processes, as the loss is.
    for entry in history(tmp_path / "two"):
        assert entry["loss/margin-mse"] == pytest.approx(entry["loss"], rel=1e-4)
    weights, parallel = (load_file(path / "model.safetensors") for path in (one, tmp_path / "two" / "model"))
    for name, values in weights.items():
        # Attention ignores what all keys share, so the gradient of a key's bias is rounding noise, which Adam makes big.
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(parallel[name], values, atol=1e-4, err_msg=name)


def test_validation_keeps_the_best_checkpoint_and_stops_early(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path
) -> None:
    run = tmp_path / "run"
    # A learning rate of nearly 0 changes nothing, so the first validation stays the best and patience runs out.
    more = {
        "dev_split": "test",
        "dev_queries": 20,
        "eval_steps": 2,
        "patience": 2,
        "learning_rate": 1e-12,
        "num_epochs": 5,
    }
    model = train_margin_mse(options(score_file, conala, tiny_bert_dir, run, **more))
    metrics = json.loads((run / "metrics.json").read_text())
    measured = [entry for entry in metrics["log"] if "eval_nDCG@10" in entry]
    assert [entry["step"] for entry in measured] == [2, 4, 6]
    assert all(0 <= entry["eval_RR@10"] <= 1 for entry in measured)
    assert metrics["summary"]["best_step"] == 2
    assert (model / "README.md").read_text().startswith("---\nlibrary_name: sentence-transformers")
    config = json.loads((run / "config.json").read_text())
    assert config["options"]["patience"] == 2
    assert config["score_rows"] == NUM_ROWS
    assert any((run / "checkpoints").rglob("events.out.tfevents*"))


def test_validation_by_reranking(tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path) -> None:
    run = tmp_path / "run"
    more = {
        "dev_split": "test",
        "dev_queries": 10,
        "dev_mode": "rerank",
        "dev_depth": 5,
        "eval_steps": 4,
        "max_steps": 4,
    }
    train_margin_mse(options(score_file, conala, tiny_bert_dir, run, **more))
    metrics = json.loads((run / "metrics.json").read_text())
    assert [entry["step"] for entry in metrics["log"] if "eval_nDCG@10" in entry] == [4]


def test_a_dense_teacher_teaches_whole_batches(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path, tiny_sentence_transformer_dir: Path
) -> None:
    teacher = str(tiny_sentence_transformer_dir)
    more = {"loss": ("in-batch-margin-mse",), "in_batch_teacher": teacher, "in_batch_scale": 1.0, "num_epochs": 10}
    run = tmp_path / "run"
    # The student is the teacher's first layer, and has to learn what the second adds.
    train_margin_mse(
        options(score_file, conala, tiny_bert_dir, run, num_layers=1, learning_rate=3e-3, dtype="float32", **more)
    )
    losses = [entry["loss"] for entry in history(run)]
    with pytest.raises(ValueError, match="go together: give both or neither"):
        train_margin_mse(options(score_file, conala, tiny_bert_dir, tmp_path / "b", loss=("in-batch-kl",)))
    assert np.mean(losses[-12:]) < 0.8 * np.mean(losses[:12])


def test_a_score_file_in_text_form_needs_no_collection(
    tmp_path: Path, score_file: Path, conala: Path, tiny_bert_dir: Path
) -> None:
    collection = open_collection(conala)
    rows = [line.split("\t") for line in score_file.read_text().splitlines()]
    queries = collection.query_texts([row[2] for row in rows])
    docs = [[text.replace("\t", " ") for text in collection.doc_texts([row[i] for row in rows])] for i in (3, 4)]
    lines = zip(rows, queries, *docs, strict=True)
    texts = tmp_path / "texts.tsv"
    texts.write_text("".join("\t".join([*row[:2], *columns]).replace("\n", " ") + "\n" for row, *columns in lines))
    run = tmp_path / "run"
    train_margin_mse(options(texts, conala, tiny_bert_dir, run, collection=None, max_steps=3))
    assert len(history(run)) == 3
    with pytest.raises(ValueError, match=r"of the form ids name texts by id: pass --collection"):
        train_margin_mse(options(score_file, conala, tiny_bert_dir, tmp_path / "b", collection=None))


@pytest.mark.parametrize("loss", ["ranknet", "bce"])
def test_a_teacher_learns_to_tell_relevant_from_other(
    tmp_path: Path, conala: Path, tiny_bert_dir: Path, loss: str
) -> None:
    run = tmp_path / "teacher"
    train_teacher(
        TeacherOptions(
            collection=str(conala),
            init=str(tiny_bert_dir),
            output_dir=run,
            num_negatives=1,
            negative_depth=10,
            max_steps=40,
            max_length=48,
            learning_rate=1e-3,
            logging_steps=1,
            loss=loss,  # type: ignore[arg-type]
            device="cpu",
        )
    )
    losses = [entry["loss"] for entry in history(run)]
    assert len(losses) == 40
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
