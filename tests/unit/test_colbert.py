"""The ColBERT student alone: padding, parts, precision, what is skipped, what can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rankdistill.errors import WrongModelError
from rankdistill.models.colbert import PUNCTUATION, ColbertModel, Expansion
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import load_model
from rankdistill.retrieval.encode import pad_batch
from rankdistill.retrieval.states import encode_states
from tests.reference.maxsim import maxsim

QUERIES = ["sort a list", "read a file line by line"]
DOCS = ["sorted(x, key=len)", "open(path).read()", "x", "for line in open(path): print(line.strip())"]


def student(folder: Path, **more: Any) -> ColbertModel:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"dim": 8, "expansion": Expansion("fixed", 12), "query_max_length": 12} | more
    return ColbertModel.from_pretrained(folder, device="cpu", **settings)


def batch_of(model: ColbertModel, queries: list[str], docs: list[str], width: int = 0) -> dict[str, torch.Tensor]:
    batch = {"doc_columns": torch.tensor([[0, 1], [1, 2]])}
    for side, kind, texts in (("query", "query", queries), ("doc", "document", docs)):
        ids = sorted(model.tokenize(texts, kind), key=len)  # type: ignore[arg-type]
        padded = pad_batch(model.tokenizer, {"input_ids": ids}, model.device)
        for name, array in (("ids", padded["input_ids"]), ("mask", padded["attention_mask"])):
            batch[f"{side}_{name}"] = torch.nn.functional.pad(array, (0, width))
    return batch


SETTINGS: list[dict[str, Any]] = [
    {},
    {"expansion": Expansion("after-sep", 3), "normalize": False},
    {"expansion": Expansion("before-sep", 3), "markers": True},
    {"expansion": Expansion("fixed", 12, attend=False), "skip_words": PUNCTUATION},
    {"expansion": None},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_batch_is_scored_as_each_pair_alone_whatever_its_padding(
    tiny_bert_dir: Path, settings: dict[str, Any]
) -> None:
    model = student(tiny_bert_dir, **settings)
    batch = batch_of(model, QUERIES, DOCS)
    query_order = sorted(QUERIES, key=lambda text: len(model.tokenize([text], "query")[0]))
    doc_order = sorted(DOCS, key=lambda text: len(model.tokenize([text], "document")[0]))
    with torch.inference_mode():
        found = model(batch)
        wide = model(batch_of(model, QUERIES, DOCS, width=5))
    states = {text: encode_states(model, [text], kind="query", progress=False)[0].tolist() for text in QUERIES}
    states |= {text: encode_states(model, [text], kind="document", progress=False)[0].tolist() for text in DOCS}
    expected = torch.tensor(
        [
            [maxsim(states[query], [1] * len(states[query]), states[doc], [1] * len(states[doc])) for doc in doc_order]
            for query in query_order
        ]
    )
    assert found.in_batch
    torch.testing.assert_close(found.scores, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(wide.scores, found.scores, atol=1e-5, rtol=1e-5)


def test_masks_are_part_of_the_query_and_may_be_hidden_from_it(tiny_bert_dir: Path) -> None:
    counts = {}
    for expansion in (None, Expansion("fixed", 12), Expansion("fixed", 12, attend=False), Expansion("after-sep", 3)):
        model = student(tiny_bert_dir, expansion=expansion)
        counts[expansion] = encode_states(model, ["sort a list [MASK]"], kind="query", progress=False)[0]
    plain, seen, hidden, few = counts.values()
    assert [len(plain), len(seen), len(hidden), len(few)] == [6, 12, 12, 9]
    # What isn't attended to doesn't change the other tokens; the query's own [MASK] stays attended to.
    assert abs(hidden[:6] - plain).max() < 1e-5
    assert abs(seen[:6] - plain).max() > 1e-3


def test_skipped_words_of_documents_do_not_count(tiny_bert_dir: Path) -> None:
    model = student(tiny_bert_dir, skip_words=(*PUNCTUATION, "no-such-token"))
    text = "sorted(x, key=len)"
    ids = model.tokenize([text], "document")[0]
    kept = [token for token in model.tokenizer.convert_ids_to_tokens(ids) if token not in PUNCTUATION]
    assert len(encode_states(model, [text], kind="document", progress=False)[0]) == len(kept) < len(ids)
    assert len(encode_states(model, ["☃"], kind="document", progress=False)[0]) == 3  # [UNK] isn't skipped
    assert len(encode_states(model, ["( )"], kind="query", progress=False)[0]) == 12


def test_markers_are_tokens_of_their_own_that_start_as_words(tiny_bert_dir: Path, tmp_path: Path) -> None:
    model = student(tiny_bert_dir, markers=True)
    for kind, marker in (("query", "[Q]"), ("document", "[D]")):
        tokens = model.tokenizer.convert_ids_to_tokens(model.tokenize(["sort"], kind)[0])  # type: ignore[arg-type]
        assert tokens[:2] == ["[CLS]", marker]
    rows = model.embed(torch.arange(len(model.tokenizer)))
    assert rows[-2:].norm(dim=1).max() < 3 * rows[:-2].norm(dim=1).max()
    model.save_pretrained(tmp_path)
    again = ColbertModel.from_pretrained(tmp_path, device="cpu", markers=True)  # they are there already
    assert (again.query_prompt, len(again.tokenizer)) == ("[Q] ", len(model.tokenizer))
    assert again.fingerprint() == model.fingerprint()


def test_bf16_is_near_fp32(tiny_bert_dir: Path) -> None:
    model = student(tiny_bert_dir)
    batch = batch_of(model, QUERIES, DOCS)
    with torch.inference_mode():
        exact = model(batch).scores
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(batch).scores
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.05 * 12  # 12 query tokens of cosine at most 1


def test_the_checkpoints_projection_is_kept_unless_another_width_is_asked_for(
    tiny_bert_dir: Path, tmp_path: Path
) -> None:
    model = student(tiny_bert_dir)
    model.save_pretrained(tmp_path)
    same, other = (ColbertModel.from_pretrained(tmp_path, device="cpu", dim=dim) for dim in (8, 5))
    assert same.fingerprint() == model.fingerprint()
    assert other.dim == 5


def test_lengths_leave_room_for_the_masks(tiny_bert_dir: Path) -> None:
    model = student(tiny_bert_dir, query_max_length=64, expansion=Expansion("after-sep", 8))
    assert model.query_max_length == 56
    states = encode_states(model, ["x " * 100], kind="query", progress=False)
    assert len(states[0]) == 64


@pytest.mark.parametrize("dim", [0, -3])
def test_a_dim_that_is_not_positive(tiny_bert_dir: Path, dim: int) -> None:
    with pytest.raises(ValueError, match=f"expected a positive dim, found {dim}"):
        student(tiny_bert_dir, dim=dim)


def test_folders_that_hold_something_else(tiny_bert_dir: Path, tiny_cross_encoder_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongModelError, match=r"expected a ColBERT checkpoint .*, found BertModel; train one"):
        ColbertModel.from_pretrained(tiny_bert_dir, device="cpu")
    DotModel.from_pretrained(tiny_bert_dir, device="cpu").save_pretrained(tmp_path / "dot")
    with pytest.raises(WrongModelError, match="found dot; train one"):
        ColbertModel.from_pretrained(tmp_path / "dot", device="cpu")
    student(tmp_path / "dot").save_pretrained(tmp_path / "colbert")  # a dot student's body will do to start from
    with pytest.raises(WrongModelError, match='found a module "MultiVectorMask"'):
        DotModel.from_pretrained(tmp_path / "colbert", device="cpu")
    config = tmp_path / "colbert" / "rankdistill.json"
    config.write_text(config.read_text().replace('"colbert"', '"hologram"'))
    with pytest.raises(WrongModelError, match=r'expected a model \(dot, colbert.*, found "hologram"; update'):
        load_model(tmp_path / "colbert")


def test_a_query_is_filled_to_its_own_length_only(tiny_bert_dir: Path) -> None:
    model = student(tiny_bert_dir)
    with pytest.raises(ValueError, match=r"expected queries filled to the 12 tokens that they may have, found 9"):
        ColbertModel(
            model.encoder, model.tokenizer, model.projection, expansion=Expansion("fixed", 9), query_max_length=12
        )
    model.tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"need a tokenizer that has such a token"):
        ColbertModel(model.encoder, model.tokenizer, model.projection, expansion=Expansion("after-sep", 9))
