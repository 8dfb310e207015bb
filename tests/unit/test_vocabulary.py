"""Training the words that occur: the same weights to the last bit as training all, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from rankdistill._core import TokenStore
from rankdistill.data.tokens import build_tokens
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import ARCHITECTURES, Model
from rankdistill.training.vocabulary import OccurringWords, train_occurring_words

TEXTS = ["sort a list in reverse order", "read a file line by line", "", "open(path).readlines()"]
STUDENTS: dict[str, dict[str, Any]] = {
    "dot": {},
    "colbert": {"dim": 8},
    "prett": {"join_layer": 1},
    "tk": {"num_heads": 2},
    "cross-encoder": {"new_head": True},
    "multi-exit": {"exits": [1, 2]},
}


@pytest.fixture
def store(tiny_bert_dir: Path, tmp_path: Path) -> Callable[[Model], TokenStore]:
    def make(model: Model) -> TokenStore:
        texts = [(str(number), text) for number, text in enumerate(TEXTS)]
        return build_tokens(texts, model.tokenizer, 32, tmp_path / "t.rdtokens", fingerprint="f", progress=False)

    return make


def table_of(model: Any) -> nn.Embedding:
    table: nn.Embedding = (model.backbone or model.body).get_input_embeddings()
    return table


def make(name: str, folder: Path) -> Any:
    torch.manual_seed(0)
    model = ARCHITECTURES[name].from_pretrained(folder, device="cpu", **STUDENTS[name])
    return model.train()


@pytest.mark.parametrize("name", STUDENTS)
def test_every_architecture_trains_its_own_words_and_gets_them_back(
    name: str, tiny_bert_dir: Path, store: Callable[[Model], TokenStore]
) -> None:
    model = make(name, tiny_bert_dir)
    before, table = {key: value.clone() for key, value in model.state_dict().items()}, table_of(model)
    tokens = store(model)
    restore = train_occurring_words(model, [tokens])
    words = sorted({*tokens.distinct_tokens().tolist(), *model.tokenizer.all_special_ids})
    trained = table_of(model)
    assert isinstance(trained, OccurringWords)
    assert trained.words.tolist() == words
    assert trained.rows.shape == (len(words), table.embedding_dim)
    assert not trained.weight.requires_grad
    assert model.state_dict().keys() == before.keys()
    with torch.no_grad():
        trained.rows.add_(1.0)
    restore()
    assert table_of(model) is table
    assert table.weight.requires_grad
    after = model.state_dict()
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert len(moved) == 1
    difference = after[moved.pop()] - next(value for value in before.values() if value.shape == table.weight.shape)
    expected = torch.zeros(table.num_embeddings)
    expected[words] = 1.0
    torch.testing.assert_close(difference, expected[:, None].expand_as(difference))


def trained_weights(model: Any, ids: torch.Tensor, stores: list[TokenStore] | None) -> tuple[dict[str, Any], int]:
    """Weights after three steps of AdamW with clipped gradients, and how many numbers the optimizer kept."""
    restore = (lambda: None) if stores is None else train_occurring_words(model, stores)
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], 1e-2, weight_decay=0.0
    )
    torch.manual_seed(1)  # of dropout
    for step in range(3):
        loss = model.vectors(ids, (ids != 0).long())[:, : step + 2].square().sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        optimizer.step()
    restore()
    kept = sum(value.numel() for state in optimizer.state.values() for value in state.values())
    return model.state_dict(), kept


def test_steps_are_those_over_all_words_and_keep_less(
    tiny_bert_dir: Path, store: Callable[[Model], TokenStore]
) -> None:
    plain, model = make("dot", tiny_bert_dir), make("dot", tiny_bert_dir)
    tokens = store(model)
    ids = torch.from_numpy(tokens.batch(np.arange(len(TEXTS)), 0)[0])
    expected, all_kept = trained_weights(plain, ids, None)
    found, kept = trained_weights(model, ids, [tokens])
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
    left_out = table_of(plain).num_embeddings - len({*tokens.distinct_tokens(), *plain.tokenizer.all_special_ids})
    assert all_kept - kept == 2 * left_out * plain.dim


def test_outside_of_training_all_words_are_looked_up(tiny_bert_dir: Path, store: Callable[[Model], TokenStore]) -> None:
    model = make("dot", tiny_bert_dir)
    table = table_of(model)
    train_occurring_words(model, [store(model)])
    trained = table_of(model)
    assert isinstance(trained, OccurringWords)
    other = next(word for word in range(table.num_embeddings) if word not in trained.words)
    own = int(trained.words[-1])
    with pytest.raises(IndexError):
        trained(torch.tensor([other]))
    with torch.no_grad():
        trained.rows[-1] = 7.0
    model.eval()
    mine, theirs = trained(torch.tensor([own, other]))
    assert mine.tolist() == [7.0] * table.embedding_dim
    assert torch.equal(theirs, table.weight[other])
    stored = {key: value * 2 for key, value in model.state_dict().items()}
    model.load_state_dict(stored)
    model.train()
    assert trained(torch.tensor([own])).flatten().tolist() == [14.0] * table.embedding_dim


def test_tables_that_must_stay_whole_do(
    tiny_bert_dir: Path, tiny_mlm_dir: Path, store: Callable[[Model], TokenStore]
) -> None:
    dot = make("dot", tiny_bert_dir)
    tokens = store(dot)
    tied: Any = ARCHITECTURES["splade"].from_pretrained(tiny_mlm_dir, device="cpu")
    train_occurring_words(tied, [tokens])  # its head predicts all words
    train_occurring_words(dot, [tokens], weight_decay=0.1)
    frozen = DotModel.from_pretrained(tiny_bert_dir, device="cpu")
    table_of(frozen).weight.requires_grad_(False)
    train_occurring_words(frozen, [tokens])
    assert [type(table_of(model)) for model in (tied, dot, frozen)] == [nn.Embedding] * 3


def test_the_padding_row_gets_no_gradient(tiny_bert_dir: Path, store: Callable[[Model], TokenStore]) -> None:
    model = make("dot", tiny_bert_dir)
    padding = table_of(model).padding_idx
    assert padding is not None
    train_occurring_words(model, [store(model)])
    trained = table_of(model)
    assert isinstance(trained, OccurringWords)
    functional.mse_loss(trained(trained.words), torch.zeros(len(trained.words), trained.embedding_dim)).backward()
    gradient = trained.rows.grad
    assert gradient is not None
    assert (gradient.abs().sum(1) == 0).nonzero().flatten().tolist() == [int(trained.places[padding])]
