"""Does a teacher help? Students on the same triples and steps, with and without one.

For each collection: triples from BM25, teachers and their scores of the triples, and students of two layers. Teachers are trained
on the same triples (a cross-encoder T1; a dot model of all six layers), or, where that takes a 2-core machine too long, both are
MiniLM as it is published. All are measured on the same test queries. Seven tables:

    teachers   one dot student, by what teaches it: labels, T1, a dense teacher's scores of the whole batch, mixtures
    students   dot, ColBERT, SPLADE, PreTT, TK and a cross-encoder, each alone (labels only), with T1, and with T2 (an ensemble)
    unlabelled students of labelled queries, and of all queries as a teacher of the same labels scores them
    losses     the paper's ablation for two students: no teacher, weighted RankNet, pointwise MSE, Margin-MSE, KL
    margins    students of `students` by what becomes of T1's margins: another weight or scale, T1's scores spread
               evenly, its ranks, its rows without those where it's wrong; on lists only
    scales     Margin-MSE by the teacher's scale, and by the number of negatives of a row
    latency    what the students of `students` take for a query, and for the documents on disk: to be run on a quiet machine

    python eval/cross_architecture.py COLLECTION [--table students] [--data FOLDER] [--out runs/cross-architecture]

Every part is kept in the output folder and not made twice. Writes eval/results/<table>-<collection>.json, from which
scripts/render_results.py makes docs/results.md.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from changed_scores import ranks, spread_evenly, where_right
from study import COLBERT, COSINE_SCALE, MINILM, SETTINGS, SHARED, Study, mean_of_runs
from tables import agreement, shallow, table, write_result

from rankdistill.evaluation.measures import evaluate
from rankdistill.evaluation.report import render_table
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import Model, load_model
from rankdistill.options.students import PrettOptions, SpladeOptions, TKOptions
from rankdistill.records import Run
from rankdistill.retrieval.bm25 import bm25_search
from rankdistill.retrieval.precompute import load_precomputed, precompute
from rankdistill.retrieval.systems import rerank_latency

BASELINE, NO_TEACHER = "labels only: InfoNCE", "no teacher: RankNet"
# In-batch Margin-MSE also fits what the teacher says of hopeless docs, and on squad11dev x 5 did better than x 10 and x 20.
MARGIN_SCALE = 0.25  # of the scale that KL takes

TEACHERS: dict[str, dict[str, Any]] = {
    BASELINE: {"loss": ("infonce",)},
    "labels only: RankNet on the triples": {"loss": ("ranknet",)},
    "T1: Margin-MSE on the triples (the paper's)": {"loss": ("margin-mse",)},
    "T1: Margin-MSE on the triples, scores x 0.3": {"loss": ("margin-mse",), "scale": 0.3},
    "T1: Margin-MSE + InfoNCE": {"loss": ("margin-mse:0.05", "infonce")},
    "T2: Margin-MSE on the triples": {"loss": ("margin-mse",), "T2": True},
    "T2: Margin-MSE on the triples, scores x 0.3": {"loss": ("margin-mse",), "T2": True, "scale": 0.3},
    "dense teacher: in-batch Margin-MSE": {"loss": ("in-batch-margin-mse",), "dense": MARGIN_SCALE},
    "dense teacher: in-batch Margin-MSE, scores x 0.3": {"loss": ("in-batch-margin-mse",), "dense": 0.3 * MARGIN_SCALE},
    "dense teacher: in-batch KL": {"loss": ("in-batch-kl",), "dense": 1.0},
    "dense teacher: in-batch KL + InfoNCE": {"loss": ("in-batch-kl", "infonce:0.3"), "dense": 1.0},
    "T1 + dense teacher: Margin-MSE + in-batch KL + InfoNCE": {
        "loss": ("margin-mse:0.05", "in-batch-kl", "infonce:0.3"),
        "dense": 1.0,
    },
    "T1 x 0.3 + dense teacher: Margin-MSE + in-batch KL + InfoNCE": {
        "loss": ("margin-mse:0.05", "in-batch-kl", "infonce:0.3"),
        "dense": 1.0,
        "scale": 0.3,
    },
    "MiniLM as published: in-batch KL + InfoNCE": {"loss": ("in-batch-kl", "infonce:0.3"), "published": True},
}

STUDENTS: dict[str, dict[str, Any]] = {
    "dot": {},
    "colbert": COLBERT,
    "splade": {"student": "splade", "splade": SpladeOptions(new_head=True)},
    # As a bag of words, its start, its scores are 95 apart within a row of squad11dev's, T1's 5: `train margin-mse` says so.
    "splade (scores / 10)": {"student": "splade", "splade": SpladeOptions(new_head=True), "temperature": 10.0},
    "prett": {"student": "prett", "prett": PrettOptions(join_layer=1)},
    "prett of 6 layers": {"student": "prett", "prett": PrettOptions(join_layer=3), "num_layers": None},
    "tk": {"student": "tk", "tk": TKOptions(num_heads=12), "num_layers": None, "num_epochs": 6},
    "cross-encoder": {"student": "cross-encoder"},
}
# Students that score all docs of a batch learn labels by InfoNCE, which is better than RankNet on the pairs alone.
IN_BATCH = ("dot", "colbert", "splade")

LOSSES: dict[str, dict[str, Any]] = {
    NO_TEACHER: {"loss": ("ranknet",)},
    "weighted RankNet": {"loss": ("weighted-ranknet",)},
    "pointwise MSE": {"loss": ("pointwise-mse",)},
    "Margin-MSE": {"loss": ("margin-mse",)},
    "KL": {"loss": ("kl",)},
}
Rows = dict[str, tuple[Path | None, dict[str, Any]]]  # a student's scores and options, by its row's name
TIMED_QUERIES = 10
SCALES = (0.1, 0.3, 1.0, 3.0)
WEIGHT = 0.05  # of Margin-MSE beside a loss of labels
NEGATIVES = (1, 3, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", choices=sorted(SETTINGS))
    parser.add_argument("--table", choices=sorted(TABLES), default="teachers")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder that holds the collection's BEIR folder")
    parser.add_argument("--out", type=Path, default=Path("runs/cross-architecture"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--num-layers", type=int, default=2, help="of students")
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", help="students whose name holds one of these, and baselines"
    )
    parser.add_argument("--suffix", default="", help="of the result's name, beside those of other rows or seeds")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="of all students")
    parser.add_argument("--backend", choices=["torch", "openvino"], default="torch", help="of searching and scoring")
    parser.add_argument(
        "--held-out", action="store_true", help="cross-encoders score rows of queries that they weren't trained on"
    )
    parser.add_argument(
        "--num-docs",
        type=int,
        default=2,
        help="of a training row: 2 for triples; more for lists, half of whose other docs are any of the collection's",
    )
    parser.add_argument(
        "--num-epochs", type=float, help="of students but TK, which has six (default: the collection's)"
    )
    parser.add_argument(
        "--factor",
        type=float,
        default=1.0,
        help="multiplies what teachers say, in the tables `students` and `unlabelled` (default: 1)",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="students trained at a time: a GPU has room for many (default: 1)"
    )
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    study = Study(
        arguments.collection,
        arguments.data,
        arguments.out / arguments.collection,
        arguments.num_layers,
        arguments.learning_rate,
        arguments.backend,
        arguments.held_out,
        arguments.suffix,
        arguments.num_docs,
        arguments.num_epochs,
        arguments.factor,
        arguments.jobs,
    )
    TABLES[arguments.table](study, arguments.seeds, arguments.only)


def teachers(study: Study, seeds: list[int], only: list[str] | None) -> None:
    """One dot student by what teaches it; all search the whole collection."""
    started = time.perf_counter()
    dense, scale = study.dense_teacher
    untrained = DotModel.from_pretrained(MINILM, num_layers=study.num_layers, normalize=False, similarity="dot")
    runs: dict[str, list[Run]] = {"BM25": [study.bm25]}
    runs["student untrained"] = [study.kept("untrained", lambda: study.retrieve(untrained))]
    runs["T1 re-ranks BM25's top 30"] = [study.kept("T1-30", lambda: study.rerank(study.load(study.teacher), 30))]
    runs["dense teacher"] = [study.kept("dense", lambda: study.retrieve(study.load(dense)))]
    if dense != MINILM:
        runs["MiniLM as published"] = [study.kept("published", lambda: study.retrieve(study.load(MINILM)))]
    seconds: dict[str, float] = {}
    for label, kind in chosen(TEACHERS, only, BASELINE).items():
        options: dict[str, Any] = {"loss": kind["loss"]}
        if "dense" in kind:
            options |= {"in_batch_teacher": dense, "in_batch_scale": scale * kind["dense"]}
        if "published" in kind:
            options |= {"in_batch_teacher": MINILM, "in_batch_scale": COSINE_SCALE}
        scores, teacher_scale = study.ensemble if "T2" in kind else (None, study.teacher_scale)
        if "T2" in kind or "scale" in kind:
            options["teacher_scale"] = teacher_scale * kind.get("scale", 1.0)
        runs[label], seconds[label] = train(study, label, seeds, scores, options, study.retrieve)
    rows = table(study.qrels, runs, dict.fromkeys(runs, BASELINE))
    write_result(
        f"teachers-{study.name}", study, started, seeds=seeds, baseline=BASELINE, rows=rows, train_seconds=seconds
    )
    show(rows)


def students(study: Study, seeds: list[int], only: list[str] | None) -> None:
    """Each student alone, with T1 and with T2; all re-rank BM25's first 100, and search where they can."""
    started = time.perf_counter()
    ensemble, ensemble_scale = study.ensemble
    rows: Rows = {}
    for architecture, kind in chosen(STUDENTS, only).items():
        for teacher in ("alone", "T1", "T2"):
            scale = study.factor * (ensemble_scale if teacher == "T2" else study.teacher_scale)
            options = student_options(kind, teacher, study.num_docs, scale)
            way = teacher if teacher == "alone" else scaled(teacher, study)
            rows[f"{architecture}, {way}"] = (ensemble if teacher == "T2" else None, options)
    teachers = {"T1": study.reranked_by(study.first_teacher), "T2": [study.reranked_by_ensemble(study.teachers)]}
    found = both_ways(study, seeds, rows, teachers, "alone")
    told = {"ensemble_scale": ensemble_scale, "factor": study.factor}
    write_result(f"students-{study.name}", study, started, seeds=seeds, **told, **found)
    show(found["reranked"])


