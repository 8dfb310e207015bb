"""PreTT as one pass of the whole encoder over [query | document], whose lower layers are kept from looking across."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rankdistill.models.prett import PrettBody


def prett_score(body: PrettBody, query_ids: Sequence[int], doc_ids: Sequence[int]) -> float:
    """The score of one pair, by itself; the ids are those of the tokenizer, specials included."""
    encoder, join_layer = body.encoder, body.config.join_layer
    ids = [*query_ids, *doc_ids[1:]]
    is_doc = [0] * len(query_ids) + [1] * (len(doc_ids) - 1)
    first = encoder.config.pad_token_id + 1 if encoder.config.model_type == "roberta" else 0
    positions = [*range(len(query_ids)), *range(body.config.doc_offset, body.config.doc_offset + len(doc_ids) - 1)]
    across = torch.zeros(1, 1, len(ids), len(ids))
    for i, left in enumerate(is_doc):
        for j, right in enumerate(is_doc):
            if left != right:
                across[0, 0, i, j] = -1e9
    layers = getattr(encoder, "transformer", None) or encoder.encoder

    def keep_apart(module, args):
        return (args[0], across, *args[2:])

    def squeeze(module, args):
        return (body.expand(body.compress(args[0])), *args[1:])

    hooks = [layer.register_forward_pre_hook(keep_apart) for layer in layers.layer[:join_layer]]
    hooks.append(layers.layer[join_layer].register_forward_pre_hook(squeeze))
    types = {} if encoder.config.model_type == "distilbert" else {"token_type_ids": torch.tensor([is_doc])}
    if getattr(encoder.config, "type_vocab_size", 2) == 1:
        types = {"token_type_ids": torch.zeros(1, len(ids), dtype=torch.long)}
    try:
        with torch.inference_mode():
            states = encoder(
                input_ids=torch.tensor([ids]),
                attention_mask=torch.zeros(1, 1, len(ids), len(ids)),
                position_ids=torch.tensor([[first + position for position in positions]]),
                **types,
            )[0]
            return float(states[0, 0] @ body.score.weight[0])
    finally:
        for hook in hooks:
            hook.remove()
