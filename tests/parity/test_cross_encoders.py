"""Other people's cross-encoders score as CrossEncoder does, before its activation function, or are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from rankdistill.errors import WrongModelError
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.loading import load_model
from rankdistill.models.multi_exit_cross_encoder import MultiExitCrossEncoder
from rankdistill.retrieval.rerank import score_pairs
from tests.encoders import save_encoder

PAIRS = [("sort a list", "sorted(a)"), ("read a file", "open(path).read() " * 30), ("x " * 50, "y"), ("x", "")]
FAMILIES = ("bert", "distilbert", "modernbert", "roberta")


def ours(folder: Path, **settings: Any) -> NDArray[np.float32]:
    model = (
        CrossEncoderModel.from_pretrained(folder, device="cpu", **settings)
        if settings
        else load_model(folder, device="cpu")
    )
    assert isinstance(model, CrossEncoderModel)
    return score_pairs(model, *map(list, zip(*PAIRS, strict=True)), progress=False)


def theirs(folder: Path, activation_fn: Any = None) -> NDArray[np.float32]:
    """What CrossEncoder gives, each pair by itself, so that no padding counts."""
    model = CrossEncoder(str(folder), device="cpu")
    return np.array([model.predict(pair, activation_fn=activation_fn, show_progress_bar=False) for pair in PAIRS])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A BERT with one output, as sentence-transformers 6 saves it."""
    folder = tmp_path_factory.mktemp("classifier")
    plain = save_encoder("bert", folder / "plain", tiny_tokenizer_dir, AutoModelForSequenceClassification, num_labels=1)
    CrossEncoder(str(plain), device="cpu").save_pretrained(str(folder / "saved"))
    return folder / "saved"


def edit(folder: Path, into: Path, name: str = "config_sentence_transformers.json", **more: Any) -> Path:
    """A copy of a folder with other settings in one of its files."""
    shutil.copytree(folder, into)
    (into / name).write_text(json.dumps(json.loads((into / name).read_text()) | more))
    return into


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_scores_as_it_does_there(tmp_path: Path, tiny_tokenizer_dir: Path, family: str) -> None:
    plain = save_encoder(
        family, tmp_path / "plain", tiny_tokenizer_dir, AutoModelForSequenceClassification, num_labels=1
    )
    CrossEncoder(str(plain), device="cpu").save_pretrained(str(tmp_path / "saved"))
    for folder in (plain, tmp_path / "saved"):
        scores = ours(folder)
        np.testing.assert_allclose(scores, theirs(folder, torch.nn.Identity()), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(torch.from_numpy(scores).sigmoid(), theirs(folder), atol=1e-5)


@pytest.mark.parametrize("pad_side", ["left", "right"])
def test_a_decoder_scores_its_last_token(tmp_path: Path, tiny_tokenizer_dir: Path, pad_side: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir, padding_side=pad_side)
    shape: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "num_labels": 1}
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=len(tokenizer), initializer_range=0.5, **shape))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    np.testing.assert_allclose(ours(tmp_path), theirs(tmp_path, torch.nn.Identity()), rtol=1e-5, atol=1e-5)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(WrongModelError, match=r"expected a padding token, .* found none"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize(("stated", "positions", "length"), [(40, 66, 40), (10**30, 66, 66), (1000, 1200, 1000)])
def test_pairs_are_cut_where_they_are_there(
    tmp_path: Path, tiny_tokenizer_dir: Path, stated: int, positions: int, length: int
) -> None:
    more = {"num_labels": 1, "max_position_embeddings": positions}
    folder = save_encoder("bert", tmp_path, tiny_tokenizer_dir, AutoModelForSequenceClassification, **more)
    AutoTokenizer.from_pretrained(folder, model_max_length=stated).save_pretrained(folder)
    model = CrossEncoderModel.from_pretrained(folder, device="cpu")
    assert model.max_length == CrossEncoder(str(folder), device="cpu").max_seq_length == length
    np.testing.assert_allclose(ours(folder), theirs(folder, torch.nn.Identity()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [700, 1000])
def test_what_was_trained_with_long_pairs_reads_them_again(
    tmp_path: Path, tiny_tokenizer_dir: Path, length: int
) -> None:
    body = save_encoder("bert", tmp_path / "body", tiny_tokenizer_dir, max_position_embeddings=1024)
    model = CrossEncoderModel.from_pretrained(body, device="cpu", new_head=True, max_length=length)
    model.save_pretrained(tmp_path / "model")
    again = load_model(tmp_path / "model", device="cpu")
    assert isinstance(again, CrossEncoderModel)
    assert (again.max_length, again.fingerprint()) == (length, model.fingerprint())
    assert CrossEncoder(str(tmp_path / "model"), device="cpu").max_seq_length == length


@pytest.mark.parametrize("name", ["Identity", "Tanh", "Softplus"])
def test_scores_are_logits_whatever_the_activation(tmp_path: Path, classifier: Path, name: str) -> None:
    activation = getattr(torch.nn, name)()
    folder = edit(classifier, tmp_path / "model", activation_fn=f"torch.nn.{name}")
    np.testing.assert_allclose(activation(torch.from_numpy(ours(folder))), theirs(folder), atol=1e-5)


def test_a_student_starts_from_it(tmp_path: Path, classifier: Path) -> None:
    scores = ours(classifier)
    for number, kind in enumerate((CrossEncoderModel, MultiExitCrossEncoder)):
        model = kind.from_pretrained(classifier, device="cpu", new_head=True)
        model.save_pretrained(tmp_path / str(number))
        np.testing.assert_allclose(ours(tmp_path / str(number)), scores, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(theirs(tmp_path / str(number)), scores, rtol=1e-5, atol=1e-5)  # without a sigmoid


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"activation_fn": "torch.nn.modules.activation.ReLU"}, "found the activation function torch.*ReLU"),
    "prompt": (
        {"prompts": {"q": "find: "}, "default_prompt_name": "q"},
        r"found a prompt before each query \('find: '\)",
    ),
    "unknown kind": ({"model_type": "FutureEncoder"}, 'expected a model_type .* found "FutureEncoder"'),
}


@pytest.mark.parametrize(("more", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_score_otherwise_is_refused(
    tmp_path: Path, classifier: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(WrongModelError, match=message):
        load_model(edit(classifier, tmp_path / "model", **more), device="cpu")


def test_a_prompt_that_is_not_the_default_is_not_used(tmp_path: Path, classifier: Path) -> None:
    folder = edit(classifier, tmp_path / "model", prompts={"q": "find: "})
    np.testing.assert_allclose(ours(folder), theirs(folder, torch.nn.Identity()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "setting", [{"do_lower_case": True}, {"transformer_task": "text-generation"}, {"processing_kwargs": {"text": {}}}]
)
def test_a_transformer_that_does_more_is_refused(tmp_path: Path, classifier: Path, setting: dict[str, Any]) -> None:
    folder = edit(classifier, tmp_path / "model", "sentence_bert_config.json", **setting)
    with pytest.raises(WrongModelError, match=f"found a Transformer with {next(iter(setting))}"):
        load_model(folder, device="cpu")


def test_a_chain_with_more_modules_is_refused(tmp_path: Path, classifier: Path) -> None:
    model = CrossEncoder(str(classifier), device="cpu")
    model.append(LogitScore(1, 2))
    model.save_pretrained(str(tmp_path))
    with pytest.raises(WrongModelError, match="found the modules Transformer, LogitScore"):
        load_model(tmp_path, device="cpu")
