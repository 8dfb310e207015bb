"""The SPLADE student: a text becomes weights of the vocabulary's terms, most of them 0; the score of a pair is their dot product.

Checkpoints are sentence-transformers' sparse encoders: Transformer (with its masked-language-model head) + SpladePooling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel

from rankdistill.errors import WrongModelError
from rankdistill.formats.writing import whole
from rankdistill.models.backbone import config_with_layers, load_tokenizer, load_weights, max_positions, resolve
from rankdistill.models.chain import check_body, foreign_setting, foreign_type
from rankdistill.models.heads import GivenStates, with_body
from rankdistill.models.layout import (
    lengths_within,
    model_type,
    read_lengths,
    read_modules,
    read_prompts,
    read_transformer,
    write_layout,
)
from rankdistill.models.packed import can_pack, given_to_body, run_packed
from rankdistill.models.precision import choose_device
from rankdistill.models.towers import OWN_CONFIG, BatchScores, Card, Kind, Part, Tower, read_json

__all__ = ["SpladeModel", "flops"]

# Logits that exist at once in a forward pass: 2^26 are 256 MB in fp32, 11 texts of 200 tokens and 30,000 terms.
_MAX_LOGITS = 1 << 26
# Settings of a sparse encoder's Transformer module that only run the masked language model.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("fill-mask",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "logits"}},),
}
# Where in a model's names the parts of an MLM head are.
_HEADS = ("cls.", "lm_head", "vocab_", "head.", "decoder", "predictions", "generator_")


class SpladeModel(Tower):
    """A masked language model whose logits, at their largest over a text's tokens, weigh terms: log(1 + relu(logit)).

    `compare` gives the penalties "flops-docs", "flops-queries" and "l1-queries", which make the weights sparse.

    Attributes:
        dim: number of terms V.

    Source:
        Formal et al. 2021, arXiv:2109.10086 (SPLADE-max).
    """

    architecture = "splade"
    card = Card(
        scores="Pairs are scored by the dot product of their terms' weights.",
        library="sentence-transformers",
        task="feature-extraction",
        load="from sentence_transformers import SparseEncoder\n\nmodel = SparseEncoder(PATH)",
    )

    def __init__(self, mlm: PreTrainedModel, tokenizer: Any, **lengths_and_prompts: Any) -> None:
        super().__init__(tokenizer, **lengths_and_prompts)
        self.mlm = mlm
        self.config: Any = mlm.config
        self.dim = int(mlm.config.vocab_size)

    @property
    def backbone(self) -> PreTrainedModel | None:
        """As in `Tower.backbone`."""
        body: Any = self.mlm.base_model
        return body  # type: ignore[no-any-return]

    def embed(self, input_ids: Tensor) -> Tensor:
        """As in `Tower.embed`."""
        embedded: Tensor = self.mlm.get_input_embeddings()(input_ids)
        return embedded

    def vectors(self, input_ids: Tensor | None, attention_mask: Tensor, inputs_embeds: Tensor | None = None) -> Tensor:
        """Weights [B, V] in fp32, of token ids [B, L] or of their embeddings; positions masked by 0 have no influence."""
        given = given_to_body(input_ids, attention_mask, None, inputs_embeds)
        if self.packs():
            body: Any = self.mlm.base_model
            best = self._best_of_tokens(
                run_packed(body, given)[0][attention_mask.bool()], attention_mask.sum(1).tolist()
            )
        else:
            best = self._best_of_rectangles(given)
        # log and relu rise, so they may come after the maximum; for its gradient `max` keeps places, not the logits.
        return torch.cat([torch.log1p(torch.relu(best_BV.float())) for best_BV in best])

    def _best_of_rectangles(self, given: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """Largest logits [., V] of some texts after the other."""
        step = max(1, _MAX_LOGITS // (given["attention_mask"].shape[1] * self.dim))
        for start in range(0, len(given["attention_mask"]), step):
            part = {name: tensor[start : start + step] for name, tensor in given.items()}
            logits_BLV: Tensor = self.mlm(**part).logits
            yield logits_BLV.masked_fill(~part["attention_mask"].bool()[:, :, None], -torch.inf).max(1).values

    def _best_of_tokens(self, states_TH: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
        """The same of texts' states, all texts' tokens in one row: the head has no padding to read."""
        head: Any = with_body(self.mlm, GivenStates(self.config), {})
        step = max(1, _MAX_LOGITS // (max(lengths) * self.dim))
        for start in range(0, len(lengths), step):
            those = list(lengths[start : start + step])
            some_TH, states_TH = torch.split(states_TH, [sum(those), len(states_TH) - sum(those)])
            logits_TV: Tensor = head(inputs_embeds=some_TH[None]).logits[0]
            yield torch.stack([text_TV.max(0).values for text_TV in torch.split(logits_TV, those)])

    def packs(self, kind: Kind = "document") -> bool:
        """As in `Tower.packs`."""
        return can_pack(self.mlm, self.device)

    def represent(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None = None
    ) -> Part:
        """As in `Tower.represent`: `vectors`, of either kind."""
        return (self.vectors(input_ids, attention_mask, inputs_embeds),)

    def compare(
        self, queries: Sequence[Part], docs: Sequence[Part], columns_BN: Tensor, mini_batch_size: int | None = None
    ) -> BatchScores:
        """Scores [B, M] of every query with every doc, and the penalties; as in `Tower.compare`."""
        queries_BV, docs_MV = (torch.cat([weights for (weights,) in side]) for side in (queries, docs))
        with torch.autocast(queries_BV.device.type, enabled=False):
            penalties = {
                "flops-docs": flops(docs_MV),
                "flops-queries": flops(queries_BV),
                "l1-queries": queries_BV.sum(1).mean(),
            }
            return BatchScores(queries_BV @ docs_MV.T, in_batch=True, penalties=penalties)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        num_layers: int | None = None,
        dropout: float | None = None,
        new_head: bool = False,
        query_max_length: int | None = None,
        doc_max_length: int | None = None,
    ) -> SpladeModel:
        """Loads a checkpoint of ours, a sparse encoder of sentence-transformers, or any masked language model.

        Args:
            num_layers: keep the first layers only.
            dropout: of the body, in place of the checkpoint's.
            new_head: allow an encoder without MLM head. It gets one tied to its input embeddings, in which each token
                predicts itself and little else: a bag of words to start from.
            query_max_length: None keeps the checkpoint's; never more than the model has positions for. So for
                `doc_max_length`.

        Raises:
            WrongModelError: if the folder holds another architecture, or an encoder without MLM head and `new_head` isn't given.
        """
        path = Path(resolve(str(name_or_path)))
        transformer = _transformer(path)
        body = path / transformer
        config = config_with_layers(str(body), num_layers, dropout)
        names = [str(name) for name in config.architectures or ["no architecture"]]
        has_head = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in names)
        if not has_head and not new_head:
            remedy = "pass --splade.new-head (new_head=True) to let it start as a bag of words"
            raise WrongModelError("a masked language model", ", ".join(names), remedy, str(path))
        if not has_head:
            config.tie_word_embeddings = True
        mlm = load_weights(AutoModelForMaskedLM, str(body), config, may_be_new=() if has_head else _HEADS)
        if not has_head:
            _start_head(mlm)
        tokenizer = load_tokenizer(body, mlm, slow=True)
        prompts = read_prompts(path)
        model = cls(
            mlm,
            tokenizer,
            **lengths_within(read_lengths(path, transformer), max_positions(config), query_max_length, doc_max_length),
            query_prompt=prompts[0],
            doc_prompt=prompts[1],
        )
        model.eval()
        return model.to(choose_device(device))

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `SparseEncoder(path)` and `AutoModelForMaskedLM` load."""
        folder = Path(path)
        self._save_parts(folder, self.mlm)
        longest = max(self.query_max_length, self.doc_max_length)
        logits = {"text": {"method": "forward", "method_output_name": "logits"}}
        task = {"transformer_task": "fill-mask", "modality_config": logits, "module_output_name": "token_embeddings"}
        pooling = {"pooling_strategy": "max", "activation_function": "relu", "embedding_dimension": self.dim}
        write_layout(
            folder,
            [("Transformer", task | {"max_seq_length": longest}), ("SpladePooling", pooling)],
            model_type="SparseEncoder",
            similarity="dot",
            prompts=(self.query_prompt, self.doc_prompt),
        )