def unlabelled(study: Study, seeds: list[int], only: list[str] | None) -> None:
    """Half of the rows have labels. Students of these, and of all training queries as a teacher of the same labels scores them."""
    if study.num_docs == 2 or not study.held_out:
        raise SystemExit(
            "expected --held-out and lists (--num-docs 4, say): the teacher is the one of the first half of them"
        )
    started = time.perf_counter()
    labelled, teacher = study.labelled(study.half(0)), study.unlabelled[0]
    ensemble, ensemble_scale = study.unlabelled_ensemble
    num_labelled, num_scored = (
        len(path.read_text(encoding="utf-8").splitlines()) for path in (labelled, teacher.scores)
    )
    rows: Rows = {}
    for architecture, kind in chosen(STUDENTS, only).items():
        labels = student_options(kind, "alone", study.num_docs)
        num_epochs = kind.get("num_epochs", study.student_epochs) * num_scored / num_labelled
        rows[f"{architecture}, labels"] = (labelled, labels)
        rows[f"{architecture}, labels, as many steps"] = (labelled, labels | {"num_epochs": num_epochs})
        for way, scores, scale in (
            ("teacher", teacher.scores, study.teacher_scale),
            ("ensemble", ensemble, ensemble_scale),
        ):
            options = student_options(kind, "T1", study.num_docs, study.factor * scale)
            rows[f"{architecture}, {scaled(way, study)}"] = (scores, options)
    teachers = {
        "teacher": study.reranked_by(teacher),
        "ensemble": [study.reranked_by_ensemble(study.unlabelled)],
    }
    found = both_ways(study, seeds, rows, teachers, "labels, as many steps")
    counts = {"num_labelled": num_labelled, "num_scored": num_scored}
    told = {**counts, "ensemble_scale": ensemble_scale, "factor": study.factor}
    write_result(f"unlabelled-{study.name}", study, started, seeds=seeds, **told, **found)
    show(found["reranked"])


