"""Pre-training by its parts: repositories on disk, the heads of all exits, what is refused, and word-drop in fine-tuning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from rankdistill.data.masking import WordDrop
from rankdistill.data.packing import Markers, find_runs
from rankdistill.errors import BadDataError
from rankdistill.formats.repositories import open_repositories
from rankdistill.models.colbert import ColbertModel
from rankdistill.models.loading import load_model
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.models.pretraining import PretrainModel
from rankdistill.models.tk import TKModel
from rankdistill.options.pretraining import PretrainOptions
from rankdistill.options.training import MarginMSEOptions
from rankdistill.training.exits import exit_weights
from rankdistill.training.pretrain import hold_out, pretrain, pretrain_objective, pretrain_validator
from rankdistill.training.students import new_student, settled
from tests.encoders import save_encoder
from tests.reference.pretraining import loss_of_exits

FILE = "import os\n\n\ndef one():\n    return 1\n\n    # more\n\nclass Two:\n    pass\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    for name, text in (("b/x.py", FILE), ("b/deep/y.py", "z = 1\n"), ("a/w.py", "\n\n"), ("c/v.txt", FILE)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "beside.py").write_text(FILE)
    (root / "a" / "latin.py").write_bytes("é = 1".encode("latin-1"))
    (root / "d").mkdir()
    (root / "d" / "u.py").write_text("ü = 1\n\nö = 2\n", encoding="utf-8")
    return root


def test_a_folder_s_sub_folders_are_repositories(folder: Path) -> None:
    snippets = open_repositories(folder)
    assert snippets.repositories == ["b", "d"]
    assert snippets.bounds.tolist() == [0, 4, 6]
    assert list(snippets.ids) == [f"b/{name}" for name in ("deep/y.py#0", "x.py#0", "x.py#1", "x.py#2")] + [
        f"d/u.py#{i}" for i in (0, 1)
    ]
    texts = ["z = 1", "import os", "def one():\n    return 1\n\n    # more", "class Two:\n    pass", "ü = 1", "ö = 2"]
    assert [text for _, text in snippets.pairs()] == texts
    assert snippets.take([5, 1, 4]) == [texts[5], texts[1], texts[4]]
    assert (snippets.num_files, snippets.num_undecodable) == (4, 1)
    assert snippets.fingerprint == open_repositories(folder).fingerprint
    assert open_repositories(folder, "*.txt").repositories == ["c"]
    assert open_repositories(folder, max_files=1).bounds.tolist() == [0, 1, 3]
    (folder / "d" / "u.py").write_text("ü = 1\n\nö = 3\n", encoding="utf-8")
    assert snippets.fingerprint != open_repositories(folder).fingerprint


def test_lines_of_json_are_files_of_their_repositories(tmp_path: Path) -> None:
    rows = [("r", "a = 1\n\nb = 2"), ("s", "ß = 3"), ("r", "d = 4")]
    path = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"repository": name, "text": text}, ensure_ascii=False) for name, text in rows]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    snippets = open_repositories(path)
    assert (snippets.repositories, snippets.bounds.tolist()) == (["r", "s"], [0, 3, 4])
    assert [text for _, text in snippets.pairs()] == ["a = 1", "b = 2", "d = 4", "ß = 3"]
    assert list(snippets.ids) == ["r:1#0", "r:1#1", "r:5#0", "s:3#0"]
    for line in ('{"repository": 3, "text": ""}', '{"text": "a"}', "[1]", "{", "\x1f\x8b"):
        path.write_text(f"{lines[0]}\n{line}\n")
        with pytest.raises(BadDataError, match=r'jsonl:2: expected an object with the strings "repository" and "text"'):
            open_repositories(path)


def test_a_corpus_without_repositories_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder of repositories or a file of JSON lines"):
        open_repositories(tmp_path / "gone")
    with pytest.raises(
        BadDataError, match=r'expected repositories: folders with files "\*\.c", found none with any text'
    ):
        open_repositories(folder, "*.c")
    (tmp_path / "empty.jsonl").write_text('{"repository": "r", "text": " "}\n')
    with pytest.raises(BadDataError, match='expected lines of "repository" and "text", found none with any text'):
        open_repositories(tmp_path / "empty.jsonl")


def test_a_corpus_of_one_repository_or_of_short_snippets_is_an_error() -> None:
    message = (
        r"corpus: expected two repositories or more with two runs of snippets of 5 to 10 tokens, found 1 of 2 "
        r"\(1 of 5 snippets are shorter\); take more repositories, or lower --min-tokens or --max-length"
    )
    with pytest.raises(BadDataError, match=message):
        find_runs(np.array([8, 8, 8, 8, 4]), np.array([0, 3, 5]), room=10, min_tokens=5, name="corpus")
    with pytest.raises(BadDataError, match=r"found 1 of 1 \(0 of 2 snippets"):
        find_runs(np.array([8, 8]), np.array([0, 2]), room=10, min_tokens=5)
    with pytest.raises(BadDataError, match=r"found 0 of 2 \(4 of 4 snippets"):
        find_runs(np.array([4, 4, 4, 4]), np.array([0, 2, 4]), room=10, min_tokens=5)


@pytest.mark.parametrize("kind", ["mask", "sep", "pad"])
def test_a_tokenizer_without_a_special_token_is_an_error(tiny_tokenizer_dir: Path, kind: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    assert Markers.of(tokenizer).room(25) == 11
    setattr(tokenizer, f"{kind}_token", None)
    with pytest.raises(ValueError, match=f"needs a tokenizer with a {kind} token, and this one has none; start from"):
        Markers.of(tokenizer)


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """Four layers of ModernBERT, whose exits need a final norm."""
    return save_encoder("modernbert", tmp_path_factory.mktemp("modernbert"), tiny_tokenizer_dir)


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 200, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    chosen = (torch.rand(ids.shape, generator=generator) < 0.4) & (mask > 0)
    targets = torch.where(chosen, torch.randint(5, 200, ids.shape, generator=generator), -100)
    return {"input_ids": ids, "attention_mask": mask, "targets": targets, "same_repository": torch.tensor([1, 0, 1])}


@pytest.mark.parametrize("weights", ["depth", "normalised", "uniform"])
def test_every_exit_s_loss_reaches_the_weights_as_it_counts(encoder_dir: Path, weights: Any) -> None:
    torch.manual_seed(0)
    model = PretrainModel.from_pretrained(encoder_dir, exits=(1, 2, 4), device="cpu")
    by_exit = dict(zip(model.exits, exit_weights(weights, model.exits), strict=True))
    parameters = dict(model.named_parameters())
    terms = pretrain_objective(by_exit)(model, batch())
    assert list(terms) == [f"exit{exit}/{term}" for exit in (1, 2, 4) for term in ("mlm", "icc")]
    loss, expected = torch.stack(list(terms.values())).sum(), loss_of_exits(model, batch(), by_exit)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for name, gradient, other in zip(
        parameters, gradients, torch.autograd.grad(expected, list(parameters.values())), strict=True
    ):
        torch.testing.assert_close(gradient, other, msg=lambda text, name=name: f"{name}: {text}")  # type: ignore[misc]
        assert gradient.abs().max() > 0, name
    for exit, weight in by_exit.items():
        alone = loss_of_exits(model, batch(), {other: weight if other == exit else 0.0 for other in by_exit})
        torch.testing.assert_close(terms[f"exit{exit}/mlm"] + terms[f"exit{exit}/icc"], alone)


def test_a_batch_without_hidden_tokens_has_no_loss_for_them(encoder_dir: Path) -> None:
    model = PretrainModel.from_pretrained(encoder_dir, exits=(2,), device="cpu")
    terms = pretrain_objective({2: 1.0})(model, batch() | {"targets": torch.full((3, 9), -100)})
    assert terms["exit2/mlm"].item() == 0
    assert terms["exit2/icc"].item() > 0


def test_validation_says_how_often_each_exit_is_right(encoder_dir: Path) -> None:
    model = PretrainModel.from_pretrained(encoder_dir, exits=(2, 4), device="cpu")
    with torch.no_grad():
        model.heads.same.weight.zero_()
        model.heads.same.bias.copy_(torch.tensor([0.0, 1.0]))  # "of one repository", whatever is there

    def source(epoch: int, step: int) -> dict[str, Any]:
        arrays = {name: tensor.numpy() for name, tensor in batch().items()}
        return arrays | {"same_repository": np.array([1, step, 0])}

    measures = pretrain_validator(source, 2)(model)  # type: ignore[arg-type]
    assert set(measures) == {f"exit{exit}/{name}" for exit in (2, 4) for name in ("mlm", "icc", "icc-accuracy")}
    assert measures["exit2/icc-accuracy"] == measures["exit4/icc-accuracy"] == pytest.approx(0.5)
    right, wrong = np.log(1 + np.exp(-1)), np.log(1 + np.e)
    assert measures["exit2/icc"] == pytest.approx((3 * right + 3 * wrong) / 6)


@pytest.mark.parametrize("family", ["bert", "electra", "roberta"])
def test_a_checkpoint_is_the_encoder_s_and_keeps_its_heads(
    tmp_path: Path, tiny_tokenizer_dir: Path, family: str
) -> None:
    model = PretrainModel.from_pretrained(
        save_encoder(family, tmp_path / "init", tiny_tokenizer_dir), exits=(1, 3), pooling="cls", device="cpu"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path / "saved")
    body = AutoModel.from_pretrained(tmp_path / "saved").eval()
    assert body.config.num_hidden_layers == 3
    given = {name: tensor for name, tensor in batch().items() if name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(body(**given)[0], model.encoder(**given)[0])
        again = PretrainModel.from_pretrained(tmp_path / "saved", device="cpu")
        assert (again.exits, again.pooling) == ((1, 3), "cls")
        for one, other in zip(model(batch()), again(batch()), strict=True):
            torch.testing.assert_close(one, other)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "saved")) == len(model.tokenizer)
    assert load_model(tmp_path / "saved", device="cpu").architecture == "dot"
    student = MultiExitEncoder.from_pretrained(tmp_path / "saved", exits=(1, 3), device="cpu")
    assert student.exits == (1, 3)
    with pytest.raises(ValueError, match=r"exits=\[2\] was asked for, and .* was trained with \[1, 3\]"):
        PretrainModel.from_pretrained(tmp_path / "saved", exits=(2,), device="cpu")


def test_held_out_repositories_are_not_trained_on() -> None:
    runs = find_runs(np.full(12, 8), np.arange(0, 13, 2), room=8, min_tokens=1)
    train, dev = hold_out(runs, 2)
    assert dev is not None
    assert (train.rows.tolist(), dev.rows.tolist()) == ([2, 3, 4, 5, 8, 9, 10, 11], [0, 1, 6, 7])
    assert (train.bounds.tolist(), dev.bounds.tolist()) == ([0, 2, 4, 6, 8], [0, 2, 4])
    assert hold_out(runs, 0) == (runs, None)
    for count in (1, 5):
        message = f"expected --dev-repositories from 2 to 4, so that two of the 6 repositories are left, found {count}"
        with pytest.raises(ValueError, match=message):
            hold_out(runs, count)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"mask_rate": 0.0}, "expected a --mask-rate between 0 and 1, found 0.0"),
        ({"min_tokens": 0}, "expected a --min-tokens of at least 1, found 0"),
        ({"dev_pairs": 0}, "expected a --dev-pairs of at least 1, found 0"),
        ({"max_files": 0}, "expected a --max-files of at least 1, found 0"),
        ({"max_length": 100}, r"expected a --max-length between 35 \(for --min-tokens 16\) and 66 .* found 100"),
        ({"max_length": 33}, r"expected a --max-length between 35 .* found 33"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, folder: Path, encoder_dir: Path, more: dict[str, Any], message: str
) -> None:
    chosen = PretrainOptions(corpus=folder, init=str(encoder_dir), output_dir=tmp_path / "run", max_length=40)
    with pytest.raises(ValueError, match=message):
        pretrain(replace(chosen, **more))


def test_only_letters_are_words_and_prompts_stay(tiny_tokenizer_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    text = "list [ list ] [ list"
    drop = WordDrop.of(tokenizer, 1.0)
    ids = tokenizer([text, "file"], padding=True, return_tensors="np")["input_ids"]
    assert tokenizer.batch_decode(drop(ids, np.random.default_rng(0)), skip_special_tokens=False) == [
        "[CLS] [MASK] [ [MASK] ] [ [MASK] [SEP]",
        "[CLS] file [SEP]" + " [PAD]" * 5,
    ]
    prompted = WordDrop.of(tokenizer, 1.0, "list list: ")
    ids = tokenizer([f"list list: {text}", "list list: list"], padding=True, return_tensors="np")["input_ids"]
    assert tokenizer.batch_decode(prompted(ids, np.random.default_rng(0)), skip_special_tokens=False) == [
        "[CLS] list list : [MASK] [ [MASK] ] [ [MASK] [SEP]",
        "[CLS] list list : list [SEP]" + " [PAD]" * 5,
    ]
    tokenizer.mask_token = None
    assert WordDrop.of(tokenizer, 0.3).replacement == tokenizer.unk_token_id
    tokenizer.unk_token = None
    with pytest.raises(ValueError, match="a mask or unknown token, and this one has neither"):
        WordDrop.of(tokenizer, 0.3)
    with pytest.raises(ValueError, match=r"expected a --word-drop above 0, and 1 at most, found 1.5"):
        WordDrop.of(tokenizer, 1.5)


def test_whole_words_drop_too() -> None:
    vectors = np.eye(3, 10, dtype=np.float32)
    settings: dict[str, Any] = {"num_layers": 1, "num_heads": 1, "feed_forward": 8}
    student = TKModel.from_words(["list", "file", "["], vectors, device="cpu", **settings)
    (ids,) = student.tokenize(["list [ list [ file"], "document")
    found = WordDrop.of(student.tokenizer, 1.0)(np.array([ids]), np.random.default_rng(0))
    unknown = student.tokenizer.unk_token_id
    assert found.tolist() == [[unknown, ids[1], unknown, ids[3], ids[4]]]


def options(init: Path, tmp_path: Path, **more: Any) -> MarginMSEOptions:
    return MarginMSEOptions(scores=("s.tsv",), init=str(init), output_dir=tmp_path, **more)


def test_prompts_are_the_student_s_from_then_on(tmp_path: Path, tiny_bert_dir: Path) -> None:
    more: dict[str, Any] = {"query_prompt": "ask: ", "doc_prompt": "code: "}
    student = new_student(options(tiny_bert_dir, tmp_path, student="multi-exit", **more))
    student.save_pretrained(tmp_path / "saved")
    again = new_student(options(tmp_path / "saved", tmp_path, student="multi-exit", doc_prompt=""))
    assert isinstance(again, MultiExitEncoder)
    assert (again.query_prompt, again.doc_prompt) == ("ask: ", "")
    colbert = ColbertModel.from_pretrained(tiny_bert_dir, dim=8, markers=True, device="cpu")
    colbert.set_prompts("ask: ")
    assert (colbert.query_prompt, colbert.doc_prompt) == ("[Q] ask: ", "[D] ")


@pytest.mark.parametrize("more", [{"word_drop": 0.3}, {"query_prompt": "q"}, {"doc_prompt": "d"}])
def test_students_that_read_both_texts_together_refuse_what_is_for_one(
    tmp_path: Path, tiny_bert_dir: Path, more: dict[str, Any]
) -> None:
    (name,) = more
    with pytest.raises(
        ValueError, match=f"--{name.replace('_', '-')} is for --student dot, .* a cross-encoder student"
    ):
        settled(options(tiny_bert_dir, tmp_path, student="cross-encoder", **more))
    settled(options(tiny_bert_dir, tmp_path, student="multi-exit-colbert", **more))
