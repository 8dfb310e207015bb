"""Pre-training, slow and plain: what `data/masking.py`, `data/packing.py` and the losses over exits have to give."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rankdistill.models.exits import cut
from rankdistill.models.pretraining import PretrainModel


def snippets(text: str) -> list[str]:
    """Cut at blank lines before a line that isn't indented; for files whose blocks are short."""
    parts = re.split(r"\n(?:[ \t]*\n)+(?=\S)", text)
    stripped = (re.sub(r"\A(?:[ \t]*\n)+", "", re.sub(r"(?:\n[ \t]*)+\Z", "", part)) for part in parts)
    return [part for part in stripped if part.strip()]


def runs(lengths: Mapping[int, int], room: int) -> list[list[int]]:
    """Rows of one repository's snippets, as many together as have room with a separator between two; at least one."""
    found: list[list[int]] = []
    for row, length in lengths.items():
        if found and sum(lengths[other] + 1 for other in found[-1]) + length <= room:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def frequent_words(ids: Sequence[int], words: Sequence[bool], start: int) -> set[int]:
    """The words of one text that it has twice or more, from position `start` on."""
    counts = Counter(id_ for id_ in ids[start:] if words[id_])
    return {id_ for id_, count in counts.items() if count > 1}


def loss_of_exits(model: PretrainModel, batch: Mapping[str, Tensor], weights: Mapping[int, float]) -> Tensor:
    """Σ α_i (MLM + ICC)_i, each exit by a body of its own that runs its layers only, each token and item by itself."""
    heads: Any = model.heads
    table = model.encoder.get_input_embeddings().weight
    total = torch.zeros(())
    for i, (exit, weight) in enumerate(weights.items()):
        states_BLH = cut(model.encoder, exit)(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        told = heads.condition.weight[i]
        mlm, icc = list[Tensor](), list[Tensor]()
        for states_LH, targets, mask, same in zip(
            states_BLH, batch["targets"], batch["attention_mask"], batch["same_repository"], strict=True
        ):
            for state, target in zip(states_LH, targets.tolist(), strict=True):
                if target >= 0:
                    state = heads.norm(functional.gelu(heads.transform(torch.cat([state, told]))))
                    mlm.append(-torch.log_softmax(table @ state + heads.bias, 0)[target])
            pooled = torch.stack([state for state, real in zip(states_LH, mask.tolist(), strict=True) if real]).mean(0)
            logits = heads.same(torch.cat([torch.tanh(heads.pooler(pooled)), told]))
            icc.append(-torch.log_softmax(logits, 0)[int(same)])
        total = total + weight * (torch.stack(mlm).mean() + torch.stack(icc).mean())
    return total
