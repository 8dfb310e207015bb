"""The commands, one after the other: encode, index, search, rerank, evaluate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rankdistill.errors import WrongModelError
from rankdistill.evaluation.commands import run_evaluate
from rankdistill.evaluation.measures import evaluate
from rankdistill.formats.trec import read_qrels, read_run
from rankdistill.options.retrieval import EncodeOptions, EvaluateOptions, IndexOptions, RerankOptions, SearchOptions
from rankdistill.retrieval.commands import run_encode, run_index, run_rerank, run_search


def test_street(
    conala: Path,
    tmp_path: Path,
    tiny_sentence_transformer_dir: Path,
    tiny_cross_encoder_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, teacher, collection = str(tiny_sentence_transformer_dir), str(tiny_cross_encoder_dir), str(conala)
    run_encode(
        EncodeOptions(model=model, collection=collection, output=tmp_path / "vectors", shard_size=1000, device="cpu")
    )
    run_index(IndexOptions(vectors=tmp_path / "vectors", output=tmp_path / "index"))
    dot, bm25, reranked = tmp_path / "dot.run.gz", tmp_path / "bm25.run", tmp_path / "reranked.run"
    search = SearchOptions(
        model=model,
        collection=collection,
        index=tmp_path / "index",
        output=dot,
        split="test",
        k=20,
        device="cpu",
        latency_queries=3,
    )
    found = run_search(search)
    run_search(SearchOptions(model="bm25", collection=collection, output=bm25, split="test", k=20))
    run_rerank(
        RerankOptions(
            model=teacher, collection=collection, run=bm25, output=reranked, depth=3, device="cpu", latency_queries=2
        )
    )
    printed = capsys.readouterr().out
    assert f"wrote 2,810 vectors of width 32 (float32, 0.4 MB) to {tmp_path / 'vectors'}" in printed
    assert f"wrote 10,000 documents of 500 queries to {dot}" in printed
    assert "3 queries, one at a time" in printed
    assert "p95" in printed
    assert read_run(dot) == found
    assert {len(docs) for docs in read_run(reranked).values()} <= {0, 1, 2, 3}

    options = EvaluateOptions(
        runs=(bm25, dot, reranked),
        collection=collection,
        measures=("nDCG@10", "RR@10"),
        test="randomisation",
        per_query=tmp_path / "per_query.tsv",
        json=tmp_path / "evaluation.json",
    )
    evaluations, comparisons = run_evaluate(options)
    qrels = read_qrels(conala / "qrels" / "test.tsv")
    assert list(evaluations) == ["bm25.run", "dot.run.gz", "reranked.run"]
    assert evaluations["dot.run.gz"] == evaluate(qrels, found, ["nDCG@10", "RR@10"])
    assert [(each.system, each.measure) for each in comparisons] == [
        (system, measure) for measure in ("nDCG@10", "RR@10") for system in ("dot.run.gz", "reranked.run")
    ]
    # A random encoder is worse than BM25, and not by luck.
    assert comparisons[0].difference < 0
    assert comparisons[0].p_corrected == pytest.approx(2 / 10_001)
    printed = capsys.readouterr().out
    assert f"{evaluations['bm25.run'].mean['nDCG@10']:.4f}" in printed
    assert "⁻" in printed
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["systems"]["bm25.run"]["mean"] == evaluations["bm25.run"].mean
    lines = (tmp_path / "per_query.tsv").read_text().splitlines()
    assert lines[0] == "system\tquery_id\tmeasure\tvalue"
    assert len(lines) == 1 + 3 * 500 * 2
    name, query_id, measure, value = lines[1].split("\t")
    assert evaluations[name].per_query[measure][query_id] == float(value)


def test_qrels_file_and_one_run(conala: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        (folder / "x.run").write_text("test0 Q0 s2326 1 1.0 t\n")
    qrels = conala / "qrels" / "test.tsv"
    evaluations, comparisons = run_evaluate(EvaluateOptions(runs=(tmp_path / "x.run",), qrels=qrels, measures=("RR",)))
    assert evaluations["x.run"].mean == {"RR": 1 / 500}
    assert (evaluations["x.run"].num_missing, comparisons) == (499, [])
    assert "499" in capsys.readouterr().out
    both = EvaluateOptions(
        runs=(tmp_path / "x.run", tmp_path / "a" / "x.run"), qrels=qrels, baseline=tmp_path / "a" / "x.run"
    )
    evaluations, comparisons = run_evaluate(both)
    assert list(evaluations) == [f"{tmp_path.name}/x.run", "a/x.run"]
    assert {each.baseline for each in comparisons} == {"a/x.run"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EvaluateOptions(runs=(), qrels=Path("q")), "at least one run"),
        (EvaluateOptions(runs=(Path("r"),)), "from either --qrels or --collection"),
        (EvaluateOptions(runs=(Path("r"),), qrels=Path("q"), collection="c"), "from either --qrels or --collection"),
    ],
)
def test_options_that_say_too_little_or_too_much(options: EvaluateOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_evaluate(options)


def test_search_options_that_contradict_each_other(tmp_path: Path) -> None:
    for model, index in (("bm25", tmp_path), ("model", None)):
        with pytest.raises(ValueError, match="expected --index with a model"):
            run_search(SearchOptions(model=model, collection="c", index=index, output=tmp_path / "r"))


def test_a_cross_encoder_has_no_vectors(conala: Path, tmp_path: Path, tiny_cross_encoder_dir: Path) -> None:
    options = EncodeOptions(model=str(tiny_cross_encoder_dir), collection=str(conala), output=tmp_path, device="cpu")
    with pytest.raises(WrongModelError, match=r"expected a model that reads documents apart .* found a cross-encoder"):
        run_encode(options)
