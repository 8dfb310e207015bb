"""What an encoder-decoder writes when nothing holds it: to see how often that is no title at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rankdistill.generation.decoding import decoder_prefix, in_batches

__all__ = ["generate_freely"]

# What the model's own generation settings may add to its probabilities.
_UNTOUCHED: dict[str, Any] = {
    "forced_eos_token_id": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "repetition_penalty": 1.0,
    "do_sample": False,
}


def generate_freely(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    eos: int,
    max_length: int,
    num_beams: int = 10,
    num_results: int = 1,
    length_penalty: float = 1.0,
    max_input_length: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> list[list[tuple[tuple[int, ...], float]]]:
    """What `generate()` of transformers writes of each text, the best first, with scores as `generate_entities` has them.

    The model's own generation settings that force, forbid or draw tokens are left out.

    Args:
        eos: the token that ends a title, and each result that is whole.
        max_length: tokens that are written at most, the end token included.
        num_beams: as for `generate_entities`; so for the rest.
        num_results: of each text, `num_beams` at most.

    Returns:
        Token sequences with scores: the sum of log-probabilities / (number of tokens)^length_penalty, in which transformers counts
        a forced first token.
    """
    prefix, count = decoder_prefix(model), min(num_results, num_beams)
    results: list[list[tuple[tuple[int, ...], float]]] = [[] for _ in texts]

    def write(rows: Sequence[int], input_ids: Tensor, mask: Tensor) -> None:
        out = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            num_beams=num_beams,
            num_return_sequences=count,
            length_penalty=length_penalty,
            max_new_tokens=max_length + len(prefix) - 1,
            eos_token_id=eos,
            pad_token_id=tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_scores=True,
            **_UNTOUCHED,
        )
        sequences = [_until_end(row[len(prefix) :], eos) for row in out.sequences.tolist()]
        scores = _greedy_scores(out, sequences, length_penalty) if num_beams == 1 else out.sequences_scores.tolist()
        found = list(zip(sequences, scores, strict=True))
        for place, row in enumerate(rows):
            results[row] = found[place * count : (place + 1) * count]

    in_batches(model, tokenizer, texts, write, max_input_length, batch_size, progress, "write")
    return results


def _until_end(tokens: Sequence[int], eos: int) -> tuple[int, ...]:
    return tuple(tokens[: tokens.index(eos) + 1] if eos in tokens else tokens)


def _greedy_scores(out: Any, sequences: Sequence[Sequence[int]], length_penalty: float) -> list[float]:
    log_probs = torch.stack(out.scores, 1).float().log_softmax(-1)
    tokens = out.sequences[:, -log_probs.shape[1] :]
    own = log_probs.gather(2, tokens[:, :, None])[:, :, 0].tolist()
    return [sum(row[: len(found)]) / len(found) ** length_penalty for row, found in zip(own, sequences, strict=True)]
