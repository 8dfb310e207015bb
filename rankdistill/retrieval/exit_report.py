"""`rankdistill exits`: quality and cost of each exit and width of a model, and of stopping where a query is sure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rankdistill.errors import MissingDependencyError, WrongModelError
from rankdistill.evaluation.latency import measure_latency
from rankdistill.evaluation.measures import evaluate, parse_measures
from rankdistill.evaluation.report import render_table
from rankdistill.formats.collection import Collection, open_collection
from rankdistill.formats.trec import write_run
from rankdistill.formats.writing import locked, replacing_folder, save_json
from rankdistill.models.dot import DotModel
from rankdistill.models.exits import Cell
from rankdistill.models.loading import load_model
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.models.precision import DTypeName
from rankdistill.options.retrieval import ExitsOptions
from rankdistill.records import Qrels, Run
from rankdistill.retrieval.encode import encode_texts
from rankdistill.retrieval.exits import CONFIDENCES, build_exit_indexes, search_exits, stop_by
from rankdistill.retrieval.flat import FlatIndex
from rankdistill.retrieval.systems import search_latency

__all__ = ["AdaptivePoint", "ExitMeasures", "adaptive_curve", "calibrated", "measure_exits", "pareto", "run_exits"]

_SAMPLE = 256  # documents whose encoding is timed for each exit


@dataclass(frozen=True)
class ExitMeasures:
    """Of one exit and width.

    Attributes:
        exit: layers run.
        dim: numbers of a vector.
        measures: means over the queries, by name.
        docs_per_second: encoded by this exit alone.
        query_ms: encoding and searching, one query at a time, the median.
        doc_flops: floating-point operations of a document of mean length.
        vector_bytes: of a document's vector in fp32.
        pareto: whether no other is as good in the first measure for as few operations and bytes.
    """

    exit: int
    dim: int
    measures: dict[str, float]
    docs_per_second: float
    query_ms: float
    doc_flops: int
    vector_bytes: int
    pareto: bool = False


@dataclass(frozen=True)
class AdaptivePoint:
    """Stopping at one threshold.

    Attributes:
        threshold: of confidence.
        layers: run for a query, on average.
        value: of the measure.
    """

    threshold: float
    layers: float
    value: float


def measure_exits(
    model: MultiExitEncoder,
    collection: Collection,
    qrels: Qrels,
    measures: Sequence[str],
    *,
    indexes: Mapping[Cell, FlatIndex] | None = None,
    k: int = 100,
    latency_queries: int = 20,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> tuple[list[ExitMeasures], dict[Cell, Run]]:
    """Measures every exit and width: all are searched with vectors from one pass; each is timed by itself.

    Args:
        qrels: whose queries are searched.
        indexes: of `build_exit_indexes`; made here without them.
        measures: as ir_measures names them; the first decides which are on the Pareto front.
        k: documents a query.
        latency_queries: queries timed one by one.
        dtype: as in `encode_texts`.
    """
    docs, query_ids = dict(collection.docs()), list(qrels)
    queries = dict(zip(query_ids, collection.query_texts(query_ids), strict=True))
    settings: dict[str, Any] = {"dtype": dtype, "progress": progress}
    indexes = build_exit_indexes(model, docs, **settings) if indexes is None else indexes
    runs = search_exits(model, indexes, queries, k, **settings)
    texts = list(docs.values())
    sample = [texts[i * len(texts) // _SAMPLE] for i in range(_SAMPLE)] if len(texts) > _SAMPLE else texts
    length = max(1, round(float(np.mean([len(ids) for ids in model.tokenize(sample, "document")]))))
    found = []
    for cell, run in runs.items():
        view = model.at(*cell)
        encode = partial(encode_texts, view, kind="document", dtype=dtype, progress=False)
        timed = measure_latency(encode, [sample])
        latency = search_latency(view, indexes[cell], list(queries.values())[:latency_queries], k, dtype=dtype)
        found.append(
            ExitMeasures(
                exit=cell.exit,
                dim=view.dim,
                measures=evaluate(qrels, run, measures).mean,
                docs_per_second=0.0 if timed is None else 1000 * len(sample) / timed.mean_ms,
                query_ms=0.0 if latency is None else latency.p50_ms,
                doc_flops=count_flops(view, length),
                vector_bytes=4 * view.dim,
            )
        )
    return pareto(found, measures[0]), runs


def count_flops(model: DotModel, length: int) -> int:
    """Floating-point operations of encoding one text of `length` tokens: two for each multiplication in a matrix product."""
    ids = torch.full((1, length), int(model.tokenizer.pad_token_id or 0), device=model.device)
    counter = FlopCounterMode(display=False)
    # Attention as plain products, which the counter knows on every device.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.vectors(ids, torch.ones_like(ids))
    return int(counter.get_total_flops())


def pareto(found: Sequence[ExitMeasures], measure: str) -> list[ExitMeasures]:
    """Marks those that no other beats: better in the measure, operations or bytes, and worse in none."""

    def beats(one: ExitMeasures, other: ExitMeasures) -> bool:
        gains = (one.measures[measure] - other.measures[measure], other.doc_flops - one.doc_flops)
        both = (*gains, other.vector_bytes - one.vector_bytes)
        return min(both) >= 0 and max(both) > 0

    return [replace(one, pareto=not any(beats(other, one) for other in found)) for one in found]


def adaptive_curve(
    runs: Mapping[int, Run], qrels: Qrels, measure: str, *, confidence: str = "agreement", depth: int = 10
) -> list[AdaptivePoint]:
    """Quality against layers run, by the threshold at which queries stop; the last point is the deepest exit for all.

    Args:
        runs: by exit.
        confidence: "agreement" or "margin".
        depth: how many first results are looked at.
    """
    points = []
    steps = depth if confidence == "agreement" else 20
    for threshold in [*(step / steps for step in range(1, steps + 1)), 1.1]:
        run, stopped = stop_by(runs, CONFIDENCES[confidence], threshold, depth)
        value = evaluate(qrels, run, [measure]).mean[measure]
        points.append(AdaptivePoint(threshold, float(np.mean(list(stopped.values()))), value))
    return points


def calibrated(points: Sequence[AdaptivePoint], tolerance: float) -> AdaptivePoint:
    """The cheapest point whose quality is at most `tolerance` below the last one's, which is the deepest exit's."""
    good = [point for point in points if point.value >= points[-1].value - tolerance]
    return min(good, key=lambda point: (point.layers, -point.value))


def run_exits(options: ExitsOptions) -> str:
    """The `rankdistill exits` command: writes exits.json and a run for each exit and width, and returns the tables.

    Raises:
        WrongModelError: if the model has no exits.
        MissingDependencyError: if a plot is asked for, without matplotlib.
    """
    parse_measures(options.measures)  # a mistyped one is known now
    plotter = _plotter() if options.plot is not None else None
    model = load_model(options.model, device=options.device)
    if not isinstance(model, MultiExitEncoder):
        remedy = "train one with `rankdistill train margin-mse --student multi-exit`"
        raise WrongModelError("a model with exits", f"a {model.architecture} model", remedy, options.model)
    collection = open_collection(options.collection)
    first = options.measures[0]
    indexes = build_exit_indexes(model, dict(collection.docs()), dtype=options.dtype)
    found, runs = measure_exits(
        model,
        collection,
        collection.qrels(options.split),
        options.measures,
        indexes=indexes,
        k=options.k,
        dtype=options.dtype,
        latency_queries=options.latency_queries,
    )
    result: dict[str, Any] = {
        "model": options.model,
        "collection": options.collection,
        "split": options.split,
        "threads": torch.get_num_threads(),
        "exits": [asdict(one) for one in found],
    }
    page = render_table([_row(one) for one in found]) + "\n(* on the Pareto front of quality, operations and bytes)"
    curves: dict[str, list[AdaptivePoint]] = {}
    if options.dev_split is not None:
        qrels = collection.qrels(options.dev_split)
        queries = dict(zip(qrels, collection.query_texts(list(qrels)), strict=True))
        on_dev = search_exits(model, indexes, queries, options.k, dtype=options.dtype)
        adaptive, curves = _adaptive(collection, options, full_width(on_dev), full_width(runs))
        result["adaptive"] = adaptive
        result["adaptive_curves"] = {name: [asdict(point) for point in curve] for name, curve in curves.items()}
        page += f"\n\nStopping where a query is sure (thresholds chosen on {options.dev_split}):\n"
        page += render_table(adaptive)
    with locked(options.output), replacing_folder(options.output, last="exits.json") as folder:
        for cell, run in runs.items():
            write_run(folder / f"{str(cell).replace('/', '-')}.run.gz", run, str(cell))
        save_json(folder / "exits.json", result, indent=2)
    if plotter is not None and options.plot is not None:
        plotter(found, curves, first, options.plot)
    return f"{page}\n\nwrote exits.json and runs to {options.output}"


def full_width(runs: Mapping[Cell, Run]) -> dict[int, Run]:
    """Runs by exit, of vectors that aren't cut."""
    return {cell.exit: run for cell, run in runs.items() if cell.dim is None}


