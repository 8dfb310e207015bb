"""The cross-encoder: query and document in one input, one score out. The usual teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rankdistill.errors import WrongModelError
from rankdistill.formats.tokenizers import encode_pairs
from rankdistill.formats.writing import whole
from rankdistill.models.backbone import (
    NO_LIMIT,
    config_with_layers,
    load_tokenizer,
    load_weights,
    max_positions,
    resolve,
    weights_fingerprint,
)
from rankdistill.models.chain import check_body, foreign_setting, foreign_type
from rankdistill.models.heads import GivenStates, head_of, with_body
from rankdistill.models.layout import model_type, read_modules, read_transformer
from rankdistill.models.packed import can_pack, given_to_body, run_packed
from rankdistill.models.precision import choose_device
from rankdistill.models.towers import OWN_CONFIG, BatchScores, Card, forgetting, read_json, write_json

__all__ = ["CrossEncoderModel"]

# Settings of a CrossEncoder's Transformer module that only run the classifier.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("sequence-classification",),
    "module_output_name": ("scores",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "logits"}},),
}
# Functions of torch whose values are in the order of the logits.
_RISING = ("Identity", "LogSigmoid", "Sigmoid", "Softplus", "Softsign", "Tanh")


class CrossEncoderModel(nn.Module):
    """A sequence classifier with one output; scores are its raw logits, never squeezed through a sigmoid.

    `CrossEncoder.predict` of sentence-transformers gives the same logits after the folder's activation function, which is a
    sigmoid unless the folder names another.

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
        return encode_pairs(self.tokenizer, queries, docs, self.max_length)

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
            max_length: None keeps the checkpoint's, or reads as much as `CrossEncoder` does; never more than the model has
                positions for.
            new_head: allow a plain encoder body: its scoring head starts random and must be trained.

        Raises:
            WrongModelError: if the checkpoint has no scoring head (and `new_head` isn't given), more than one output, or
                does more than that; names what.
        """
        path = Path(resolve(str(name_or_path)))
        body = _body_of(path)
        config = config_with_layers(str(body), num_layers, dropout)
        classifies = any(str(name).endswith("ForSequenceClassification") for name in config.architectures or [])
        if not classifies and not new_head:
            found = ", ".join(config.architectures or ["no architecture"])
            raise WrongModelError(
                "a cross-encoder (…ForSequenceClassification)",
                found,
                "train one with `rankdistill train teacher`",
                str(path),
            )
        if classifies and config.num_labels != 1:
            raise WrongModelError("a model with one output", f"{config.num_labels} outputs", "pick a ranker", str(path))
        if classifies:
            _check_activation(path, config)
        config.num_labels = 1
        head = ("classifier", "pre_classifier", "pooler", "head", "score") if new_head else ()
        classifier = load_weights(AutoModelForSequenceClassification, str(body), config, may_be_new=head)
        tokenizer = load_tokenizer(body, classifier, slow=True, with_types=True)
        _set_padding(classifier, tokenizer, body)
        stated = read_json(path / OWN_CONFIG).get("max_length") or read_transformer(body).get("max_seq_length")
        length = int(max_length or stated or min(tokenizer.model_max_length, NO_LIMIT))
        model = cls(classifier, tokenizer, max_length=min(length, max_positions(config)))
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


def _body_of(path: Path) -> Path:
    """Where the classifier, or what is to become one, is in a folder.

    Raises:
        WrongModelError: if sentence-transformers does more with it than to run it; names what.
    """
    kind, modules = model_type(path), read_modules(path)
    if kind is None:
        return path
    if kind != "CrossEncoder":
        check_body(path)
        return path / dict(modules).get("Transformer", "")
    config = read_json(path / "config_sentence_transformers.json")
    prompt = (config.get("prompts") or {}).get(config.get("default_prompt_name"))
    names = [name for name, _ in modules]
    part = foreign_type(path)
    part = part or (f"the modules {', '.join(names)}" if names != ["Transformer"] else None)
    part = part or foreign_setting(read_transformer(path / modules[0][1]), _PLAIN)
    part = part or (f"a prompt before each query ({prompt!r})" if prompt else None)
    if part is not None:
        remedy = "such a cross-encoder can't be run here; let sentence-transformers score with it"
        raise WrongModelError("a cross-encoder of one sequence classifier", part, remedy, str(path))
    return path / modules[0][1]


def _check_activation(path: Path, config: Any) -> None:
    """Checks that what sentence-transformers makes of a model's logits keeps their order.

    Raises:
        WrongModelError: if it doesn't.
    """
    names = (
        read_json(path / "config_sentence_transformers.json").get("activation_fn"),
        (getattr(config, "sentence_transformers", None) or {}).get("activation_fn"),
        getattr(config, "sbert_ce_default_activation_function", None),
    )
    name = next((str(name) for name in names if name), "")
    # It takes no function that isn't torch's.
    if name.startswith("torch.") and name.rsplit(".", 1)[-1] not in _RISING:
        found = f"the activation function {name}"
        raise WrongModelError(
            f"an activation function that rises everywhere ({', '.join(_RISING)})",
            found,
            "scores are raw logits here, which it would order otherwise",
            str(path),
        )


def _set_padding(classifier: PreTrainedModel, tokenizer: Any, path: Path) -> None:
    """Tells a classifier that reads the last token (GPT-2, LLaMA and their kin) what padding is.

    Raises:
        WrongModelError: if the tokenizer has no token for it.
    """
    if not hasattr(classifier, "score"):
        return
    if tokenizer.pad_token_id is None:
        remedy = "set tokenizer.pad_token in transformers and save the model again"
        raise WrongModelError("a padding token, since the last token before it is scored", "none", remedy, str(path))
    classifier.config.pad_token_id = tokenizer.pad_token_id
