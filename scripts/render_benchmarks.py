"""Sections of docs/results.md about benchmarks: what scripts/bench_*.py have measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rankdistill.evaluation.report import render_table


def scores(result: dict[str, Any]) -> str:
    rows = [
        {
            "reader": entry["name"],
            "million rows/s": entry["rows_per_second"] / 1e6,
            "peak memory (MB)": round(entry["peak_rss_mb"]),
        }
        for entry in result["results"]
    ]
    return (
        f"## Reading teacher scores\n\n{result['rows']:,} rows of the published id form "
        f"({result['bytes'] / 1e6:.0f} MB), {result['cores']} cores; each reader in a process of its own, "
        f"the best of several turns; memory is the whole process's peak.\n\n"
        f"{render_table(rows, style='markdown', decimals=2)}\n\n`python {result['command']}`\n"
    )


def merge(result: dict[str, Any]) -> str:
    rows = [
        {
            "rows x 3": f"{entry['rows']:,}",
            "way": entry["name"],
            "seconds": entry["seconds"],
            "CPU seconds": entry["cpu_seconds"],
            "peak memory (MB)": round(entry["peak_rss_mb"]),
        }
        for entry in result["results"]
    ]
    return (
        "## Merging three teachers\n\nThe same triples in three files, each in an order of its own; every way in a process of "
        f"its own, {result['cores']} cores, load {result['load_1min']:.1f}; memory is the whole process's peak.\n\n"
        f"{render_table(rows, style='markdown', decimals=1)}\n\n`python {result['command']}`\n"
    )


def batches(result: dict[str, Any]) -> str:
    options = result["options"]
    rows = [{"way": name, "triples/s": round(value)} for name, value in result["triples_per_second"].items()]
    padding = ", ".join(f"{share:.0%} {name}" for name, share in result["padding_share"].items())
    return (
        f"## Assembling batches\n\n{int(options['num_triples']):,} random triples over {int(options['num_docs']):,} docs, "
        f"{options['query_max_length']}/{options['doc_max_length']} tokens, batches of {options['batch_size']}; "
        f"ids to padded arrays. Padding of docs: {padding}.\n\n"
        f"{render_table(rows, style='markdown')}\n\n`python scripts/bench_batches.py`\n"
    )


def training(result: dict[str, Any]) -> str:
    setting = result["setting"]
    rows = [
        {
            "student": row["student"],
            "dropout": f"{row['dropout']:g}",
            "trainer": row["trainer"],
            "ms a step": f"{row['ms a step']:.0f}",
            "triples/s": f"{row['triples/s']:.1f}",
            "times sentence-transformers' speed": "" if row["x"] is None else f"{row['x']:.2f}",
            "with set-up (s)": f"{row['with set-up']:.1f}",
            "loss, first and last 10 steps": f"{row['first loss']:.2f}, {row['last loss']:.2f}",
        }
        for row in result["rows"]
    ]
    return (
        f"## Training steps in {setting['dtype']}: {', '.join(dict.fromkeys(row['student'] for row in rows))}\n\n"
        f"Margin-MSE on the same {int(setting['steps']) * int(setting['batch']):,} rows of "
        f"{Path(setting['data']).name}: the first {setting['num_layers']} layers of MiniLM (TK: its embeddings), batches of "
        f"{setting['batch']}, {setting['query_length']}/{setting['doc_length']} tokens, {setting['dtype']}, {setting['cores']} "
        f"cores, load {setting['load_1min']} at the end. Both trainers start from the same folder; the best of "
        f"{setting['rounds']} rounds, by turns, each in a process of its own. Our students have no dropout by default, "
        "sentence-transformers keeps the checkpoint's 0.1.\n\n"
        f"{render_table(rows, style='markdown')}\n\n`python scripts/{' '.join(result['command'])}`\n"
    )


def exit_steps(result: dict[str, Any]) -> str:
    setting = result["setting"]
    return (
        f"## Steps of all exits\n\nInfoNCE on {setting['data']}, MiniLM's six layers, batches of {setting['batch']}, "
        f"{setting['dtype']}, {setting['cores']} cores, load {setting['load_1min']:.1f} at the end; each way in a process of its "
        f"own, the best of {setting['rounds']} rounds. AdaptiveLayerLoss trains the last layer and one other a step.\n\n"
        f"{render_table(result['rows'], style='markdown', decimals=2)}\n\n`python scripts/{' '.join(result['command'])}`\n"
    )


def mini_batches(result: dict[str, Any]) -> str:
    setting = result["setting"]
    rows = [row | {"mini-batch": row["mini-batch"] or "none"} for row in result["rows"]]
    return (
        f"## Mini-batches\n\nTraining on {setting['data']} with batches of {setting['batch']}, the first "
        f"{setting['num_layers']} layers of MiniLM, in fp32 on a CPU, with and without `--mini-batch-size`; memory is the whole "
        f"process's peak.\n\n{render_table(rows, style='markdown', decimals=2)}\n\n`python scripts/{' '.join(result['command'])}`\n"
    )


def encode(result: dict[str, Any]) -> str:
    return (
        f"## Encoding\n\n{result['num_docs']:,} documents of {result['collection']}, at most {result['max_length']} tokens, "
        f"MiniLM; {result['threads']} threads, load {result['load_1min']:.1f}; each way in a process of its own, the best of "
        f"{len(next(iter(result['rounds'].values())))} rounds. The lowest cosine is with sentence-transformers' vector of the "
        f"same document; the same queries search each way's vectors.\n\n"
        f"{render_table(result['rows'], style='markdown', decimals=4)}\n\n`python scripts/{' '.join(result['command'])}`\n"
    )


def trie(result: dict[str, Any]) -> str:
    count, measured = result["titles"], [row for row in result["results"] if "failed" not in row]
    sizes = [
        {
            "trie": row["name"],
            "build (s)": row["build_seconds"],
            "of CPU (s)": row["build_cpu_seconds"],
            "open (ms)": row["open_seconds"] * 1e3,
            "file (bytes/title)": row["file_bytes"] / count,
            "memory (bytes/title)": row["rss_mb"] * 2**20 / count,
        }
        for row in measured
    ]
    steps = [
        {"microseconds a step": f"{row['name']}: {way}"}
        | {f"depth {depth}": f"{value:,.0f}" for depth, value in us.items()}
        for row in measured
        for way, us in row["us"].items()
    ]
    grown = [
        {
            "titles": f"{row['titles']:,}",
            "distinct": f"{row['sequences']:,}",
            "build (s)": row["build_seconds"],
            "of CPU (s)": row["build_cpu_seconds"],
            "open (ms)": row["open_seconds"] * 1e3,
            "bytes/distinct title": row["file_bytes"] / row["sequences"],
        }
        | {f"bits, depth {depth} (us)": f"{row['us']['bitmask, states'][str(depth)]:.0f}" for depth in (0, 1, 2)}
        for row in result["growth"]
    ]
    made = (
        "\n\nGrown with made titles (the beginning of one and the rest of another; some come out alike and share a sequence):\n\n"
        + render_table(grown, style="markdown", decimals=2)
    )
    return (
        f"## Tries\n\n{count:,} titles ({result['source']}), {result['tokens']:,} tokens: {result['tokenizer']}. "
        f"Each trie in a process of its own; {result['cores']} cores, load {result['load_1min']:.1f}. A step is for "
        f"{result['beams']} rows, beginnings of random titles; the best of its repeats, the mean over draws of rows. "
        "Of the files, only rankdistill's holds ids of entities.\n\n"
        f"{render_table(sizes, style='markdown', decimals=2)}\n\n"
        f"{render_table(steps, style='markdown')}{made if grown else ''}\n\n`python {result['command']}`\n"
    )


def decoding(result: dict[str, Any]) -> str:
    constraint, candidates = result["constraint"], result["candidates"]
    rows = [
        {
            "way": row["name"],
            "texts at once": row["batch"],
            "ms a text": row["ms"],
            "of CPU": row["cpu_ms"],
            "same titles": "" if row["same"] is None else f"{row['same']:.0%}",
        }
        for row in result["results"]
    ]
    return (
        f"## Decoding\n\n{result['titles']:,} titles ({result['source']}), {result['beams']} beams, {result['texts']} mentions of "
        f"WNED-WIKI in {result['words']} words; an encoder-decoder of all-MiniLM-L6-v2 and {result['decoder_layers']} of its "
        f"layers, {'trained' if result.get('trained') else 'not trained'} to write titles; "
        f"{result['threads']} thread, load {result['load_1min']:.1f}. Same titles: of the best "
        f"{result['beams']} that generate() finds which stops by our rule, with the same score to .001 (in bfloat16 to .1).\n\n"
        f"{render_table(rows, style='markdown', decimals=1)}\n\n"
        f"`TrieConstraint` takes {constraint['ms_a_step']:.1f} ms a step of generate(), {constraint['share']:.1%} of its time. "
        f"Exact scores of {candidates['candidates']} candidates: {candidates['packed_ms']:.0f} ms a text packed, "
        f"{candidates['rows_ms']:.0f} ms as rows; largest difference {candidates['largest_difference']:.0e}.\n\n"
        f"`python {result['command']}`\n"
    )


def linking(result: dict[str, Any]) -> str:
    rows = [
        {
            "way": row["name"],
            "beams": row["beams"],
            "calls of the decoder a text": f"{row['calls']:.1f}",
            "tokens a call": f"{row['tokens'] / row['calls']:.1f}",
            "ms a text": f"{row['ms']:,.0f}",
            "of CPU": f"{row['cpu_ms']:,.0f}",
            "links found": f"{row['right']:.0%}",
        }
        for row in result["results"]
    ]
    tokens = result["results"][0]["tokens"]
    return (
        f"## Linking\n\n{result['texts']} beginnings of articles ({result['source']}, {result['words']} words, "
        f"{tokens:.0f} tokens with their links), {result['titles']:,} titles; {result['layers']} + {result['layers']} layers of "
        f"all-MiniLM-L6-v2 that have learnt these texts by heart ({result['steps']} steps, label smoothing "
        f"{result['label_smoothing']:g}), so this is about calls and time, not about quality; {result['threads']} thread, load "
        f"{result['load_1min']:.1f}. One text at a time, the ways by turns.\n\n"
        f"{render_table(rows, style='markdown')}\n\n`python {result['command']}`\n"
    )


BENCHMARKS = {
    "scores": scores,
    "merge": merge,
    "batches": batches,
    "training": training,
    "training-bfloat16": training,
    "training-students": training,
    "mini-batches": mini_batches,
    "exits": exit_steps,
    "encode": encode,
    "trie": trie,
    "decoding": decoding,
    "linking": linking,
}
