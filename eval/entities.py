"""What the constraint, candidates and priors are worth to a model that writes titles; and writing titles against dense vectors.

Mentions, each test set's that are in the trie, one row a way:

    prior                   the likeliest title of the mention's links, without a model
    free                    written without a constraint
    constrained             beams among all titles of the trie
    constrained, candidates beams among the mention's candidates
    candidates, exact       each candidate's score
    candidates + prior      the same, plus the log of the prior, weighted as is best on --dev

Where a mention has no candidates in the trie, the rows with candidates search among all titles. Tests are against "constrained"
(randomisation test on accuracy, Holm-corrected). The table of mentions must know nothing of the tests' pages.

Questions, one row a way to find pages by their titles: beams of titles, each --dense model's vectors, BM25.

    python eval/entities.py --model FOLDER --trie T --titles FILE --mentions TABLE --test NAME=KILT ... --dev KILT
        [--pages NAME=KILT ...] [--pages NAME=QUERIES,QRELS ...] [--dense NAME=MODEL ...] [--limit N]

Every part is kept in the output folder and not made twice. Writes eval/results/entities-<name>.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from facts import facts
from timing import constraint_seconds

from rankdistill.evaluation.entities import EntityEvaluation, evaluate_pages
from rankdistill.evaluation.latency import measure_latency
from rankdistill.evaluation.measures import Evaluation, evaluate
from rankdistill.evaluation.report import render_table
from rankdistill.evaluation.significance import compare
from rankdistill.formats.cache import fingerprint_of
from rankdistill.formats.kilt import KiltRecord, gold_titles, read_kilt
from rankdistill.formats.mentions import MentionTable
from rankdistill.formats.queries import read_queries
from rankdistill.formats.titles import names_of, read_titles
from rankdistill.formats.trec import read_qrels, read_run, write_run
from rankdistill.formats.writing import save_json
from rankdistill.generation.disambiguation import Answer, Mention, disambiguate, first_entity, mention_of
from rankdistill.generation.entity_scores import evaluate_answers
from rankdistill.generation.pages import page_id, retrieve_entities
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.loading import load_model
from rankdistill.models.seq2seq import Seq2SeqModel
from rankdistill.records import Run
from rankdistill.retrieval.bm25 import BM25
from rankdistill.retrieval.index import build_index
from rankdistill.retrieval.search import search

RESULTS = Path(__file__).parent / "results"
WAYS: dict[str, dict[str, Any]] = {
    "prior": {"mode": "prior"},
    "free": {"mode": "free"},
    "constrained": {"mode": "beams"},
    "constrained, candidates": {"mode": "candidate-beams"},
    "candidates, exact": {"mode": "candidates"},
    "candidates + prior": {"mode": "candidates"},
}
BASELINE, MIXED = "constrained", "candidates + prior"
WEIGHTS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # of the log prior, beside a mean log-probability of a token
K = 10


class Systems:
    """The model with its trie, names and table, and the folder where parts are kept."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        chosen = vars(arguments)
        told = [
            chosen[name]
            for name in ("model", "trie", "titles", "mentions", "limit", "beams", "max_words", "batch_size")
        ]
        self.out: Path = arguments.out / fingerprint_of(*told)[:8]
        loaded = Seq2SeqModel.from_pretrained(arguments.model, device=arguments.device)
        self.model, self.tokenizer, self.longest = loaded.model, loaded.tokenizer, loaded.source_max_length
        self.trie = TokenTrie.open(arguments.trie, tokenizer=self.tokenizer)
        self.trie_bytes = arguments.trie.stat().st_size
        self.titles, self.names = arguments.titles, names_of(arguments.titles)
        self.table = MentionTable.read(arguments.mentions)
        self.num_beams, self.max_words, self.batch_size = arguments.beams, arguments.max_words, arguments.batch_size

    @property
    def model_bytes(self) -> int:
        return sum(weight.nbytes for weight in self.model.parameters())

    def mentions(self, records: Sequence[KiltRecord]) -> list[Mention]:
        return [mention_of(record, self.table, num_candidates=100, max_words=self.max_words) for record in records]

    def answers(self, mentions: Sequence[Mention], **way: Any) -> dict[str, Any]:
        """Answers as JSON has them, with counts, and the seconds that they and the constraint took."""
        with constraint_seconds() as constraint:
            start = time.perf_counter()
            found = disambiguate(
                self.model,
                self.tokenizer,
                self.trie,
                mentions,
                names=self.names,
                **{"num_results": self.num_beams, "num_beams": self.num_beams, "batch_size": self.batch_size, **way},
                max_input_length=self.longest,
                progress=True,
            )
            seconds = time.perf_counter() - start
        return {**dataclasses.asdict(found), "seconds": seconds, "constraint_seconds": constraint.seconds}

    def kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A part that is made once."""
        path = self.out / f"{name}.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_json(path, make())
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept

    def accuracy(self, records: Sequence[KiltRecord], answers: Sequence[Sequence[Sequence[Any]]]) -> EntityEvaluation:
        """Of mentions whose title is in the trie; titles that are the same tokens are one."""
        first = [first_entity([Answer(*each) for each in own[:1]]) for own in answers]
        found = evaluate_answers(self.trie, self.tokenizer, records, first)
        assert found is not None, "none of the right titles is in the trie"
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an encoder-decoder that was trained to write titles")
    parser.add_argument("--trie", type=Path, required=True)
    parser.add_argument("--titles", type=Path, required=True, help="the file that the trie was built of")
    parser.add_argument("--mentions", type=Path, required=True, help="the table of mentions")
    parser.add_argument("--test", nargs="*", default=[], metavar="NAME=KILT", help="mentions")
    parser.add_argument("--dev", type=Path, help="mentions that the weight of the prior is chosen on")
    parser.add_argument("--pages", nargs="*", default=[], metavar="NAME=FILE[,QRELS]", help="questions")
    parser.add_argument(
        "--dense", nargs="*", default=[], metavar="NAME=MODEL", help="models of vectors, over the titles"
    )
    parser.add_argument("--limit", type=int, help="records of each file, drawn at random")
    parser.add_argument("--beams", type=int, default=10)
    parser.add_argument("--max-words", type=int, default=384, help="around a mention, as in training")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", default="linked-text", help="of the result")
    parser.add_argument("--out", type=Path, default=Path("runs/entities/eval"))
    parser.add_argument("--json", type=Path, help="the result; eval/results/entities-<name>.json without it")
    arguments = parser.parse_args()
    started = time.perf_counter()
    systems = Systems(arguments)
    weight = chosen_weight(systems, arguments.dev, arguments.limit) if arguments.dev else 0.1
    mentions = {}
    for name, path in map(_named, arguments.test):
        mentions[name] = mention_rows(systems, name, sample(list(read_kilt(path)), arguments.limit), weight)
        print(f"\n{name}\n{render_table(mentions[name]['rows'], decimals=3)}", flush=True)
    pages = {}
    for name, path in map(_named, arguments.pages):
        pages[name] = page_rows(systems, name, path, arguments.limit, dict(map(_named, arguments.dense)))
        print(f"\n{name}\n{render_table(pages[name]['rows'], decimals=3)}", flush=True)
    result = {
        "model": arguments.model,
        "titles": systems.trie.num_entities,
        "table": {"file": arguments.mentions.name, "mentions": len(systems.table), "pairs": systems.table.num_pairs},
        "beams": arguments.beams,
        "max_words": arguments.max_words,
        "batch_size": arguments.batch_size,
        "prior_weight": weight,
        "weight_chosen_on": None if arguments.dev is None else arguments.dev.name,
        "mentions": mentions,
        "pages": pages,
        **facts(started),
    }
    path = arguments.json or RESULTS / f"entities-{arguments.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_json(path, result, indent=1)


def _named(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    return name, path


def sample(records: list[Any], limit: int | None) -> list[Any]:
    """So many of them in their order, the same ones each time."""
    if limit is None or limit >= len(records):
        return records
    return [records[row] for row in sorted(random.Random(0).sample(range(len(records)), limit))]


def chosen_weight(systems: Systems, path: Path, limit: int | None) -> float:
    """The weight of the prior that is best on these mentions; of equal ones the smallest."""

    def make() -> dict[str, Any]:
        records = sample(list(read_kilt(path)), limit)
        mentions = systems.mentions(records)
        way = {"without_candidates": "nothing", "num_results": 100}
        exact, priors = (systems.answers(mentions, mode=mode, **way)["answers"] for mode in ("candidates", "prior"))
        found = {}
        for weight in WEIGHTS:
            best = []
            for own, of in zip(exact, priors, strict=True):
                log_prior = {id_: score for _, score, id_ in of}
                best.append(sorted(own, key=lambda each: each[1] + weight * log_prior[each[2]])[-1:])
            found[str(weight)] = systems.accuracy(records, best).mean["accuracy"]
        return found

    accuracies = systems.kept("prior-weight", make)
    print("weight of the prior:", accuracies, flush=True)
    return max(WEIGHTS, key=lambda weight: (accuracies[str(weight)], -weight))


def mention_rows(systems: Systems, name: str, records: list[KiltRecord], weight: float) -> dict[str, Any]:
    """Each way's accuracy, times, and test against the constraint alone."""
    mentions = systems.mentions(records)
    made: dict[str, dict[str, Any]] = {}
    evaluations: dict[str, Evaluation] = {}
    for way, options in WAYS.items():
        more = {"prior_weight": weight} if way == MIXED else {}
        part = f"{name}/{way}" + (f" {weight:g}" if more else "")
        made[way] = systems.kept(part, lambda own=options | more: systems.answers(mentions, **own))
        evaluations[way] = systems.accuracy(records, made[way]["answers"])
        print(name, way, evaluations[way].mean, flush=True)
    tests = {each.system: each for each in compare(evaluations, BASELINE, "accuracy", "randomisation")}
    gold = [set(gold_titles(record)) for record in records]
    in_table = [
        bool(own & {each.title for each in mention.candidates}) for own, mention in zip(gold, mentions, strict=True)
    ]
    rows = []
    for way, evaluation in evaluations.items():
        own, test = made[way], tests.get(way)
        rows.append(
            {
                "way": way,
                "accuracy": evaluation.mean["accuracy"],
                "F1": evaluation.mean["F1"],
                "no title": own["num_invalid"] / len(records) if way == "free" else None,
                "p": None if test is None else test.p_corrected,
                "wins": None if test is None else test.wins,
                "losses": None if test is None else test.losses,
                "ms a mention": own["seconds"] / len(records) * 1e3,
                "constraint": None if way in ("prior", "free") else own["constraint_seconds"] / own["seconds"],
            }
        )
    first = next(iter(evaluations.values()))
    assert isinstance(first, EntityEvaluation)
    return {
        "rows": rows,
        "num_mentions": len(records),
        "num_in_kb": first.num_queries,
        "num_out_of_kb": first.num_out_of_kb,
        "candidates_have_it": sum(in_table) / len(records),
        "num_cut": made[BASELINE]["num_cut"],
    }


