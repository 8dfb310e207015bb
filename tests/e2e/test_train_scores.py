"""What training makes of a teacher's scores: sigmoids undone, and the TAS sampler, with a cluster file and with k-means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankdistill.data.scores_merge import merge_scores
from rankdistill.errors import BadDataError
from rankdistill.formats.collection import open_collection
from rankdistill.formats.scores import write_scores
from rankdistill.formats.trec import write_run
from rankdistill.options.scoring import ScoreOptions
from rankdistill.options.training import MarginMSEOptions
from rankdistill.retrieval.bm25 import bm25_search
from rankdistill.retrieval.cluster import kmeans
from rankdistill.retrieval.score import score_file
from rankdistill.training.margin_mse import train_margin_mse
from rankdistill.training.sampling import check_sampler

NUM_QUERIES = 24


@pytest.fixture(scope="session")
def rows(conala: Path) -> list[tuple[str, list[tuple[str, float]]]]:
    """Three triples of each of 24 queries of conala, and one of another; the scores are random, but always the same."""
    collection = open_collection(conala)
    random = np.random.default_rng(3)
    found = []
    for number, (query_id, judged) in enumerate(list(collection.qrels("train").items())[: NUM_QUERIES + 1]):
        positive, score = next(iter(judged)), float(random.normal(5, 1))
        for _ in range(3 if number < NUM_QUERIES else 1):
            negative = collection.doc_ids[int(random.integers(collection.num_docs))]
            found.append((query_id, [(positive, score), (negative, float(random.normal(-2, 1)))]))
    return found


def options(scores: Path, conala: Path, init: Path, **more: Any) -> MarginMSEOptions:
    settings: dict[str, Any] = {
        "scores": (str(scores),),
        "collection": str(conala),
        "init": str(init),
        "output_dir": scores.parent / f"run{len(list(scores.parent.iterdir()))}",
        "batch_size": 4,
        "max_steps": 3,
        "loss": ("margin-mse",),
        "logging_steps": 1,
        "device": "cpu",
        "dtype": "float32",
    }
    return MarginMSEOptions(**(settings | more))


def losses(of: MarginMSEOptions) -> list[float]:
    train_margin_mse(of)
    log = json.loads((of.output_dir / "metrics.json").read_text())["log"]
    return [entry["loss"] for entry in log if "loss" in entry]


def config(of: MarginMSEOptions) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((of.output_dir / "config.json").read_text())
    return found


def test_a_sigmoid_is_undone(tmp_path: Path, rows: Any, conala: Path, tiny_bert_dir: Path) -> None:
    write_scores(tmp_path / "raw.tsv", rows)
    sigmoids = [(query, [(doc, 1 / (1 + np.exp(-score))) for doc, score in docs]) for query, docs in rows]
    write_scores(tmp_path / "sigmoids.tsv", sigmoids)
    expected = losses(options(tmp_path / "raw.tsv", conala, tiny_bert_dir))
    found = losses(options(tmp_path / "sigmoids.tsv", conala, tiny_bert_dir, teacher_transform="logit"))
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    with pytest.raises(BadDataError, match=r"expected scores in \[0, 1\].* leave out --teacher-transform logit"):
        train_margin_mse(options(tmp_path / "raw.tsv", conala, tiny_bert_dir, teacher_transform="logit"))
    (tmp_path / "margins.tsv").write_text("train0\ts1\ts2\t0.5\n")
    with pytest.raises(ValueError, match="found a file of margins"):
        train_margin_mse(options(tmp_path / "margins.tsv", conala, tiny_bert_dir, teacher_transform="logit"))


def test_an_ensemble_teaches_queries_without_labels(
    tmp_path: Path, conala: Path, tiny_bert_dir: Path, tiny_sentence_transformer_dir: Path
) -> None:
    """Each teacher scores the same candidates, the favourite of their mean z-scores leads each list, and is learnt for relevant."""
    collection = open_collection(conala)
    write_run(tmp_path / "bm25.run", bm25_search(collection, collection.query_ids[:16], 6))
    files, known = [tmp_path / "bm25.jsonl", tmp_path / "dense.jsonl"], []
    for teacher, file in zip(("bm25", tiny_sentence_transformer_dir), files, strict=True):
        own = {"candidates": tmp_path / "bm25.run", "depth": 4, "num_random": 2, "device": "cpu"}
        score_file(ScoreOptions(teacher=str(teacher), collection=str(conala), output=file, **own))  # type: ignore[arg-type]
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        scores = {(query, doc): score for query, *docs in rows for doc, score in docs}
        mean, deviation = np.mean(list(scores.values())), np.std(list(scores.values()))
        known.append({pair: (score - mean) / deviation for pair, score in scores.items()})
    merge_scores(files, tmp_path / "t2.jsonl", normalize="zscore", best_first=True, progress=False)
    expected: dict[str, dict[str, float]] = {}
    for query, doc in known[0]:
        expected.setdefault(query, {})[doc] = (known[0][query, doc] + known[1][query, doc]) / 2
    by_hand = [(query, sorted(docs.items(), key=lambda pair: -pair[1])) for query, docs in expected.items()]
    write_scores(tmp_path / "by-hand.jsonl", by_hand, "nway")
    assert any(docs[0][0] != next(iter(expected[query])) for query, docs in by_hand)  # not BM25's own favourite
    both = ("margin-mse", "infonce")
    found, again = (
        losses(options(tmp_path / name, conala, tiny_bert_dir, loss=both)) for name in ("t2.jsonl", "by-hand.jsonl")
    )
    np.testing.assert_allclose(found, again, rtol=1e-4)


def test_tas_with_a_cluster_file(
    tmp_path: Path, rows: Any, conala: Path, tiny_bert_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rankdistill.training.rows import TowerSource

    write_scores(tmp_path / "raw.tsv", rows)
    query_ids = list(dict.fromkeys(query_id for query_id, _ in rows))
    clusters = [query_ids[start : start + 8] for start in range(0, 20, 8)]
    clusters[2] = clusters[2][:4]
    # An id that the collection doesn't know; 5 queries in no cluster, one of which has one row only.
    (tmp_path / "clusters.txt").write_text(
        "\n".join(" ".join([*ids, f"elsewhere{len(ids)}{ids[0]}"]) for ids in clusters)
    )
    seen: list[list[int]] = []
    original = TowerSource.__call__

    def spy(self: TowerSource, epoch: int, step: int) -> Any:
        seen.append(self.plan.rows(epoch, step).tolist())
        return original(self, epoch, step)

    monkeypatch.setattr(TowerSource, "__call__", spy)
    of = options(
        tmp_path / "raw.tsv", conala, tiny_bert_dir, sampler="tas", clusters=tmp_path / "clusters.txt", max_steps=5
    )
    assert len(losses(of)) == len(seen) == 5
    for batch in seen:
        queries = [rows[row][0] for row in batch]
        assert len(set(queries)) == 4
        assert sum(bool(set(ids) & set(queries)) for ids in clusters) == 1
    facts = config(of)
    assert (facts["clusters"], facts["queries_sampled"]) == (3, 20)
    assert (facts["queries_left_out_with_one_row"], facts["queries_left_out_without_cluster"]) == (1, 4)
    assert (facts["steps_per_epoch"], facts["rows_dropped_per_epoch"]) == (15, 13)


def test_tas_with_k_means(
    tmp_path: Path,
    rows: Any,
    conala: Path,
    tiny_bert_dir: Path,
    tiny_sentence_transformer_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANKDISTILL_CACHE", str(tmp_path / "cache"))
    write_scores(tmp_path / "raw.tsv", rows)
    teacher = str(tiny_sentence_transformer_dir)
    more = {"sampler": "tas", "cluster_model": teacher}
    two = options(tmp_path / "raw.tsv", conala, tiny_bert_dir, num_clusters=2, **more)
    first = losses(two)
    assert config(two)["clusters"] == 2
    assert config(two)["queries_sampled"] == NUM_QUERIES
    # The clusters come out of the cache, and the docs aren't encoded for them.
    monkeypatch.setattr("rankdistill.training.sampling.kmeans", lambda *_, **__: pytest.fail("clustered again"))
    assert losses(options(tmp_path / "raw.tsv", conala, tiny_bert_dir, num_clusters=2, **more)) == first
    assert [path.name for path in (tmp_path / "cache" / "vectors").glob("*/*")] == ["queries.npy"]
    monkeypatch.setattr("rankdistill.training.sampling.kmeans", kmeans)
    # 25 queries don't fill 8 steps of 4; the dense teacher of the batch stands in for the model.
    more = {"sampler": "tas", "in_batch_teacher": teacher, "loss": ("margin-mse", "in-batch-margin-mse:0.75")}
    one = options(tmp_path / "raw.tsv", conala, tiny_bert_dir, **more)
    losses(one)
    assert config(one)["clusters"] == 1


def test_kmeans_assigns_to_the_nearest_mean() -> None:
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(5, 16))[random.integers(0, 5, 400)] * 20 + random.normal(size=(400, 16))).astype(
        np.float16
    )
    found = kmeans(vectors, 5, seed=2)
    assert set(found.tolist()) == set(range(5))
    means = np.stack([vectors[found == cluster].astype(np.float64).mean(0) for cluster in range(5)])
    nearest = ((vectors[:, None].astype(np.float64) - means) ** 2).sum(2).argmin(1)
    assert (nearest == found).mean() > 0.99
    np.testing.assert_array_equal(kmeans(vectors, 5, seed=2), found)
    for num_clusters in (0, 401):
        with pytest.raises(
            ValueError, match=rf"expected a number of clusters from 1 to 400 \(the vectors\), found {num_clusters}"
        ):
            kmeans(vectors, num_clusters)
    vectors[3, 3] = np.nan
    with pytest.raises(ValueError, match="expected finite vectors"):
        kmeans(vectors, 5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"num_clusters": 3}, "expected --sampler tas with --num-clusters, found shuffle"),
        ({"clusters": Path("c"), "cluster_model": "m"}, "expected --sampler tas with --clusters, --cluster-model"),
        (
            {"sampler": "tas"},
            "expected --clusters, --cluster-model or --in-batch-teacher with --sampler tas, found none",
        ),
        (
            {"sampler": "tas", "clusters": Path("c"), "num_clusters": 3},
            "expected either --clusters, or what they are made",
        ),
    ],
)
def test_sampler_options_that_contradict(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sampler(MarginMSEOptions(scores=("s",), init="m", output_dir=Path("o"), **more))