def flops(weights_BV: Tensor) -> Tensor:
    """Sum over terms of the squared mean weight: small when few terms are used, and not the same ones by all texts.

    Source:
        Paria et al. 2020, arXiv:2004.05665.
    """
    return weights_BV.mean(0).square().sum()


def _start_head(mlm: PreTrainedModel) -> None:
    """Makes a new head the identity, with a bias that only a token's own term overcomes."""
    embeddings: nn.Embedding = mlm.get_input_embeddings()  # type: ignore[assignment]
    output: nn.Linear = mlm.get_output_embeddings()  # type: ignore[no-untyped-call]
    body = set(mlm.base_model.modules())
    with torch.no_grad():
        for module in mlm.modules():
            if isinstance(module, nn.Linear) and module not in body and module is not output:
                nn.init.eye_(module.weight)
                nn.init.zeros_(module.bias)
        # After the head's layer norm, logits of unrelated terms spread as much as an embedding is long.
        output.bias.fill_(-4 * float(embeddings.weight.norm(dim=1).mean()))


def _transformer(path: Path) -> str:
    """The folder of the body inside `path`.

    Raises:
        WrongModelError: if `path` holds another student, or a sparse encoder of modules or settings that aren't SPLADE's.
    """
    kind, architecture = model_type(path), read_json(path / OWN_CONFIG).get("architecture")
    if kind not in (None, "SentenceTransformer", "SparseEncoder") or architecture not in (None, "dot", "splade"):
        remedy = "train one with `rankdistill train margin-mse --student splade`"
        raise WrongModelError("a SPLADE checkpoint (a sparse encoder)", str(architecture or kind), remedy, str(path))
    modules = read_modules(path)
    if kind != "SparseEncoder":
        check_body(path)
        return dict(modules).get("Transformer", "")
    part = _foreign_part(path)
    if part is not None:
        raise WrongModelError(
            "the modules Transformer and SpladePooling (max, relu), compared by dot product",
            part,
            "such a sparse encoder can't be run here; let sentence-transformers encode with it",
            str(path / "modules.json"),
        )
    return modules[0][1]


