"""Pages of queries: the titles that a model writes, as a run that is measured and ranked again like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from rankdistill.generation.decoding import Aliases, generate_entities
from rankdistill.generation.trie import TokenTrie
from rankdistill.records import Run, as_texts, ranked

__all__ = ["page_id", "retrieve_entities"]


def page_id(title: str) -> str:
    """A title as a doc_id: underscores for spaces, as Wikipedia and DBpedia have it, since runs part columns by white space."""
    return "_".join(title.replace("_", " ").split())


def retrieve_entities(
    model: Any,
    tokenizer: Any,
    trie: TokenTrie,
    queries: Mapping[str, str],
    *,
    k: int = 10,
    num_beams: int | None = None,
    doc_ids: Literal["title", "id"] = "title",
    names: Mapping[int, str] | None = None,
    length_penalty: float = 1.0,
    aliases: Aliases = "best",
    max_input_length: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> Run:
    """The k best entities of each query; fewer where the trie or the beams have no more.

    Args:
        queries: query_id -> text, as the model was trained to read it.
        num_beams: `k` without it.
        doc_ids: what the run calls a page: its title (`page_id`), or the id of its entity.
        names: entity -> title; without it a title is what the tokenizer decodes, which may have lost case.
        length_penalty: as for `generate_entities`; so for the rest.

    Returns:
        query_id -> doc_id -> score, in `records.ranked`'s order.

    Raises:
        ValueError: for a k below 1, a query that is no text, an id that is none, or as `generate_entities`.
    """
    queries = as_texts(queries)
    found = generate_entities(
        model,
        tokenizer,
        trie,
        list(queries.values()),
        num_beams=k if num_beams is None else num_beams,
        num_results=k,
        length_penalty=length_penalty,
        aliases=aliases,
        max_input_length=max_input_length,
        batch_size=batch_size,
        progress=progress,
    )
    run: Run = {}
    for query_id, entities in zip(queries, found, strict=True):
        scores = dict[str, float]()
        for entity in entities:
            title = entity.title if names is None else names.get(entity.entity_id, entity.title)
            doc_id = page_id(title) if doc_ids == "title" else str(entity.entity_id)
            # Entities that are called alike are one page; the best comes first.
            scores.setdefault(doc_id, entity.score)
        run[query_id] = dict(ranked(scores))
    return run
