"""Which entity does a mention mean? Five ways to answer, with candidates or without, and priors mixed in where they're wanted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rankdistill.errors import BadDataError
from rankdistill.formats.kilt import END_ENTITY, START_ENTITY, KiltRecord, source_text
from rankdistill.formats.mentions import MentionTable
from rankdistill.formats.tokenizers import encode_texts
from rankdistill.generation.decoding import generate_entities, score_candidates, source_limit
from rankdistill.generation.free import generate_freely
from rankdistill.generation.titles import title_sequences
from rankdistill.generation.trie import TokenTrie

__all__ = [
    "Answer",
    "Candidate",
    "Disambiguated",
    "DisambiguationMode",
    "Mention",
    "disambiguate",
    "first_entity",
    "mention_of",
]

DisambiguationMode: TypeAlias = Literal["beams", "candidate-beams", "candidates", "free", "prior"]
"""beams: search among all titles. candidate-beams: search among the mention's candidates. candidates: exact scores of those. free:
write without a constraint. prior: the likeliest candidate by its prior, without a model."""


class Candidate(NamedTuple):
    """A title that a mention may mean.

    Attributes:
        prior: P(title | mention); None where it isn't known.
    """

    title: str
    prior: float | None = None


class Mention(NamedTuple):
    """A mention to disambiguate.

    Attributes:
        text: its context, as the model reads it.
        candidates: titles that it may mean.
    """

    text: str
    candidates: tuple[Candidate, ...] = ()


class Answer(NamedTuple):
    """An entity that a mention may mean.

    Attributes:
        title: its name: the given one of its id, else the candidate, else as the tokenizer decodes what was written.
        score: log-probability / length^length_penalty, plus the weighted log of the prior; the latter alone for priors.
        entity_id: its id in the trie; None where what was written freely is no title.
    """

    title: str
    score: float
    entity_id: int | None


@dataclass
class Disambiguated:
    """Answers of each mention, the best first, and what is to be known about them.

    Attributes:
        answers: none for a mention without candidates that nothing was searched for.
        num_without_candidates: mentions none of whose candidates is in the trie.
        num_unknown_candidates: distinct candidates that aren't in the trie, and were left out.
        num_invalid: mentions whose best answer is no title of the trie (written freely).
        num_cut: mentions whose text is so long that their end mark isn't read.
    """

    answers: list[list[Answer]]
    num_without_candidates: int = 0
    num_unknown_candidates: int = 0
    num_invalid: int = 0
    num_cut: int = 0


def mention_of(
    record: KiltRecord, table: MentionTable | None = None, *, num_candidates: int | None = None, max_words: int = 384
) -> Mention:
    """A record's mention in its context, with the table's candidates, or without a table the record's own.

    Args:
        record: with `meta.mention` and its contexts, or marks around the mention in its input.
        num_candidates: the table's likeliest; all without it.
        max_words: as for `mention_text`; what the model was trained with.

    Raises:
        BadDataError: if the record has no mention.
    """
    text = source_text(record, max_words)
    _, start, rest = text.partition(START_ENTITY)
    surface, end, _ = rest.partition(END_ENTITY)
    if not start or not end or not surface.strip():
        parts = f'"meta" with left_context, mention and right_context, or {START_ENTITY} and {END_ENTITY} around it in "input"'
        raise BadDataError(f"a mention: {parts}", f"{record.input[:60]!r} (record {record.id})")
    if table is not None:
        return Mention(text, tuple(Candidate(*each) for each in table.candidates(surface, num_candidates)))
    return Mention(text, tuple(map(Candidate, record.candidates or ())))


def disambiguate(
    model: Any,
    tokenizer: Any,
    trie: TokenTrie,
    mentions: Sequence[Mention],
    *,
    mode: DisambiguationMode = "beams",
    prior_weight: float = 0.0,
    without_candidates: Literal["beams", "nothing"] = "beams",
    names: Mapping[int, str] | None = None,
    num_beams: int = 10,
    num_results: int = 10,
    length_penalty: float = 1.0,
    max_input_length: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> Disambiguated:
    """Answers for mentions.

    Args:
        model: an encoder-decoder of transformers that was trained to write titles; None will do for `mode="prior"`.
        tokenizer: its own, and the trie's.
        trie: titles and their entities. Candidates that it hasn't are left out and counted.
        mentions: by `mention_of`, say.
        mode: how to answer.
        prior_weight: adds so many times log P(title | mention) to the scores of candidates; priors of one entity's names add up.
        without_candidates: where a mode asks for candidates and a mention has none in the trie: search among all titles, or answer
            nothing. (A prior has nothing to say then.)
        names: what each entity is called in the answers. A tokenizer that isn't true to case needs it.
        num_beams: for the modes that search.
        num_results: answers a mention; exact scores give all candidates' up to it.
        length_penalty: as for `generate_entities`; so for `max_input_length`, `batch_size` and `progress`.

    Raises:
        ValueError: for priors that aren't known, where they are asked for; or as `generate_entities`.
    """
    call: dict[str, Any] = {"length_penalty": length_penalty, "max_input_length": max_input_length}
    call |= {"batch_size": batch_size, "progress": progress}
    search = call | {"num_beams": num_beams, "num_results": num_results}
    texts = [mention.text for mention in mentions]
    found = Disambiguated([[] for _ in mentions])
    if mode != "prior":
        found.num_cut = _cut_off(texts, tokenizer, source_limit(model, tokenizer, max_input_length))
    if mode == "free":
        written = generate_freely(model, tokenizer, texts, eos=trie.eos, max_length=trie.max_depth, **search)
        found.answers = [[_free_answer(trie, tokenizer, names, *each) for each in own] for own in written]
        found.num_invalid = sum(bool(own) and own[0].entity_id is None for own in found.answers)
        return found
    held = list[int]()
    if mode != "beams":
        known, found.num_unknown_candidates = _known_candidates(trie, tokenizer, mentions, names)
        held = [row for row, own in enumerate(known) if own]
        found.num_without_candidates = len(mentions) - len(held)
        if (mode == "prior" or prior_weight) and any(each.prior is None for own in known for each in own):
            raise ValueError("expected candidates with priors, found some without; give a table of mentions")
        candidates, held_texts = [known[row] for row in held], [texts[row] for row in held]
        if mode == "candidates":
            titles = [[each.title for each in own] for own in candidates]
            scores = score_candidates(model, tokenizer, held_texts, titles, eos=trie.eos, **call)
        elif mode == "candidate-beams":
            # A prior may lift a title from behind the first ones.
            wide = search | {"num_results": None if prior_weight else num_results}
            scores = _beams_among(model, tokenizer, trie, held_texts, candidates, wide)
        else:
            prior_weight, scores = 1.0, [np.zeros(len(own)) for own in candidates]
        for row, own, each_score in zip(held, candidates, scores, strict=True):
            found.answers[row] = _ranked(own, each_score, prior_weight, names)[:num_results]
    if mode == "beams" or (mode != "prior" and without_candidates == "beams"):
        rest = sorted(set(range(len(mentions))) - set(held))
        entities = generate_entities(model, tokenizer, trie, [texts[row] for row in rest], **search)
        for row, all_titles in zip(rest, entities, strict=True):
            found.answers[row] = [Answer(_name(e.entity_id, names, e.title), e.score, e.entity_id) for e in all_titles]
    return found


class _Known(NamedTuple):
    """A candidate that is in the trie."""

    title: str
    prior: float | None
    entity_id: int
    sequence: tuple[int, ...]


def first_entity(answers: Sequence[Answer]) -> int | None:
    """The entity of the best answer: -1 where that is no title, since it's an answer, too; None without any."""
    if not answers:
        return None
    best = answers[0].entity_id
    return -1 if best is None else best


