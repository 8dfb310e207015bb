from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rankdistill.errors import BadStoreError
from rankdistill.formats.collection import Collection, collection_from_texts
from rankdistill.models.dot import DotModel
from rankdistill.retrieval import encode
from rankdistill.retrieval.encode import encode_collection, encode_texts, length_sorted_batches, load_vectors


@pytest.fixture(scope="module")
def model(tiny_sentence_transformer_dir: Path) -> DotModel:
    return DotModel.from_pretrained(tiny_sentence_transformer_dir, device="cpu")


@pytest.fixture(scope="module")
def texts(conala_texts: dict[str, dict[str, str]]) -> list[str]:
    return [*list(conala_texts["docs"].values())[:70], "", "x " * 500]


def test_vectors_are_in_input_order_whatever_the_batches(model: DotModel, texts: list[str]) -> None:
    alone = np.stack([encode_texts(model, [text], kind="document", progress=False)[0] for text in texts])
    for batch_tokens in (1, 100, 100_000):
        together = encode_texts(model, texts, kind="document", batch_tokens=batch_tokens, progress=False)
        np.testing.assert_allclose(together, alone, rtol=0, atol=2e-5)
    assert together.dtype == np.float32


def test_chunks_of_tokenisation_do_not_show(model: DotModel, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode_texts(model, texts, kind="document", progress=False)
    monkeypatch.setattr(encode, "_TOKENIZE_CHUNK", 7)
    np.testing.assert_allclose(encode_texts(model, texts, kind="document", progress=False), whole, atol=2e-5)


def test_queries_and_documents_have_their_own_lengths(tiny_sentence_transformer_dir: Path) -> None:
    model = DotModel.from_pretrained(tiny_sentence_transformer_dir, device="cpu", query_max_length=4, doc_max_length=16)
    long, short = ["sort a list of tuples"], ["sort a"]
    query, document = (encode_texts(model, long, kind=kind, progress=False) for kind in ("query", "document"))
    assert not np.allclose(query, document)
    np.testing.assert_allclose(query, encode_texts(model, short, kind="query", progress=False), atol=2e-5)


def test_no_texts(model: DotModel) -> None:
    assert encode_texts(model, [], kind="query", progress=False).shape == (0, model.dim)


def test_the_models_mode_comes_back(model: DotModel) -> None:
    model.train()
    encode_texts(model, ["a"], kind="query", progress=False)
    assert model.training
    model.eval()


def test_batches_hold_each_row_once_and_keep_to_the_budget() -> None:
    ids = [[0] * length for length in (3, 9, 1, 9, 30, 2, 2, 8)]
    batches = list(length_sorted_batches(ids, 18))
    assert sorted(row for batch in batches for row in batch) == list(range(len(ids)))
    assert batches[0] == [4]  # longer than the budget, so alone
    assert all(len(batch) * max(len(ids[row]) for row in batch) <= 18 for batch in batches[1:])


@pytest.mark.parametrize(("store_dtype", "tolerance"), [("float32", 2e-5), ("float16", 2e-2)])
def test_collection_on_disk(
    model: DotModel, small_collection: Collection, tmp_path: Path, store_dtype: str, tolerance: float
) -> None:
    encode_collection(
        model,
        small_collection,
        tmp_path / "v",
        shard_size=64,
        store_dtype=store_dtype,
        progress=False,  # type: ignore[arg-type]
    )
    ids, vectors = load_vectors(tmp_path / "v")
    assert ids == list(small_collection.doc_ids)
    assert vectors.dtype == store_dtype
    expected = encode_texts(model, small_collection.doc_texts(ids), kind="document", progress=False)
    np.testing.assert_allclose(vectors, expected, atol=tolerance)


def test_interrupted_run_does_only_what_is_missing(
    model: DotModel, small_collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    encode_collection(model, small_collection, whole, shard_size=64, progress=False)
    real, encoded = encode.encode_texts, []

    def counting(model: DotModel, texts: list[str], **options: object) -> np.ndarray:
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(len(texts))
        return real(model, texts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(encode, "encode_texts", counting)
    with pytest.raises(KeyboardInterrupt):
        encode_collection(model, small_collection, broken, shard_size=64, progress=False)
    with pytest.raises(BadStoreError, match="found 2 of 4 shards"):
        load_vectors(broken)
    encoded.clear()
    encode_collection(model, small_collection, broken, shard_size=64, progress=False)
    assert encoded == [64, 8]
    for name in ("vectors.npy", "ids.txt", "manifest.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    encoded.clear()
    encode_collection(model, small_collection, broken, shard_size=64, progress=False)
    assert encoded == []


def test_other_jobs_are_refused(
    model: DotModel, tiny_bert_dir: Path, small_collection: Collection, tmp_path: Path
) -> None:
    encode_collection(model, small_collection, tmp_path, shard_size=64, progress=False)
    other = DotModel.from_pretrained(tiny_bert_dir, device="cpu", pooling="cls")
    with pytest.raises(BadStoreError, match=r"expected vectors of model .* delete"):
        encode_collection(other, small_collection, tmp_path, shard_size=64, progress=False)
    with pytest.raises(BadStoreError, match="expected vectors of shard_size 65, found 64"):
        encode_collection(model, small_collection, tmp_path, shard_size=65, progress=False)
    docs = dict(small_collection.docs())
    fewer = collection_from_texts(dict(list(docs.items())[1:]))
    with pytest.raises(BadStoreError, match="expected vectors of doc_ids"):
        encode_collection(model, fewer, tmp_path, shard_size=64, progress=False)
    changed = collection_from_texts({doc_id: text + "!" for doc_id, text in docs.items()})
    with pytest.raises(BadStoreError, match="expected the texts that shard 0 was made from, found other texts"):
        encode_collection(model, changed, tmp_path, shard_size=64, progress=False)


def test_folders_that_are_not_ours(tmp_path: Path) -> None:
    with pytest.raises(BadStoreError, match="expected a folder of vectors"):
        load_vectors(tmp_path)
    for text in ("{", "[]", json.dumps({"format": "rankdistill-vectors/2"})):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(BadStoreError, match="expected a manifest of format rankdistill-vectors/1"):
            load_vectors(tmp_path)


def test_ids_that_were_changed_are_noticed(model: DotModel, small_collection: Collection, tmp_path: Path) -> None:
    encode_collection(model, small_collection, tmp_path, progress=False)
    ids = (tmp_path / "ids.txt").read_text()
    (tmp_path / "ids.txt").write_text(ids.replace("\n", "x\n", 1))
    with pytest.raises(BadStoreError, match="the vectors and ids of the manifest"):
        load_vectors(tmp_path)
