"""Training to write names: what goes in, what is learnt of it, and that a trained model writes what it was shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BartConfig, BartForConditionalGeneration

from rankdistill.errors import BadDataError
from rankdistill.generation.decoding import generate_entities
from rankdistill.generation.titles import end_token
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.seq2seq import Seq2SeqModel
from rankdistill.options.training import GenreOptions
from rankdistill.training.genre import mixed_rows, name_objective, named_texts, token_pairs, train_genre

NAMES = ["Sorted list", "File (computing)", "Regular expression", "String", "String (physics)", "Sort"]


def kilt_file(folder: Path, names: list[str] = NAMES, name: str = "train.jsonl") -> Path:
    lines = [
        {
            "id": i,
            "input": "unread",
            "output": [{"provenance": [{"title": title}]}],
            "meta": {"left_context": f"this is number {i}", "mention": title.lower(), "right_context": "and so on"},
        }
        for i, title in enumerate(names)
    ]
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tiny_bart_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    specials = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id}
    specials |= {"eos_token_id": tokenizer.sep_token_id, "decoder_start_token_id": tokenizer.sep_token_id}
    sizes = {
        f"{side}_{what}": n
        for side in ("encoder", "decoder")
        for what, n in (("layers", 1), ("ffn_dim", 32), ("attention_heads", 2))
    }
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, max_position_embeddings=64, forced_eos_token_id=None, **specials, **sizes
    )
    folder = tmp_path_factory.mktemp("bart")
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options(init: Path, files: tuple[str, ...], folder: Path, **more: Any) -> GenreOptions:
    given = {
        "batch_size": 6,
        "learning_rate": 3e-3,
        "device": "cpu",
        "dtype": "float32",
        "dropout": 0.0,
        "logging_steps": 1,
    }
    return GenreOptions(init=str(init), files=files, output_dir=folder, **(given | more))


@pytest.mark.parametrize("kind", ["two bodies", "bart"])
def test_a_trained_model_writes_the_names_it_was_shown(
    kind: str, tiny_bert_dir: Path, tiny_bart_dir: Path, tmp_path: Path
) -> None:
    init, rate = (tiny_bert_dir, 3e-3) if kind == "two bodies" else (tiny_bart_dir, 1e-2)
    folder = tmp_path / "run"
    train_genre(
        options(init, (str(kilt_file(tmp_path)),), folder, max_steps=150, label_smoothing=0.0, learning_rate=rate)
    )
    model, tokenizer = (
        AutoModelForSeq2SeqLM.from_pretrained(folder / "model"),
        AutoTokenizer.from_pretrained(folder / "model"),
    )
    trie = TokenTrie.from_titles(NAMES, tokenizer)
    texts, names = named_texts(str(tmp_path / "train.jsonl"), 384)
    found = generate_entities(model, tokenizer, trie, texts, num_beams=3)
    assert [NAMES[own[0].entity_id] for own in found] == names
    ids = tokenizer(texts[0])["input_ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids("[START_ENT]")) == 1


def test_a_resumed_run_is_the_run(tiny_bert_dir: Path, tmp_path: Path) -> None:
    files = (str(kilt_file(tmp_path)),)
    more = {"max_steps": 6, "batch_size": 2, "save_steps": 3, "dropout": 0.1, "window_batches": 1}
    train_genre(options(tiny_bert_dir, files, tmp_path / "whole", **more))
    train_genre(options(tiny_bert_dir, files, tmp_path / "parts", **(more | {"keep_checkpoints": 9})))
    for path in (tmp_path / "parts" / "checkpoints").glob("checkpoint-6/*"):
        path.unlink()
    (tmp_path / "parts" / "metrics.json").unlink()
    train_genre(options(tiny_bert_dir, files, tmp_path / "parts", resume=True, **(more | {"keep_checkpoints": 9})))
    whole, parts = (
        Seq2SeqModel.from_pretrained(tmp_path / name / "model", device="cpu").state_dict()
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_targets_are_the_tries_tokens_and_what_is_given_is_not_learnt(tiny_bart_dir: Path) -> None:
    model = Seq2SeqModel.from_pretrained(tiny_bart_dir, device="cpu")
    model.model.generation_config.forced_bos_token_id = 7
    pairs = token_pairs(model, ["a text", "another"], ["String", "Sort"])
    eos = end_token(model.tokenizer)
    trie = TokenTrie.from_titles(["String", "Sort"], model.tokenizer)
    assert all(trie.contains(target[2:]) for target in pairs.targets)
    for target in pairs.targets:
        assert target[:2] == [model.config.decoder_start_token_id, 7]
        assert target[-1] == eos
    assert pairs.num_given == 1


def test_the_loss_is_cross_entropy_by_hand() -> None:
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, 4, -100], [-100, 0, 2]])
    (loss,) = name_objective(0.1)(lambda _: logits, {"labels": labels}).values()  # type: ignore[arg-type]
    log_probs = logits.log_softmax(-1)
    kept = [(b, t) for b in range(2) for t in range(3) if labels[b, t] >= 0]
    by_hand = [-0.9 * log_probs[b, t, labels[b, t]] - 0.1 * log_probs[b, t].mean() for b, t in kept]
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())


def test_sources_are_mixed_by_weight() -> None:
    rows = mixed_rows([4, 10, 2], [2.0, 0.3, 1.5], seed=3)
    counts = np.bincount(rows, minlength=16)
    assert counts[:4].tolist() == [2, 2, 2, 2]
    assert sorted(counts[4:14].tolist()) == [0] * 7 + [1] * 3
    assert sorted(counts[14:].tolist()) == [1, 2]
    np.testing.assert_array_equal(rows, mixed_rows([4, 10, 2], [2.0, 0.3, 1.5], seed=3))


def test_weights_in_files_count(tiny_bert_dir: Path, tmp_path: Path) -> None:
    first, second = kilt_file(tmp_path), kilt_file(tmp_path, NAMES[:2], "more.jsonl")
    train_genre(options(tiny_bert_dir, (f"{first}:0.5", f"{second}:3"), tmp_path / "run", max_steps=1))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["rows_an_epoch"] == 3 + 6


def test_errors(tiny_bert_dir: Path, tiny_bart_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"id": "a", "input": "b"}\n')
    with pytest.raises(BadDataError, match="expected titles of supporting pages"):
        train_genre(options(tiny_bert_dir, (str(tmp_path / "empty.jsonl"),), tmp_path / "run"))
    with pytest.raises(ValueError, match="expected a weight above 0"):
        train_genre(options(tiny_bert_dir, ("file.jsonl:0",), tmp_path / "other"))
    with pytest.raises(ValueError, match="is an encoder-decoder already"):
        Seq2SeqModel.from_pretrained(tiny_bart_dir, device="cpu", decoder_layers=1)
    with pytest.raises(ValueError, match="expected as many names as texts"):
        token_pairs(Seq2SeqModel.from_pretrained(tiny_bart_dir, device="cpu"), ["a"], [])


@pytest.mark.parametrize(
    ("given", "depths"),
    [({"num_layers": 1}, (1, 1)), ({"num_layers": 1, "encoder_layers": 2}, (2, 1)), ({"decoder_layers": 1}, (2, 1))],
)
def test_the_layers_of_each_side(
    tmp_path: Path, tiny_bert_dir: Path, given: dict[str, int], depths: tuple[int, int]
) -> None:
    folder = train_genre(options(tiny_bert_dir, (str(kilt_file(tmp_path)),), tmp_path / "run", max_steps=1, **given))
    config = json.loads((folder / "config.json").read_text())
    assert (config["encoder"]["num_hidden_layers"], config["decoder"]["num_hidden_layers"]) == depths
