"""Searching by exits: a pass in pieces equals one pass, and stopping early equals choosing from the runs at all exits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from rankdistill.errors import WrongModelError
from rankdistill.formats.collection import Collection
from rankdistill.models.exits import FAMILIES, Cell
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.records import Run, ranked
from rankdistill.retrieval.encode import encode_exits, pad_batch
from rankdistill.retrieval.exits import CONFIDENCES, build_exit_indexes, search_adaptively, search_exits, stop_by
from rankdistill.retrieval.index import build_index
from rankdistill.retrieval.search import search
from tests.encoders import save_encoder

TEXTS = ["sort a list", "x", "read a file line by line into a list of strings", "", "a " * 70]


@pytest.mark.parametrize("family", FAMILIES)
def test_going_on_from_exit_to_exit_is_one_pass(family: str, tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    folder = save_encoder(family, tmp_path, tiny_tokenizer_dir)
    for exits in ([1, 2, 4], [1, 2, 3, 4], [3], [2, 4]):
        model = MultiExitEncoder.from_pretrained(folder, device="cpu", exits=exits, normalize=True)
        expected = encode_exits(model, TEXTS, kind="document", progress=False)
        ids = model.tokenize(TEXTS, "document")
        batch = pad_batch(model.tokenizer, {"input_ids": ids}, model.device)
        states = None
        with torch.inference_mode():
            for exit, piece in zip(exits, model.pieces(), strict=True):
                given = {"input_ids": batch["input_ids"]} if states is None else {"inputs_embeds": states}
                states, vectors = piece(batch["attention_mask"], **given)
                np.testing.assert_allclose(vectors.numpy(), expected[exit], atol=2e-5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> MultiExitEncoder:
    folder = save_encoder("bert", tmp_path_factory.mktemp("bert"), tiny_tokenizer_dir)
    return MultiExitEncoder.from_pretrained(folder, device="cpu", exits=[1, 2, 4], dims=[8])


@pytest.mark.parametrize("normalize", [False, True])
def test_each_exit_and_width_is_searched_as_if_alone(
    model: MultiExitEncoder, small_collection: Collection, normalize: bool
) -> None:
    model.normalize = normalize
    docs, queries = dict(small_collection.docs()), dict(list(small_collection.queries())[:15])
    indexes = build_exit_indexes(model, docs, device="cpu", progress=False)
    runs = search_exits(model, indexes, queries, 10, progress=False)
    assert list(runs) == [Cell(exit, dim) for exit in (1, 2, 4) for dim in (None, 8)]
    for cell, run in runs.items():
        view = model.at(*cell)
        alone = search(view, build_index(view, docs, device="cpu", progress=False), queries, 10, progress=False)
        for query_id in queries:
            scores, expected = ([score for _, score in ranked(each[query_id])] for each in (run, alone))
            np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
    model.normalize = False


@pytest.mark.parametrize("kind", sorted(CONFIDENCES))
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.6, 1.1])
def test_stopping_early_is_choosing_from_all_exits(
    model: MultiExitEncoder, small_collection: Collection, kind: str, threshold: float
) -> None:
    docs, queries = dict(small_collection.docs()), dict(list(small_collection.queries())[:40])
    indexes = build_exit_indexes(model, docs, device="cpu", progress=False)
    runs = {
        cell.exit: run
        for cell, run in search_exits(model, indexes, queries, 20, progress=False).items()
        if not cell.dim
    }
    expected, expected_exits = stop_by(runs, CONFIDENCES[kind], threshold, 5)
    for batch_size in (1, 7, 64):
        settings = {"confidence": CONFIDENCES[kind], "threshold": threshold, "depth": 5, "batch_size": batch_size}
        found, exits = search_adaptively(model, indexes, queries, 20, **settings)
        assert list(found) == list(queries)
        assert exits == expected_exits
        for query_id in queries:
            scores, wanted = ([score for _, score in ranked(each[query_id])] for each in (found, expected))
            np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-4)
    if threshold in (0.0, 1.1):
        assert set(exits.values()) == {1 if threshold == 0 else 4}
    elif threshold == 0.3:
        assert len(set(exits.values())) > 1


def test_layers_run_for_those_who_need_them_only(model: MultiExitEncoder, small_collection: Collection) -> None:
    docs, queries = dict(small_collection.docs()), dict(list(small_collection.queries())[:12])
    indexes = build_exit_indexes(model, docs, device="cpu", progress=False)
    ran: Counter[int] = Counter()
    layers = model.encoder.encoder.layer  # type: ignore[union-attr]
    handles = [
        layer.register_forward_hook(lambda _, __, output, i=i: ran.update({i: len(output)}))
        for i, layer in enumerate(layers)
    ]
    _, exits = search_adaptively(model, indexes, queries, 10, threshold=0.3, batch_size=5)
    for handle in handles:
        handle.remove()
    assert dict(ran) == {i: sum(exit > i for exit in exits.values()) for i in range(4)}


def test_confidences() -> None:
    now = [("a", 5.0), ("b", 4.0), ("c", 1.0)]
    agreement, margin = CONFIDENCES["agreement"], CONFIDENCES["margin"]
    assert agreement(None, now) == 0
    assert agreement([("c", 2.0), ("x", 1.0), ("a", 0.0)], now) == pytest.approx(2 / 3)
    assert margin(None, now) == pytest.approx(1 / 4)
    assert margin(None, [("a", 1.0), ("b", 1.0), ("c", 1.0)]) == margin(None, now[:2]) == agreement(now, []) == 0


def test_a_query_stops_where_it_is_sure() -> None:
    runs: dict[int, Run] = {
        2: {"q": {"a": 2.0, "b": 1.0}, "r": {"a": 1.0, "b": 0.0}},
        4: {"q": {"b": 2.0, "a": 1.0}, "r": {"c": 1.0, "d": 0.0}},
        6: {"q": {"z": 1.0}, "r": {"c": 2.0, "d": 1.0}},
    }
    found, exits = stop_by(runs, CONFIDENCES["agreement"], 1.0, 2)
    assert exits == {"q": 4, "r": 6}
    assert found == {"q": runs[4]["q"], "r": runs[6]["r"]}


def test_an_exit_without_index_is_an_error(model: MultiExitEncoder, small_collection: Collection) -> None:
    indexes = build_exit_indexes(model, dict(small_collection.docs()), device="cpu", progress=False)
    del indexes[Cell(2)]
    with pytest.raises(WrongModelError, match="expected an index for each exit, found none for exit 2"):
        search_adaptively(model, indexes, {"q": "a"}, 3)