def scaled(teacher: str, study: Study) -> str:
    """A teacher's name, and by what its scores are multiplied."""
    return teacher if study.factor == 1.0 else f"{teacher} x {study.factor:g}"


def both_ways(
    study: Study, seeds: list[int], rows: Rows, teachers: Mapping[str, list[Run]], baseline: str
) -> dict[str, Any]:
    """Students that re-rank BM25's first 100, below BM25 and teachers that do, and that search where they can.

    Args:
        rows: each student's scores and options, as for `train`, by "architecture, way".
        teachers: their runs; the first is T1's.
        baseline: the way that an architecture's others are compared with.

    Returns:
        Parts of the result: tables `reranked` and `searched`, and `train_seconds`. `reranked` also tells what each finds among
        BM25's first 10, and how well students agree with T1 on test queries' candidates.
    """
    reranked: dict[str, list[Run]] = {"BM25": [study.bm25], **teachers}
    searched: dict[str, list[Run]] = {}
    seconds: dict[str, float] = {}
    if study.jobs > 1:
        make_all(study, seeds, rows)
    for row, (scores, options) in rows.items():
        reranked[row], of_search, seconds[row] = runs_of(study, seeds, row, scores, options)
        if of_search:
            searched[row] = of_search
    baselines = {row: f"{row.split(',')[0]}, {baseline}" for row in rows}
    teacher = mean_of_runs(next(iter(teachers.values())))
    of_reranked = table(study.qrels, reranked, baselines)
    for row in of_reranked:
        its = reranked[row["system"]]
        row["nDCG@10 of 10"] = mean(shallow(study.qrels, run, study.bm25) for run in its)
        row["like T1"] = mean(agreement(run, teacher) for run in its) if row["system"] in rows else None
    return {
        "reranked": of_reranked,
        "searched": table(study.qrels, searched, {row: baselines[row] for row in searched}),
        "train_seconds": seconds,
    }


