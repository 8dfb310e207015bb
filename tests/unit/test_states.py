"""Folders of token states: resumed, checked, used for re-ranking."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rankdistill.errors import BadStoreError, MissingIdsError, WrongModelError
from rankdistill.formats.collection import Collection
from rankdistill.models.colbert import ColbertModel, Expansion
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.records import Run
from rankdistill.retrieval import folders, states
from rankdistill.retrieval.precompute import load_precomputed, precompute
from rankdistill.retrieval.rerank import rerank
from rankdistill.retrieval.states import encode_collection_states, encode_states, load_states


@pytest.fixture(scope="module")
def model(tiny_bert_dir: Path) -> ColbertModel:
    torch.manual_seed(0)
    return ColbertModel.from_pretrained(
        tiny_bert_dir, device="cpu", dim=8, query_max_length=12, expansion=Expansion("fixed", 12), skip_words=(".", "(")
    )


@pytest.mark.parametrize(("store_dtype", "tolerance"), [("float32", 2e-5), ("float16", 2e-3)])
def test_states_on_disk_are_those_in_memory(
    model: ColbertModel, small_collection: Collection, tmp_path: Path, store_dtype: str, tolerance: float
) -> None:
    encode_collection_states(
        model,
        small_collection,
        tmp_path,
        shard_size=64,
        store_dtype=store_dtype,
        progress=False,  # type: ignore[arg-type]
    )
    doc_ids, found = load_states(tmp_path)
    expected = encode_states(model, small_collection.doc_texts(doc_ids), kind="document", progress=False)
    assert doc_ids == list(small_collection.doc_ids)
    assert (found.states.dtype, type(found.states)) == (store_dtype, np.memmap)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_allclose(found.states, expected.states, atol=tolerance)
    tokens, mask = found.batch(np.array([3, 0]), model.device)
    np.testing.assert_allclose(tokens[1][mask[1].bool()], expected[0], atol=tolerance)
    assert f"{len(found.states):,} states of width 8 of 200 documents ({store_dtype}" in str(load_precomputed(tmp_path))


def test_an_interrupted_run_does_only_what_is_missing(
    model: ColbertModel, small_collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    encode_collection_states(model, small_collection, whole, shard_size=64, progress=False)
    monkeypatch.setattr(folders, "_PIECE", 50)
    real, encoded = states.encode_states, []

    def counting(model: ColbertModel, texts: list[str], **options: object) -> states.TokenStates:
        if len(encoded) == 5:  # in the midst of the third shard, part of which is written
            raise KeyboardInterrupt
        encoded.append(len(texts))
        return real(model, texts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(states, "encode_states", counting)
    with pytest.raises(KeyboardInterrupt):
        encode_collection_states(model, small_collection, broken, shard_size=64, progress=False)
    assert encoded == [50, 14, 50, 14, 50]
    with pytest.raises(BadStoreError, match="found 2 of 4 shards"):
        load_states(broken)
    encoded.clear()
    encode_collection_states(model, small_collection, broken, shard_size=64, progress=False)
    assert encoded == [50, 14, 8]
    for name in ("states.bin", "lengths.bin", "ids.txt", "manifest.json"):
        if name == "states.bin":  # batches of other companies differ in the last bits
            left, right = (np.fromfile(folder / name, np.float32) for folder in (broken, whole))
            np.testing.assert_allclose(left, right, atol=1e-5)
        else:
            assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_other_jobs_and_torn_files_are_refused(
    model: ColbertModel, tiny_sentence_transformer_dir: Path, small_collection: Collection, tmp_path: Path
) -> None:
    encode_collection_states(model, small_collection, tmp_path, shard_size=64, progress=False)
    with pytest.raises(BadStoreError, match="expected vectors of shard_size 65, found 64"):
        encode_collection_states(model, small_collection, tmp_path, shard_size=65, progress=False)
    dot = DotModel.from_pretrained(tiny_sentence_transformer_dir, device="cpu")
    with pytest.raises(
        BadStoreError, match="expected a manifest of format rankdistill-vectors/1, found rankdistill-states/1"
    ):
        precompute(dot, small_collection, tmp_path, progress=False)
    with pytest.raises(BadStoreError, match=r"expected vectors of the model .*; encode the collection with this model"):
        load_precomputed(tmp_path, dot)
    file = tmp_path / "states.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(BadStoreError, match=f"expected {len(whole):,} bytes, found {len(whole) - 1:,}"):
        load_states(tmp_path)
    with pytest.raises(BadStoreError, match="delete"):
        encode_collection_states(model, small_collection, tmp_path, shard_size=64, progress=False)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": "rankdistill-states/2"}))
    with pytest.raises(BadStoreError, match=r"or rankdistill-sparse/1, found rankdistill-states/2"):
        load_precomputed(tmp_path)


@pytest.mark.parametrize("kind", ["colbert", "dot"])
def test_reranking_with_what_was_computed_before_is_the_same(
    kind: str, model: ColbertModel, tiny_sentence_transformer_dir: Path, small_collection: Collection, tmp_path: Path
) -> None:
    chosen = model if kind == "colbert" else DotModel.from_pretrained(tiny_sentence_transformer_dir, device="cpu")
    doc_ids = list(small_collection.doc_ids)
    run: Run = {
        query_id: {doc_ids[(7 * i + j) % 200]: -float(j) for j in range(12)}
        for i, query_id in enumerate(list(small_collection.query_ids)[:5])
    }
    found = load_precomputed(precompute(chosen, small_collection, tmp_path, progress=False), chosen)
    expected = rerank(chosen, small_collection, run, progress=False)
    again = rerank(chosen, small_collection, run, precomputed=found, progress=False)
    for query_id, scores in expected.items():
        assert again[query_id] == pytest.approx(scores, abs=1e-5)
    assert rerank(chosen, small_collection, {}, precomputed=found, progress=False) == {}
    found.doc_ids[doc_ids.index(next(iter(run[next(iter(run))])))] = "gone"
    with pytest.raises(MissingIdsError, match="expected all documents of the run among the encoded ones"):
        rerank(chosen, small_collection, run, precomputed=found, progress=False)


def test_a_cross_encoder_makes_nothing_of_a_document_alone(
    tiny_cross_encoder_dir: Path, small_collection: Collection, tmp_path: Path
) -> None:
    teacher = CrossEncoderModel.from_pretrained(tiny_cross_encoder_dir, device="cpu")
    with pytest.raises(WrongModelError, match=r"expected a model that reads documents apart .* a cross-encoder"):
        precompute(teacher, small_collection, tmp_path)
