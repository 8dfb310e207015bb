"""`rankdistill entities score`: predicted titles, or links, against the right ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rankdistill.evaluation.entities import EntityEvaluation, evaluate_entities, evaluate_pages
from rankdistill.evaluation.linking import TitleLink, evaluate_links
from rankdistill.evaluation.measures import Evaluation
from rankdistill.evaluation.report import evaluation_rows, render_table
from rankdistill.evaluation.significance import compare
from rankdistill.formats.kilt import KiltRecord, gold_titles, read_distinct
from rankdistill.formats.linked_texts import is_linked_texts, read_distinct_texts
from rankdistill.formats.trec import read_run
from rankdistill.formats.writing import save_json
from rankdistill.generation.pages import page_id
from rankdistill.generation.trie import TokenTrie
from rankdistill.options.entities import EntitiesScoreOptions
from rankdistill.records import ranked

__all__ = ["entity_keys", "evaluate_answers", "open_trie", "run_score"]


def run_score(options: EntitiesScoreOptions) -> str:
    """Accuracy of answers, R-precision and recall of pages, or F1 of links, with tests against the first file of predictions.

    Raises:
        ValueError: for no predictions, or none of the gold file's records.
        BadDataError: for malformed lines, or ids that occur twice.
    """
    if not options.predictions:
        raise ValueError("expected at least one file of predictions, found none")
    if is_linked_texts(options.gold):
        return _score_links(options)
    gold = {record.id: record for record in read_distinct(options.gold)}
    pages = {str(path): _ranked_pages(path) for path in dict.fromkeys(options.predictions)}
    provenance = (page for record in gold.values() for output in record.output for page in output.provenance)
    rankings = (ranking for own in pages.values() for ranking in own.values())
    key, known = _keys(options, {page.title for page in provenance if page.title}.union(*rankings))
    sets = {
        id_: [{key(page.title) for page in output.provenance if page.title} for output in record.output]
        for id_, record in gold.items()
    }
    titles = {id_: [key(title) for title in gold_titles(record)] for id_, record in gold.items()}
    evaluations = dict[str, Evaluation]()
    for name, own in pages.items():
        if not own.keys() & gold.keys():
            raise ValueError(f"expected predictions for records of {options.gold}, found none in {name}")
        by_key = {id_: list(map(key, ranking)) for id_, ranking in own.items()}
        first = {id_: ranking[0] for id_, ranking in by_key.items() if ranking}
        answers, ranking = evaluate_entities(titles, first, known), evaluate_pages(sets, by_key, options.ks)
        evaluations[name] = Evaluation(
            answers.mean | ranking.mean, answers.per_query | ranking.per_query, answers.num_queries, answers.num_missing
        )
    summary = (
        f"{answers.num_queries:,} mentions or questions, {answers.num_out_of_kb:,} left out whose titles aren't known (F1, "
        f"precision, accuracy); {ranking.num_queries:,} with pages (R-precision, recall); those without a prediction count as 0"
    )
    counts = {
        "num_in_kb": answers.num_queries,
        "num_out_of_kb": answers.num_out_of_kb,
        "num_with_pages": ranking.num_queries,
    }
    return _report(options, evaluations, ("accuracy", "R-precision"), summary, counts)


def _score_links(options: EntitiesScoreOptions) -> str:
    gold = _links(options.gold)
    found = {str(path): _links(path) for path in dict.fromkeys(options.predictions)}
    titles = {title for own in (gold, *found.values()) for links in own.values() for _, _, title in links}
    key, known = _keys(options, titles)

    def keyed(links: Mapping[str, list[TitleLink]]) -> dict[str, list[TitleLink]]:
        return {id_: [(start, end, key(title)) for start, end, title in own] for id_, own in links.items()}

    wanted, evaluations = keyed(gold), dict[str, Evaluation]()
    for name, own in found.items():
        if not own.keys() & gold.keys():
            raise ValueError(f"expected predictions for texts of {options.gold}, found none in {name}")
        evaluations[name] = evaluation = evaluate_links(wanted, keyed(own), known)
    counts = {
        "num_texts": len(gold),
        "num_in_kb": evaluation.counts.num_gold,
        "num_out_of_kb": evaluation.counts.num_unknown,
    }
    summary = (
        "{num_texts:,} texts with {num_in_kb:,} links, {num_out_of_kb:,} more left out whose titles aren't known; a link is right "
        "where its place and its title are".format(**counts)
    )
    return _report(options, evaluations, ("macro F1",), summary, counts)


def _links(path: Path) -> dict[str, list[TitleLink]]:
    """The links of each text of a file.

    Raises:
        BadDataError: for malformed lines, or an id that occurs twice.
    """
    return {text.id: [(own.start, own.end, own.title) for own in text.mentions] for text in read_distinct_texts(path)}


def _report(
    options: EntitiesScoreOptions,
    evaluations: Mapping[str, Evaluation],
    tested: Sequence[str],
    summary: str,
    counts: Mapping[str, int],
) -> str:
    """The table with tests against the first, also as JSON where that is asked for."""
    first = next(iter(evaluations))
    comparisons = [each for measure in tested for each in compare(evaluations, first, measure, options.test)]
    lines = [render_table(evaluation_rows(evaluations, comparisons)), f"\n{summary}"]
    if comparisons:
        columns = ("system", "measure", "difference", "wins", "losses", "p_value", "p_corrected")
        lines.append(render_table([{name: asdict(each)[name] for name in columns} for each in comparisons]))
    if options.json is not None:
        means = {name: each.mean | {"num_missing": each.num_missing} for name, each in evaluations.items()}
        report = {"systems": means, **counts, "comparisons": [asdict(each) for each in comparisons]}
        save_json(options.json, report, indent=2)
    return "\n".join(lines)


def _keys(options: EntitiesScoreOptions, titles: set[str]) -> tuple[Callable[[str], str], set[str] | None]:
    """Title -> what it's compared by, and which of those are known: entities where there's a trie, else titles."""
    if options.trie is None:
        return page_id, None
    keys, known = entity_keys(*open_trie(options.trie, options.tokenizer), titles)
    return keys.__getitem__, known


def entity_keys(trie: TokenTrie, tokenizer: Any, titles: set[str]) -> tuple[dict[str, str], set[str]]:
    """What each title is compared by, its entity or, outside of the trie, the title; and those that are entities."""
    ids = _ids_of(trie, tokenizer, titles)
    keys = {title: f"entity {own[0]}" if own else page_id(title) for title, own in ids.items()}
    return keys, {keys[title] for title, own in ids.items() if own}


def _ranked_pages(path: Path) -> dict[str, list[str]]:
    """Titles of each record of a KILT file, or of a run, the best first."""
    if path.name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
        return {
            record.id: [page.title for output in record.output[:1] for page in output.provenance if page.title]
            for record in read_distinct(path)
        }
    return {id_: [page.replace("_", " ") for page, _ in ranked(scores)] for id_, scores in read_run(path).items()}


def open_trie(path: Path, tokenizer_name: str | None) -> tuple[TokenTrie, Any]:
    """A trie and its tokenizer.

    Raises:
        ValueError: without a tokenizer's name.
        BadStoreError: if the trie is of another.
    """
    from rankdistill.models.backbone import load_tokenizer

    if tokenizer_name is None:
        raise ValueError("expected --tokenizer MODEL with --trie, found none; it says which tokens titles are")
    tokenizer = load_tokenizer(tokenizer_name)
    return TokenTrie.open(path, tokenizer=tokenizer), tokenizer


def evaluate_answers(
    trie: TokenTrie, tokenizer: Any, records: Sequence[KiltRecord], answers: Sequence[int | None]
) -> EntityEvaluation | None:
    """Measures of one answer a record, by the record's place; None if none of the right titles is in the trie.

    Entities are compared by id, so that a tokenizer's lost case doesn't count against an answer.

    Args:
        answers: the entity of each record, -1 for what is no title, None for no answer.
    """
    ids = _ids_of(trie, tokenizer, {title for record in records for title in gold_titles(record)})
    gold = {
        str(row): {id_ for title in gold_titles(record) for id_ in ids[title]} for row, record in enumerate(records)
    }
    if not any(gold.values()):
        return None
    return evaluate_entities(gold, {str(row): id_ for row, id_ in enumerate(answers)})


def _ids_of(trie: TokenTrie, tokenizer: Any, titles: set[str]) -> dict[str, list[int]]:
    """Entities of each title, none for one that isn't in the trie."""
    order = sorted(titles)
    indptr, ids = trie.ids_of_titles(order, tokenizer)
    return {title: ids[start:stop].tolist() for title, start, stop in zip(order, indptr[:-1], indptr[1:], strict=True)}
