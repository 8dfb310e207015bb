"""What we save, the ecosystem loads, with the same vectors and scores; and the other way round."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForSequenceClassification

from rankdistill.errors import BadDataError, WrongModelError
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel, Pooling
from rankdistill.models.loading import load_model
from rankdistill.retrieval.encode import encode_texts
from rankdistill.retrieval.rerank import score_pairs

TEXTS = ["sort a list", "a list of dictionaries sorted by value in descending order", "x", ""]
PAIRS = [("sort a list", "sorted(a)"), ("read a file line by line", "open(path).readlines()"), ("x", "")]


def vectors(model: DotModel) -> NDArray[np.float32]:
    return encode_texts(model, TEXTS, kind="document", progress=False)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("projection_dim", [None, 8])
@pytest.mark.parametrize("normalize", [False, True])
def test_sentence_transformer_loads_a_dot_student(
    tmp_path: Path, tiny_bert_dir: Path, pooling: Pooling, projection_dim: int | None, normalize: bool
) -> None:
    torch.manual_seed(0)
    model = DotModel.from_pretrained(
        tiny_bert_dir, device="cpu", pooling=pooling, projection_dim=projection_dim, normalize=normalize
    )
    model.save_pretrained(tmp_path)
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs.similarity_fn_name == "dot"
    np.testing.assert_allclose(vectors(model), theirs.encode(TEXTS), atol=1e-6)
    again = load_model(tmp_path, device="cpu")
    assert isinstance(again, DotModel)
    assert again.fingerprint() == model.fingerprint()
    np.testing.assert_array_equal(vectors(again), vectors(model))


def test_a_sentence_transformer_loads_as_a_dot_model(tiny_sentence_transformer_dir: Path) -> None:
    theirs = SentenceTransformer(str(tiny_sentence_transformer_dir), device="cpu")
    ours = DotModel.from_pretrained(tiny_sentence_transformer_dir, device="cpu")
    np.testing.assert_allclose(vectors(ours), theirs.encode(TEXTS), atol=1e-6)


def test_prompts_are_put_before_queries_and_documents(tmp_path: Path, tiny_sentence_transformer_dir: Path) -> None:
    theirs = SentenceTransformer(str(tiny_sentence_transformer_dir), device="cpu")
    theirs.prompts = {"query": "query: ", "document": "passage: "}
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = DotModel.from_pretrained(tmp_path / "theirs", device="cpu")
    ours.save_pretrained(tmp_path / "ours")
    for model in (ours, DotModel.from_pretrained(tmp_path / "ours", device="cpu")):
        np.testing.assert_allclose(vectors(model), theirs.encode_document(TEXTS), atol=1e-6)
        found = encode_texts(model, TEXTS, kind="query", progress=False)
        np.testing.assert_allclose(found, theirs.encode_query(TEXTS), atol=1e-6)
        assert np.abs(found - vectors(model)).max() > 1e-3


def test_the_first_layers_of_a_bigger_body_are_kept_and_saved(tmp_path: Path, tiny_bert_dir: Path) -> None:
    whole = DotModel.from_pretrained(tiny_bert_dir, device="cpu")
    cut = DotModel.from_pretrained(tiny_bert_dir, device="cpu", num_layers=1)
    inputs = whole.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = whole.encoder(**inputs, output_hidden_states=True).hidden_states
        torch.testing.assert_close(cut.encoder(**inputs)[0], states[1])
    cut.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 1
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS), vectors(cut), atol=1e-6)


def test_padding_has_no_influence(tiny_bert_dir: Path) -> None:
    model = DotModel.from_pretrained(tiny_bert_dir, device="cpu")
    alone = np.concatenate([encode_texts(model, [text], kind="document", progress=False) for text in TEXTS])
    np.testing.assert_allclose(vectors(model), alone, atol=1e-5)


def test_cross_encoder_and_transformers_load_a_teacher(tmp_path: Path, tiny_bert_dir: Path) -> None:
    torch.manual_seed(0)
    model = CrossEncoderModel.from_pretrained(tiny_bert_dir, device="cpu", max_length=32, new_head=True)
    model.save_pretrained(tmp_path)
    ours = score_pairs(model, [q for q, _ in PAIRS], [d for _, d in PAIRS], progress=False)
    np.testing.assert_allclose(ours, CrossEncoder(str(tmp_path), device="cpu").predict(PAIRS), atol=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    inputs = model.tokenizer([q for q, _ in PAIRS], [d for _, d in PAIRS], padding=True, return_tensors="pt")
    with torch.inference_mode():
        np.testing.assert_allclose(ours, plain(**inputs).logits.squeeze(-1).numpy(), atol=1e-5)
    again = load_model(tmp_path, device="cpu")
    assert isinstance(again, CrossEncoderModel)
    assert (again.max_length, again.fingerprint()) == (32, model.fingerprint())


def test_a_layer_that_does_not_exist_is_an_error_that_lists_them(tiny_bert_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"num_layers=5 does not exist: .* has layers 1 to 2"):
        DotModel.from_pretrained(tiny_bert_dir, num_layers=5)


def test_lengths_stay_within_the_models_positions(tiny_bert_dir: Path) -> None:
    model = DotModel.from_pretrained(tiny_bert_dir, device="cpu", query_max_length=16, doc_max_length=200)
    assert (model.query_max_length, model.doc_max_length) == (16, 64)
    assert CrossEncoderModel.from_pretrained(tiny_bert_dir, max_length=230, new_head=True).max_length == 64


def test_a_plain_body_is_no_cross_encoder_unless_a_new_head_is_asked_for(tiny_bert_dir: Path) -> None:
    with pytest.raises(WrongModelError, match=r"expected a cross-encoder .* found BertModel; train one"):
        CrossEncoderModel.from_pretrained(tiny_bert_dir)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path, tiny_bert_dir: Path) -> None:
    DotModel.from_pretrained(tiny_bert_dir, device="cpu").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(BadDataError, match=r"expected all weights .* found 16 missing \(first: encoder.layer.2"):
        DotModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "modules.json",
            [{"type": "sentence_transformers.models.WordEmbeddings", "path": ""}],
            'found a module "WordEmbeddings"',
        ),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "found a Pooling of max"),
    ],
)
def test_layouts_that_are_no_dot_model_are_refused(
    tmp_path: Path, tiny_bert_dir: Path, file: str, change: object, message: str
) -> None:
    DotModel.from_pretrained(tiny_bert_dir, device="cpu").save_pretrained(tmp_path)
    (tmp_path / file).write_text(json.dumps(change))
    with pytest.raises(WrongModelError, match=message):
        DotModel.from_pretrained(tmp_path)


def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a model folder, found nothing there"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"expected a model \(config.json\), found none"):
        load_model(tmp_path)
