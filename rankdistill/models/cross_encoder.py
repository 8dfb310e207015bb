"""The cross-encoder: query and document in one input, one score out. The usual teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rankdistill.errors import BadDataError
from rankdistill.formats.writing import whole
from rankdistill.models.backbone import (
    config_with_layers,
    load_tokenizer,
    load_weights,
    max_positions,
    resolve,
    weights_fingerprint,
)
from rankdistill.models.heads import GivenStates, head_of, with_body
from rankdistill.models.packed import can_pack, given_to_body, run_packed
from rankdistill.models.precision import choose_device
from rankdistill.models.towers import OWN_CONFIG, BatchScores, Card, forgetting, write_json

__all__ = ["CrossEncoderModel"]


class CrossEncoderModel(nn.Module):
    """A sequence classifier with one output; scores are its raw logits, never squeezed through a sigmoid.

    Attributes:
        max_length: tokens of a pair that are read, specials included; the longer text loses tokens first.

    Source:
        BERT_CAT of Hofstätter et al. 2020, arXiv:2010.02666.
    """

    architecture = "cross-encoder"
    card = Card(
        scores="Scores are raw logits.",
        library="sentence-transformers",
        load="from sentence_transformers import CrossEncoder\n\nmodel = CrossEncoder(PATH)",
    )
    scores_in_batch = False

    def __init__(self, classifier: PreTrainedModel, tokenizer: Any, *, max_length: int = 256) -> None:
        super().__init__()
        self.classifier, self.tokenizer, self.max_length = classifier, tokenizer, max_length
        self.config: Any = classifier.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def backbone(self) -> PreTrainedModel | None:
        """As in `Tower.backbone`."""
        body: Any = self.classifier.base_model
        return body  # type: ignore[no-any-return]

    def forward(self, batch: Mapping[str, Tensor], mini_batch_size: int | None = None) -> BatchScores:
        """Scores [B, N] of a training batch of B rows of N docs.

        Args:
            batch: input_ids/attention_mask[/token_type_ids] [B*N, L] and teacher_scores [B, N], whose shape counts.
            mini_batch_size: pairs that go through the model at once; as in `Tower.forward`.
        """
        inputs = [batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch]
        scores = torch.cat(forgetting(self.scores, inputs, mini_batch_size))
        return BatchScores(scores.float().view(batch["teacher_scores"].shape), in_batch=False)

    def scores(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Scores [P] of tokenised pairs [P, L]."""
        given = given_to_body(input_ids, attention_mask, token_type_ids)
        if not self.packs():
            logits_P1: Tensor = self.classifier(**given).logits
            return logits_P1.squeeze(-1)
        body: Any = self.classifier.base_model
        return self._scores_of(run_packed(body, given)[0], attention_mask, head_of(self.classifier))

    def packs(self) -> bool:
        """Whether pairs go through the body without padding, as things are now."""
        return can_pack(self.classifier, self.device)

    def _scores_of(self, states_PLH: Tensor, attention_mask: Tensor, head: Mapping[str, nn.Module]) -> Tensor:
        """Scores [P] by one head from pairs' states, by the classifier's own code."""
        shell: Any = with_body(self.classifier, GivenStates(self.config), head)
        scores: Tensor = shell(inputs_embeds=states_PLH, attention_mask=attention_mask).logits.squeeze(-1)
        return scores

    def tokenize_pairs(self, queries: Sequence[str], docs: Sequence[str]) -> dict[str, list[list[int]]]:
        """Token ids and, where the model has them, token types of (query, doc) pairs, cut to `max_length`."""
        encoded = self.tokenizer(list(queries), list(docs), truncation="longest_first", max_length=self.max_length)
        return {key: encoded[key] for key in ("input_ids", "token_type_ids") if key in encoded}

    def fingerprint(self) -> str:
        """Equal when two models give the same scores for the same pairs."""
        return weights_fingerprint(self, str(self.max_length))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        num_layers: int | None = None,
        dropout: float | None = None,
        max_length: int | None = None,
        new_head: bool = False,
    ) -> CrossEncoderModel:
        """Loads a checkpoint of ours, a sentence-transformers CrossEncoder, or any sequence classifier with one output.

        Args:
            num_layers: keep the first layers only.
            dropout: of the body, in place of the checkpoint's.
            max_length: None keeps the checkpoint's; never more than the model has positions for.
            new_head: allow a plain encoder body: its scoring head starts random and must be trained.

        Raises:
            BadDataError: if the checkpoint has no scoring head (and `new_head` isn't given), or more than one output.
        """
        path = Path(resolve(str(name_or_path)))
        config = config_with_layers(str(path), num_layers, dropout)
        classifies = any(str(name).endswith("ForSequenceClassification") for name in config.architectures or [])
        if not classifies and not new_head:
            found = ", ".join(config.architectures or ["no architecture"])
            raise BadDataError(
                "a cross-encoder (…ForSequenceClassification)",
                found,
                "train one with `rankdistill train teacher`",
                str(path),
            )
        if classifies and config.num_labels != 1:
            raise BadDataError("a model with one output", f"{config.num_labels} outputs", "pick a ranker", str(path))
        config.num_labels = 1
        head = ("classifier", "pre_classifier", "pooler", "head", "score") if new_head else ()
        classifier = load_weights(AutoModelForSequenceClassification, str(path), config, may_be_new=head)
        tokenizer = load_tokenizer(str(path))
        longest = max_positions(config)
        stated = min(int(tokenizer.model_max_length), longest, 512)
        model = cls(classifier, tokenizer, max_length=min(max_length or stated, longest))
        model.eval()
        return model.to(choose_device(device))

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `sentence_transformers.CrossEncoder(path)` and `AutoModelForSequenceClassification` load."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        # CrossEncoder applies a sigmoid to single outputs unless told otherwise, and Margin-MSE needs the raw scores.
        self.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
        self.classifier.save_pretrained(folder)
        self.tokenizer.model_max_length = self.max_length
        self.tokenizer.save_pretrained(folder)
        write_json(folder / OWN_CONFIG, {"architecture": self.architecture, "max_length": self.max_length})
