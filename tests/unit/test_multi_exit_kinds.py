"""Exits of ColBERT and of the cross-encoder: each is the model that was cut there, in one pass as alone, saved as truncated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from rankdistill.errors import WrongModelError
from rankdistill.models.colbert import PUNCTUATION, ColbertModel, Expansion
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.exits import FAMILIES, Cell
from rankdistill.models.loading import load_model
from rankdistill.models.multi_exit_colbert import MultiExitColbert
from rankdistill.models.multi_exit_cross_encoder import MultiExitCrossEncoder
from rankdistill.options.students import MultiExitOptions
from rankdistill.options.training import LossOptions, MarginMSEOptions
from rankdistill.retrieval.encode import pad_batch
from rankdistill.retrieval.index import build_index
from rankdistill.retrieval.rerank import score_pairs
from rankdistill.retrieval.search import search
from rankdistill.training.exits import ExitLoss
from rankdistill.training.margin_mse import score_objective
from rankdistill.training.students import new_student
from tests.encoders import DEPTH, save_encoder

QUERIES = ["sort a list", "read a file line by line", "x"]
DOCS = ["sorted(x, key=len)", "open(path).read()", "for line in open(path): print(line.strip())"]
ALL = tuple(range(1, DEPTH + 1))
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    return save_encoder("modernbert", tmp_path_factory.mktemp("modernbert"), tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def classifier_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Folder:
    """A function from a family to a random cross-encoder's folder."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            kind = AutoModelForSequenceClassification
            made[family] = tmp_path_factory.mktemp(family)
            save_encoder(family, made[family], tiny_tokenizer_dir, kind, num_labels=1)
        return made[family]

    return folder