def _known_candidates(
    trie: TokenTrie, tokenizer: Any, mentions: Sequence[Mention], names: Mapping[int, str] | None
) -> tuple[list[list[_Known]], int]:
    """Each mention's candidates that are in the trie, and how many distinct titles aren't."""
    distinct = list(dict.fromkeys(each.title for mention in mentions for each in mention.candidates))
    sequences = title_sequences(distinct, tokenizer, trie.eos)
    indptr, ids = trie.ids_of_titles(distinct, tokenizer)
    entities = dict[str, tuple[int, tuple[int, ...]]]()
    for title, sequence, start, stop in zip(distinct, sequences, indptr[:-1], indptr[1:], strict=True):
        if own := ids[start:stop].tolist():
            # Titles of the same tokens share a sequence; the one that is called so, is meant.
            named = [id_ for id_ in own if names is not None and names.get(id_) == title]
            entities[title] = (named or own)[0], tuple(sequence)
    known = [
        [_Known(*each, *entities[each.title]) for each in dict.fromkeys(mention.candidates) if each.title in entities]
        for mention in mentions
    ]
    return known, len(distinct) - len(entities)


def _beams_among(
    model: Any,
    tokenizer: Any,
    trie: TokenTrie,
    texts: Sequence[str],
    candidates: Sequence[Sequence[_Known]],
    search: Mapping[str, Any],
) -> list[NDArray[np.float64]]:
    """Scores of each text's candidates by beams that are held to them; minus infinity for those that no beam came to."""
    lists = dict[tuple[tuple[int, ...], ...], TokenTrie]()
    keys = [tuple(each.sequence for each in own) for own in candidates]
    for key in keys:
        if key not in lists:
            lists[key] = trie.intersection(key)
    found = generate_entities(model, tokenizer, trie, texts, allowed=[lists[key] for key in keys], **search)
    scores = [{each.entity_id: each.score for each in own} for own in found]
    return [
        np.array([own.get(each.entity_id, -np.inf) for each in each_list])
        for own, each_list in zip(scores, candidates, strict=True)
    ]