def page_rows(systems: Systems, name: str, file: str, limit: int | None, dense: Mapping[str, str]) -> dict[str, Any]:
    """Each way's measures, bytes and milliseconds a query (one at a time)."""
    path, _, qrels_path = file.partition(",")
    queries = dict(sample(list(read_queries(path, max_words=systems.max_words).items()), limit))
    measured: Callable[[Run], Evaluation]
    if qrels_path:
        qrels = read_qrels(qrels_path)

        def measured(run: Run) -> Evaluation:
            return evaluate(qrels, run, ("Rprec", f"R@{K}", "nDCG@10"), list(queries))
    else:
        gold = {
            record.id: [{page_id(page.title) for page in output.provenance if page.title} for output in record.output]
            for record in read_kilt(path)
            if record.id in queries
        }

        def measured(run: Run) -> Evaluation:
            return evaluate_pages(gold, {query_id: list(scores) for query_id, scores in run.items()}, (1, K))

    ways: dict[str, Callable[[], tuple[int, Callable[[Mapping[str, str]], Run]]]] = {
        "written titles": lambda: by_writing(systems),
        **{label: (lambda own=model: by_vectors(systems, own)) for label, model in dense.items()},
        "BM25": lambda: by_words(systems),
    }
    evaluations, costs = {}, {}
    for label, make in ways.items():
        run, costs[label] = kept_run(systems, f"{name}/{label}", queries, make)
        evaluations[label] = measured(run)
        print(name, label, evaluations[label].mean, costs[label], flush=True)
    main_measure = next(iter(next(iter(evaluations.values())).mean))
    tests = {each.system: each for each in compare(evaluations, "written titles", main_measure, "randomisation")}
    rows = [
        {
            "way": label,
            **evaluation.mean,
            "p": tests[label].p_corrected if label in tests else None,
            "MB": costs[label]["bytes"] / 1e6,
            "ms a query": costs[label]["ms"],
        }
        for label, evaluation in evaluations.items()
    ]
    return {"rows": rows, "num_queries": next(iter(evaluations.values())).num_queries, "measure": main_measure}


