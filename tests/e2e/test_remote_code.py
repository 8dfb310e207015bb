"""A model folder that brings code of its own: no command runs it, and none asks on standard input whether it may."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, EncoderDecoderConfig

from rankdistill.cli import main
from rankdistill.errors import WrongModelError
from rankdistill.models.backbone import load_config, load_tokenizer, load_weights
from rankdistill.models.loading import load_model

_CODE = """
from pathlib import Path
Path({marker!r}).write_text("run")
from transformers import BertConfig, BertModel, BertTokenizer
class Config(BertConfig):
    model_type = "stranger"
class Model(BertModel):
    pass
class Tokenizer(BertTokenizer):
    pass
class Module:
    pass
"""
_AUTO_MAP = {"AutoConfig": "stranger.Config"} | {
    f"AutoModel{task}": "stranger.Model"
    for task in ("", "ForMaskedLM", "ForSequenceClassification", "ForSeq2SeqLM", "ForCausalLM")
}


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | more), encoding="utf-8")


COMMANDS = {
    "encode": "encode --collection {texts} --model {stranger} -o {out}",
    "score": "score --collection {texts} --teacher {stranger} --triples {triples} -o {out}",
    "train dot": "{train} --student dot",
    "train cross-encoder": "{train} --student cross-encoder",
    "train splade": "{train} --student splade --splade.new-head",
    "train tk": "{train} --student tk",
    "train teacher": "train teacher --collection {texts} --init {stranger} --output-dir {out} --device cpu",
    "trie build": "trie build {titles} --tokenizer {stranger} -o {out}",
    "entities link": "entities link {stranger} --trie {titles}",
}


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    """Files that the commands need."""
    texts = tmp_path / "texts"
    (texts / "qrels").mkdir(parents=True)
    (texts / "corpus.jsonl").write_text('{"_id": "d1", "text": "a"}\n{"_id": "d2", "text": "b"}\n')
    (texts / "queries.jsonl").write_text('{"_id": "q1", "text": "a"}\n')
    (texts / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    (tmp_path / "titles.txt").write_text("Paris\nLondon\n")
    (tmp_path / "triples.tsv").write_text("q1\td1\td2\n")
    (tmp_path / "scores.tsv").write_text("1.5\t0.5\tq1\td1\td2\n")
    names = {"texts": "texts", "titles": "titles.txt", "triples": "triples.tsv", "scores": "scores.tsv", "out": "out"}
    return {name: tmp_path / file for name, file in names.items()} | {"stranger": tmp_path / "stranger"}


@pytest.fixture
def stranger(
    tmp_path: Path, tiny_bert_dir: Path, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A BERT whose config, weights and tokenizer need code; a question on standard input is answered yes.

    After the test, neither must the code have run nor the question have been asked.
    """

    def asked(*_: object) -> str:
        (tmp_path / "asked").touch()
        return "yes"

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n1\n"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = shutil.copytree(tiny_bert_dir, places["stranger"])
    (folder / "stranger.py").write_text(_CODE.format(marker=str(tmp_path / "marker")))
    change(folder / "config.json", model_type="stranger", auto_map=_AUTO_MAP)
    tokenizer = {"tokenizer_class": "StrangerTokenizer", "auto_map": {"AutoTokenizer": ["stranger.Tokenizer", None]}}
    change(folder / "tokenizer_config.json", **tokenizer)
    yield folder
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "asked").exists()


def test_the_code_would_run(tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "stranger")
    (folder / "stranger.py").write_text(_CODE.format(marker=str(tmp_path / "marker")))
    change(folder / "config.json", model_type="stranger", auto_map=_AUTO_MAP)
    AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_runs_it(
    command: str, stranger: Path, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    train = "train margin-mse --collection {texts} --scores {scores} --init {stranger} --output-dir {out} --device cpu"
    words = command.replace("{train}", train).format(**places).split()
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 1
    assert "code of its own (auto_map), which rankdistill never runs" in capsys.readouterr().err


def test_no_part_of_a_folder_runs_it(stranger: Path, tiny_bert_dir: Path) -> None:
    (stranger / "config.json").unlink()  # the tokenizer by itself
    with pytest.raises(WrongModelError, match="code of its own"):
        load_tokenizer(stranger)
    # A family that transformers knows, but not for this task.
    (stranger / "config.json").write_text(json.dumps({"model_type": "t5", "auto_map": _AUTO_MAP}))
    with pytest.raises(WrongModelError, match="found a family without a model for this task"):
        load_weights(AutoModelForCausalLM, str(stranger), load_config(stranger))


def test_code_of_a_part_of_a_config_is_forgotten(tmp_path: Path, stranger: Path) -> None:
    encoder = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, auto_map=_AUTO_MAP)
    EncoderDecoderConfig.from_encoder_decoder_configs(encoder, encoder).save_pretrained(tmp_path / "both")
    found: Any = load_config(tmp_path / "both")
    assert not any(hasattr(part, "auto_map") for part in (found, found.encoder, found.decoder))


def test_no_kernel_is_fetched_for_attention(tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "kernel")
    change(folder / "config.json", attn_implementation="stranger/attention")
    assert load_config(tiny_bert_dir)._attn_implementation == load_config(folder)._attn_implementation
    assert load_model(folder, device="cpu").fingerprint() == load_model(tiny_bert_dir, device="cpu").fingerprint()


def test_what_transformers_has_code_for_runs_by_that(tmp_path: Path, tiny_bert_dir: Path, stranger: Path) -> None:
    change(stranger / "config.json", model_type="bert")
    shutil.copy(tiny_bert_dir / "tokenizer_config.json", stranger)
    model = load_model(stranger, device="cpu")
    assert model.fingerprint() == load_model(tiny_bert_dir, device="cpu").fingerprint()
    model.save_pretrained(tmp_path / "saved")  # says nothing of code that it doesn't have
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())
