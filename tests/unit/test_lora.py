"""Adapters: which weights they train, what merging gives, what a checkpoint of them holds, what can't be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

from rankdistill.errors import BadStoreError, MissingDependencyError
from rankdistill.models.loading import ARCHITECTURES
from rankdistill.options.training import LoraOptions
from rankdistill.training.lora import add_adapters, count_weights, load_trained, save_trained
from tests.unit.test_mini_batches import batch_for

HEADS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "dot": ({"projection_dim": 8}, {"projection.weight"}),
    "colbert": ({"dim": 8}, {"projection.weight"}),
    "splade": ({}, {"bias", "transform.dense.weight", "transform.dense.bias", "LayerNorm.weight", "LayerNorm.bias"}),
    "prett": ({"join_layer": 1, "query_max_length": 9}, {"score.weight"}),
    "cross-encoder": (
        {"new_head": True},
        {"classifier.classifier.weight", "classifier.classifier.bias", "pooler.dense.weight", "pooler.dense.bias"},
    ),
}


def student(name: str, tiny_bert_dir: Path, tiny_mlm_dir: Path) -> Any:
    torch.manual_seed(0)
    init = tiny_mlm_dir if name == "splade" else tiny_bert_dir
    return ARCHITECTURES[name].from_pretrained(init, device="cpu", **HEADS[name][0])


@pytest.mark.parametrize("name", HEADS)
def test_adapters_and_the_head_are_trained_and_merged(
    name: str, tiny_bert_dir: Path, tiny_mlm_dir: Path, tmp_path: Path
) -> None:
    model = student(name, tiny_bert_dir, tiny_mlm_dir)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tuner = add_adapters(model, LoraOptions(rank=3))
    batch = batch_for(model)
    model(batch, 4).scores.square().sum().backward()
    trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
    adapters = {key for key in trained if ".lora_" in key}
    assert {key.rsplit(".", 3)[0].rsplit(".", 1)[1] for key in adapters} == {"query", "value"}  # peft's, for BERT
    assert len(adapters) == 2 * 2 * 2  # layers, query and value, A and B
    heads = trained - adapters
    assert len(heads) == len(HEADS[name][1])
    assert all(any(key.endswith(end) for end in HEADS[name][1]) for key in heads)
    assert {key for key, weight in model.named_parameters() if weight.grad is not None} == trained
    assert count_weights(model)[0] == sum(model.get_parameter(key).numel() for key in trained)
    with torch.no_grad():
        for key in adapters:
            torch.nn.init.normal_(model.get_parameter(key), std=0.1)
        model.eval()
        save_trained(model, tmp_path)
        expected = model(batch).scores
    tuner.merge_and_unload()
    with torch.inference_mode():
        torch.testing.assert_close(model(batch).scores, expected, rtol=1e-4, atol=1e-4)
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {key.rsplit(".", 2)[1] for key in changed} == {"query", "value"}
    again = student(name, tiny_bert_dir, tiny_mlm_dir)
    add_adapters(again, LoraOptions(rank=3))
    load_trained(again, tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(again(batch).scores, expected, rtol=0, atol=0)
    other = student(name, tiny_bert_dir, tiny_mlm_dir)
    add_adapters(other, LoraOptions(rank=2))
    with pytest.raises(
        BadStoreError, match=r"trained.safetensors: expected a checkpoint of the .*resume with the options"
    ):
        load_trained(other, tmp_path)


def test_all_linear_layers_but_the_pooler(tiny_bert_dir: Path, tmp_path: Path) -> None:
    ends = {"query", "key", "value", "dense"}
    model = ARCHITECTURES["dot"].from_pretrained(tiny_bert_dir, device="cpu")
    add_adapters(model, LoraOptions(rank=1, target_modules=("all-linear",)))
    adapted = {key.split(".lora_A")[0] for key, _ in model.named_parameters() if ".lora_A" in key}
    assert {key.rsplit(".", 1)[1] for key in adapted} == ends
    assert not any("pooler" in key for key in adapted)
    sizes = {"vocab_size": 1700, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
    DistilBertModel(DistilBertConfig(**sizes)).save_pretrained(tmp_path)  # a family that peft doesn't know
    AutoTokenizer.from_pretrained(tiny_bert_dir).save_pretrained(tmp_path)
    model = ARCHITECTURES["dot"].from_pretrained(tmp_path, device="cpu")
    add_adapters(model, LoraOptions(rank=1))
    adapted = {key.split(".lora_A")[0].rsplit(".", 1)[1] for key, _ in model.named_parameters() if ".lora_A" in key}
    assert adapted == {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"}


def test_what_adapters_need(tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ARCHITECTURES["tk"].from_pretrained(tiny_bert_dir, device="cpu", num_heads=2)
    with pytest.raises(ValueError, match=r"a tk student has no encoder for adapters: leave out --lora\.rank"):
        add_adapters(model, LoraOptions(rank=1))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"the package peft.*pip install 'rankdistill\[lora\]'"):
        add_adapters(model, LoraOptions(rank=1))