def runs_of(
    study: Study, seeds: list[int], row: str, scores: Path | None, options: dict[str, Any]
) -> tuple[list[Run], list[Run], float]:
    """A student's runs that re-rank, those that search (none where it can't), and the mean seconds of its training."""
    reranked, seconds = train(study, row, seeds, scores, options, study.rerank, "-100")
    searched: list[Run] = []
    if options.get("student", "dot") in IN_BATCH:
        searched, _ = train(study, f"{row}, searching", seeds, scores, options, study.retrieve)
    return reranked, searched, seconds


def make_all(study: Study, seeds: list[int], rows: Rows) -> None:
    """Makes all runs, `study.jobs` at a time; they are kept, so that `runs_of` finds them."""
    closed = replace(study)  # what a study has opened doesn't go to another process
    with ProcessPoolExecutor(study.jobs, multiprocessing.get_context("spawn")) as pool:
        made = [pool.submit(runs_of, closed, [seed], row, *rows[row]) for seed in seeds for row in rows]
        for each in made:
            each.result()


def losses(study: Study, seeds: list[int], only: list[str] | None) -> None:
    """The paper's ablation: students that learn a row's own docs only, by the loss; they re-rank BM25's first 100."""
    started = time.perf_counter()
    runs: dict[str, list[Run]] = {}
    for architecture in ("dot", "colbert"):
        for label, kind in chosen(LOSSES, only, NO_TEACHER).items():
            options = kind | STUDENTS[architecture]
            row = f"{architecture}, {label}"
            runs[row], _ = train(study, row, seeds, None, options, study.rerank, "-100")
    rows = table(study.qrels, runs, {row: f"{row.split(',')[0]}, {NO_TEACHER}" for row in runs})
    write_result(f"losses-{study.name}", study, started, seeds=seeds, rows=rows)
    show(rows)


