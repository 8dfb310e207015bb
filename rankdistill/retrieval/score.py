"""A teacher scores triples or candidates: each pair once, sorted by length, resumable.

The pairs are cut into chunks that don't depend on where an earlier run was stopped. So the scores, down to the last bit, and
the file are the same as those of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.errors import BadStoreError, NothingDoneError
from rankdistill.formats.collection import Collection, collection_from_texts, open_collection
from rankdistill.formats.scores import write_scores
from rankdistill.formats.trec import read_run
from rankdistill.formats.triples import read_triples
from rankdistill.formats.writing import discard, locked, replacing_folder, save_json
from rankdistill.models.backends import Backend
from rankdistill.models.foreign import DenseModel
from rankdistill.models.loading import Model, load_model
from rankdistill.models.precision import DTypeName
from rankdistill.options.scoring import ScoreOptions
from rankdistill.records import ranked
from rankdistill.retrieval.bm25 import bm25_scores
from rankdistill.retrieval.encode import encode_collection, load_vectors
from rankdistill.retrieval.mine import draw_others
from rankdistill.retrieval.rerank import score_encoded, score_pairs

__all__ = ["Pair", "score_file", "score_resumably"]

Pair = tuple[str, str]
"""query_id, doc_id."""

# Of random candidates; one for all teachers, whose scores are to be merged.
_SEED = 42

_Scorer = Callable[[Sequence[Pair]], NDArray[np.float32]]


def score_file(options: ScoreOptions) -> dict[str, int]:
    """The `rankdistill score` command.

    Returns:
        Counts: rows, pairs, and queries left out for want of candidates.

    Raises:
        ValueError: unless exactly one of triples and candidates is given.
        MissingIdsError: if they name ids that the collection lacks.
        BadStoreError: if what an interrupted run left beside the output belongs to another job, or isn't ours.
        InUseError: if another process is writing the output.
    """
    with locked(options.output):
        return _score_file(options)


def _score_file(options: ScoreOptions) -> dict[str, int]:
    if (options.triples is None) == (options.candidates is None):
        raise ValueError("expected one of --triples and --candidates")
    if options.triples is not None and options.num_random:
        raise ValueError("--num-random is for --candidates; triples have theirs by triples --num-random")
    collection = open_collection(options.collection)
    rows, num_short = _rows(options, collection)
    remedy = "check that the file isn't empty" + (
        f"; {num_short:,} queries have fewer than --depth documents" if num_short else ""
    )
    NothingDoneError.check(len(rows), "row to score", options.triples or options.candidates, remedy)
    # Each pair once; dict.fromkeys keeps the order of the file, so the job is the same on every start.
    pairs = list(dict.fromkeys((query_id, doc_id) for query_id, doc_ids, _ in rows for doc_id in doc_ids))
    partial = Path(f"{options.output}.partial")
    scores = score_resumably(
        pairs,
        collection,
        options.teacher,
        partial,
        dtype=options.dtype,
        device=options.device,
        backend=options.backend,
        chunk=options.chunk_pairs,
    )
    by_pair = dict(zip(pairs, scores.tolist(), strict=True))
    result = []
    for query_id, doc_ids, labelled in rows:
        scored = [(doc_id, by_pair[query_id, doc_id]) for doc_id in doc_ids]
        result.append((query_id, scored if labelled else ranked(dict(scored))))
    sources = [path for path in (options.triples, options.candidates, options.collection) if path is not None]
    write_scores(options.output, result, "ids" if options.triples is not None else "nway", like=sources)
    if options.teacher != "bm25":  # which needs none
        discard(partial)
    return {"rows": len(rows), "pairs": len(pairs), "queries_left_out": num_short}


def _rows(options: ScoreOptions, collection: Collection) -> tuple[list[tuple[str, list[str], bool]], int]:
    """Query, docs, and whether the first of these is known to be relevant; and how many queries had too few docs."""
    if options.triples is not None:
        triples = read_triples(options.triples)
        return [(query_id, [positive, negative], True) for query_id, positive, negative in triples], 0
    assert options.candidates is not None
    relevant = collection.qrels(options.split) if options.split is not None else {}
    rows, num_short = [], 0
    for query_id, found in read_run(options.candidates).items():
        positives = [doc_id for doc_id, grade in relevant.get(query_id, {}).items() if grade > 0]
        # Doc 0 is the relevant one of the row: others that are relevant would count as its negatives.
        others = [doc_id for doc_id, _ in ranked(found) if doc_id not in positives]
        doc_ids = [*positives[:1], *others][: options.depth]
        if len(doc_ids) < options.depth:
            num_short += 1
        else:
            draw = random.Random(f"{_SEED} {query_id}")
            doc_ids += draw_others(
                collection.doc_ids, options.num_random, {*doc_ids, *relevant.get(query_id, {})}, draw
            )
            rows.append((query_id, doc_ids, bool(positives)))
    return rows, num_short


def score_resumably(
    pairs: Sequence[Pair],
    collection: Collection,
    teacher: str,
    partial: Path,
    *,
    dtype: DTypeName = "auto",
    device: str = "auto",
    backend: Backend = "torch",
    chunk: int = 2048,
    progress: bool = True,
) -> NDArray[np.float32]:
    """Raw scores of distinct pairs, in their order.

    Args:
        pairs: distinct (query_id, doc_id).
        collection: their texts.
        teacher: a model, or "bm25".
        partial: folder where finished chunks are kept; an interrupted call goes on from there.
        chunk: pairs between two such points.

    Raises:
        BadStoreError: if the folder belongs to another job.
    """
    query_ids, doc_ids = (list(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1))
    queries = dict(zip(query_ids, collection.query_texts(query_ids), strict=True))
    docs = dict(zip(doc_ids, collection.doc_texts(doc_ids), strict=True))
    if teacher == "bm25":
        return bm25_scores(collection, pairs)
    model = load_model(teacher, device=device, backend=backend)
    job = {
        "teacher": model.fingerprint(),
        "dtype": dtype,
        "backend": backend,
        "chunk": chunk,
        "pairs": _hash_pairs(pairs, queries, docs),
    }
    _claim(partial, job)
    if isinstance(model, DenseModel):
        return _score_dense(model, pairs, queries, docs, partial, dtype, progress)
    return _score_pairs(model, pairs, queries, docs, partial / "scores.f32", dtype, chunk, progress)


def _hash_pairs(pairs: Sequence[Pair], queries: dict[str, str], docs: dict[str, str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for query_id, doc_id in pairs:
        digest.update(repr((query_id, doc_id)).encode())
    for texts in (queries, docs):
        for text in texts.values():
            digest.update(repr(text).encode())
    return digest.hexdigest()


def _claim(partial: Path, job: dict[str, Any]) -> None:
    manifest = partial / "job.json"
    if not os.path.lexists(partial):
        with replacing_folder(partial, last=manifest.name) as folder:
            save_json(folder / manifest.name, job)
        return
    found: Any = None
    with suppress(OSError, ValueError):
        found = json.loads(manifest.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "teacher" not in found:
        remedy = f"move {partial} away, or choose another --output"
        raise BadStoreError("what an interrupted `score` left, or nothing", "other files", remedy, str(partial))
    if found != job:
        changed = ", ".join(key for key in job if found.get(key) != job[key])
        raise BadStoreError("the same job as was interrupted", f"another {changed}", f"delete {partial}", str(manifest))


def _score_pairs(
    model: Model,
    pairs: Sequence[Pair],
    queries: dict[str, str],
    docs: dict[str, str],
    path: Path,
    dtype: DTypeName,
    chunk: int,
    progress: bool,
) -> NDArray[np.float32]:
    # By length in characters, a good enough stand-in for tokens: each chunk is sorted exactly before it's batched.
    order = sorted(range(len(pairs)), key=lambda i: (len(queries[pairs[i][0]]) + len(docs[pairs[i][1]]), i))
    done = path.stat().st_size // 4 if path.is_file() else 0
    done -= done % chunk if done < len(pairs) else 0  # a chunk that a kill tore is done again, whole
    with (
        path.open("ab") as file,
        tqdm(total=len(pairs), initial=done, desc="score", unit="pair", disable=not progress) as bar,
    ):
        file.truncate(4 * done)
        for start in range(done, len(pairs), chunk):
            part = [pairs[i] for i in order[start : start + chunk]]
            query_texts, doc_texts = [queries[pair[0]] for pair in part], [docs[pair[1]] for pair in part]
            values = score_pairs(model, query_texts, doc_texts, dtype=dtype, progress=False)
            file.write(values.astype("<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
            bar.update(len(part))
    scores = np.empty(len(pairs), np.float32)
    scores[order] = np.fromfile(path, "<f4")
    return scores


def _score_dense(
    model: DenseModel,
    pairs: Sequence[Pair],
    queries: dict[str, str],
    docs: dict[str, str],
    partial: Path,
    dtype: DTypeName,
    progress: bool,
) -> NDArray[np.float32]:
    texts = collection_from_texts(docs, queries)
    encode_collection(model, texts, partial / "docs", shard_size=2000, dtype=dtype, progress=progress)
    doc_ids, docs_KD = load_vectors(partial / "docs")
    query_at = {query_id: row for row, query_id in enumerate(queries)}
    doc_at = {doc_id: row for row, doc_id in enumerate(doc_ids)}
    query_rows, doc_rows = (
        np.array([at[pair[side]] for pair in pairs], np.int64) for side, at in enumerate((query_at, doc_at))
    )
    return score_encoded(model, list(queries.values()), docs_KD, query_rows, doc_rows, dtype=dtype, progress=progress)