def _adaptive(
    collection: Collection, options: ExitsOptions, dev_runs: Mapping[int, Run], runs: Mapping[int, Run]
) -> tuple[list[dict[str, Any]], dict[str, list[AdaptivePoint]]]:
    """One row a way to be confident: its threshold, calibrated on the dev split, and what it does on the test split.

    Also what all thresholds do there.
    """
    assert options.dev_split is not None
    measure, dev_qrels = options.measures[0], collection.qrels(options.dev_split)
    qrels, rows = collection.qrels(options.split), []
    curves = {}
    for confidence in CONFIDENCES:
        on_dev = adaptive_curve(dev_runs, dev_qrels, measure, confidence=confidence, depth=options.depth)
        threshold = calibrated(on_dev, options.tolerance).threshold
        curve = curves[confidence] = adaptive_curve(runs, qrels, measure, confidence=confidence, depth=options.depth)
        # Both curves have the same thresholds.
        point = next(point for point in curve if point.threshold == threshold)
        rows.append(
            {
                "confidence": confidence,
                "threshold": threshold,
                "layers a query": point.layers,
                measure: point.value,
                "against the deepest": point.value - curve[-1].value,
            }
        )
    return rows, curves


def _row(one: ExitMeasures) -> dict[str, Any]:
    return {
        "exit": f"{one.exit}{'*' if one.pareto else ''}",
        "dim": one.dim,
        **one.measures,
        "docs/s": f"{one.docs_per_second:.1f}",
        "ms a query": f"{one.query_ms:.1f}",
        "MFLOPs a doc": f"{one.doc_flops / 1e6:.0f}",
        "bytes a vector": one.vector_bytes,
    }