def _ranked(
    candidates: Sequence[_Known], scores: NDArray[np.float64], prior_weight: float, names: Mapping[int, str] | None
) -> list[Answer]:
    """Entities by the best score of their names and the sum of their names' priors; equal ones by title."""
    best, priors = dict[int, tuple[float, str]](), dict[int, float]()
    for each, score in zip(candidates, scores.tolist(), strict=True):
        if score == -math.inf:
            continue
        priors[each.entity_id] = priors.get(each.entity_id, 0.0) + (each.prior or 0.0)
        if each.entity_id not in best or score > best[each.entity_id][0]:
            best[each.entity_id] = score, each.title
    answers = []
    for id_, (score, title) in best.items():
        mixed = score + prior_weight * math.log(priors[id_]) if prior_weight else score
        answers.append(Answer(_name(id_, names, title), mixed, id_))
    return sorted(answers, key=lambda answer: (-answer.score, answer.title))


def _free_answer(
    trie: TokenTrie, tokenizer: Any, names: Mapping[int, str] | None, sequence: Sequence[int], score: float
) -> Answer:
    ids = trie.ids_of(sequence).tolist()
    title = tokenizer.decode([token for token in sequence if token != trie.eos]).strip()
    return Answer(_name(ids[0], names, title), score, ids[0]) if ids else Answer(title, score, None)


def _name(entity_id: int, names: Mapping[int, str] | None, title: str) -> str:
    return title if names is None else names.get(entity_id, title)


def _cut_off(texts: Sequence[str], tokenizer: Any, max_input_length: int) -> int:
    """How many texts are cut before their mention ends; where the mark is a token of its own, as after `train genre`."""
    mark = tokenizer.convert_tokens_to_ids(END_ENTITY)
    if not texts or mark is None or mark == tokenizer.unk_token_id:
        return 0
    ids = encode_texts(tokenizer, texts, max_input_length)
    return int(np.sum([mark not in own for own in ids]))