def noisy(parameters: Any) -> None:
    """Makes weights differ from what they started with, as training does."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weights in parameters:
            weights.add_(0.3 * torch.randn_like(weights))


def colbert(folder: Path, **settings: Any) -> MultiExitColbert:
    torch.manual_seed(0)
    lengths: dict[str, Any] = {"query_max_length": 12, "doc_max_length": 40, "device": "cpu"}
    return MultiExitColbert.from_pretrained(folder, **({"dim": 8, "exits": ALL} | lengths | settings))


def batch_of(model: MultiExitColbert) -> dict[str, Tensor]:
    batch = {"doc_columns": torch.tensor([[0, 1], [1, 2], [2, 0]])}
    for side, kind, texts in (("query", "query", QUERIES), ("doc", "document", DOCS)):
        ids = sorted(model.tokenize(texts, kind), key=len)  # type: ignore[arg-type]
        padded = pad_batch(model.tokenizer, {"input_ids": ids}, model.device)
        batch |= {f"{side}_ids": padded["input_ids"], f"{side}_mask": padded["attention_mask"]}
    return batch


COLBERTS: list[dict[str, Any]] = [
    {"expansion": Expansion("fixed", 12, attend=False), "skip_words": PUNCTUATION},
    {"expansion": Expansion("min", 9), "normalize": False, "head": "shared", "markers": True},
]


@pytest.mark.parametrize("settings", COLBERTS)
def test_colberts_exits(encoder_dir: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    from sentence_transformers import MultiVectorEncoder

    model = colbert(encoder_dir, **settings)
    model.truncate(tmp_path / "untrained", exit=4)
    for exit in (1, 3):  # untrained, an exit is the model cut there
        cut = ColbertModel.from_pretrained(tmp_path / "untrained", num_layers=exit, device="cpu")
        wanted = score_pairs(cut, QUERIES, DOCS, progress=False)
        np.testing.assert_allclose(score_pairs(model.at(exit), QUERIES, DOCS, progress=False), wanted, rtol=1e-5)
    noisy(model.heads.parameters())
    with torch.inference_mode():
        found = model(batch_of(model))
        assert list(found.at) == [Cell(exit) for exit in ALL]
        for (exit, _), scores in found.at.items():
            torch.testing.assert_close(scores, model.at(exit)(batch_of(model)).scores, rtol=1e-4, atol=1e-4)
    model.learn(scale=2.0)
    model.save_pretrained(tmp_path / "all")
    again = load_model(tmp_path / "all", device="cpu")
    assert isinstance(again, MultiExitColbert)
    assert (again.exits, again.fingerprint()) == (ALL, model.fingerprint())
    model.truncate(tmp_path / "two", exit=2)
    small = load_model(tmp_path / "two", device="cpu")
    assert small.architecture == "colbert"
    assert small.fingerprint() == model.at(2).fingerprint() == load_model(tmp_path / "all", exit=2).fingerprint()
    for name, exit in (("two", 2), ("all", 4)):
        theirs = MultiVectorEncoder(str(tmp_path / name), device="cpu")
        vectors = theirs.encode_document(DOCS[:1])[0]
        kept = model.at(exit).states(*_ids(model, DOCS[0]), kind="document")
        ours = kept[0][0][kept[1][0]].detach().numpy()
        np.testing.assert_allclose(np.asarray(vectors.cpu()), ours, atol=1e-5)


def _ids(model: MultiExitColbert, text: str) -> tuple[Tensor, Tensor]:
    ids = torch.tensor(model.tokenize([text], "document"))
    return ids, torch.ones_like(ids)


def test_colbert_searches_as_its_deepest_exit(encoder_dir: Path) -> None:
    model = colbert(encoder_dir, expansion=None)
    docs = {str(i): text for i, text in enumerate(DOCS)}
    queries = {str(i): text for i, text in enumerate(QUERIES)}
    found = {}
    for name, each in (("all", model), ("deepest", model.at()), ("first", model.at(1))):
        found[name] = search(each, build_index(each, docs, progress=False), queries, k=3, progress=False)
    for query_id, scores in found["deepest"].items():
        assert found["all"][query_id] == pytest.approx(scores, rel=1e-4)
        assert found["first"][query_id] != pytest.approx(scores, rel=1e-2)


def cross_batch(model: CrossEncoderModel) -> dict[str, Tensor]:
    pairs = model.tokenize_pairs(QUERIES[:2] * 2, DOCS[:2] + DOCS[1:])
    return pad_batch(model.tokenizer, pairs, model.device) | {"teacher_scores": torch.tensor([[2.0, 1.0], [0.0, 3.0]])}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cross_encoders_exits(classifier_dir: Folder, tmp_path: Path, family: str) -> None:
    from sentence_transformers import CrossEncoder

    model = MultiExitCrossEncoder.from_pretrained(classifier_dir(family), exits=ALL, device="cpu")
    for exit in ALL:  # untrained, an exit is the model cut there
        cut = CrossEncoderModel.from_pretrained(classifier_dir(family), num_layers=exit, device="cpu")
        wanted = score_pairs(cut, QUERIES, DOCS, progress=False)
        np.testing.assert_allclose(
            score_pairs(model.at(exit), QUERIES, DOCS, progress=False), wanted, rtol=1e-5, atol=1e-5
        )
    noisy(model.heads.parameters())
    with torch.inference_mode():
        found = model(cross_batch(model))
        assert not found.in_batch
        for (exit, _), scores in found.at.items():
            alone = model.at(exit)(cross_batch(model)).scores
            torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-4)
    assert len({round(float(scores[0, 0]), 4) for scores in found.at.values()}) == DEPTH
    model.learn(uncertainty=True)
    model.save_pretrained(tmp_path / "all")
    again = load_model(tmp_path / "all", device="cpu")
    assert isinstance(again, MultiExitCrossEncoder)
    assert (again.exits, again.fingerprint()) == (ALL, model.fingerprint())
    model.truncate(tmp_path / "two", exit=2)
    pairs = list(zip(QUERIES, DOCS, strict=True))
    for name, exit in (("two", 2), ("all", DEPTH)):
        theirs = CrossEncoder(str(tmp_path / name), device="cpu")
        assert theirs.model.config.num_hidden_layers == exit
        wanted = score_pairs(model.at(exit), QUERIES, DOCS, progress=False)
        np.testing.assert_allclose(theirs.predict(pairs), wanted, rtol=1e-5, atol=1e-5)
    assert load_model(tmp_path / "two", device="cpu").fingerprint() == model.at(2).fingerprint()


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_a_cross_encoders_gradients_are_the_weighted_sum_of_its_exits(classifier_dir: Folder, family: str) -> None:
    model = MultiExitCrossEncoder.from_pretrained(classifier_dir(family), exits=(1, 2, 4), device="cpu")
    noisy(model.heads.parameters())
    weights = {"margin-mse": 0.01, "lce": 0.3}
    objective = score_objective(weights, LossOptions(), exits=ExitLoss("depth"))
    torch.stack(list(objective(model, cross_batch(model)).values())).sum().backward()
    together = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    for exit in (1, 2, 4):  # views share layers and heads
        terms = score_objective(weights, LossOptions())(model.at(exit), cross_batch(model))
        (exit / 4 * torch.stack(list(terms.values())).sum()).backward()
    separately = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert together.keys() == separately.keys()
    assert any(name.startswith("heads.1.") for name in together)
    for name, gradient in together.items():
        scale = float(separately[name].abs().max())
        torch.testing.assert_close(gradient, separately[name], rtol=1e-3, atol=1e-4 * scale + 1e-6, msg=name)


def test_what_does_not_exist(encoder_dir: Path, classifier_dir: Folder, tmp_path: Path) -> None:
    kinds: list[Any] = [
        colbert(encoder_dir, exits=[1, 2]),
        MultiExitCrossEncoder.from_pretrained(classifier_dir("bert"), exits=[1, 2], device="cpu"),
    ]
    for model in kinds:
        with pytest.raises(ValueError, match="exit 4 does not exist: this model has exits 1, 2"):
            model.at(4)
        model.save_pretrained(tmp_path / model.architecture)
        with pytest.raises(WrongModelError, match=f"whose vectors may be cut, found a {model.architecture} model"):
            load_model(tmp_path / model.architecture, exit=2, dim=8)
        with pytest.raises(ValueError, match=r"exits=\[2, 4\] was asked for, and .* was trained with \[1, 2\]"):
            type(model).from_pretrained(tmp_path / model.architecture, exits=[4, 2], device="cpu")
    with pytest.raises(ValueError, match='a head at each exit: expected "linear" or "shared", found "none"'):
        colbert(encoder_dir, head="none", dim=32)


@pytest.mark.parametrize(
    ("student", "own", "message"),
    [
        (
            "multi-exit-colbert",
            {"dims": (8,)},
            "--multi-exit.dims isn't for --student multi-exit-colbert; leave it out",
        ),
        ("multi-exit-cross-encoder", {"head": "shared"}, "--multi-exit.head isn't for --student multi-exit-cross"),
        ("multi-exit-cross-encoder", {"normalize": True}, "--multi-exit.normalize isn't for --student multi-exit-cr"),
    ],
)
def test_options_that_are_not_for_a_student(
    encoder_dir: Path, tmp_path: Path, student: Any, own: dict[str, Any], message: str
) -> None:
    how = MarginMSEOptions(
        scores=("s",), output_dir=tmp_path, init=str(encoder_dir), student=student, multi_exit=MultiExitOptions(**own)
    )
    with pytest.raises(ValueError, match=message):
        new_student(how)
