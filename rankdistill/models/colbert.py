"""The ColBERT student: one vector a token; the score of a pair is the sum of each query token's best match (MaxSim).

Checkpoints are sentence-transformers' multi-vector encoders: Transformer + Dense + MultiVectorMask [+ Normalize].
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from rankdistill.errors import WrongModelError
from rankdistill.formats.writing import whole
from rankdistill.models.backbone import config_with_layers, load_tokenizer, load_weights, max_positions, quiet, resolve
from rankdistill.models.chain import check_body, foreign_setting, foreign_type
from rankdistill.models.layout import (
    lengths_within,
    load_dense,
    model_type,
    read_lengths,
    read_modules,
    read_prompts,
    read_transformer,
    write_layout,
)
from rankdistill.models.maxsim import maxsim, maxsim_pairs
from rankdistill.models.packed import can_pack, given_to_body, run_body
from rankdistill.models.precision import choose_device
from rankdistill.models.towers import (
    OWN_CONFIG,
    BatchScores,
    Card,
    InteractionModel,
    Kind,
    Part,
    pad_cat,
    read_json,
)

__all__ = ["PUNCTUATION", "ColbertModel", "Expansion", "expand"]

PUNCTUATION = tuple(string.punctuation)
"""What ColBERT skips in documents."""

_MARKERS = ("[Q]", "[D]")
# What sentence-transformers calls the states of tokens between modules.
_STATES = "token_embeddings"


@dataclass(frozen=True)
class Expansion:
    """[MASK] tokens in queries; they count in the score, as terms that the model may fill in.

    Attributes:
        strategy: "fixed" and "min" put them after the final [SEP] until the query has `length` tokens; "fixed" queries are cut
            there too. "before-sep" and "after-sep" put `length` of them there; sentence-transformers knows no such queries
            and refuses to load the model.
        length: as said.
        attend: whether other tokens see them. ColBERT's didn't; those of Hofstätter et al. did.
    """

    strategy: Literal["fixed", "min", "before-sep", "after-sep"]
    length: int
    attend: bool = True

    def __post_init__(self) -> None:
        if self.strategy not in ("fixed", "min", "before-sep", "after-sep"):
            raise ValueError(f'expected "fixed", "min", "before-sep" or "after-sep", found {self.strategy!r}')
        if self.length < 1:
            raise ValueError(f"expected a positive number of tokens for [MASK]s, found {self.length}")
        if self.strategy == "before-sep" and not self.attend:
            raise ValueError("[MASK]s before the final [SEP] are attended to; put them after it, or attend to them")

    @property
    def num_more(self) -> int:
        """Tokens by which a query of full length grows."""
        return self.length if self.strategy.endswith("sep") else 0


def expand(input_ids: Tensor, mask: Tensor, expansion: Expansion, mask_id: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, L'] with the [MASK]s put in, and which tokens there are, [B, L'].

    Args:
        input_ids: [B, L], padded on the right; each query ends in one special token.
        mask: [B, L], 1 for tokens.
    """
    lengths_B1 = mask.sum(1, keepdim=True)
    width = input_ids.shape[1]
    grown = width + expansion.length if expansion.num_more else max(width, expansion.length)
    ids = functional.pad(input_ids, (0, grown - width), value=pad_id)
    at = torch.arange(grown, device=ids.device)
    start_B1 = lengths_B1 - 1 if expansion.strategy == "before-sep" else lengths_B1
    end_B1 = start_B1 + expansion.length if expansion.num_more else torch.full_like(start_B1, expansion.length)
    if expansion.strategy == "before-sep":
        ids = ids.scatter(1, end_B1, input_ids.gather(1, start_B1))
    masks = (at >= start_B1) & (at < end_B1)
    total_B1 = torch.maximum(lengths_B1, end_B1 + 1 if expansion.strategy == "before-sep" else end_B1)
    return ids.masked_fill(masks, mask_id), (at < total_B1).to(mask.dtype)


