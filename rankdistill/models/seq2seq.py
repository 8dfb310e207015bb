"""Encoder-decoders that write entities' names: any of transformers, or one made of an encoder's body on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel as AutoEncoder
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, EncoderDecoderModel, PreTrainedModel

from rankdistill.errors import WrongModelError
from rankdistill.formats.guarded import check_json, reading
from rankdistill.formats.writing import whole
from rankdistill.models.backbone import (
    check_tokens,
    config_with_layers,
    load_config,
    load_tokenizer,
    load_weights,
    max_positions,
    resolve,
    set_dropout,
)
from rankdistill.models.precision import DTypeName, choose_device, dtype_named
from rankdistill.models.towers import Card

__all__ = ["Seq2SeqModel", "load_writer"]

# What a body that becomes a decoder hasn't learnt: to look at the text, and to write.
_NEW = ("crossattention", "cross_attn", "cls.", "lm_head", "generator_")


class Seq2SeqModel(nn.Module):
    """An encoder-decoder with its tokenizer, as `transformers` loads both.

    Attributes:
        model: what is trained.
        source_max_length: tokens of a text that are read, specials included.

    Source:
        GENRE, De Cao et al. 2021, arXiv:2010.00904 (BART); for two bodies, Rothe et al. 2020, arXiv:1907.12461.
    """

    architecture = "seq2seq"
    card = Card(
        scores="It writes names of entities, under the constraint of a trie.",
        library="transformers",
        task="text2text-generation",
        load="from transformers import AutoModelForSeq2SeqLM\n\nmodel = AutoModelForSeq2SeqLM.from_pretrained(PATH)",
    )

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, source_max_length: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.source_max_length = model, tokenizer, source_max_length
        self.config: Any = model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, T, V] of what follows each token of the targets.

        Args:
            batch: source_ids/source_mask [B, S], target_ids/target_mask [B, T]: what the decoder is given.
        """
        logits: Tensor = self.model(
            input_ids=batch["source_ids"],
            attention_mask=batch["source_mask"],
            decoder_input_ids=batch["target_ids"],
            decoder_attention_mask=batch["target_mask"],
            use_cache=False,
        ).logits
        return logits

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        encoder_layers: int | None = None,
        decoder_layers: int | None = None,
        dropout: float | None = None,
        special_tokens: Sequence[str] = (),
        source_max_length: int | None = None,
    ) -> Seq2SeqModel:
        """Loads an encoder-decoder of transformers, or makes one of an encoder (BERT and its like) on both sides.

        A decoder made of an encoder has its layers and embeddings; how it looks at the text, and its output layer, start random.

        Args:
            encoder_layers: of an encoder that is to be both sides, keep the first layers on this side; so for `decoder_layers`.
            dropout: in place of the checkpoint's.
            special_tokens: tokens that the vocabulary is to have; new ones start as the mean of the others.
            source_max_length: tokens of a text that are read; the tokenizer's without it.

        Raises:
            ValueError: for layers of a model that has both sides already, or that the encoder hasn't.
        """
        path = resolve(str(name_or_path))
        config = load_config(path)
        tokenizer = load_tokenizer(path)
        if config.is_encoder_decoder:
            if encoder_layers is not None or decoder_layers is not None:
                raise ValueError(f"{path} is an encoder-decoder already: leave out the numbers of layers")
            set_dropout(config, dropout)
            # A pooler, which nothing here reads, may be missing.
            model = load_weights(AutoModelForSeq2SeqLM, path, config, may_be_new=("pooler",))
        else:
            model = _of_encoder(path, tokenizer, encoder_layers, decoder_layers, dropout)
        check_tokens(tokenizer, model, path)
        if special_tokens:
            _add_tokens(model, tokenizer, special_tokens)
        encoder_config = getattr(model.config, "encoder", model.config)
        longest = max_positions(encoder_config)
        asked = source_max_length or min(int(tokenizer.model_max_length), 512)
        found = cls(model, tokenizer, source_max_length=min(asked, longest))
        found.eval()
        return found.to(choose_device(device))

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `AutoModelForSeq2SeqLM` (or `EncoderDecoderModel`) and `AutoTokenizer` load."""
        self.model.save_pretrained(path)
        self.tokenizer.model_max_length = self.source_max_length
        self.tokenizer.save_pretrained(path)


def load_writer(name_or_path: str | Path, device: str = "auto", dtype: DTypeName = "auto") -> Seq2SeqModel:
    """An encoder-decoder that is one already, to write with.

    Args:
        dtype: of its weights. A text at a time takes as long as they take to be read, so half as many bytes are half the time.

    Raises:
        WrongModelError: for an encoder, whose decoder would be random.
        BadDataError: for a broken folder.
    """
    path = Path(resolve(str(name_or_path)))
    with reading(path, "the folder of a model", passing=(OSError,)):
        check_json(path)
        if not load_config(path).is_encoder_decoder:
            remedy = "make one with `rankdistill train genre`"
            raise WrongModelError("an encoder-decoder", "another model", remedy, str(path))
        writer = Seq2SeqModel.from_pretrained(path, device=str(choose_device(device)))
    return writer.to(dtype_named(dtype, writer.device))


def _of_encoder(
    path: str, tokenizer: Any, encoder_layers: int | None, decoder_layers: int | None, dropout: float | None
) -> PreTrainedModel:
    encoder = load_weights(AutoEncoder, path, config_with_layers(path, encoder_layers, dropout), may_be_new=("pooler",))
    config = config_with_layers(path, decoder_layers, dropout)
    config.is_decoder = config.add_cross_attention = config.tie_word_embeddings = True
    decoder = load_weights(AutoModelForCausalLM, path, config, may_be_new=_NEW)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    for name, token in (
        ("decoder_start_token_id", start),
        ("eos_token_id", end),
        ("pad_token_id", tokenizer.pad_token_id),
    ):
        setattr(model.config, name, token)
        setattr(model.generation_config, name, token)
    return model


def _add_tokens(model: Any, tokenizer: Any, tokens: Sequence[str]) -> None:
    # A model that is trained on has some of them, and has learnt them.
    tokens = [token for token in tokens if tokenizer.backend_tokenizer.token_to_id(token) is None]
    if not tokens:
        return
    tokenizer.add_special_tokens({"additional_special_tokens": tokens}, replace_extra_special_tokens=False)
    two = isinstance(model, EncoderDecoderModel)
    sides: list[Any] = [model.encoder, model.decoder] if two else [model]
    for side in sides:
        if len(tokenizer) > side.get_input_embeddings().weight.shape[0]:
            side.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            own = side.get_input_embeddings().weight
            with torch.no_grad():
                own[-len(tokens) :] = own[: -len(tokens)].mean(0)
    if two:
        config: Any = model.config
        config.encoder.vocab_size = config.decoder.vocab_size = len(tokenizer)
