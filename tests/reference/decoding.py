"""Tiny random models of each family, and what a decoder held to titles must say, by scoring every title alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rankdistill.generation.trie import TokenTrie

V, EOS, PAD, BOS = 40, 2, 1, 0
FAMILIES = ("bart", "t5", "bert")


@functools.cache
def tiny_model(family: str, seed: int = 0, vocab_size: int = V) -> Any:
    """A random model whose distributions are far from flat; `gpt2` and `llama` are decoders only."""
    import transformers as hf

    ids = {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": BOS}
    bert = {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "initializer_range": 0.6,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any
        if family in ("bart", "mbart"):
            layers = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
            widths = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
            kind = "Bart" if family == "bart" else "MBart"
            config = getattr(hf, f"{kind}Config")(
                vocab_size=vocab_size, max_position_embeddings=64, init_std=0.6, **layers, **widths, **ids
            )
            config.forced_bos_token_id = config.forced_eos_token_id = None
            config.decoder_start_token_id = EOS
            model = getattr(hf, f"{kind}ForConditionalGeneration")(config)
            model.final_logits_bias.normal_(0, 0.5)
        elif family in ("t5", "mt5"):
            kind = "T5" if family == "t5" else "MT5"
            config = getattr(hf, f"{kind}Config")(
                vocab_size=vocab_size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, initializer_factor=0.7,
                relative_attention_num_buckets=8, relative_attention_max_distance=6, decoder_start_token_id=PAD, **ids,
            )  # fmt: skip
            model = getattr(hf, f"{kind}ForConditionalGeneration")(config)
        elif family == "bert":
            decoder = hf.BertConfig(**bert, is_decoder=True, add_cross_attention=True)
            model = hf.EncoderDecoderModel(
                encoder=hf.BertModel(hf.BertConfig(**bert), add_pooling_layer=False),
                decoder=hf.BertLMHeadModel(decoder),
            )
            model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = BOS
            model.generation_config.update(**ids)
            model.config.pad_token_id = PAD
        elif family == "gpt2":
            model = hf.GPT2LMHeadModel(
                hf.GPT2Config(
                    vocab_size=vocab_size, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.6, **ids
                )
            )
        else:
            model = hf.LlamaForCausalLM(
                hf.LlamaConfig(
                    vocab_size=vocab_size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                    num_key_value_heads=1, initializer_range=0.6, **ids,
                )
            )  # fmt: skip
    return model.eval()


def start_token(model: Any) -> int:
    """What the tiny encoder-decoders begin with."""
    return int(model.generation_config.decoder_start_token_id or model.config.decoder_start_token_id)


def inputs(seed: int, num_texts: int, length: int = 6) -> dict[str, Tensor]:
    """Random texts, padded on the right to different lengths."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, V, (num_texts, length), generator=generator)
    mask = (torch.arange(length) < torch.randint(2, length + 1, (num_texts, 1), generator=generator)).long()
    return {"input_ids": torch.where(mask.bool(), input_ids, PAD), "attention_mask": mask}


@torch.no_grad()
def log_probs_alone(
    model: Any, text: dict[str, Tensor], prefix: Sequence[int], sequence: Sequence[int], trie: TokenTrie | None = None
) -> list[float]:
    """Log-probability of each token of one title of one text [1, L], without a cache; among legal tokens, if a trie is given."""
    decoder_input_ids = torch.tensor([[*prefix, *sequence[:-1]]])
    logits = model(**text, decoder_input_ids=decoder_input_ids, use_cache=False).logits[0, len(prefix) - 1 :].double()
    if trie is not None:
        for at in range(len(sequence)):
            legal = trie.allow([list(sequence[:at])] if at else [[PAD]], start=0 if at else 1).ids
            held = torch.full_like(logits[at], -torch.inf)
            held[legal] = logits[at, legal]
            logits[at] = held
    return [float(row[token]) for row, token in zip(logits.log_softmax(-1), sequence, strict=True)]


def exhaustive(
    model: Any,
    trie: TokenTrie,
    text: dict[str, Tensor],
    prefix: Sequence[int],
    length_penalty: float,
    renormalise: bool,
) -> dict[tuple[int, ...], float]:
    """The score of every title of the trie."""
    return {
        tuple(sequence): sum(log_probs_alone(model, text, prefix, sequence, trie if renormalise else None))
        / len(sequence) ** length_penalty
        for sequence, _ in trie.sequences()
    }


def marginal(scores: dict[tuple[int, ...], float], trie: TokenTrie, how: str) -> dict[int, float]:
    """Scores of entities from those of their names: the best one, or the log of the sum."""
    names: dict[int, list[float]] = {}
    for sequence, ids in trie.sequences():
        for id_ in ids:
            if tuple(sequence) in scores:
                names.setdefault(id_, []).append(scores[tuple(sequence)])
    return {
        id_: max(own) if how == "best" else max(own) + math.log(sum(math.exp(score - max(own)) for score in own))
        for id_, own in names.items()
    }


class NextTokens:
    """Log-probabilities of the next token after any beginning, one text, each computed alone and kept."""

    def __init__(self, model: Any, text: dict[str, Tensor], prefix: Sequence[int]) -> None:
        self.model, self.text, self.prefix = model, text, list(prefix)
        self.kept: dict[tuple[int, ...], list[float]] = {}

    @torch.no_grad()
    def __call__(self, path: tuple[int, ...]) -> list[float]:
        if path not in self.kept:
            decoder_input_ids = torch.tensor([[*self.prefix, *path]])
            logits = self.model(**self.text, decoder_input_ids=decoder_input_ids, use_cache=False).logits[0, -1]
            self.kept[path] = logits.double().log_softmax(-1).tolist()
        return self.kept[path]


def plain_beam_search(
    next_tokens: NextTokens, sequences: set[tuple[int, ...]], num_beams: int
) -> dict[tuple[int, ...], float]:
    """All titles that beams run to the very end come across, with the sums of their log-probabilities."""
    live, found = {(): 0.0}, dict[tuple[int, ...], float]()
    while live:
        after = {
            (*path, sequence[len(path)]): total + next_tokens(path)[sequence[len(path)]]
            for path, total in live.items()
            for sequence in sequences
            if sequence[: len(path)] == path
        }
        ranked = sorted(after, key=lambda path: -after[path])
        found |= {path: after[path] for path in ranked[:num_beams] if path[-1] == EOS}
        live = {path: after[path] for path in [path for path in ranked if path[-1] != EOS][:num_beams]}
    return found