class ColbertModel(InteractionModel):
    """An encoder whose tokens' states are compared by MaxSim.

    A document none of whose tokens counts has the score `maxsim.EMPTY_DOC_SCORE`. That happens only with a tokenizer that puts
    no [CLS] and [SEP] around it.

    Attributes:
        normalize: whether states have length 1, so that a pair's score lies between -L and L for L query tokens.
        expansion: [MASK]s in queries, or None.
        skip_words: tokens of documents that don't count.

    Source:
        Khattab and Zaharia 2020, arXiv:2004.12832. Hofstätter et al. 2020, arXiv:2010.02666, distil one without
        normalisation, markers and skipped words, with 8 [MASK]s.
    """

    architecture = "colbert"
    card = Card(
        scores="Pairs are scored by MaxSim of their tokens' vectors.",
        library="sentence-transformers",
        task="sentence-similarity",
        load="from sentence_transformers import MultiVectorEncoder\n\nmodel = MultiVectorEncoder(PATH)",
    )
    _skip_ids: Tensor

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: Any,
        projection: nn.Linear,
        *,
        normalize: bool = True,
        expansion: Expansion | None = None,
        skip_words: Sequence[str] = (),
        **lengths_and_prompts: Any,
    ) -> None:
        super().__init__(tokenizer, **lengths_and_prompts)
        tokenizer.padding_side = "right"
        self.encoder, self.projection, self.normalize = encoder, projection, normalize
        self.expansion, self.skip_words = expansion, tuple(skip_words)
        self.config: Any = encoder.config
        self.dim = projection.out_features
        if expansion is not None:
            self._check(expansion)
        ids = {word: tokenizer.convert_tokens_to_ids(word) for word in self.skip_words}
        # A word that isn't a token must not make [UNK] one that is skipped.
        unknown = tokenizer.unk_token_id
        skipped = [
            found
            for word, found in ids.items()
            if found is not None and (found != unknown or word == tokenizer.unk_token)
        ]
        self.register_buffer("_skip_ids", torch.tensor(skipped, dtype=torch.long), persistent=False)

    def _check(self, expansion: Expansion) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ValueError("[MASK]s in queries need a tokenizer that has such a token; do without them")
        limit = self.query_max_length
        if (expansion.strategy == "fixed" and expansion.length != limit) or (
            expansion.strategy == "min" and expansion.length > limit
        ):
            raise ValueError(
                f"expected queries filled to the {limit} tokens that they may have, found {expansion.length}"
            )

    @property
    def backbone(self) -> PreTrainedModel | None:
        """As in `Tower.backbone`."""
        return self.encoder

    def packs(self, kind: Kind) -> bool:
        """As in `Tower.packs`; not where [MASK]s that no token sees have states that count."""
        unseen = kind == "query" and self.expansion is not None and not self.expansion.attend
        return not unseen and can_pack(self.encoder, self.device)

    def set_prompts(self, query_prompt: str | None = None, doc_prompt: str | None = None) -> None:
        """As in `Tower.set_prompts`; markers that stand before the prompts stay there."""
        former = self.query_prompt, self.doc_prompt
        super().set_prompts(query_prompt, doc_prompt)
        if all(map(str.startswith, former, _MARKERS)):
            self.query_prompt, self.doc_prompt = map(_marked, (self.query_prompt, self.doc_prompt), _MARKERS)

    def embed(self, input_ids: Tensor) -> Tensor:
        """As in `Tower.embed`."""
        embedded: Tensor = self.encoder.get_input_embeddings()(input_ids)
        return embedded

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As in `InteractionModel.states`; queries grow by their [MASK]s, skipped words of documents don't count."""
        if kind == "query" and self.expansion is not None:
            input_ids, attention_mask = self._expand(input_ids, attention_mask)
            inputs_embeds = None
        *_, states_BLD, counts_BL = self.represent(input_ids, attention_mask, kind, inputs_embeds)
        return states_BLD, counts_BL

    def _expand(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        assert self.expansion is not None
        return expand(input_ids, mask, self.expansion, self.tokenizer.mask_token_id, self.tokenizer.pad_token_id)

    def sides(self, batch: Mapping[str, Tensor]) -> dict[Kind, tuple[Tensor, Tensor]]:
        """As in `Tower.sides`, with the queries' [MASK]s put in: before the look-up, which is one for all tokens."""
        found = super().sides(batch)
        return found if self.expansion is None else found | {"query": self._expand(*found["query"])}

    def represent(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None = None
    ) -> Part:
        """As in `Tower.represent`: states of tokens and which of them count, of queries that have their [MASK]s."""
        given = self._given(input_ids, attention_mask, kind, inputs_embeds)
        states_BLD = run_body(self.encoder, given, packed=self.packs(kind))[0]
        states_BLD = self._compared(self.projection(states_BLD))
        return states_BLD, self._counts(input_ids, attention_mask, kind)

    def _given(
        self, input_ids: Tensor, attention_mask: Tensor, kind: Kind, inputs_embeds: Tensor | None
    ) -> dict[str, Tensor]:
        attention_BL = attention_mask
        if kind == "query" and self.expansion is not None and not self.expansion.attend:
            # The [MASK]s after the last other token; a query's text may have some of its own.
            others_BL = attention_mask.bool() & (input_ids != self.tokenizer.mask_token_id)
            attention_BL = others_BL.flip(1).cummax(1).values.flip(1).to(attention_mask.dtype)
        return given_to_body(input_ids, attention_BL, None, inputs_embeds)

    def _compared(self, projected_BLD: Tensor) -> Tensor:
        states_BLD = projected_BLD.float()
        return functional.normalize(states_BLD, dim=-1) if self.normalize else states_BLD

    def _counts(self, input_ids: Tensor, attention_mask: Tensor, kind: Kind) -> Tensor:
        counts_BL = attention_mask.bool()
        if kind == "document" and len(self._skip_ids):
            counts_BL = counts_BL & ~torch.isin(input_ids, self._skip_ids)
        return counts_BL

    def interact(self, query_PLD: Tensor, query_mask_PL: Tensor, doc_PLD: Tensor, doc_mask_PL: Tensor) -> Tensor:
        """As in `InteractionModel.interact`: MaxSim."""
        return maxsim_pairs(query_PLD, query_mask_PL, doc_PLD, doc_mask_PL)

    def compare(
        self, queries: Sequence[Part], docs: Sequence[Part], columns_BN: Tensor, mini_batch_size: int | None = None
    ) -> BatchScores:
        """Scores [B, M] of every query with every doc; as in `Tower.compare`."""
        query_BLD, query_mask_BL = pad_cat(queries)
        scores = [maxsim(query_BLD, query_mask_BL, *part) for part in docs]
        return BatchScores(torch.cat(scores, 1), in_batch=True)

    def own_config(self) -> dict[str, Any]:
        """As in `Tower.own_config`."""
        return super().own_config() | {
            "normalize": self.normalize,
            "expansion": None if self.expansion is None else asdict(self.expansion),
            "skip_words": list(self.skip_words),
        }

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "auto",
        num_layers: int | None = None,
        dropout: float | None = None,
        dim: int | None = None,
        normalize: bool | None = None,
        expansion: Expansion | Literal["keep"] | None = "keep",
        markers: bool = False,
        skip_words: Sequence[str] | None = None,
        query_max_length: int | None = None,
        doc_max_length: int | None = None,
    ) -> ColbertModel:
        """Loads a checkpoint of ours or a multi-vector encoder of sentence-transformers; with `dim`, any encoder.

        Args:
            num_layers: keep the first layers only.
            dropout: of the body, in place of the checkpoint's.
            dim: width of the states; a new projection to it starts random where the checkpoint has none of this width.
            normalize: None keeps the checkpoint's (True for a plain encoder).
            expansion: "keep" keeps the checkpoint's (None for a plain encoder); a "fixed" one is as long as a query may be.
            markers: put [Q] before queries and [D] before documents, tokens that are new where the tokenizer lacks them.
            skip_words: None keeps the checkpoint's (none for a plain encoder).
            query_max_length: None keeps the checkpoint's; never more than the model has positions for. So for
                `doc_max_length`.

        Raises:
            ValueError: if `dim` isn't positive.
            WrongModelError: if the folder holds another architecture, or a plain encoder and `dim` isn't given.
        """
        if dim is not None and dim < 1:
            raise ValueError(f"expected a positive dim, found {dim}")
        path = Path(resolve(str(name_or_path)))
        stored = _read_layout(path, plain=dim is not None)
        body = path / stored["transformer"]
        config = config_with_layers(str(body), num_layers, dropout)
        encoder = load_weights(AutoModel, str(body), config, may_be_new=("pooler",))
        tokenizer = load_tokenizer(body, encoder, slow=True)
        projection: nn.Linear | None = load_dense(path / stored["dense"]) if stored["dense"] else None
        if projection is None or (dim is not None and projection.out_features != dim):
            assert dim is not None
            projection = nn.Linear(int(config.hidden_size), dim, bias=False)
        prompts = stored["prompts"]
        if markers:
            prompts = _add_markers(encoder, tokenizer, prompts)
        kept = stored["expansion"] if expansion == "keep" else expansion
        longest = max_positions(config)
        lengths = lengths_within(stored, longest, query_max_length, doc_max_length)
        if kept is not None and kept.strategy == "fixed":
            lengths["query_max_length"] = min(query_max_length or kept.length, longest)
            kept = Expansion("fixed", lengths["query_max_length"], kept.attend)
        elif kept is not None:
            lengths["query_max_length"] = min(lengths["query_max_length"], longest - kept.num_more)
        model = cls(
            encoder,
            tokenizer,
            projection,
            normalize=stored["normalize"] if normalize is None else normalize,
            expansion=kept,
            skip_words=stored["skip_words"] if skip_words is None else skip_words,
            **lengths,
            query_prompt=prompts[0],
            doc_prompt=prompts[1],
        )
        model.eval()
        return model.to(choose_device(device))

    @whole
    def save_pretrained(self, path: str | Path) -> None:
        """Writes a folder that `MultiVectorEncoder(path)` and `ColbertModel.from_pretrained(path)` load."""
        folder = Path(path)
        self._save_parts(folder, self.encoder)
        longest = max(self.query_max_length, self.doc_max_length)
        lengths = {"query_length": self.query_max_length, "document_length": self.doc_max_length}
        expansion = None if self.expansion is None else {**asdict(self.expansion), "token": None}
        words = {"skiplist_words": list(self.skip_words), "skiplist_tasks": ["document"], "keep_only_token_ids": None}
        on_tokens = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
        write_layout(
            folder,
            [
                ("Transformer", {"max_seq_length": longest, **lengths, "query_expansion": expansion}),
                ("Dense", self.projection),
                ("MultiVectorMask", words),
                *([("Normalize", on_tokens)] if self.normalize else []),
            ],
            model_type="MultiVectorEncoder",
            similarity="maxsim",
            prompts=(self.query_prompt, self.doc_prompt),
        )