def margins(study: Study, seeds: list[int], only: list[str] | None) -> None:
    """Students of labels and T1's margins, by what becomes of these; all re-rank BM25's first 100, and search where they can."""
    if study.num_docs == 2:
        raise SystemExit("expected lists (--num-docs 4, say)")
    started = time.perf_counter()
    scale = study.teacher_scale
    ways: dict[str, tuple[Path | None, float, float]] = {
        "T1": (None, scale, WEIGHT),
        "T1 x 0.3": (None, 0.3 * scale, WEIGHT),
        "T1 at a tenth of the weight": (None, scale, 0.1 * WEIGHT),
        "T1 spread evenly": (*spread_evenly(study), WEIGHT),
        "T1's ranks": (*ranks(study), WEIGHT),
        "T1 where it's right": (*where_right(study), WEIGHT),
    }
    rows: Rows = {}
    for architecture, kind in chosen(STUDENTS, only).items():
        rows[f"{architecture}, alone"] = (None, student_options(kind, "alone", study.num_docs))
        for way, (scores, scale, weight) in ways.items():
            rows[f"{architecture}, {way}"] = (scores, student_options(kind, "T1", study.num_docs, scale, weight))
    found = both_ways(study, seeds, rows, {"T1": study.reranked_by(study.first_teacher)}, "alone")
    write_result(f"margins-{study.name}", study, started, seeds=seeds, **found)
    show(found["reranked"])


def scales(study: Study, seeds: list[int], only: list[str] | None) -> None:
    """A dot student by Margin-MSE: the scale of the teacher's scores, and how many negatives a row has."""
    started = time.perf_counter()
    by_scale, by_number = "scale x {:g}", "{} negative(s)"
    kinds: dict[str, dict[str, Any]] = {
        by_scale.format(scale): {"scale": scale, "against": by_scale.format(1.0)} for scale in SCALES
    }
    kinds |= {by_number.format(number): {"negatives": number, "against": by_number.format(1)} for number in NEGATIVES}
    runs: dict[str, list[Run]] = {}
    for row, kind in chosen(kinds, only).items():
        options: dict[str, Any] = {"loss": ("margin-mse",)}
        lists = None
        if "scale" in kind:
            options["teacher_scale"] = kind["scale"] * study.teacher_scale
        else:
            lists = study.first_of_lists(1 + kind["negatives"], 1 + max(NEGATIVES))
            # There are two triples for each of these rows.
            options["num_epochs"] = 2 * study.student_epochs
        runs[row], _ = train(study, row, seeds, lists, options, study.rerank, "-100")
    rows = table(study.qrels, runs, {row: kinds[row]["against"] for row in runs})
    write_result(f"scales-{study.name}", study, started, seeds=seeds, rows=rows)
    show(rows)


