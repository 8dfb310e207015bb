"""Options of single students: on the command line, in TOML, and what they can't be combined with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from rankdistill import cli
from rankdistill.errors import BadDataError
from rankdistill.formats.collection import Collection
from rankdistill.models.loading import ARCHITECTURES
from rankdistill.models.tk import TKModel
from rankdistill.options.students import ColbertOptions, PrettOptions, TKOptions
from rankdistill.options.training import LoraOptions, MarginMSEOptions
from rankdistill.training.margin_mse import loss_weights, train_margin_mse
from rankdistill.training.run import trainer_arguments, write_config
from rankdistill.training.students import check_terms, new_student, settled
from rankdistill.training.trainer import DistillationTrainer

FLAGS = ["--scores", "s.tsv", "--init", "m", "--output-dir", "o", "--student", "tk"]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[MarginMSEOptions]:
    """What the command `train margin-mse` was called with."""
    import rankdistill.training.stages as module

    seen: list[MarginMSEOptions] = []
    monkeypatch.setattr(module, "train_margin_mse", seen.append)
    return seen


def run_cli(arguments: list[str]) -> None:
    try:
        cli.main(["train", "margin-mse", *arguments])
    except SystemExit as stop:
        assert not stop.code  # noqa: PT017


def test_flags_of_a_student_begin_with_its_name(parsed: list[MarginMSEOptions]) -> None:
    run_cli([*FLAGS, "--tk.num-layers", "3", "--tk.aggregation", "log+length"])
    (options,) = parsed
    assert options.tk == TKOptions(num_layers=3, aggregation="log+length")


def test_toml_has_a_table_for_each_student(
    parsed: list[MarginMSEOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        '[train.margin-mse]\nstudent = "tk"\n[train.margin-mse.tk]\nnum_layers = 1\nembeddings = "g.txt"\n'
    )
    monkeypatch.setattr(cli.app, "config", cli.app.config)
    run_cli(["--config", str(config), "--scores", "s.tsv", "--output-dir", "o"])
    (options,) = parsed
    assert (options.student, options.init) == ("tk", "")
    assert options.tk == TKOptions(num_layers=1, embeddings="g.txt")


def test_config_json_holds_them(tmp_path: Path) -> None:
    options = MarginMSEOptions(scores=("s",), output_dir=tmp_path, device="cpu", tk=TKOptions(num_layers=4))
    write_config(options, trainer_arguments(options, 10))
    stored = json.loads((tmp_path / "config.json").read_text())["options"]
    assert stored["tk"]["num_layers"] == 4
    assert stored["prett"] == {"join_layer": None, "compress_dim": None}


def student(tmp_path: Path, **more: Any) -> MarginMSEOptions:
    return MarginMSEOptions(scores=("s",), output_dir=tmp_path, **more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"student": "tk"}, r"a tk student starts from .* \(--init\) or .* \(--tk.embeddings\): pass one of them"),
        ({"student": "tk", "init": "m", "tk": TKOptions(embeddings="t")}, "pass one of them"),
        (
            {"student": "tk", "init": "m", "num_layers": 1},
            "a tk student takes no layers of --init; its own are --tk.num",
        ),
        ({"student": "prett"}, "a prett student starts from an encoder: pass --init"),
        ({"student": "dot"}, "a dot student starts from an encoder: pass --init"),
    ],
)
def test_what_a_student_starts_from(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_student(student(tmp_path, **more))


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"colbert": ColbertOptions(dim=64)},
        r"--colbert\.dim is for --student colbert, multi-exit-colbert, and this is a dot student; leave it",
    ),
    (
        {"student": "colbert", "pooling": "cls"},
        "--pooling is for --student dot, multi-exit, and this is a colbert student",
    ),
    (
        {"student": "splade", "projection_dim": 8},
        "--projection-dim is for --student dot, multi-exit, and this is a splade",
    ),
    ({"student": "tk", "prett": PrettOptions(join_layer=2)}, r"--prett\.join-layer is for --student prett, and"),
    (
        {"student": "tk", "dropout": 0.1},
        "--dropout is for --student dot, colbert, splade, prett, cross-encoder, multi-exit, ",
    ),
    (
        {"student": "tk", "lora": LoraOptions(rank=4)},
        r"--lora\.rank is for --student dot, .*, and this is a tk student",
    ),
    ({"lora": LoraOptions(alpha=4)}, r"--lora\.alpha is for adapters: give them a --lora\.rank"),
    ({"lora": LoraOptions(rank=-1)}, r"expected a --lora\.rank of at least 0, found -1"),
    ({"mini_batch_size": 0}, r"expected a --mini-batch-size of at least 1, found 0"),
]


@pytest.mark.parametrize(("more", "message"), REFUSED)
def test_options_that_the_student_has_no_use_for(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_margin_mse(student(tmp_path / "run", init="unread", **more))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("way", ["flags", "toml", "a stage"])
def test_they_are_refused_however_they_are_given(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.toml"
    config.write_text(
        "[train.margin-mse.colbert]\ndim = 64\n" + "[[train.margin-mse.stages]]\nmax_steps = 1\n" * (way == "a stage")
    )
    monkeypatch.setattr(cli.app, "config", cli.app.config)
    given = ["--colbert.dim", "64"] if way == "flags" else ["--config", str(config)]
    with pytest.raises(SystemExit):
        cli.main(["train", "margin-mse", *given, "--scores", "s", "--init", "m", "--output-dir", str(tmp_path / "o")])
    assert (
        "rankdistill: --colbert.dim is for --student colbert, multi-exit-colbert, and this is a dot"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "o").exists()


def test_what_is_as_it_is_by_default_is_not_refused(tmp_path: Path) -> None:
    how = student(tmp_path, student="tk", colbert=ColbertOptions(dim=128), dropout=None, lora=LoraOptions(rank=0))
    assert settled(how) == replace(how, loss=("margin-mse",))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_student_has_a_loss_that_it_can_learn_by(tmp_path: Path, architecture: str) -> None:
    in_batch = ARCHITECTURES[architecture].scores_in_batch
    weights = loss_weights(settled(student(tmp_path, student=architecture)))
    assert weights == ({"margin-mse": 0.05, "infonce": 1.0} if in_batch else {"margin-mse": 1.0})
    check_terms(ARCHITECTURES[architecture], weights)
    asked = student(tmp_path, student=architecture, loss=("kl",))
    assert settled(asked) is asked


def test_torch_compile_is_handed_on(tmp_path: Path) -> None:
    found = [
        trainer_arguments(student(tmp_path, device="cpu", torch_compile=asked), 10).torch_compile
        for asked in (False, True)
    ]
    assert found == [False, True]


def table(path: Path, words: list[str], width: int = 4) -> str:
    vectors = np.random.default_rng(0).normal(size=(len(words), width))
    lines = [" ".join([word, *(f"{x:.4f}" for x in vector)]) for word, vector in zip(words, vectors, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_table_keeps_the_collections_words_and_counts_those_it_lacks(
    tmp_path: Path, small_collection: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["list", "nowhere", "a", "string"]
    how = TKOptions(embeddings=table(tmp_path / "t.txt", words), num_heads=2)
    model = new_student(student(tmp_path, student="tk", tk=how), small_collection)
    assert isinstance(model, TKModel)
    assert model.tokenizer.get_vocab() == {"[PAD]": 0, "[UNK]": 1, "list": 2, "a": 3, "string": 4}
    counted, lacking = (model.coverage[f"words_{name}"] for name in ("of_the_collection", "without_a_vector"))
    assert lacking == counted - 3 > 100
    assert {"(", ")", "."} <= set(model.coverage["most_frequent_without_a_vector"])
    assert f"3 of the collection's {counted:,} words have a vector" in capsys.readouterr().err
    all_of_it = TKOptions(embeddings=how.embeddings, num_heads=2, vocabulary="table")
    model = new_student(student(tmp_path, student="tk", tk=all_of_it), small_collection)
    assert "nowhere" in model.tokenizer.get_vocab()


def test_a_table_without_any_of_the_collections_words(tmp_path: Path, small_collection: Collection) -> None:
    how = TKOptions(embeddings=table(tmp_path / "t.txt", ["nowhere", "nothing"]), num_heads=2)
    with pytest.raises(BadDataError, match=r"expected a table with words of the collection .*found none of its"):
        new_student(student(tmp_path, student="tk", tk=how), small_collection)


class _Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(3, 2), nn.Linear(2, 2)
        self.kernels = nn.ParameterDict({"weight": nn.Parameter(torch.ones(2)), "bias": nn.Parameter(torch.ones(2))})


class _NoRows:
    num_steps = num_rows = 1

    def __call__(self, epoch: int, step: int) -> dict[str, Any]:
        raise NotImplementedError

    def describe(self, epoch: int, step: int) -> str:
        return "rows 1"


def optimizer_of(model: nn.Module, tmp_path: Path) -> torch.optim.Optimizer:
    arguments = TrainingArguments(str(tmp_path), learning_rate=0.5, weight_decay=0.1, use_cpu=True, report_to=[])

    def objective(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        raise NotImplementedError

    return DistillationTrainer(model, arguments, source=_NoRows(), objective=objective).create_optimizer()


def test_weights_have_the_learning_rate_of_their_factor(tmp_path: Path) -> None:
    model = _Weights()
    model.learning_rate_factors = {"kernels.": 10.0, "table.": 0.0}  # type: ignore[assignment]
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer_of(model, tmp_path).param_groups
        for parameter in group["params"]
    }
    assert found == {
        "table.weight": (0.0, 0.1),
        "body.weight": (0.5, 0.1),
        "body.bias": (0.5, 0.0),
        "kernels.weight": (5.0, 0.1),
        "kernels.bias": (5.0, 0.0),
    }
    first = optimizer_of(model, tmp_path).param_groups[0]
    assert [names[parameter] for parameter in first["params"]] == ["body.weight"]  # whose rate is logged


def test_models_without_factors_keep_the_trainers_groups(tmp_path: Path) -> None:
    assert [len(group["params"]) for group in optimizer_of(_Weights(), tmp_path).param_groups] == [3, 2]
