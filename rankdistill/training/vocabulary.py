"""Training the words that occur, and no others.

The gradient of a look-up is as big as the table of embeddings, and the optimizer goes over all of it: 47 MB for MiniLM's 30,522
word pieces, of which a small collection has a fifth; 768 MB for XLM-R's 250,002. A word that never occurs has no gradient, and
AdamW without weight decay leaves it as it is. So leaving such words out changes nothing but the time and the memory of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rankdistill.data.tokens import TokenStore
from rankdistill.models.loading import Student
from rankdistill.models.tk import TKModel

__all__ = ["OccurringWords", "train_occurring_words"]


class OccurringWords(nn.Embedding):
    """A table of embeddings of which some rows are trained, as a parameter of their own, `rows`.

    In a state dict it is the table that it stands for. Other words can be looked up only when it isn't in training.

    Args:
        table: whose weight it shares, and changes when it leaves training, and when its state dict is asked for.
        words: [U], the rows that are trained.
    """

    words: Tensor
    places: Tensor
    rows: nn.Parameter

    def __init__(self, table: nn.Embedding, words: Tensor) -> None:
        num_words, dim = table.weight.shape
        super().__init__(num_words, dim, table.padding_idx, _weight=table.weight, _freeze=True)
        places = torch.full((table.num_embeddings,), -1, device=words.device)
        places[words] = torch.arange(len(words), device=words.device)
        self.register_buffer("words", words, persistent=False)
        self.register_buffer("places", places, persistent=False)
        at = -1 if table.padding_idx is None else int(places[table.padding_idx])
        self._padding_place = None if at < 0 else at
        self.rows = nn.Parameter(table.weight.detach()[words])

    def forward(self, input: Tensor) -> Tensor:
        """Embeddings [..., D] of token ids."""
        if not self.training:
            return super().forward(input)
        return functional.embedding(self.places[input], self.rows, self._padding_place)

    def train(self, mode: bool = True) -> OccurringWords:
        """As for any module."""
        if not mode:
            self.store()
        super().train(mode)
        return self

    def store(self) -> None:
        """Puts the trained rows into the whole table."""
        with torch.no_grad():
            self.weight[self.words] = self.rows.detach()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.store()
        destination[f"{prefix}weight"] = self.weight if keep_vars else self.weight.detach()

    def _load_from_state_dict(self, *args: Any) -> None:
        rows = self._parameters.pop("rows")
        super()._load_from_state_dict(*args)
        assert rows is not None
        with torch.no_grad():
            rows.copy_(self.weight[self.words])
        self._parameters["rows"] = rows


def train_occurring_words(
    model: Student, stores: Sequence[TokenStore], weight_decay: float = 0.0
) -> Callable[[], None]:
    """Lets only those word embeddings of a model be trained that occur in texts, or are special tokens.

    A table that is frozen, or serves elsewhere in the model too, stays as it is; so does every one with weight decay, which
    is for all words.

    Args:
        stores: all texts that the model is trained on.

    Returns:
        What makes the model as it was, with the words as they were trained.
    """
    body: Any = model.body if isinstance(model, TKModel) else model.backbone
    table: nn.Embedding = body.get_input_embeddings()
    uses = [name for name, weight in model.named_parameters(remove_duplicate=False) if weight is table.weight]
    if weight_decay or len(uses) != 1 or not table.weight.requires_grad:
        return lambda: None
    words = np.unique(np.concatenate([*(store.distinct_tokens() for store in stores), model.tokenizer.all_special_ids]))
    if len(words) == table.num_embeddings:
        return lambda: None
    parent, name = uses[0].removesuffix(".weight").rpartition(".")[::2]
    trained = OccurringWords(table, torch.from_numpy(words.astype(np.int64)).to(table.weight.device))
    setattr(model.get_submodule(parent), name, trained)

    def restore() -> None:
        trained.store()
        table.weight.data = trained.weight.data
        setattr(model.get_submodule(parent), name, table)

    return restore