def latency(study: Study, seeds: list[int], only: list[str] | None) -> None:
    """Milliseconds for a query's first 100 and 1,000 candidates, documents' states precomputed where that can be done."""
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    query_ids = list(study.qrels)[:TIMED_QUERIES]
    candidates = filled(study, bm25_search(study.collection, query_ids, 1000))
    settings: dict[str, Any] = {"batch_tokens": 8192, "dtype": "fast"}
    for architecture, kind in chosen(STUDENTS, only).items():
        name, folder, _ = study.student(seed=seeds[0], **student_options(kind, "alone", study.num_docs))
        model, docs, size = load_model(folder), None, None
        if architecture != "cross-encoder":
            kept = study.out / "precomputed" / name
            precompute(model, study.collection, kept, dtype="fast")
            docs = load_precomputed(kept, model)
            size = sum(file.stat().st_size for file in kept.iterdir() if file.suffix in (".npy", ".bin"))
        row = {"student": architecture, "parameters": sum(weights.numel() for weights in model.parameters())}
        for depth in (100, 1000):
            measured = rerank_latency(
                model, study.collection, candidates, len(query_ids), depth, **settings, precomputed=docs
            )
            row[f"ms at {depth}"] = None if measured is None else measured.p50_ms
        rows.append(
            row | {"bytes": size, "bytes a document": None if size is None else size / study.collection.num_docs}
        )
    write_result(f"latency-{study.name}", study, started, num_queries=len(query_ids), rows=rows)
    print(render_table(rows, decimals=1))


def filled(study: Study, run: Run) -> Run:
    """The run with all other docs below: BM25 often finds fewer than are to be re-ranked."""
    below = {doc_id: -float(at) for at, doc_id in enumerate(study.collection.doc_ids)}
    return {query_id: below | found for query_id, found in run.items()}


TABLES = {
    "teachers": teachers,
    "students": students,
    "unlabelled": unlabelled,
    "losses": losses,
    "margins": margins,
    "scales": scales,
    "latency": latency,
}


def student_options(
    kind: dict[str, Any], teacher: str, num_docs: int, scale: float = 1.0, weight: float = WEIGHT
) -> dict[str, Any]:
    """Of a student of `students` that is taught by labels ("alone"), T1 or T2, on rows of so many docs.

    The teacher's scores are multiplied by the scale, and Margin-MSE has the weight where it is beside a loss of labels; a student
    with a temperature learns both as if its own scores were divided by that.
    """
    in_batch = kind.get("student", "dot") in IN_BATCH
    temperature = kind.get("temperature", 1.0)
    taught = kind | ({"teacher_scale": scale * temperature} if scale * temperature != 1.0 else {})
    if not in_batch and num_docs == 2:
        return kind | {"loss": ("ranknet",)} if teacher == "alone" else taught | {"loss": ("margin-mse",)}
    labels = "infonce" if in_batch else "lce"
    if teacher == "alone":
        return kind | {"loss": (labels,)}
    return taught | {"loss": (f"margin-mse:{weight / temperature**2:g}", labels)}


def chosen(kinds: Mapping[str, dict[str, Any]], only: list[str] | None, *always: str) -> dict[str, dict[str, Any]]:
    """The kinds whose name holds one of the texts asked for, and `always`."""
    return {
        label: kind
        for label, kind in kinds.items()
        if only is None or label in always or any(text in label for text in only)
    }


def train(
    study: Study,
    label: str,
    seeds: list[int],
    scores: Path | None,
    options: dict[str, Any],
    run: Callable[[Model], Run],
    suffix: str = "",
) -> tuple[list[Run], float]:
    """A student's run for each seed, and the mean seconds of its training."""
    runs, seconds = [], []
    for seed in seeds:
        name, folder, took = study.student(seed=seed, scores=scores, **options)
        runs.append(study.kept(name + suffix, lambda folder=folder: run(study.load(folder))))  # type: ignore[misc]
        seconds.append(took)
        value = evaluate(study.qrels, runs[-1], ["nDCG@10"]).mean["nDCG@10"]
        print(f"{label}, seed {seed}: nDCG@10 {value:.4f}", flush=True)
    return runs, sum(seconds) / len(seconds)


def show(rows: list[dict[str, Any]]) -> None:
    """The table, at the terminal."""
    print(
        render_table(
            [{key: row[key] for key in ("system", "nDCG@10", "RR@10", "R@100", "p")} for row in rows], decimals=3
        )
    )


if __name__ == "__main__":
    main()