def _foreign_part(path: Path) -> str | None:
    """What a sparse encoder does that isn't SPLADE's, in a few words; None if there is nothing."""
    modules = read_modules(path)
    names = [name for name, _ in modules]
    if names not in (["Transformer", "SpladePooling"], ["MLMTransformer", "SpladePooling"]):
        return foreign_type(path) or f"the modules {', '.join(names)}"
    body = read_transformer(path / modules[0][1])
    task = body.get("transformer_task", "fill-mask" if names[0] == "MLMTransformer" else "feature-extraction")
    pooling = read_json(path / modules[1][1] / "config.json")
    own = read_json(path / "config_sentence_transformers.json")
    settings = (
        ("the transformer_task", task, "fill-mask"),
        ("the pooling_strategy", pooling.get("pooling_strategy", "max"), "max"),
        ("the activation_function", pooling.get("activation_function", "relu"), "relu"),
        ("max_active_dims", own.get("max_active_dims"), None),
    )
    odd = next((f"{name} {value}" for name, value, plain in settings if value != plain), None)
    similarity = own.get("similarity_fn_name")
    return (
        foreign_type(path)
        or foreign_setting(body, _PLAIN)
        or odd
        or (f"the similarity {similarity}" if similarity in ("cosine", "euclidean", "manhattan") else None)
    )
