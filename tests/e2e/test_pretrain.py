"""The whole recipe as a user has it: pre-train on repositories, resume, fine-tune a student with exits from what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModel, BertTokenizerFast

from rankdistill import cli
from rankdistill.data.packing import PackedPairs
from rankdistill.models.loading import load_model
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.models.pretraining import PretrainModel
from rankdistill.options.pretraining import PretrainOptions
from rankdistill.options.students import MultiExitOptions
from rankdistill.options.training import MarginMSEOptions
from rankdistill.training.margin_mse import train_margin_mse
from rankdistill.training.pretrain import pretrain
from rankdistill.training.rows import TowerSource
from tests.e2e.test_train import history
from tests.encoders import save_encoder


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A BERT of 4 layers, with dropout, whose random numbers a resumed run has to find again."""
    folder = tmp_path_factory.mktemp("bert")
    return save_encoder("bert", folder, tiny_tokenizer_dir, initializer_range=0.05)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, conala_texts: dict[str, dict[str, str]]) -> Path:
    """Conala's snippets as functions of six repositories, by their shape, so that there is something to tell."""
    root = tmp_path_factory.mktemp("repositories")
    texts = sorted(conala_texts["docs"].values())[:900]
    for i in range(6):
        files = texts[150 * i : 150 * (i + 1)]
        (root / f"r{i}").mkdir()
        for j in range(0, 150, 30):
            functions = (f"def f{k}():\n    {text}" for k, text in enumerate(files[j : j + 30]))
            (root / f"r{i}" / f"m{j}.py").write_text("\n\n\n".join(functions), encoding="utf-8")
    return root


def options(corpus: Path, init: Path, output_dir: Path, **more: Any) -> PretrainOptions:
    settings: dict[str, Any] = {
        "exits": (1, 2, 4),
        "max_length": 48,
        "min_tokens": 4,
        "max_steps": 30,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "device": "cpu",
        "dtype": "float32",
    }
    return PretrainOptions(corpus=corpus, init=str(init), output_dir=output_dir, **(settings | more))


def test_every_exit_learns_and_the_run_goes_on_where_it_was(
    tmp_path: Path, corpus: Path, encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"save_steps": 10, "dev_repositories": 2, "eval_steps": 10, "dev_pairs": 16}
    model = pretrain(options(corpus, encoder_dir, tmp_path / "whole", **more))
    log = history(tmp_path / "whole")
    assert len(log) == 30
    for exit in (1, 2, 4):
        terms = [entry[f"loss/exit{exit}/mlm"] for entry in log]
        assert np.mean(terms[-5:]) < 0.9 * np.mean(terms[:5])
        assert log[0][f"loss/exit{exit}/icc"] == pytest.approx(exit / 4 * np.log(2), rel=0.2)
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())["log"]
    measured = [entry for entry in metrics if "eval_exit4/icc-accuracy" in entry]
    assert [entry["step"] for entry in measured] == [10, 20, 30]
    assert all(0 <= entry["eval_exit4/icc-accuracy"] <= 1 for entry in measured)
    assert measured[-1]["eval_exit4/mlm"] < measured[0]["eval_exit4/mlm"]
    facts = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert (facts["repositories"], facts["repositories_held_out"], facts["exits"]) == (4, 2, [1, 2, 4])

    interrupted = options(corpus, encoder_dir, tmp_path / "parts", resume=True, **more)
    real = PackedPairs.__call__

    def fail(self: PackedPairs, epoch: int, step: int) -> Mapping[str, Any]:
        if (epoch, step) == (0, 16):
            raise KeyboardInterrupt
        return real(self, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(PackedPairs, "__call__", fail)
        with pytest.raises(KeyboardInterrupt):
            pretrain(interrupted)
    resumed = pretrain(interrupted)
    for name in ("model.safetensors", "pretraining/exits.safetensors"):
        weights, again = load_file(model / name), load_file(resumed / name)
        assert weights.keys() == again.keys()
        for key, values in weights.items():
            np.testing.assert_array_equal(again[key], values, err_msg=key)
    assert history(tmp_path / "parts") == log

    body, ours = AutoModel.from_pretrained(model), PretrainModel.from_pretrained(model, device="cpu")
    assert body.state_dict().keys() == ours.encoder.state_dict().keys()
    for key, values in body.state_dict().items():
        torch.testing.assert_close(values, ours.encoder.state_dict()[key], rtol=0, atol=0)
    before = AutoModel.from_pretrained(encoder_dir).state_dict()
    key = "encoder.layer.3.output.dense.weight"
    assert (body.state_dict()[key] - before[key]).abs().max() > 1e-3


def test_exits_learn_which_snippets_are_of_one_repository(tmp_path: Path) -> None:
    words = ["list", "string", "file", "python", "value", "array", "dict", "key", "print", "open", "path", "read"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)}, model_max_length=64)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    init = save_encoder("bert", tmp_path / "bert", tmp_path / "tokenizer", initializer_range=0.1)
    rng = np.random.default_rng(0)
    with (tmp_path / "corpus.jsonl").open("w") as file:
        for i in range(160):  # each of four repositories has three words of its own
            text = " ".join(rng.choice(words[i % 4 :: 4], rng.integers(6, 11)))
            file.write(json.dumps({"repository": f"r{i % 4}", "text": text}) + "\n")
    more: dict[str, Any] = {"max_steps": 200, "num_epochs": 99, "batch_size": 32, "max_length": 24, "dropout": 0.0}
    pretrain(options(tmp_path / "corpus.jsonl", init, tmp_path / "run", **more))
    log = history(tmp_path / "run")
    for exit in (2, 4):
        terms = [entry[f"loss/exit{exit}/icc"] * 4 / exit for entry in log]
        assert np.mean(terms[:10]) > 0.6  # about ln 2: guesses
        assert np.mean(terms[-10:]) < 0.35


