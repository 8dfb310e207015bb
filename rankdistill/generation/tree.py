"""A tree of tokens for each text, each token computed once: what beams, forced runs and candidates are to a decoder.

`PackedTree` lays a text's tree out in one row. A token attends to its ancestors alone, its position is its depth. So beams are
never reordered, nothing of the text is copied for each beam, and tokens of different depths go through the decoder together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from rankdistill.generation.families import Family, encode, family_of

__all__ = ["PackedTree", "PrefixTree", "plant"]

Ints = NDArray[np.int64]

# Numbers at once in what is as wide as a vocabulary or as long as a list of legal tokens: 64 MB in float32.
_NUMBERS = 1 << 24
# Logits at once on a CPU, which stay in its cache: a third faster than all at once. Never fewer of a state than this.
_CPU_NUMBERS, _CPU_TOKENS = 1 << 17, 2048
# Legal tokens of a state that are worth a matrix product.
_MANY = 512
# Beginnings at once, where trees can't be packed.
_ROWS = 64


def plant(model: Any, input_ids: Tensor, attention_mask: Tensor) -> PackedTree | PrefixTree:
    """Empty trees of B texts [B, S]: packed where the model's family is known, else computed from the start for each token."""
    family = family_of(model)
    states = encode(model, input_ids, attention_mask, project=family is not None)
    return PrefixTree(model, states, attention_mask) if family is None else PackedTree(family, states, attention_mask)


