from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rankdistill.errors import BadStoreError, MissingDependencyError
from rankdistill.formats.collection import Collection, collection_from_texts
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import ARCHITECTURES
from rankdistill.records import ranked
from rankdistill.retrieval import search as search_module
from rankdistill.retrieval.encode import encode_texts
from rankdistill.retrieval.index import FlatIndex, build_index, faiss_module, index_of, load_index
from rankdistill.retrieval.precompute import load_precomputed, precompute
from rankdistill.retrieval.search import search, search_vectors


@pytest.fixture(scope="module")
def model(tiny_sentence_transformer_dir: Path) -> DotModel:
    return DotModel.from_pretrained(tiny_sentence_transformer_dir, device="cpu")


def test_door_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rankdistill\[cpu\]'") as caught:
        faiss_module()
    assert isinstance(caught.value, ImportError)
    with pytest.raises(MissingDependencyError):
        FlatIndex.build(np.zeros((1, 2)), ["a"])


def test_door_says_so_if_faiss_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "faiss.py").write_text("raise RuntimeError('faiss-gpu installed but nvidia-cublas-cu12 is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    with pytest.raises(MissingDependencyError, match=r"one that doesn't load \(faiss-gpu installed but nvidia"):
        faiss_module()


def test_extras_are_imported_at_the_door_only() -> None:
    import ast

    package = Path(__file__).parents[2] / "rankdistill"
    for path in package.rglob("*.py"):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            found = {name.split(".")[0] for name in names} & {"faiss", "bm25s", "ir_datasets", "datasets", "peft"}
            assert not found, f"{path} imports {found} when it is imported"


def test_gpu_is_asked_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_module(), "get_num_gpus", lambda: 0, raising=False)
    with pytest.raises(MissingDependencyError, match="a GPU that FAISS sees"):
        FlatIndex.build(np.eye(2), ["a", "b"], "cuda")
    with pytest.raises(ValueError, match="expected device"):
        FlatIndex.build(np.eye(2), ["a", "b"], "tpu")  # type: ignore[arg-type]


def test_gpu_is_used_where_faiss_sees_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    faiss, moved = faiss_module(), []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", lambda index: moved.append("up") or index, raising=False)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda index: moved.append("down") or index, raising=False)
    index = FlatIndex.build(np.eye(2), ["a", "b"])
    assert index.on_gpu
    assert not FlatIndex.build(np.eye(2), ["a", "b"], "cpu").on_gpu
    index.save(tmp_path)
    assert moved == ["up", "down"]


@pytest.mark.gpu
def test_gpu_finds_what_the_cpu_finds() -> None:
    if not getattr(faiss_module(), "get_num_gpus", lambda: 0)():
        pytest.skip("this FAISS is the CPU's")
    vectors = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)
    ids = [str(i) for i in range(len(vectors))]
    on_cpu, on_gpu = (FlatIndex.build(vectors, ids, device) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(on_cpu.search(vectors[:50], 10)[1], on_gpu.search(vectors[:50], 10)[1])


def test_exact_search_equals_the_matrix_product() -> None:
    generator = np.random.default_rng(1)
    docs, queries = generator.normal(size=(300, 8)), generator.normal(size=(7, 8))
    index = FlatIndex.build(docs.astype(np.float16), [f"d{i}" for i in range(300)])
    scores, rows = index.search(queries, 5)
    expected = queries.astype(np.float32) @ docs.astype(np.float16).astype(np.float32).T
    np.testing.assert_array_equal(rows, np.argsort(-expected, axis=1)[:, :5])
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :5], rtol=1e-5)


def test_saved_index_is_the_same(tmp_path: Path) -> None:
    index = FlatIndex.build(np.eye(3), ["a", "ü", "c d"])
    index.save(tmp_path)
    loaded = FlatIndex.load(tmp_path)
    assert (loaded.doc_ids, loaded.dim, len(loaded)) == (["a", "ü", "c d"], 3, 3)
    for ours, theirs in zip(index.search(np.eye(3), 2), loaded.search(np.eye(3), 2), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["dot", "colbert", "splade"])
def test_an_index_is_searched_by_the_model_that_made_it(
    name: str, tiny_bert_dir: Path, tiny_mlm_dir: Path, tmp_path: Path, small_collection: Collection
) -> None:
    more = {"dim": 8} if name == "colbert" else {}
    kind, init = ARCHITECTURES[name], tiny_mlm_dir if name == "splade" else tiny_bert_dir
    model, other = (kind.from_pretrained(init, device="cpu", num_layers=layers, **more) for layers in (2, 1))
    texts = dict(list(small_collection.docs())[:5])
    built = build_index(model, texts, progress=False)
    built.save(tmp_path / "built")
    docs = collection_from_texts(texts, {"q": "sort a list"})
    encoded = load_precomputed(precompute(model, docs, tmp_path / "encoded", progress=False))
    index_of(encoded).save(tmp_path / "indexed")
    for folder in (tmp_path / "built", tmp_path / "indexed"):
        loaded = load_index(folder, model=model)
        assert loaded.model == built.model == model.fingerprint()
        loaded.save(tmp_path / "again")
        message = f"an index made by the model {other.fingerprint()}, found one made by {built.model}; search with"
        for path in (folder, tmp_path / "again"):
            with pytest.raises(BadStoreError, match=message):
                load_index(path, model=other)


