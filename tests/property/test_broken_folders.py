"""Broken folders of models and indexes: each mutant loads and works, or is an error of ours that names the folder.

`RANKDISTILL_MUTANTS=400 pytest -s` takes that many mutants of each folder and prints what came of them; the suite takes a few.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankdistill.errors import RankDistillError
from rankdistill.models.colbert import ColbertModel
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import load_model
from rankdistill.models.splade import SpladeModel
from rankdistill.retrieval.index import build_index, index_of, load_index
from rankdistill.retrieval.precompute import load_precomputed, precompute
from rankdistill.retrieval.rerank import score_pairs
from rankdistill.retrieval.search import search

_MUTANTS = int(os.environ.get("RANKDISTILL_MUTANTS", "6"))
_QUERIES, _DOCS = ["sort a list", "open a file"], ["sorted(list)", "open(path).read()"]
_JUNK: list[Any] = [None, "junk", -1, 1.5, [], {}, True, 10**30]


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all values in JSON, the first few of long lists and tables."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items)[:40]:
        yield (*at, key)
        yield from _places(item, (*at, key))


def _in_json(path: Path, draw: random.Random) -> str:
    """Takes a value of a JSON file away, or puts another in its place."""
    value = json.loads(path.read_text())
    places = list(_places(value)) or [()]
    *way, key = draw.choice(places) or (None,)
    where = value
    for step in way:
        where = where[step]
    if key is None or draw.random() < 0.1:
        value = draw.choice(_JUNK)
    elif draw.random() < 0.5:
        del where[key]
    else:
        where[key] = draw.choice(_JUNK)
    path.write_text(json.dumps(value))
    return f"{key!r} changed"


def _mutate(folder: Path, draw: random.Random) -> str:
    """Breaks one file in one way, and says how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    path = draw.choice(files)
    data = path.read_bytes()
    way = draw.choice(
        ["cut", "empty", "gone", "flip", "swap", "junk", *(["json"] * 6 if path.suffix == ".json" else [])]
    )
    if way == "cut":
        path.write_bytes(data[: draw.randrange(len(data) or 1)])
    elif way == "empty":
        path.write_bytes(b"")
    elif way == "gone":
        path.unlink()
    elif way == "flip":  # in the first bytes: those of weights further on are other weights
        flipped = bytearray(data)
        if flipped:
            flipped[draw.randrange(min(len(flipped), 200))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
    elif way == "swap":
        other = draw.choice(files)
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return f"{path.name} and {other.name} swapped"
    elif way == "junk":
        path.write_bytes(draw.randbytes(300))
    else:
        return f"{path.name}: {_in_json(path, draw)}"
    return f"{path.name}: {way}"


def _check(whole: Path, scratch: Path, use: Callable[[Path], object], seed: str, same: bool = True) -> tuple[int, int]:
    """How many mutants load, and how many are refused; any other end is a failure.

    Args:
        same: what loads gives the same results, unless bits were flipped or files swapped, which no reader can tell from others.
            Of a model's folder, whose configs are other people's formats, a file may be missing that is one of a choice.
    """
    expected = use(whole)
    loaded = refused = 0
    for number in range(_MUTANTS):
        folder = scratch / "mutant"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        how = _mutate(folder, random.Random(f"{seed} {number}"))
        try:
            found = use(folder)
            loaded += 1
            if same and "flip" not in how and "swapped" not in how:
                assert found == expected, f"{seed} {number}, {how}: other results"
        except (RankDistillError, FileNotFoundError):
            refused += 1
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"{seed} {number}, {how}: {type(error).__name__}: {error}") from error
    return loaded, refused


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert_dir: Path, tiny_mlm_dir: Path, tiny_cross_encoder_dir: Path
) -> Path:
    folder = tmp_path_factory.mktemp("models")
    DotModel.from_pretrained(tiny_bert_dir, device="cpu").save_pretrained(folder / "dot")
    CrossEncoderModel.from_pretrained(tiny_cross_encoder_dir, device="cpu").save_pretrained(folder / "cross-encoder")
    ColbertModel.from_pretrained(tiny_bert_dir, device="cpu", dim=8).save_pretrained(folder / "colbert")
    SpladeModel.from_pretrained(tiny_mlm_dir, device="cpu").save_pretrained(folder / "splade")
    return folder


@pytest.mark.parametrize("kind", ["dot", "cross-encoder", "colbert", "splade"])
@pytest.mark.filterwarnings("ignore")
def test_broken_model_folders(models: Path, kind: str, tmp_path: Path) -> None:
    def use(folder: Path) -> None:
        score_pairs(load_model(folder, device="cpu"), _QUERIES, _DOCS, progress=False)

    loaded, refused = _check(models / kind, tmp_path, use, kind, same=False)
    print(f"{kind} model: {loaded} mutants load, {refused} are refused")
    assert refused


@pytest.mark.parametrize("kind", ["dot", "colbert", "centroids", "splade"])
def test_broken_index_folders(models: Path, kind: str, tmp_path: Path) -> None:
    model = load_model(models / kind.replace("centroids", "colbert"), device="cpu")
    docs = {str(row): f"{text} {row}" for row, text in enumerate(_DOCS * 4)}
    index = build_index(model, docs, num_centroids=4 if kind == "centroids" else None, device="cpu", progress=False)
    index.save(tmp_path / "whole")
    queries = dict(enumerate(_QUERIES))

    def use(folder: Path) -> object:
        return search(model, load_index(folder, "cpu", model), queries, 3, progress=False)

    loaded, refused = _check(tmp_path / "whole", tmp_path, use, kind)
    print(f"{kind} index: {loaded} mutants load, {refused} are refused")
    assert refused


@pytest.mark.parametrize("kind", ["dot", "colbert", "splade"])
def test_broken_folders_of_encode(models: Path, kind: str, tmp_path: Path, small_collection: Any) -> None:
    model = load_model(models / kind, device="cpu")
    precompute(model, small_collection, tmp_path / "whole", progress=False)

    def use(folder: Path) -> object:
        index = index_of(load_precomputed(folder, model), device="cpu")
        return search(model, index, dict(enumerate(_QUERIES)), 3, progress=False)

    loaded, refused = _check(tmp_path / "whole", tmp_path, use, kind)
    print(f"{kind} of encode: {loaded} mutants load, {refused} are refused")
    assert refused


def test_no_array_is_unpickled(tmp_path: Path) -> None:
    from rankdistill.formats.guarded import read_array

    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RankDistillError, match=r"expected an array in a \.npy file"):
        read_array(tmp_path / "a.npy", None)
