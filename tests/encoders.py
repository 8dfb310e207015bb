"""Tiny random encoders of every family that may have exits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

DEPTH = 4
_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "max_position_embeddings": 66,
    "initializer_range": 0.5,
}
# Every third layer of ModernBERT sees all tokens, the others a window of 4, so that a layer's place matters.
_MODERN = {
    "local_attention": 4,
    "global_attn_every_n_layers": 3,
    "initializer_range": 0.5,
    "initializer_cutoff_factor": 3.0,
}
_CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (BertConfig, {}),
    "camembert": (CamembertConfig, {}),
    "distilbert": (DistilBertConfig, {"dim": 32, "hidden_dim": 64, "n_layers": DEPTH, "n_heads": 2}),
    "electra": (ElectraConfig, {"embedding_size": 16}),
    "modernbert": (ModernBertConfig, _MODERN),
    "mpnet": (MPNetConfig, {}),
    "roberta": (RobertaConfig, {}),
    "xlm-roberta": (XLMRobertaConfig, {}),
}


def save_encoder(family: str, folder: Path, tokenizer_dir: Path, auto_class: Any = AutoModel, **more: Any) -> Path:
    """A random encoder of `DEPTH` layers and width 32 in the plain Hugging Face layout, with its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    kind, own = _CONFIGS[family]
    shape = {"max_position_embeddings": 66, "initializer_range": 0.5} if family == "distilbert" else _SHAPE
    specials = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
    config: PretrainedConfig = kind(vocab_size=len(tokenizer), **(specials | shape | own | more))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = auto_class.from_config(config)
        for name, weights in model.named_parameters():
            if "norm" in name.lower():  # norms that do nothing would hide one that is left out
                torch.nn.init.uniform_(weights, 0.5, 1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
