"""End-to-end linking: mentions and their entities in texts, by a model that writes the text again, and by a dictionary.

    dictionary              longest surfaces of the table that are links often enough where they occur, with their likeliest title
    all titles              any run of tokens may be a mention, with any title of the trie
    candidates              mentions and titles of the table

The dictionary's threshold is chosen on --dev, and so are how sure a link has to be, and the bonus for a link of "candidates".
Surfaces are counted in --train. Measures are InKB (`evaluate_links`): a link is right if its place and its title are. Tests are
against the dictionary (randomisation test on the texts' own F1, Holm-corrected).

    python eval/linking.py --model FOLDER --trie T --titles FILE --mentions TABLE --train LINKED --dev LINKED --test LINKED

Writes eval/results/linking-<name>.json. eval/linked_text.py makes the files.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from entities import sample
from facts import facts

from rankdistill.evaluation.linking import LinkEvaluation, TitleLink, evaluate_links
from rankdistill.evaluation.report import render_table
from rankdistill.evaluation.significance import compare
from rankdistill.formats.linked_texts import LinkedText, read_linked_texts
from rankdistill.formats.mentions import MentionTable
from rankdistill.formats.titles import names_of
from rankdistill.formats.writing import save_json
from rankdistill.generation.entity_scores import entity_keys
from rankdistill.generation.linking import link_entities
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.seq2seq import Seq2SeqModel

RESULTS = Path(__file__).parent / "results"
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)  # of a surface's occurrences that are links
LEAST_SCORES = (-30.0, -25.0, -20.0, -16.0, -12.0, -10.0, -8.0, -6.0, -4.0, -2.0)
BONUSES = (0.0, 5.0, 10.0, 15.0)
MAX_WORDS = 8  # of a surface
WORD = re.compile(r"\w+")

Scored = dict[str, list[tuple[float, TitleLink]]]
"""Links of each text with what must be high enough for them to count."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an encoder-decoder that was trained on linked texts")
    parser.add_argument("--trie", type=Path, required=True)
    parser.add_argument("--titles", type=Path, required=True, help="the file that the trie was built of")
    parser.add_argument("--mentions", type=Path, required=True, help="the table of mentions, of training texts only")
    for split in ("train", "dev", "test"):
        parser.add_argument(f"--{split}", type=Path, required=True, help="linked texts")
    parser.add_argument("--limit", type=int, help="texts of test, drawn at random")
    parser.add_argument("--dev-limit", type=int, help="the same of dev")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--name", default="linked-text", help="of the result")
    parser.add_argument("--json", type=Path, help="the result; eval/results/linking-<name>.json without it")
    arguments = parser.parse_args()
    started = time.perf_counter()
    loaded = Seq2SeqModel.from_pretrained(arguments.model, device="cpu")
    trie = TokenTrie.open(arguments.trie, tokenizer=loaded.tokenizer)
    table, names = MentionTable.read(arguments.mentions), names_of(arguments.titles)
    dev = sample(list(read_linked_texts(arguments.dev)), arguments.dev_limit)
    test = sample(list(read_linked_texts(arguments.test)), arguments.limit)
    titles = {own.title for text in (*dev, *test) for own in text.mentions} | table.titles
    keys, known = entity_keys(trie, loaded.tokenizer, titles)

    def written(texts: Sequence[LinkedText], **more: Any) -> Scored:
        plain = [text.text for text in texts]
        found = link_entities(
            loaded.model, loaded.tokenizer, trie, plain, titles=names, num_beams=arguments.beams, progress=True, **more
        )
        return {
            text.id: [(own.score, (own.start, own.end, f"entity {own.entity_id}")) for own in links]
            for text, links in zip(texts, found, strict=True)
        }

    shares = link_shares(list(read_linked_texts(arguments.train)), table)
    own = {"candidates": lambda mention: table.titles_of(mention, 30), "on_unknown": "skip"}
    ways: dict[str, tuple[Sequence[float], Sequence[float], Callable[[Sequence[LinkedText], float], Scored]]] = {
        "dictionary": (SHARES, (0.0,), lambda texts, bonus: by_dictionary(texts, table, shares, keys)),
        # A bonus of 5 took 24 s a text here: nearly every place becomes a search among all titles.
        "all titles": (LEAST_SCORES, (0.0,), lambda texts, bonus: written(texts, bonus=bonus)),
        "candidates": (LEAST_SCORES, BONUSES, lambda texts, bonus: written(texts, bonus=bonus, **own)),
    }
    evaluations: dict[str, LinkEvaluation] = {}
    rows: list[dict[str, Any]] = []
    for way, (least, bonuses, find) in ways.items():
        by_choice = {
            (bonus, value): measured(dev, found, value, keys, known).mean["F1"]
            for bonus in bonuses
            for found in [find(dev, bonus)]
            for value in least
        }
        bonus, sure = max(by_choice, key=by_choice.__getitem__)
        start = time.perf_counter()
        found = find(test, bonus)
        seconds = time.perf_counter() - start
        evaluations[way] = measured(test, found, sure, keys, known)
        times = {"bonus": bonus, "at least": sure, "ms a text": 1e3 * seconds / len(test)}
        rows.append({"way": way, **evaluations[way].mean, **times, "F1 on dev": by_choice[bonus, sure]})
        print(rows[-1], flush=True)
    tests = {each.system: each for each in compare(evaluations, "dictionary", "macro F1", "randomisation")}
    for row in rows:
        row["p"] = tests[row["way"]].p_corrected if row["way"] in tests else None
    counts = evaluations["dictionary"].counts
    print(render_table(rows, decimals=3))
    result = {
        "model": arguments.model,
        "titles": trie.num_entities,
        "table": {"mentions": len(table), "pairs": table.num_pairs},
        "beams": arguments.beams,
        "num_dev_texts": len(dev),
        "num_texts": len(test),
        "num_links": counts.num_gold,
        "num_links_out_of_kb": counts.num_unknown,
        "links_in_table": reachable(test, table, keys, known),
        "rows": rows,
        **facts(started),
    }
    save_json(arguments.json or RESULTS / f"linking-{arguments.name}.json", result, indent=1)


