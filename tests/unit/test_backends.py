from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rankdistill.errors import MissingDependencyError, WrongModelError
from rankdistill.formats.collection import Collection
from rankdistill.models.backends import OpenVinoBody, compile_openvino
from rankdistill.models.colbert import ColbertModel
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import load_model
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.models.prett import PrettModel
from rankdistill.models.splade import SpladeModel
from rankdistill.retrieval.encode import encode_texts
from rankdistill.retrieval.rerank import score_pairs


def save(architecture: str, encoder: Path, mlm: Path, cross_encoder: Path, folder: Path) -> None:
    if architecture == "dot":
        DotModel.from_pretrained(encoder, device="cpu", pooling="cls", projection_dim=8).save_pretrained(folder)
    elif architecture == "colbert":
        ColbertModel.from_pretrained(encoder, device="cpu", dim=8).save_pretrained(folder)
    elif architecture == "splade":
        SpladeModel.from_pretrained(mlm, device="cpu").save_pretrained(folder)
    else:
        CrossEncoderModel.from_pretrained(cross_encoder, device="cpu").save_pretrained(folder)


def test_openvino_leaves_the_choice_of_cores_to_the_system(tiny_bert_dir: Path) -> None:
    """Pinned, two processes of one thread each would share the first core, and leave the others idle."""
    model = DotModel.from_pretrained(tiny_bert_dir, device="cpu")
    compile_openvino(model)
    encode_texts(model, ["sort a list"], kind="query", progress=False)
    body = model.encoder
    assert isinstance(body, OpenVinoBody)
    assert [compiled.get_property("ENABLE_CPU_PINNING") for compiled in body._compiled.values()] == [False]


@pytest.mark.parametrize("architecture", ["dot", "colbert", "splade", "cross-encoder"])
def test_openvino_gives_torchs_scores(
    architecture: str,
    tiny_bert_dir: Path,
    tiny_mlm_dir: Path,
    tiny_cross_encoder_dir: Path,
    small_collection: Collection,
    tmp_path: Path,
) -> None:
    save(architecture, tiny_bert_dir, tiny_mlm_dir, tiny_cross_encoder_dir, tmp_path / "model")
    queries = [text for _, text in small_collection.queries()][:20]
    # Docs have words of their queries, for the models that count these.
    docs = [f"{query} {text}" for query, (_, text) in zip(queries, small_collection.docs(), strict=False)]
    plain = load_model(tmp_path / "model", device="cpu")
    compiled = load_model(tmp_path / "model", backend="openvino")
    assert any(isinstance(module, OpenVinoBody) for module in compiled.modules())
    assert compiled.fingerprint() == plain.fingerprint()
    expected = score_pairs(plain, queries, docs, progress=False)
    assert len(set(expected.tolist())) == len(queries)
    for batch_tokens in (50, 100_000):  # each text alone, then texts of all lengths padded to one
        found = score_pairs(compiled, queries, docs, batch_tokens=batch_tokens, progress=False)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    coarse = score_pairs(compiled, queries, docs, dtype="bfloat16", progress=False)
    assert np.corrcoef(coarse, expected)[0, 1] > 0.95


@pytest.mark.parametrize("exit", [None, 1])
def test_one_exit_of_several_is_compiled(tiny_bert_dir: Path, tmp_path: Path, exit: int | None) -> None:
    model = MultiExitEncoder.from_pretrained(tiny_bert_dir, device="cpu", exits=[1, 2])
    with torch.no_grad():
        model.heads.weight.mul_(torch.rand_like(model.heads.weight))
    model.save_pretrained(tmp_path)
    compiled = load_model(tmp_path, backend="openvino", exit=exit)
    assert isinstance(compiled, DotModel)
    found = encode_texts(compiled, ["sort a list", "x"], kind="query", progress=False)
    expected = encode_texts(model.at(exit), ["sort a list", "x"], kind="query", progress=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_compiled_model_is_saved_as_it_was(tiny_bert_dir: Path, tmp_path: Path) -> None:
    model = DotModel.from_pretrained(tiny_bert_dir, device="cpu")
    compile_openvino(model)
    model.save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu").fingerprint() == model.fingerprint()


def test_results_do_not_share_memory(tiny_bert_dir: Path) -> None:
    model = DotModel.from_pretrained(tiny_bert_dir, device="cpu")
    compile_openvino(model)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        first = model.encoder(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        kept = first.clone()
        model.encoder(input_ids=ids + 9, attention_mask=torch.ones_like(ids))
    assert torch.equal(first, kept)


def test_without_openvino_the_error_says_what_to_install(tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rankdistill\[openvino\]'"):
        load_model(tiny_bert_dir, backend="openvino")


def test_students_that_run_their_layers_themselves_are_refused(tiny_bert_dir: Path, tmp_path: Path) -> None:
    PrettModel.from_pretrained(tiny_bert_dir, device="cpu", join_layer=1).save_pretrained(tmp_path)
    with pytest.raises(WrongModelError, match=r"expected a dot, colbert, splade or cross-encoder model.*a prett model"):
        load_model(tmp_path, backend="openvino")


def test_a_model_elsewhere_is_refused(tiny_bert_dir: Path) -> None:
    model = DotModel.from_pretrained(tiny_bert_dir, device="cpu").to("meta")
    with pytest.raises(WrongModelError, match=r"expected a model on the CPU .*one on meta"):
        compile_openvino(model)