def test_an_index_that_does_not_say_whose_it_is_is_taken_on_trust(model: DotModel, tmp_path: Path) -> None:
    FlatIndex.build(np.eye(2), ["a", "b"]).save(tmp_path)
    assert load_index(tmp_path, model=model).model is None
    (tmp_path / "index.json").unlink()  # as FAISS itself would leave it
    assert len(load_index(tmp_path, model=model)) == 2


def test_folders_that_are_no_index(tmp_path: Path) -> None:
    with pytest.raises(BadStoreError, match=r"expected index.faiss and ids.txt"):
        FlatIndex.load(tmp_path)
    FlatIndex.build(np.eye(2), ["a", "b"]).save(tmp_path)
    (tmp_path / "ids.txt").write_text("a\n")
    with pytest.raises(BadStoreError, match=r"ids.txt: expected 4 bytes, as index.json says, found 2"):
        FlatIndex.load(tmp_path)
    (tmp_path / "index.json").unlink()  # as an index of before there was one
    with pytest.raises(BadStoreError, match="found 2 vectors and 1 ids"):
        FlatIndex.load(tmp_path)
    (tmp_path / "index.faiss").write_bytes(b"nonsense")
    with pytest.raises(BadStoreError, match="expected a FAISS index"):
        FlatIndex.load(tmp_path)


def test_input_that_cannot_be_indexed_or_searched() -> None:
    with pytest.raises(ValueError, match="as many ids as vectors"):
        FlatIndex.build(np.eye(2), ["a"])
    with pytest.raises(ValueError, match=r"infinity in row 1 \('b'\)"):
        FlatIndex.build(np.array([[0.0, 1.0], [np.nan, 0.0]]), ["a", "b"])
    with pytest.raises(ValueError, match="expected queries of width 2"):
        FlatIndex.build(np.eye(2), ["a", "b"]).search(np.eye(3), 1)
    with pytest.raises(ValueError, match="expected k of at least 1"):
        search_vectors(FlatIndex.build(np.eye(2), ["a", "b"]), {"q": np.zeros(2, np.float32)}, 0)


@pytest.mark.parametrize("k", [1, 5, 20, 59, 60, 100])
def test_ties_at_the_cut_are_decided_by_doc_id(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Three different vectors, each twenty times, under ids in an order of their own.
    monkeypatch.setattr(search_module, "_MARGIN", 2)
    generator = np.random.default_rng(2)
    ids = [f"d{i:02}" for i in generator.permutation(60)]
    vectors = np.repeat(np.array([[3, 0], [2, 0], [1, 0]], np.float32), 20, axis=0)[generator.permutation(60)]
    run = search_vectors(FlatIndex.build(vectors, ids, "cpu"), {"q": np.array([1, 0], np.float32)}, k)
    everything = dict(zip(ids, vectors[:, 0].tolist(), strict=True))
    assert list(run["q"].items()) == ranked(everything, k)


def test_search_finds_what_brute_force_finds(model: DotModel, small_collection: Collection) -> None:
    queries = dict(small_collection.queries())
    run = search(model, build_index(model, small_collection.docs(), progress=False), queries, k=10, progress=False)
    query_QD = encode_texts(model, list(queries.values()), kind="query", progress=False)
    docs = dict(small_collection.docs())
    doc_KD = encode_texts(model, list(docs.values()), kind="document", progress=False)
    query_QD, doc_KD = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (query_QD, doc_KD))
    for query_id, scores in zip(queries, query_QD @ doc_KD.T, strict=True):  # the fixture's similarity is the cosine
        best = np.sort(scores)[::-1][:10]
        assert len(run[query_id]) == 10
        np.testing.assert_allclose(list(run[query_id].values()), best, rtol=1e-5)


def test_docs_may_be_a_mapping_and_fewer_than_k(model: DotModel) -> None:
    index = build_index(model, {"a": "sort a list", "b": "open a file"}, progress=False)
    run = search(model, index, {"q": "sort"}, k=10, progress=False)
    assert sorted(run["q"]) == ["a", "b"]
    assert search(model, index, {}, progress=False) == {}
    assert search(model, build_index(model, {}, progress=False), {"q": "sort"}, progress=False) == {"q": {}}
