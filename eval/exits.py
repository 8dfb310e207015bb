"""One model with many exits against one model an exit: the same data, steps and seeds.

For each exit, all of them MiniLM's first layers, searching the whole collection:

    cut            the pretrained body cut there
    alone          the same, trained by itself: a training an exit
    full, cut      the full body trained once, and cut afterwards
    multi-exit     all exits trained in one pass, losses weighted by depth (ModularStarEncoder)
    + teaching     the same, where the last exit also teaches the others (an extension); also with equal weights
    AdaptiveLayer  sentence-transformers' AdaptiveLayerLoss, with as many steps

All learn by InfoNCE; with --teacher also from T1's margins (Margin-MSE at every exit), but for AdaptiveLayerLoss, which can't; each
row is then compared with itself without a teacher, too. Models are also measured, as they are, elsewhere (--zero-shot cosqa).

    python eval/exits.py COLLECTION [--exits 2 4 6] [--ways WAY ...] [--seeds 42] [--teacher] [--zero-shot OTHER] [--data FOLDER]
        [--out runs/cross-architecture]

Every part is kept in the output folder and not made twice. Writes eval/results/exits-<collection>.json.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from study import MINILM, SETTINGS, SHARED, Study
from tables import table, write_result

from rankdistill.evaluation.report import render_table
from rankdistill.evaluation.significance import holm
from rankdistill.formats.triples import read_triples
from rankdistill.models.dot import DotModel
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.options.students import MultiExitOptions
from rankdistill.records import Run

FULL = 6
LEARNING_RATE = 1e-4
BATCH = 32
ADAPTIVE = "AdaptiveLayer"
WAYS: dict[str, dict[str, Any]] = {
    "multi-exit": {},
    "multi-exit + teaching": {"teacher": "last"},
    "multi-exit + teaching, equal weights": {"teacher": "last", "weights": "uniform"},
}
LABELS, TAUGHT = ("infonce",), ("margin-mse:0.05", "infonce")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", choices=sorted(SETTINGS))
    parser.add_argument("--exits", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--teacher", action="store_true", help="also learn T1's margins")
    parser.add_argument(
        "--ways", nargs="+", default=[*WAYS, ADAPTIVE], choices=[*WAYS, ADAPTIVE], help="of all exits at once"
    )
    parser.add_argument("--suffix", default="", help="of the result's name, beside those of other rows or seeds")
    parser.add_argument(
        "--zero-shot", nargs="*", default=[], choices=sorted(SETTINGS), help="other collections to test on"
    )
    parser.add_argument("--data", type=Path, default=SHARED, help="folder that holds the collection's BEIR folder")
    parser.add_argument("--out", type=Path, default=Path("runs/cross-architecture"))
    parser.add_argument("--backend", choices=["torch", "openvino"], default="torch", help="of searching")
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    started = time.perf_counter()
    out = arguments.out / arguments.collection
    study = Study(
        arguments.collection, arguments.data, out, FULL, LEARNING_RATE, arguments.backend, suffix=arguments.suffix
    )
    others = [replace(study, name=name, out=arguments.out / name) for name in arguments.zero_shot]
    exits, seeds = tuple(sorted(arguments.exits)), arguments.seeds
    loss = TAUGHT if arguments.teacher else LABELS
    ways = [way for way in arguments.ways if way != ADAPTIVE or not arguments.teacher]
    runs, seconds = trained(study, others, exits, seeds, loss, ways)
    rows, *zero_shot = (compared(each, runs[each.name]) for each in (study, *others))
    kind = "-teacher" if arguments.teacher else ""
    elsewhere = dict(zip(arguments.zero_shot, zero_shot, strict=True))
    parts: dict[str, Any] = {
        "seeds": seeds,
        "loss": loss,
        "rows": rows,
        "train_seconds": seconds,
        "zero_shot": elsewhere,
    }
    if arguments.teacher:
        untaught, _ = trained(study, [], exits, seeds, LABELS, ways)
        parts["gains"] = gains(study, untaught[study.name], runs[study.name])
    write_result(f"exits-{study.name}{kind}", study, started, **parts)
    shown = ("system", "nDCG@10", "RR@10", "R@100", "p")
    for each in (rows, *zero_shot):
        print(render_table([{key: row[key] for key in shown} for row in each], decimals=3))


def trained(
    study: Study,
    others: Sequence[Study],
    exits: tuple[int, ...],
    seeds: list[int],
    loss: tuple[str, ...],
    ways: Sequence[str],
) -> tuple[dict[str, dict[str, list[Run]]], dict[str, float]]:
    """Runs of each collection by row, one a seed; and the mean seconds of each training.

    Args:
        others: collections to test on as well.
        ways: of training all exits at once, of WAYS; and ADAPTIVE, which is sentence-transformers' AdaptiveLayerLoss.
    """
    runs: dict[str, dict[str, list[Run]]] = {each.name: {} for each in (study, *others)}
    seconds: dict[str, float] = {}

    def add(label: str, name: str, model: DotModel) -> None:
        compiled = functools.cache(lambda: study.compiled(model))
        found = study.kept(name, lambda: study.retrieve(compiled()))
        runs[study.name].setdefault(label, []).append(found)
        for other in others:

            def elsewhere(other: Study = other) -> Run:
                model.query_max_length, model.doc_max_length = other.setting.query_length, other.setting.doc_length
                return other.retrieve(compiled())

            runs[other.name].setdefault(label, []).append(other.kept(f"{study.name}-{name}", elsewhere))
        print(label, name, flush=True)

    for k in exits:
        add(f"{k}: cut", f"cut-{k}", DotModel.from_pretrained(MINILM, num_layers=k, normalize=False, similarity="dot"))
    for seed in seeds:
        for k in exits:
            name, folder, took = study.student(seed=seed, loss=loss, num_layers=k)
            seconds[f"{k}: alone"] = seconds.get(f"{k}: alone", 0.0) + took
            add(f"{k}: alone", name, DotModel.from_pretrained(folder))
        name, folder, _ = study.student(seed=seed, loss=loss, num_layers=FULL)
        for k in exits:
            add(f"{k}: full, cut", f"{name}-{k}", DotModel.from_pretrained(folder, num_layers=k))
        for way in ways:
            if way == ADAPTIVE:
                continue
            options: dict[str, Any] = {
                "student": "multi-exit",
                "multi_exit": MultiExitOptions(exits=exits, **WAYS[way]),
            }
            name, folder, took = study.student(seed=seed, loss=loss, num_layers=None, **options)
            seconds[way] = seconds.get(way, 0.0) + took
            model = MultiExitEncoder.from_pretrained(folder)
            for k in exits:
                add(f"{k}: {way}", f"{name}-{k}", model.at(k))
        if ADAPTIVE in ways:
            name, folder, took = adaptive_layer(study, seed)
            seconds[ADAPTIVE] = seconds.get(ADAPTIVE, 0.0) + took
            for k in exits:
                body = DotModel.from_pretrained(folder, num_layers=k, normalize=False, similarity="dot")
                add(f"{k}: {ADAPTIVE}", f"{name}-{k}", body)
    return runs, {label: total / len(seeds) for label, total in seconds.items()}


def gains(study: Study, untaught: dict[str, list[Run]], taught: dict[str, list[Run]]) -> list[dict[str, Any]]:
    """What a teacher adds to each row that is trained: a randomisation test each, Holm-corrected over all."""
    labels = [label for label in taught if not label.endswith("cut")]
    both = {label: untaught[label] for label in labels} | {f"{label}, T1": taught[label] for label in labels}
    rows = {row["system"]: row for row in table(study.qrels, both, {f"{label}, T1": label for label in labels})}
    # Each of those has a baseline of its own, so they weren't corrected yet.
    tested = [rows[f"{label}, T1"] for label in labels]
    corrected = dict(zip(labels, holm([row["p"] for row in tested]), strict=True))
    return [
        {
            "system": label,
            "labels only": rows[label]["nDCG@10"],
            "with T1": row["nDCG@10"],
            "p": corrected[label],
            "wins : losses": f"{row['wins']} : {row['losses']}",
        }
        for label, row in sorted(zip(labels, tested, strict=True), key=lambda item: int(item[0].split(":")[0]))
    ]


def compared(study: Study, runs: dict[str, list[Run]]) -> list[dict[str, Any]]:
    """Rows by exit, each against the same body cut there and trained alone."""
    baselines = {label: f"{label.split(':')[0]}: alone" for label in runs}
    return sorted(table(study.qrels, runs, baselines), key=lambda row: int(row["system"].split(":")[0]))


def adaptive_layer(study: Study, seed: int) -> tuple[str, str, float]:
    """sentence-transformers' AdaptiveLayerLoss over in-batch negatives, on the same triples, steps, rate and lengths."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import AdaptiveLayerLoss, MultipleNegativesRankingLoss
    from sentence_transformers.util import dot_score

    name = f"adaptive-layer-{seed}"
    folder = study.out / name
    if (folder / "seconds.json").is_file():
        return name, str(folder / "model"), float(json.loads((folder / "seconds.json").read_text(encoding="utf-8")))
    columns = list(zip(*read_triples(study.triples), strict=True))
    texts = [study.collection.query_texts(columns[0]), *(study.collection.doc_texts(ids) for ids in columns[1:])]
    rows = Dataset.from_dict(dict(zip(("query", "positive", "negative"), texts, strict=True)))
    model = SentenceTransformer(MINILM, device="cpu")
    model.max_seq_length = max(study.setting.query_length, study.setting.doc_length)
    model.pop(len(model) - 1)  # Normalize, which the others do without too
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    random.seed(seed)  # which layers a step takes
    inner = MultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=study.setting.num_epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=study.learning_rate,
        warmup_steps=0.1,
        seed=seed,
        save_strategy="no",
        report_to=[],
        bf16=False,
        use_cpu=True,
    )
    started = time.perf_counter()
    SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=AdaptiveLayerLoss(model, inner)).train()
    took = time.perf_counter() - started
    model.save(str(folder / "model"))
    (folder / "seconds.json").write_text(json.dumps(took), encoding="utf-8")
    return name, str(folder / "model"), took


if __name__ == "__main__":
    main()
