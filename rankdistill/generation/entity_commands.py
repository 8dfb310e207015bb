"""`rankdistill entities mentions`, `disambiguate`, `retrieve` and `watch`: options in, files and a page out."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rankdistill.errors import BadDataError, NothingDoneError
from rankdistill.formats.kilt import KiltOutput, KiltPage, KiltRecord, gold_titles, read_kilt, write_kilt
from rankdistill.formats.links import read_links
from rankdistill.formats.mentions import MentionTable, build_mentions
from rankdistill.formats.queries import read_queries
from rankdistill.formats.titles import names_of
from rankdistill.formats.trec import write_run
from rankdistill.generation.disambiguation import Answer, Mention, disambiguate, first_entity, mention_of
from rankdistill.generation.entity_scores import evaluate_answers, open_trie
from rankdistill.generation.pages import retrieve_entities
from rankdistill.generation.trie import TokenTrie
from rankdistill.generation.watch import observed_search, render_search
from rankdistill.models.backbone import load_tokenizer, resolve
from rankdistill.models.seq2seq import load_writer
from rankdistill.options.entities import (
    EntitiesDisambiguateOptions,
    EntitiesMentionsOptions,
    EntitiesRetrieveOptions,
    EntitiesWatchOptions,
)

__all__ = ["run_disambiguate", "run_mentions", "run_retrieve", "run_watch", "titles_in"]

_STYLES = {"bold": "\x1b[1m", "dim": "\x1b[2m", "found": "\x1b[32m"}


def run_mentions(options: EntitiesMentionsOptions) -> str:
    """Builds a table of mentions, and says what came of it."""
    if not options.files:
        raise ValueError("expected at least one file of links, found none")
    known = None
    if options.trie is not None:
        trie, tokenizer = open_trie(options.trie, options.tokenizer)

        def known(titles: list[str]) -> list[str]:
            return titles_in(trie, tokenizer, titles)

    links = itertools.chain.from_iterable(map(read_links, options.files))
    built = build_mentions(links, min_count=options.min_count, max_candidates=options.max_candidates, known=known)
    remedy = "check that the files hold links" + (f", and {options.trie} their titles" if options.trie else "")
    NothingDoneError.check(len(built.table), "mention", ", ".join(map(str, options.files)), remedy)
    built.table.write(options.output)
    left_out = {
        f"{built.num_unknown:,} to {built.num_unknown_titles:,} titles that aren't in the trie": built.num_unknown,
        f"{built.num_rare:,} of pairs seen less than {options.min_count} times": built.num_rare,
        f"{built.num_beyond:,} beyond a mention's {options.max_candidates} titles": built.num_beyond,
    }
    return (
        f"{options.output}: {len(built.table):,} mentions, {built.table.num_pairs:,} pairs with a title, of {built.num_links:,} "
        "links" + "".join(f"\nlinks left out: {line}" for line, number in left_out.items() if number)
    )


def titles_in(trie: TokenTrie, tokenizer: Any, titles: Sequence[str]) -> list[str]:
    """Those of the titles that the trie has."""
    counts = np.diff(trie.ids_of_titles(titles, tokenizer).indptr)
    return [title for title, count in zip(titles, counts, strict=True) if count]


def run_disambiguate(options: EntitiesDisambiguateOptions) -> str:
    """Disambiguates the mentions of KILT files, writes a KILT file, and says how that went.

    Raises:
        BadDataError: for a malformed line, or a record without a mention, with file and line.
        ValueError: for priors that aren't known, where they are asked for.
    """
    table = None if options.mentions is None else MentionTable.read(options.mentions)
    records, mentions = list[KiltRecord](), list[Mention]()
    for path in options.files:
        for number, record in enumerate(read_kilt(path), 1):
            try:
                own = mention_of(record, table, num_candidates=options.num_candidates, max_words=options.max_words)
            except BadDataError as error:
                raise BadDataError(error.expected, error.found, path=str(path), line=number) from None
            records.append(record)
            mentions.append(own)
    if not records:
        raise NothingDoneError("at least one record", "none", path=", ".join(map(str, options.files)) or None)
    writer = None if options.mode == "prior" else load_writer(options.model, options.device, options.dtype)
    tokenizer = load_tokenizer(resolve(options.model)) if writer is None else writer.tokenizer
    trie = TokenTrie.open(options.trie, tokenizer=tokenizer)
    done = disambiguate(
        None if writer is None else writer.model,
        tokenizer,
        trie,
        mentions,
        mode=options.mode,
        prior_weight=options.prior_weight,
        without_candidates=options.without_candidates,
        names=names_of(options.titles),
        num_beams=options.num_beams,
        num_results=options.num_results,
        length_penalty=options.length_penalty,
        max_input_length=None if writer is None else writer.source_max_length,
        batch_size=options.batch_size,
        progress=sys.stderr.isatty(),
    )
    write_kilt(options.output, itertools.starmap(_answered, zip(records, done.answers, strict=True)))
    lines = [f"{options.output}: {len(records):,} mentions, {sum(map(bool, done.answers)):,} with an answer"]
    notes = {
        "without a candidate in the trie": done.num_without_candidates,
        "whose best answer is no title of the trie": done.num_invalid,
        "cut off before their end mark is read; lower --max-words": done.num_cut,
    }
    lines += [f"mentions {what}: {number:,}" for what, number in notes.items() if number]
    if done.num_unknown_candidates:
        lines.append(f"candidates that aren't in the trie, left out: {done.num_unknown_candidates:,}")
    if any(gold_titles(record) for record in records):
        lines.append(_in_kb(trie, tokenizer, records, done.answers))
    return "\n".join(lines)


def _answered(record: KiltRecord, answers: Sequence[Answer]) -> KiltRecord:
    pages = tuple(KiltPage(answer.title, more={"score": answer.score}) for answer in answers)
    output = KiltOutput(answers[0].title if answers else None, pages)
    return KiltRecord(record.id, record.input, (output,), record.meta)


def _in_kb(trie: TokenTrie, tokenizer: Any, records: Sequence[KiltRecord], answers: Sequence[Sequence[Answer]]) -> str:
    """Accuracy as a line."""
    found = evaluate_answers(trie, tokenizer, records, [first_entity(own) for own in answers])
    if found is None:
        return "none of the right titles is in the trie"
    return (
        f"of {found.num_queries:,} mentions in the knowledge base ({found.num_out_of_kb:,} are not): micro F1 "
        f"{found.mean['F1']:.4f}, precision {found.mean['precision']:.4f}, accuracy {found.mean['accuracy']:.4f}"
    )


def run_retrieve(options: EntitiesRetrieveOptions) -> str:
    """Writes the run of a file's queries."""
    queries = read_queries(options.queries, max_words=options.max_words)
    NothingDoneError.check(len(queries), "query", options.queries, "check that the file isn't empty")
    writer = load_writer(options.model, options.device, options.dtype)
    run = retrieve_entities(
        writer.model,
        writer.tokenizer,
        TokenTrie.open(options.trie, tokenizer=writer.tokenizer),
        queries,
        k=options.k,
        num_beams=max(options.k, options.num_beams),
        doc_ids=options.doc_ids,
        names=names_of(options.titles),
        length_penalty=options.length_penalty,
        aliases=options.aliases,
        max_input_length=writer.source_max_length,
        batch_size=options.batch_size,
        progress=sys.stderr.isatty(),
    )
    num_pages = sum(map(len, run.values()))
    NothingDoneError.check(
        num_pages, "page found for a query", options.queries, "check that the trie is of the model's titles"
    )
    write_run(options.output, run)
    return f"{options.output}: {len(run):,} queries, {num_pages:,} pages"


def run_watch(options: EntitiesWatchOptions) -> Iterator[str]:
    """Pages to print one after the other: a step of the search each, and at last what was found."""
    writer = load_writer(options.model, options.device)
    tokenizer = writer.tokenizer
    trie = TokenTrie.open(options.trie, tokenizer=tokenizer)
    if options.allowed:
        trie = trie.subset(options.allowed, tokenizer)
    penalty = options.length_penalty
    steps, found = observed_search(
        writer.model,
        tokenizer,
        trie,
        options.text,
        num_beams=options.num_beams,
        length_penalty=penalty,
        max_input_length=writer.source_max_length,
    )
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ

    def style(text: str, name: str) -> str:
        return text if plain or not text else f"{_STYLES[name]}{text}\x1b[0m"

    return render_search(steps, found, tokenizer, length_penalty=penalty, style=style)