def _add_markers(encoder: PreTrainedModel, tokenizer: Any, prompts: tuple[str, str]) -> tuple[str, str]:
    """Gives tokenizer and encoder the marker tokens, and the prompts their markers; what's there stays as it is."""
    tokenizer.add_tokens(
        [AddedToken(marker, special=True, normalized=False) for marker in _MARKERS], special_tokens=True
    )
    if len(tokenizer) > int(encoder.config.vocab_size):
        with quiet():
            # New rows are drawn around the mean of the old ones, so they start as words, not as noise.
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    query, doc = map(_marked, prompts, _MARKERS)
    return query, doc


def _marked(prompt: str, marker: str) -> str:
    return prompt if prompt.startswith(marker) else f"{marker} {prompt}"


def _read_layout(path: Path, *, plain: bool) -> dict[str, Any]:
    """What a folder says of itself.

    Args:
        plain: whether a plain encoder, or a SentenceTransformer for its encoder, will do.
    """
    kind = model_type(path)
    architecture = read_json(path / OWN_CONFIG).get("architecture")
    found: dict[str, Any] = {"transformer": "", "dense": None, "normalize": True, "skip_words": (), "expansion": None}
    if kind != "MultiVectorEncoder":
        names = [str(name) for name in read_json(path / "config.json").get("architectures") or []]
        # An encoder's body, whatever head it once had, will do; another student or a ColBERT of another layout won't.
        foreign = (
            kind not in (None, "SentenceTransformer")
            or architecture not in (None, "dot", "multi-exit")
            or "HF_ColBERT" in names
        )
        if foreign or not plain:
            what = architecture or (kind if kind != "SentenceTransformer" else None) or ", ".join(names) or "no model"
            remedy = "train one with `rankdistill train margin-mse --student colbert`"
            if "HF_ColBERT" in names or kind == "ColBERT":
                remedy = "save it once with sentence_transformers.MultiVectorEncoder(...).save_pretrained(...)"
            raise WrongModelError("a ColBERT checkpoint (a multi-vector encoder)", what, remedy, str(path))
        check_body(path)
        found["transformer"] = dict(read_modules(path)).get("Transformer", "")
        found["prompts"] = read_prompts(path)
        return found | read_lengths(path, found["transformer"])
    part = _foreign_part(path)
    if part is not None:
        raise WrongModelError(
            "the modules Transformer, Dense, MultiVectorMask (for documents) and Normalize, compared by MaxSim",
            part,
            "such a multi-vector encoder can't be run here; let sentence-transformers encode with it",
            str(path / "modules.json"),
        )
    at = dict(read_modules(path))
    masks = read_json(path / at["MultiVectorMask"] / "config.json") if "MultiVectorMask" in at else {}
    found |= {"transformer": at["Transformer"], "dense": at["Dense"], "prompts": read_prompts(path)}
    found |= {
        "skip_words": tuple(masks.get("skiplist_words") or ()),
        "normalize": _normalizes(path, at.get("Normalize")),
    }
    stored = read_transformer(path / at["Transformer"]).get("query_expansion")
    if stored is not None:
        found["expansion"] = Expansion(stored["strategy"], stored["length"], bool(stored.get("attend")))
    return found | read_lengths(path, found["transformer"])