def test_a_student_with_exits_starts_from_it_and_words_drop_while_it_is_trained(
    tmp_path: Path, corpus: Path, conala: Path, encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("--max-steps", "2", "--batch-size", "4", "--max-length", "48", "--min-tokens", "4", "--exits", "2", "4")
    where = ("--corpus", str(corpus), "--init", str(encoder_dir), "--output-dir", str(tmp_path / "pretrained"))
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "pretrain", *where, *few, "--device", "cpu", "--dtype", "float32"])
    seen: list[tuple[Any, Any]] = []
    real = TowerSource.__call__

    def watch(self: TowerSource, epoch: int, step: int) -> Mapping[str, Any]:
        batch, again = real(self, epoch, step), real(self, epoch, step)
        np.testing.assert_array_equal(batch["doc_ids"], again["doc_ids"])
        drop, self.word_drop = self.word_drop, None
        seen.append((batch, real(self, epoch, step)))
        self.word_drop = drop
        return batch

    monkeypatch.setattr(TowerSource, "__call__", watch)
    chosen = MarginMSEOptions(
        student="multi-exit",
        multi_exit=MultiExitOptions(exits=(2, 4)),
        scores=(str(conala / "teacher" / "scores.tsv.gz"),),
        collection=str(conala),
        init=str(tmp_path / "pretrained" / "model"),
        output_dir=tmp_path / "run",
        query_prompt="find: ",
        doc_prompt="python: ",
        word_drop=0.5,
        doc_max_length=48,
        batch_size=16,
        max_steps=3,
        learning_rate=1e-4,
        device="cpu",
        dtype="float32",
    )
    model = train_margin_mse(chosen)
    hidden = 0
    for batch, plain in seen:
        for name, array in plain.items():
            if name == "doc_ids":
                changed = batch[name] != array
                hidden += int(changed.sum())
                assert set(batch[name][changed].tolist()) == {4}  # [MASK]
                assert not changed[:, :3].any()  # [CLS] python :
            else:
                np.testing.assert_array_equal(batch[name], array)
    assert len(seen) == 3
    assert hidden > 20
    student = load_model(model, device="cpu")
    assert isinstance(student, MultiExitEncoder)
    assert (student.exits, student.query_prompt, student.doc_prompt) == ((2, 4), "find: ", "python: ")