class PackedTree:
    """Trees in one row of the decoder's cache for each text."""

    def __init__(self, family: Family, states: Tensor, mask: Tensor) -> None:
        self._family, self._states, self._mask = family, states, mask
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        num_texts = len(states)
        self._columns, self._depths = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._positions = np.zeros((num_texts, 0), np.int64)
        self._sees = np.zeros((num_texts, 0, 0), bool)

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def device(self) -> torch.device:
        """Where it's computed."""
        return self._states.device

    def empty(self) -> PackedTree:
        """Empty trees of the same texts."""
        return PackedTree(self._family, self._states, self._mask)

    def extend(self, texts: Ints, parents: Ints, tokens: Ints) -> Tensor:
        """States [N, D] of N new tokens, which are numbered from `len(tree)` on.

        Args:
            texts: whose tree each is of.
            parents: the token before each, which may be a new one further in front; -1 for a first token.
        """
        num_texts, width, own = self._sees.shape[0], self._sees.shape[1], len(self)
        order = np.argsort(texts, kind="stable")
        counts = np.bincount(texts, minlength=num_texts)
        columns = np.empty(len(texts), np.int64)
        columns[order] = width + np.arange(len(texts)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._columns = np.concatenate([self._columns, columns])
        depths = self._depths.tolist()
        for parent in parents.tolist():
            depths.append(0 if parent < 0 else depths[parent] + 1)
        self._depths = np.array(depths, np.int64)
        grown = width + int(counts.max())
        positions = np.zeros((num_texts, grown), np.int64)
        positions[:, :width] = self._positions
        positions[texts, columns] = self._depths[own:]
        self._positions, sees = positions, np.zeros((num_texts, grown, grown), bool)
        sees[:, :width, :width] = self._sees
        for depth in np.unique(self._depths[own:]):
            at = np.flatnonzero(self._depths[own:] == depth)
            if depth:
                sees[texts[at], columns[at]] = sees[texts[at], self._columns[parents[at]]]
            sees[texts[at], columns[at], columns[at]] = True
        self._sees = sees
        hidden = self._decode(texts, columns - width, tokens, grown - width)
        return hidden[torch.from_numpy(texts), torch.from_numpy(columns - width)]

    def _decode(self, texts: Ints, places: Ints, tokens: Ints, num_new: int) -> Tensor:
        device, dtype = self._states.device, self._states.dtype
        input_ids = np.zeros((len(self._states), num_new), np.int64)
        input_ids[texts, places] = tokens
        visible = self._sees[:, -num_new:].copy()
        # A filler sees itself, since a softmax over nothing isn't a number.
        visible[:, np.arange(num_new), np.arange(-num_new, 0)] = True
        mask = torch.zeros(visible.shape, dtype=dtype, device=device)
        mask.masked_fill_(torch.from_numpy(~visible).to(device), torch.finfo(dtype).min)
        return self._family.decode(
            torch.from_numpy(input_ids).to(device),
            mask[:, None],
            torch.from_numpy(self._positions).to(device),
            self._states,
            self._mask,
            self._cache,
        )

    def log_probs(self, states: Tensor, rows: Ints, ids: Ints, *, renormalise: bool) -> NDArray[np.float64]:
        """Log-probabilities of `ids` after the states `rows`, which ascend and hold all their legal tokens.

        Args:
            states: what `extend` gave, [N, D].
            renormalise: among the given ids of each row, of which alone logits are computed then; else among all tokens.
        """
        if renormalise:
            return _among_legal(self._logits(states, rows, ids), rows, len(states))
        weight, bias = self._family.weight, self._family.bias
        is_cpu = states.device.type == "cpu"
        at_once = max((_CPU_NUMBERS if is_cpu else _NUMBERS) // len(states), _CPU_TOKENS)
        # Runs of ascending ids, which a stable sort merges.
        order = np.argsort(ids, kind="stable")
        cuts = np.searchsorted(ids[order], np.arange(0, len(weight) + at_once, at_once))
        found, sums = np.empty(len(ids), np.float64), list[Tensor]()
        for number, start in enumerate(range(0, len(weight), at_once)):
            part = slice(start, start + at_once)
            logits = torch.nn.functional.linear(states, weight[part], None if bias is None else bias[part]).float()
            sums.append(logits.logsumexp(-1))
            own = order[cuts[number] : cuts[number + 1]]
            at, of = (torch.from_numpy(which).to(logits.device) for which in (rows[own], ids[own] - start))
            found[own] = _numpy(logits[at, of])
        return found - _numpy(torch.stack(sums).logsumexp(0))[rows]

    def _logits(self, states: Tensor, rows: Ints, ids: Ints) -> NDArray[np.float64]:
        """Logits of these tokens alone."""
        weight, bias, device = self._family.weight, self._family.bias, states.device
        own, at_own = np.unique(rows, return_inverse=True)
        distinct, places = np.unique(ids, return_inverse=True)
        if len(own) * len(distinct) <= 2 * len(ids):
            # Nearly all states want nearly the same tokens, as before a title.
            of = torch.from_numpy(distinct).to(device)
            wide = torch.nn.functional.linear(
                states[torch.from_numpy(own).to(device)], weight[of], None if bias is None else bias[of]
            )
            return _numpy(wide)[at_own, places]
        is_wide = np.bincount(rows, minlength=len(states))[rows] > _MANY
        if is_wide.any() and not is_wide.all():
            # Some stand before a title, others don't.
            both = np.empty(len(rows), np.float64)
            for which in (is_wide, ~is_wide):
                both[which] = self._logits(states, rows[which], ids[which])
            return both
        logits = np.empty(len(rows), np.float64)
        at_once = max(_NUMBERS // weight.shape[1], 1)
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            at, of = (torch.from_numpy(which[part]).to(device) for which in (rows, ids))
            legal = (states[at] * weight[of]).sum(-1)
            logits[part] = _numpy(legal if bias is None else legal + bias[of])
        return logits


class PrefixTree:
    """Trees of any encoder-decoder, whose tokens are computed with all their ancestors anew: no cache, as slow as that."""

    def __init__(self, model: Any, states: Tensor, mask: Tensor) -> None:
        self._model, self._states, self._mask = model, states, mask
        self._paths = list[list[int]]()

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def device(self) -> torch.device:
        """Where it's computed."""
        return self._states.device

    def empty(self) -> PrefixTree:
        """Empty trees of the same texts."""
        return PrefixTree(self._model, self._states, self._mask)

    def extend(self, texts: Ints, parents: Ints, tokens: Ints) -> Tensor:
        """As `PackedTree.extend`, but for what states are: here logits [N, V]."""
        own = len(self)
        for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True):
            self._paths.append([*(self._paths[parent] if parent >= 0 else ()), token])
        parts = []
        for start in range(0, len(texts), _ROWS):
            paths = self._paths[own + start : own + start + _ROWS]
            at = torch.from_numpy(texts[start : start + _ROWS]).to(self._states.device)
            lengths = torch.tensor([len(path) for path in paths], device=at.device)
            # What stands behind a token doesn't change it, so any filler does.
            padded = [path + [0] * (int(lengths.max()) - len(path)) for path in paths]
            logits = self._model(
                encoder_outputs=BaseModelOutput(last_hidden_state=self._states[at]),
                attention_mask=self._mask[at],
                decoder_input_ids=torch.tensor(padded, device=at.device),
                use_cache=False,
            ).logits
            parts.append(logits[torch.arange(len(paths), device=at.device), lengths - 1])
        return torch.cat(parts)

    def log_probs(self, states: Tensor, rows: Ints, ids: Ints, *, renormalise: bool) -> NDArray[np.float64]:
        """As `PackedTree.log_probs`."""
        if renormalise:
            return _among_legal(_numpy(states[torch.from_numpy(rows), torch.from_numpy(ids)]), rows, len(states))
        logits = states.float()
        at, of = torch.from_numpy(rows).to(logits.device), torch.from_numpy(ids).to(logits.device)
        return _numpy(logits[at, of] - logits.logsumexp(-1)[at])


def _numpy(values: Tensor) -> NDArray[np.float64]:
    # Not every device has float64.
    return values.float().cpu().double().numpy()


def _among_legal(logits: NDArray[np.float64], rows: Ints, num_rows: int) -> NDArray[np.float64]:
    """Logits of ascending rows, less the log of the sum of their exponentials."""
    best = np.full(num_rows, -np.inf)
    np.maximum.at(best, rows, logits)
    # A row of minus infinities stays one.
    logits = logits - np.where(np.isfinite(best), best, 0)[rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        sums = np.log(np.bincount(rows, np.exp(logits), num_rows))
        return np.where(np.isneginf(logits), logits, logits - sums[rows])
