"""The SPLADE student alone: its weights and penalties against the twin, padding, parts, precision, a new head, what can't be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.errors import WrongModelError
from rankdistill.models import splade
from rankdistill.models.backbone import load_tokenizer
from rankdistill.models.dot import DotModel
from rankdistill.models.splade import SpladeModel, flops
from rankdistill.options.students import SpladeOptions
from rankdistill.options.training import MarginMSEOptions
from rankdistill.retrieval.encode import pad_batch
from rankdistill.training.schedules import quadratic_warmup
from rankdistill.training.students import penalty_weights
from tests.reference import splade as twin

QUERIES = ["sort a list", "read a file line by line"]
DOCS = ["sorted(x, key=len)", "open(path).read()", "x", "for line in open(path): print(line.strip())"]


@pytest.fixture(scope="module")
def model(tiny_mlm_dir: Path) -> SpladeModel:
    return SpladeModel.from_pretrained(tiny_mlm_dir, device="cpu")


def padded(model: SpladeModel, texts: list[str], kind: Any, width: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    ids = sorted(model.tokenize(texts, kind), key=len)
    batch = pad_batch(model.tokenizer, {"input_ids": ids}, model.device)
    pad = torch.nn.functional.pad
    return pad(batch["input_ids"], (0, width)), pad(batch["attention_mask"], (0, width))


@pytest.mark.parametrize("limit", [1, 1 << 26])
def test_weights_are_what_the_twin_makes_of_the_logits(
    model: SpladeModel, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splade, "_MAX_LOGITS", limit)  # 1: a text at a time
    ids, mask = padded(model, DOCS, "document")
    with torch.inference_mode():
        logits = model.mlm(input_ids=ids, attention_mask=mask).logits
        found = model.vectors(ids, mask)
    expected = [twin.weights(*pair) for pair in zip(logits.tolist(), mask.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_a_batch_is_scored_with_its_penalties_whatever_its_padding(model: SpladeModel) -> None:
    results = []
    for width in (0, 5):
        batch = {"doc_columns": torch.tensor([[0, 1], [1, 2]])}
        batch["query_ids"], batch["query_mask"] = padded(model, QUERIES, "query", width)
        batch["doc_ids"], batch["doc_mask"] = padded(model, DOCS, "document", width)
        with torch.inference_mode():
            results.append(model(batch))
    queries, docs = (model.vectors(*padded(model, *side)).detach() for side in ((QUERIES, "query"), (DOCS, "document")))
    expected = {
        "flops-docs": twin.flops(docs.tolist()),
        "flops-queries": twin.flops(queries.tolist()),
        "l1-queries": twin.l1(queries.tolist()),
    }
    for found in results:
        torch.testing.assert_close(found.scores, queries @ docs.T, rtol=1e-4, atol=1e-3)
        assert {name: float(value) for name, value in found.penalties.items()} == pytest.approx(expected, rel=1e-4)


@given(st.lists(st.lists(st.floats(0, 5, width=32), min_size=3, max_size=3), min_size=1, max_size=4))
def test_flops_by_hand(rows: list[list[float]]) -> None:
    assert float(flops(torch.tensor(rows))) == pytest.approx(twin.flops(rows), rel=1e-4, abs=1e-6)


def test_gradients_do_not_depend_on_the_parts(model: SpladeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask = padded(model, DOCS, "document")
    found = []
    for limit in (1, 1 << 26):
        monkeypatch.setattr(splade, "_MAX_LOGITS", limit)
        model.zero_grad()
        model.vectors(ids, mask).square().mean().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    model.zero_grad()
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def test_bf16_is_near_fp32(model: SpladeModel) -> None:
    ids, mask = padded(model, DOCS, "document")
    with torch.inference_mode():
        exact = model.vectors(ids, mask)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.vectors(ids, mask)
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.05


def test_a_new_head_starts_as_a_bag_of_words(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    from transformers import BertConfig, BertModel

    tokenizer = load_tokenizer(str(tiny_tokenizer_dir))
    torch.manual_seed(0)
    # Layers that add next to nothing, as a trained body's first ones: a token's state is its embedding.
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 64}
    body = BertModel(BertConfig(**sizes, initializer_range=0.001))
    body.get_input_embeddings().weight.data.normal_()
    body.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        WrongModelError, match=r"expected a masked language model, found BertModel; pass --splade.new-head"
    ):
        SpladeModel.from_pretrained(tmp_path, device="cpu")
    model = SpladeModel.from_pretrained(tmp_path, device="cpu", new_head=True)
    assert model.mlm.get_output_embeddings().weight is model.mlm.get_input_embeddings().weight
    for text in DOCS:
        ids, mask = padded(model, [text], "document")
        weights = model.vectors(ids, mask)[0]
        own = set(ids[0].tolist())
        assert own <= set(weights.nonzero().flatten().tolist())
        assert int((weights > 0).sum()) <= len(own) + 3


def test_folders_that_hold_something_else(tmp_path: Path, tiny_bert_dir: Path, tiny_mlm_dir: Path) -> None:
    from rankdistill.models.colbert import ColbertModel

    ColbertModel.from_pretrained(tiny_bert_dir, device="cpu", dim=8).save_pretrained(tmp_path / "colbert")
    with pytest.raises(
        WrongModelError, match=r"expected a SPLADE checkpoint \(a sparse encoder\), found colbert; train one"
    ):
        SpladeModel.from_pretrained(tmp_path / "colbert", new_head=True)
    own = tmp_path / "splade"
    SpladeModel.from_pretrained(tiny_mlm_dir, device="cpu").save_pretrained(own)
    with pytest.raises(WrongModelError, match='found a module "SpladePooling"'):
        DotModel.from_pretrained(own)
    with pytest.raises(WrongModelError, match=r"expected a ColBERT checkpoint .* found splade"):
        ColbertModel.from_pretrained(own, dim=8)
    config = own / "1_SpladePooling" / "config.json"
    config.write_text(json.dumps({"pooling_strategy": "sum"}))
    with pytest.raises(WrongModelError, match=r"expected the modules Transformer and SpladePooling \(max, relu\)"):
        SpladeModel.from_pretrained(own)


def test_a_weight_rises_with_the_square_of_the_step() -> None:
    shares = [float(quadratic_warmup(torch.tensor(step), 10)) for step in (0, 1, 5, 10, 1000)]
    assert shares == pytest.approx([0, 0.01, 0.25, 1, 1])
    assert float(quadratic_warmup(torch.tensor(0), 0)) == 0.0
    assert float(quadratic_warmup(torch.tensor(1), 0)) == 1.0


def given_options(**more: Any) -> MarginMSEOptions:
    return MarginMSEOptions(
        scores=("s",), init="m", output_dir=Path("o"), student="splade", splade=SpladeOptions(**more)
    )


def test_penalties_have_their_weights_and_names() -> None:
    made = penalty_weights(
        given_options(docs_weight=2.0, queries_weight=3.0, queries_penalty="l1", penalty_warmup=0.5), 20
    )
    at = {name: [float(weight(torch.tensor(step))) for step in (0, 5, 10, 20)] for name, weight in made.items()}
    assert at == {"flops-docs": [0, 0.5, 2, 2], "l1-queries": [0, 0.75, 3, 3]}
    assert penalty_weights(MarginMSEOptions(scores=("s",), init="m", output_dir=Path("o")), 20) == {}


@pytest.mark.parametrize("more", [{"docs_weight": -1.0}, {"queries_weight": -1.0}, {"penalty_warmup": 1.5}])
def test_penalties_that_make_no_sense(more: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected penalties' weights of at least 0 and a warm-up between 0 and 1"):
        penalty_weights(given_options(**more), 10)