def _normalizes(path: Path, where: str | None) -> bool:
    """Whether a Normalize module is there that reads states of tokens; one of vectors has nothing to read."""
    return where is not None and read_json(path / where / "config.json").get("module_input_name") == _STATES


def _foreign_part(path: Path) -> str | None:
    """What a multi-vector encoder does that our own code doesn't, in a few words; None if there is nothing."""
    modules = read_modules(path)
    names = [name for name, _ in modules]
    chain = [name for name in names if name != "MultiVectorMask"]
    if chain not in (["Transformer", "Dense"], ["Transformer", "Dense", "Normalize"]) or len(names) > len(chain) + 1:
        return foreign_type(path) or f"the modules {', '.join(names)}"
    configs = {name: read_json(path / at / "config.json") for name, at in modules[1:]}
    body = read_transformer(path / modules[0][1])
    expansion = body.pop("query_expansion", None) or {}
    masks = configs.get("MultiVectorMask", {})
    own = read_json(path / "config_sentence_transformers.json")
    settings: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("states filled in for the token", expansion.get("token"), (None,)),
        ("a MultiVectorMask with skiplist_tasks", masks.get("skiplist_tasks"), (None, "document", ["document"])),
        ("a MultiVectorMask with keep_only_token_ids", masks.get("keep_only_token_ids"), (None, [])),
        ("a Dense of", configs["Dense"].get("module_input_name"), (None, _STATES)),
        ("a Dense of", configs["Dense"].get("module_output_name"), (None, _STATES)),
        ("a Normalize into", configs.get("Normalize", {}).get("module_output_name"), (None, _STATES)),
        ("the similarity", own.get("similarity_fn_name"), (None, "maxsim", "cosine", "dot", "euclidean", "manhattan")),
    )
    odd = next((f"{name} {value}" for name, value, plain in settings if value not in plain), None)
    return foreign_type(path) or foreign_setting(body) or odd