def _plotter() -> Callable[[Sequence[ExitMeasures], Mapping[str, Sequence[AdaptivePoint]], str, Path], None]:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError(
            "the package matplotlib, for --plot", "none installed", "pip install 'rankdistill[plot]'"
        ) from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    def plot(
        found: Sequence[ExitMeasures], curves: Mapping[str, Sequence[AdaptivePoint]], measure: str, path: Path
    ) -> None:
        drawing, ((axes, *beside),) = pyplot.subplots(
            ncols=2 if curves else 1, figsize=(11 if curves else 6.4, 4), sharey=True, squeeze=False
        )
        for dim in sorted({one.dim for one in found}, reverse=True):
            those = [one for one in found if one.dim == dim]
            costs, values = [one.doc_flops / 1e6 for one in those], [one.measures[measure] for one in those]
            axes.plot(costs, values, "-o", label=f"{dim} numbers")
        for one in found:
            if one.pareto:
                axes.annotate(
                    f"exit {one.exit}",
                    (one.doc_flops / 1e6, one.measures[measure]),
                    xytext=(4, 4),
                    textcoords="offset points",
                )
        axes.set_xlabel("million operations a document")
        axes.set_ylabel(measure)
        axes.legend()
        for other in beside:
            widest = [one for one in found if one.dim == max(each.dim for each in found)]
            other.plot(
                [one.exit for one in widest], [one.measures[measure] for one in widest], "-o", label="fixed exits"
            )
            for confidence, curve in curves.items():
                points = sorted((point.layers, point.value) for point in curve)
                other.plot(*zip(*points, strict=True), "--.", label=f"stopped by {confidence}")
            other.set_xlabel("layers a query, on average")
            other.legend()
        drawing.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path)
        pyplot.close(drawing)

    return plot
