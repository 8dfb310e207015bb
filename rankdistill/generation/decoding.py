"""Entities that an encoder-decoder writes of a text: generated from a trie of titles, or scored among given candidates.

A title's score is the sum of the log-probabilities of its tokens, its end token included, divided by (number of
tokens)^length_penalty. Titles are of any length that the decoder has positions for.

The decoder begins with its start token, and its forced first token where it has one: `</s>` (BART), `</s>` and a language (mBART),
padding (T5), `[CLS]` (BERT). `prefix` says otherwise. Those tokens are no part of the title; `generate` of transformers counts a
forced token in the length all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rankdistill.data.batches import pad_lists
from rankdistill.errors import WrongModelError
from rankdistill.formats.tokenizers import encode_texts
from rankdistill.generation.beam import Hypothesis, beam_search
from rankdistill.generation.candidates import candidate_groups, score_sequences
from rankdistill.generation.families import max_positions, max_source_positions
from rankdistill.generation.joined import joined
from rankdistill.generation.titles import end_token, tokenize_titles
from rankdistill.generation.tree import plant
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.precision import inference_mode

__all__ = [
    "Aliases",
    "EntityScore",
    "checked_prefix",
    "decoder_prefix",
    "generate_entities",
    "in_batches",
    "merge_names",
    "score_candidates",
    "source_limit",
]

# Their encoders or decoders take and give more than states (routers' probabilities, two vocabularies).
_REFUSED = ("switch_transformers", "nllb-moe", "fsmt")

Aliases: TypeAlias = Literal["best", "sum"]
"""The score of an entity of several names: that of the best one, or the log of the sum of the exponentials."""


class EntityScore(NamedTuple):
    """An entity that was found.

    Attributes:
        entity_id: its id in the trie.
        score: log-probability / length^length_penalty, over its names as `aliases` says.
        title: the best of the names that were found.
        num_names: how many were found.
    """

    entity_id: int
    score: float
    title: str
    num_names: int


def generate_entities(
    model: Any,
    tokenizer: Any,
    trie: TokenTrie,
    texts: Sequence[str],
    *,
    num_beams: int = 10,
    num_results: int | None = None,
    length_penalty: float = 1.0,
    aliases: Aliases = "best",
    renormalise: bool = False,
    allowed: Sequence[TokenTrie | None] | None = None,
    prefix: Sequence[int] | None = None,
    max_input_length: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> list[list[EntityScore]]:
    """The entities of each text, the best first, by beam search over the trie's titles.

    Args:
        model: an encoder-decoder of transformers; runs where it is, in its dtype. BART, mBART, T5, mT5 and BERT as a decoder go
            fast; others run without a cache. No other thread may use it meanwhile.
        tokenizer: of the texts, and the one that the trie was built for.
        trie: titles and the entities that they name.
        texts: as the model was trained to read them.
        num_beams: titles' beginnings that are followed at once.
        num_results: entities of each text, `num_beams` without it; fewer where the trie or the beams have no more.
        length_penalty: 0 for plain log-probabilities; 1 is GENRE's. mGENRE adds names up ("sum") with 0.5.
        aliases: how names of one entity count; "sum" is over those names that the beams found.
        renormalise: probabilities among legal tokens instead of all; no output layer over the whole vocabulary then.
        allowed: for each text an allow-list, made by `trie.subset(...)`, or None for the whole trie. Texts may share one.
        prefix: tokens that the decoder begins with; without it the model's own.
        max_input_length: tokens of a text beyond which it's cut; the tokenizer's without it. Never more than the model has
            positions for.
        batch_size: texts at once.
        progress: show a bar on standard error.

    Raises:
        ValueError: for a model that is no encoder-decoder, has a smaller vocabulary than the trie, or fewer positions than its
            longest title; or whose logits are not numbers. For another number of allow-lists than texts, or lists of another trie.

    Source:
        De Cao et al. 2021, arXiv:2010.00904; marginalisation: De Cao et al. 2022, arXiv:2103.12528.
    """
    if num_beams < 1 or (num_results is not None and num_results < 1):
        raise ValueError(f"expected num_beams and num_results of at least 1, found {num_beams} and {num_results}")
    begin = checked_prefix(model, prefix, trie.max_depth, trie.vocab_size)
    wanted = num_beams if num_results is None else num_results
    held: Sequence[TokenTrie | None] = [None] * len(texts) if allowed is None else allowed
    if len(held) != len(texts):
        raise ValueError(f"expected allow-lists of {len(texts)} texts, found {len(held)}")
    results: list[list[EntityScore]] = [[] for _ in texts]

    def generate(places: list[int]) -> None:
        def search(rows: Sequence[int], input_ids: Tensor, mask: Tensor) -> None:
            own = [held[places[row]] for row in rows]
            titles, behind = joined([trie if each is None else each for each in own])
            found = beam_search(
                plant(model, input_ids, mask),
                titles,
                len(rows),
                prefix=begin,
                num_beams=num_beams,
                # A sum may grow by a name of little probability, so no beam is without hope.
                num_results=wanted if aliases == "best" else None,
                length_penalty=length_penalty,
                renormalise=renormalise,
                behind=behind,
            )
            for row, hypotheses in zip(rows, found, strict=True):
                results[places[row]] = _entities(hypotheses, tokenizer, length_penalty, aliases)[:wanted]

        chosen = [texts[place] for place in places]
        in_batches(model, tokenizer, chosen, search, max_input_length, batch_size, progress, "generate")

    # The whole trie isn't joined with others, and an empty list has no titles.
    generate([place for place, own in enumerate(held) if own is None])
    generate([place for place, own in enumerate(held) if own is not None and own.num_sequences])
    return results


def score_candidates(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    *,
    length_penalty: float = 1.0,
    eos: int | None = None,
    prefix: Sequence[int] | None = None,
    max_input_length: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> list[NDArray[np.float64]]:
    """Exact scores of each text's candidate titles, in their order: to disambiguate a mention, or to rank again.

    A text's candidates go through the decoder in one pass, up to 2,048 tokens; beginnings that they share are computed once.

    Args:
        model: as for `generate_entities`.
        tokenizer: of the texts and the titles.
        candidates: titles of each text, as the model was trained to write them; any number of each. Several names of one entity are
            several candidates, which `merge_names` brings together.
        length_penalty: as for `generate_entities`; so for `prefix`, `max_input_length`, `batch_size` and `progress`.
        eos: the token that ends a title; the tokenizer's without it.

    Raises:
        ValueError: if there aren't as many lists of candidates as texts, or as for `generate_entities`.
        BadDataError: for a title that is empty or holds the end token; its line is its place among all candidates.

    Invariance:
        A title's score doesn't depend on the others.
    """
    if len(candidates) != len(texts):
        raise ValueError(f"expected candidates of {len(texts)} texts, found those of {len(candidates)}")
    distinct = {title: row for row, title in enumerate(dict.fromkeys(title for own in candidates for title in own))}
    eos = end_token(tokenizer) if eos is None else eos
    tokens, lengths = tokenize_titles(distinct, tokenizer, eos=eos, progress=False)
    begin = checked_prefix(model, prefix, int(lengths.max(initial=0)), int(tokens.max(initial=0)) + 1)
    ends = np.cumsum(lengths, dtype=np.int64)
    titles = [part.tolist() for part in np.split(tokens, ends[:-1])]
    results = [np.zeros(len(own), np.float64) for own in candidates]

    def score(rows: Sequence[int], input_ids: Tensor, mask: Tensor) -> None:
        tree = plant(model, input_ids, mask)
        own = [[titles[distinct[title]] for title in candidates[row]] for row in rows]
        groups = [candidate_groups(sequences) for sequences in own]
        for at in range(max(map(len, groups))):
            chosen = [group[at] if at < len(group) else [] for group in groups]
            part = [[sequences[place] for place in places] for sequences, places in zip(own, chosen, strict=True)]
            scores = score_sequences(tree.empty(), part, begin)
            for row, places, log_probs, sequences in zip(rows, chosen, scores, part, strict=True):
                sizes = np.array([len(sequence) for sequence in sequences], np.float64)
                results[row][places] = log_probs / sizes**length_penalty

    in_batches(model, tokenizer, texts, score, max_input_length, batch_size, progress, "score")
    return results


def merge_names(
    entity_ids: Sequence[int], scores: Sequence[float] | NDArray[np.float64], aliases: Aliases = "best"
) -> dict[int, float]:
    """Scores of entities from those of their names, the best first.

    Args:
        entity_ids: the entity of each name.
        scores: of each name; of equal ones the entity that came first goes first.
        aliases: how names count.

    Raises:
        ValueError: for another way to count.
    """
    if aliases not in ("best", "sum"):
        raise ValueError(f"expected aliases of best or sum, found {aliases!r}")
    merged = dict[int, float]()
    join = max if aliases == "best" else lambda one, other: float(np.logaddexp(one, other))
    for id_, score in zip(entity_ids, scores, strict=True):
        merged[int(id_)] = join(merged[int(id_)], float(score)) if int(id_) in merged else float(score)
    return dict(sorted(merged.items(), key=lambda item: -item[1]))


def decoder_prefix(model: Any) -> list[int]:
    """Tokens that an encoder-decoder begins with: its start token, and its forced first token where it has one.

    Raises:
        ValueError: if its configuration names none.
    """
    for name in ("decoder_start_token_id", "bos_token_id"):
        for config in (model.generation_config, model.config):
            if (start := getattr(config, name, None)) is not None:
                forced = getattr(model.generation_config, "forced_bos_token_id", None)
                return [int(start)] if forced is None else [int(start), int(forced)]
    raise ValueError("expected a model that names its decoder_start_token_id, found none; pass prefix=")


def _entities(found: list[Hypothesis], tokenizer: Any, length_penalty: float, aliases: Aliases) -> list[EntityScore]:
    names = [
        (id_, hypothesis.log_prob / len(hypothesis.sequence) ** length_penalty, hypothesis.sequence)
        for hypothesis in found
        for id_ in hypothesis.ids
    ]
    merged = merge_names([name[0] for name in names], [name[1] for name in names], aliases)
    # The best name of each comes first.
    first = {id_: sequence for id_, _, sequence in reversed(names)}
    counts = {id_: sum(name[0] == id_ for name in names) for id_ in merged}
    return [
        EntityScore(id_, score, tokenizer.decode(first[id_][:-1]).strip(), counts[id_]) for id_, score in merged.items()
    ]


def checked_prefix(model: Any, prefix: Sequence[int] | None, max_length: int, vocab_size: int) -> list[int]:
    if not model.config.is_encoder_decoder:
        found = type(model).__name__
        raise WrongModelError("an encoder-decoder", found, "hold others with generate() and TrieConstraint")
    if (kind := model.config.model_type) in _REFUSED:
        remedy = "hold it with generate() and TrieConstraint"
        raise WrongModelError("an encoder-decoder that takes its encoder's states alone", kind, remedy)
    begin = decoder_prefix(model) if prefix is None else [int(token) for token in prefix]
    if not begin:
        raise ValueError("expected at least one token in prefix, found none; the decoder's start token is one")
    num_tokens = model.get_decoder().config.vocab_size
    if num_tokens < vocab_size:
        raise ValueError(
            f"expected a model of {vocab_size:,} tokens or more, found {num_tokens:,}; was the trie built for it?"
        )
    # The end token of a title isn't read.
    needed, positions = len(begin) + max_length - 1, max_positions(model)
    if positions is not None and needed > positions:
        raise ValueError(
            f"expected a decoder of {needed:,} positions for the longest title, found {positions:,}; leave it out"
        )
    return begin


def source_limit(model: Any, tokenizer: Any, max_length: int | None = None) -> int:
    """Tokens of a text that are read: `max_length`, or the tokenizer's limit, but no more than the encoder has positions for."""
    asked = int(tokenizer.model_max_length if max_length is None else max_length)
    positions = max_source_positions(model)
    return asked if positions is None else min(asked, positions)


def in_batches(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    work: Callable[[Sequence[int], Tensor, Tensor], None],
    max_input_length: int | None,
    batch_size: int,
    progress: bool,
    what: str,
) -> None:
    """Hands texts to `work(rows, input_ids, mask)`, those of like length together, under inference_mode."""
    if not texts:
        return
    ids = encode_texts(tokenizer, texts, source_limit(model, tokenizer, max_input_length))
    order = sorted(range(len(texts)), key=lambda row: -len(ids[row]))
    with inference_mode(model, "auto"), tqdm(total=len(texts), desc=what, unit="text", disable=not progress) as bar:
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            padded = pad_lists([ids[row] for row in rows], tokenizer.pad_token_id or 0)
            work(rows, *(torch.from_numpy(array).to(model.device) for array in padded))
            bar.update(len(rows))