def measured(
    texts: Sequence[LinkedText], found: Scored, least: float, keys: Mapping[str, str], known: set[str]
) -> LinkEvaluation:
    gold = {text.id: [(own.start, own.end, keys[own.title]) for own in text.mentions] for text in texts}
    return evaluate_links(
        gold, {id_: [link for sure, link in own if sure >= least] for id_, own in found.items()}, known
    )


def surfaces_in(text: str, table: MentionTable) -> list[tuple[int, int]]:
    """Places of the table's mentions in a text, longest first at each, none overlapping."""
    words = [match.span() for match in WORD.finditer(text)]
    found, at = [], 0
    while at < len(words):
        for count in range(min(MAX_WORDS, len(words) - at), 0, -1):
            start, end = words[at][0], words[at + count - 1][1]
            if table.most_frequent(text[start:end]) is not None:
                found.append((start, end))
                at += count
                break
        else:
            at += 1
    return found


def link_shares(texts: Sequence[LinkedText], table: MentionTable) -> Mapping[str, float]:
    """How often each surface, folded, is a link where it occurs."""
    occurs, links = Counter[str](), Counter[str]()
    for text in texts:
        linked = {(own.start, own.end) for own in text.mentions}
        for start, end in surfaces_in(text.text, table):
            surface = text.text[start:end].casefold()
            occurs[surface] += 1
            links[surface] += (start, end) in linked
    return {surface: links[surface] / count for surface, count in occurs.items()}


def by_dictionary(
    texts: Sequence[LinkedText], table: MentionTable, shares: Mapping[str, float], keys: Mapping[str, str]
) -> Scored:
    found: Scored = {}
    for text in texts:
        own = found[text.id] = []
        for start, end in surfaces_in(text.text, table):
            title = table.most_frequent(text.text[start:end])
            assert title is not None
            own.append((shares.get(text.text[start:end].casefold(), 0.0), (start, end, keys[title])))
    return found


def reachable(texts: Sequence[LinkedText], table: MentionTable, keys: Mapping[str, str], known: set[str]) -> float:
    """The share of links whose title is a candidate of the table."""
    there = [
        keys[own.title] in {keys[title] for title in table.titles_of(text.text[own.start : own.end])}
        for text in texts
        for own in text.mentions
        if keys[own.title] in known
    ]
    return sum(there) / len(there)


if __name__ == "__main__":
    main()
