"""A body run over its tokens alone gives what it gives over padded rectangles: states, and every weight's gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from rankdistill.models import splade
from rankdistill.models.colbert import ColbertModel, Expansion
from rankdistill.models.exits import FAMILIES
from rankdistill.models.loading import ARCHITECTURES
from rankdistill.models.packed import PACKED_FAMILIES, can_pack, run_packed
from tests.encoders import save_encoder

CPU = torch.device("cpu")
LENGTHS = {
    "many lengths": [1, 2, 5, 5, 5, 9, 12, 12, 20],
    "no padding": [7, 7, 7],
    "not in order": [9, 2, 20, 1],
    "fewer texts than parts": [3],
}


def rectangle(body: PreTrainedModel, lengths: list[int], spare: int = 2) -> tuple[Tensor, Tensor]:
    """Random token ids [B, L] and their mask, padded beyond the longest."""
    draw = torch.Generator().manual_seed(0)
    mask_BL = (torch.arange(max(lengths) + spare) < torch.tensor(lengths)[:, None]).long()
    ids_BL = torch.randint(10, 60, mask_BL.shape, generator=draw)
    return ids_BL.masked_fill(mask_BL == 0, int(body.config.pad_token_id)), mask_BL


def gradients(output: Tensor, body: PreTrainedModel) -> list[Tensor | None]:
    """Of a random function of the states, by weight."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    return list(
        torch.autograd.grad((output * weights).sum(), list(body.parameters()), allow_unused=True, retain_graph=True)
    )


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("family", PACKED_FAMILIES)
def test_packed_states_and_gradients_are_the_padded_ones(
    family: str, lengths: list[int], tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    body = AutoModel.from_pretrained(save_encoder(family, tmp_path, tiny_tokenizer_dir)).double()
    assert can_pack(body.train(), CPU)
    ids_BL, mask_BL = rectangle(body.eval(), lengths)
    own_attention = body.config._attn_implementation
    kinds: list[Callable[[], dict[str, Tensor]]] = [
        lambda: {"input_ids": ids_BL},
        lambda: {"inputs_embeds": body.get_input_embeddings()(ids_BL)},
    ]
    for kind in kinds:
        given = kind() | {"attention_mask": mask_BL}
        padded = body(**given, output_hidden_states=True)
        expected = [states * mask_BL[:, :, None] for states in padded.hidden_states]
        packed = run_packed(body, given, output_hidden_states=True)
        for states, wanted in zip(packed.hidden_states, expected, strict=True):
            torch.testing.assert_close(states, wanted, rtol=0, atol=1e-9)
        last = run_packed(body, given)[0]
        torch.testing.assert_close(last, padded[0] * mask_BL[:, :, None], rtol=0, atol=1e-9)
        for found, wanted_gradient in zip(gradients(last, body), gradients(expected[-1], body), strict=True):
            assert (found is None) == (wanted_gradient is None)
            if found is not None and wanted_gradient is not None:
                torch.testing.assert_close(found, wanted_gradient, rtol=1e-7, atol=1e-8)
    assert body.config._attn_implementation == own_attention


def test_token_types_are_packed_too(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    body = AutoModel.from_pretrained(save_encoder("bert", tmp_path, tiny_tokenizer_dir)).double()
    ids_BL, mask_BL = rectangle(body, LENGTHS["many lengths"])
    given = {"input_ids": ids_BL, "attention_mask": mask_BL, "token_type_ids": torch.arange(22).expand(9, 22) % 2}
    expected = body(**given)[0] * mask_BL[:, :, None]
    torch.testing.assert_close(run_packed(body, given)[0], expected, rtol=0, atol=1e-9)


def test_only_training_on_a_cpu_packs_and_only_families_that_allow_it(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    for family in FAMILIES:
        body = AutoModel.from_pretrained(save_encoder(family, tmp_path / family, tiny_tokenizer_dir))
        assert not can_pack(body.eval(), CPU)
        assert can_pack(body.train(), CPU) == (family in PACKED_FAMILIES)
        assert not can_pack(body, torch.device("cuda"))


def test_a_failing_body_gets_its_own_attention_back(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    body = AutoModel.from_pretrained(save_encoder("bert", tmp_path, tiny_tokenizer_dir))
    ids_BL, mask_BL = rectangle(body, [3, 70])  # more than it has positions for
    own_attention = body.config._attn_implementation
    with pytest.raises((IndexError, RuntimeError)):
        run_packed(body, {"input_ids": ids_BL, "attention_mask": mask_BL})
    assert body.config._attn_implementation == own_attention


def test_masks_that_no_token_sees_keep_their_states(tiny_bert_dir: Path) -> None:
    """ColBERT's [MASK]s that aren't attended to count in the score: they can't be left out as padding is."""
    for attend in (True, False):
        expansion = Expansion("fixed", 8, attend=attend)
        model = (
            ColbertModel.from_pretrained(tiny_bert_dir, dim=8, dropout=0.0, expansion=expansion, query_max_length=8)
            .double()
            .train()
        )
        assert (model.packs("query"), model.packs("document")) == (attend, True)
        ids_BL, mask_BL = rectangle(model.encoder, [3, 5], spare=0)
        trained = model.states(ids_BL, mask_BL, "query")[0]
        torch.testing.assert_close(trained, model.eval().states(ids_BL, mask_BL, "query")[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["dot", "colbert", "splade", "multi-exit", "multi-exit-colbert"])
def test_a_student_scores_a_training_batch_as_it_does_otherwise(
    kind: str, tiny_bert_dir: Path, tiny_mlm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splade, "_MAX_LOGITS", 1663 * 20)  # so that texts go through SPLADE's head in parts
    more: dict[str, Any] = {"dim": 8} if "colbert" in kind else {}
    start = tiny_mlm_dir if kind == "splade" else tiny_bert_dir
    model: Any = ARCHITECTURES[kind].from_pretrained(start, dropout=0.0, **more).double()
    (queries, query_mask), (docs, doc_mask) = (
        rectangle(model.backbone, lengths) for lengths in ([2, 4, 9], [3, 3, 11])
    )
    batch = {"query_ids": queries, "query_mask": query_mask, "doc_ids": docs, "doc_mask": doc_mask}
    batch["doc_columns"] = torch.arange(3)[:, None]
    with torch.no_grad():
        expected = model(batch).scores
        assert not model.packs("document")
        found = model.train()(batch).scores
        assert model.packs("document")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", PACKED_FAMILIES)
@pytest.mark.parametrize("kind", ["cross-encoder", "multi-exit-cross-encoder"])
def test_a_cross_encoder_scores_a_training_batch_as_it_does_otherwise(
    kind: str, family: str, tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    start = save_encoder(family, tmp_path, tiny_tokenizer_dir, AutoModelForSequenceClassification, num_labels=1)
    model: Any = ARCHITECTURES[kind].from_pretrained(start, dropout=0.0).double()
    ids_BL, mask_BL = rectangle(model.backbone, [9, 2, 20, 5])
    batch = {"input_ids": ids_BL, "attention_mask": mask_BL, "teacher_scores": torch.zeros(2, 2)}
    with torch.no_grad():
        expected = model(batch).scores
        found = model.train()(batch).scores
        assert model.packs()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