def kept_run(
    systems: Systems,
    name: str,
    queries: Mapping[str, str],
    make: Callable[[], tuple[int, Callable[[Mapping[str, str]], Run]]],
) -> tuple[Run, dict[str, float]]:
    """A run with its costs, made once."""
    path = systems.out / f"{name}.run.gz"

    def costs() -> dict[str, Any]:
        num_bytes, answer = make()
        write_run(path, answer(queries))
        some = list(queries.items())[:50]
        latency = measure_latency(lambda item: answer(dict([item])), some)
        assert latency is not None
        return {"bytes": num_bytes, "ms": latency.p50_ms}

    kept = systems.kept(name, costs)
    return read_run(path), kept


def by_writing(systems: Systems) -> tuple[int, Callable[[Mapping[str, str]], Run]]:
    def answer(queries: Mapping[str, str]) -> Run:
        return retrieve_entities(
            systems.model,
            systems.tokenizer,
            systems.trie,
            queries,
            k=max(K, systems.num_beams),
            names=systems.names,
            max_input_length=systems.longest,
            batch_size=systems.batch_size,
            progress=len(queries) > 1,
        )

    return systems.model_bytes + systems.trie_bytes, answer


@functools.cache  # one index for all sets of questions
def by_vectors(systems: Systems, name_or_path: str) -> tuple[int, Callable[[Mapping[str, str]], Run]]:
    model = load_model(name_or_path)
    index = build_index(model, title_docs(systems), dtype="fast")
    num_bytes = sum(weight.nbytes for weight in model.parameters()) + len(index.doc_ids) * 4 * model.dim
    return num_bytes, lambda queries: search(model, index, queries, k=K, dtype="fast", progress=len(queries) > 1)


@functools.cache
def by_words(systems: Systems) -> tuple[int, Callable[[Mapping[str, str]], Run]]:
    index = BM25(title_docs(systems))
    return index.num_bytes, lambda queries: index.search(queries, K, progress=len(queries) > 1)


def title_docs(systems: Systems) -> dict[str, str]:
    """The trie's titles by page; those that are called alike are one."""
    return {page_id(title): title for title in read_titles(systems.titles).titles}


if __name__ == "__main__":
    main()
