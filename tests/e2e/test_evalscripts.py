"""eval/beir.py and eval/msmarco.py on real ir_datasets ids, whose files are laid out as ir_datasets caches them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from rankdistill.evaluation.measures import evaluate
from rankdistill.formats.collection import Collection
from rankdistill.formats.trec import read_run, write_run
from rankdistill.options.retrieval import BeirOptions
from tests.scripts import REPOSITORY, script


@pytest.fixture(scope="module")
def beir_home(tmp_path_factory: pytest.TempPathFactory, small_collection: Collection) -> Path:
    """A home of ir_datasets where beir/scifact's archive holds our small collection."""
    home = tmp_path_factory.mktemp("ir_datasets")
    docs = "".join(
        json.dumps({"_id": doc_id, "title": "", "text": text, "metadata": {}}) + "\n"
        for doc_id, text in small_collection.docs()
    )
    queries = "".join(
        json.dumps({"_id": query_id, "text": text, "metadata": {}}) + "\n"
        for query_id, text in small_collection.queries()
    )
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(
        f"{query_id}\t{doc_id}\t{relevance}\n"
        for query_id, judged in small_collection.qrels().items()
        for doc_id, relevance in judged.items()
    )
    archive = home / "beir" / "scifact" / "source.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("scifact/corpus.jsonl", docs)
        file.writestr("scifact/queries.jsonl", queries)
        file.writestr("scifact/qrels/test.tsv", qrels)
        file.writestr("scifact/qrels/train.tsv", qrels)
    return home


def run_script(name: str, home: Path, *arguments: str) -> str:
    environment = {**os.environ, "IR_DATASETS_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "eval" / name), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_beir_with_a_dot_model(
    beir_home: Path, tmp_path: Path, tiny_sentence_transformer_dir: Path, small_collection: Collection
) -> None:
    system = str(tiny_sentence_transformer_dir)
    printed = run_script("beir.py", beir_home, system, "beir/scifact/test", "--output", str(tmp_path))
    (report_path,) = (tmp_path / "beir-scifact-test").glob("*.json")
    report = json.loads(report_path.read_text())
    assert report["kind"] == "dot"
    assert (report["num_docs"], report["num_queries"], report["num_missing"]) == (200, 60, 0)
    assert report["latency"]["num_queries"] == 20
    (run_path,) = (tmp_path / "beir-scifact-test").glob("*.run.gz")
    run = read_run(run_path)
    assert {len(docs) for docs in run.values()} == {100}
    found = evaluate(small_collection.qrels(), run, ["nDCG@10", "R@100", "AP@100", "RR@10"])
    assert report["measures"] == found.mean
    for measure, value in found.mean.items():
        assert measure in printed
        assert f"{value:.4f}" in printed


@pytest.fixture(scope="module")
def beir_folder(beir_home: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("beir_folder")
    with zipfile.ZipFile(beir_home / "beir" / "scifact" / "source.zip") as archive:
        archive.extractall(folder)
    return str(folder / "scifact")


def beir_main() -> Callable[..., None]:
    """eval/beir.py's `main` in this process, which saves the seconds that importing torch takes."""
    return script("eval/beir").main  # type: ignore[no-any-return]


def test_vectors_are_kept_for_the_next_time(
    beir_folder: str, tmp_path: Path, tiny_sentence_transformer_dir: Path
) -> None:
    main, reports = beir_main(), []
    for _ in range(2):
        main(str(tiny_sentence_transformer_dir), beir_folder, options=BeirOptions(split="test", output=tmp_path))
        (vectors,) = (tmp_path / "vectors").rglob("*.npy")
        (report,) = (json.loads(path.read_text()) for path in tmp_path.glob("scifact/*.json"))
        reports.append((vectors.stat().st_mtime_ns, report["per_query_sha256"]))
    assert reports[0] == reports[1]


def test_cross_encoder_bm25_and_a_run(
    beir_folder: str,
    tmp_path: Path,
    tiny_cross_encoder_dir: Path,
    small_collection: Collection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    perfect = tmp_path / "perfect.run"
    write_run(perfect, {query: dict.fromkeys(judged, 1.0) for query, judged in small_collection.qrels().items()})
    main = beir_main()
    for system in (str(tiny_cross_encoder_dir), "bm25", str(perfect)):
        main(system, beir_folder, measures=("nDCG@10",), options=BeirOptions(output=tmp_path / "out", depth=5))
    kinds = {report["kind"]: report for report in map(json.loads, map(Path.read_text, tmp_path.glob("out/*/*.json")))}
    assert set(kinds) == {"cross-encoder", "bm25", "run"}
    assert kinds["cross-encoder"]["first_stage"] == {"system": "bm25", "depth": 5}
    assert kinds["bm25"]["measures"]["nDCG@10"] > 0.4
    assert kinds["run"]["measures"] == {"nDCG@10": 1.0}
    assert kinds["run"]["latency"] is None
    assert "1.0000" in capsys.readouterr().out


def test_mean_over_collections(
    beir_folder: str, conala: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beir_main()("bm25", beir_folder, str(conala), measures=("RR@10",), options=BeirOptions(output=tmp_path))
    values = [json.loads(path.read_text())["measures"]["RR@10"] for path in tmp_path.glob("*/bm25.json")]
    (mean,) = (line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("mean"))
    assert float(mean) == pytest.approx(sum(values) / 2, abs=1e-4)


def test_msmarco(tmp_path: Path, small_collection: Collection, tiny_sentence_transformer_dir: Path) -> None:
    home = tmp_path / "home" / "msmarco-passage"
    home.mkdir(parents=True)

    def tar(name: str, members: dict[str, str]) -> None:
        with tarfile.open(home / name, "w:gz") as archive:
            for member, text in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(text.encode())
                archive.addfile(info, BytesIO(text.encode()))

    # MS MARCO's ids are numbers, in the order of the file.
    number = {doc_id: str(i) for i, doc_id in enumerate(small_collection.doc_ids)}
    docs = "".join(f"{number[doc_id]}\t{' '.join(text.split())}\n" for doc_id, text in small_collection.docs())
    queries = {query_id: (str(1000 + i), text) for i, (query_id, text) in enumerate(small_collection.queries())}
    lines = "".join(f"{query_id}\t{text}\n" for query_id, text in queries.values())
    graded = "".join(
        f"{queries[query_id][0]} 0 {number[doc_id]} {1 + i % 3}\n"
        for i, (query_id, judged) in enumerate(small_collection.qrels().items())
        for doc_id in judged
    )
    tar(
        "collectionandqueries.tar.gz",
        {"collection.tsv": docs, "queries.dev.small.tsv": lines, "qrels.dev.small.tsv": graded},
    )
    (home / "trec-dl-2019").mkdir()
    (home / "trec-dl-2019" / "queries.tsv").write_text(lines)
    (home / "trec-dl-2019" / "qrels").write_text(graded)
    sets = ("msmarco-passage/dev/small", "msmarco-passage/trec-dl-2019/judged")
    printed = run_script(
        "msmarco.py", home.parent, str(tiny_sentence_transformer_dir), *sets, "--output", str(tmp_path / "out")
    )
    reports = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("msmarco*/*.json")}
    dev, judged = reports["msmarco-passage-dev-small"], reports["msmarco-passage-trec-dl-2019-judged"]
    assert list(dev["measures"]) == ["RR@10", "nDCG@10", "R@1000"]
    assert list(judged["measures"]) == ["nDCG@10", "RR(rel=2)@10", "AP(rel=2)@1000", "R(rel=2)@1000"]
    assert (dev["num_queries"], judged["num_queries"]) == (60, 60)
    assert dev["measures"]["R@1000"] == 1.0
    assert judged["measures"]["R(rel=2)@1000"] == pytest.approx(40 / 60)  # a third has grade 1 only
    assert len(list((tmp_path / "out" / "vectors").iterdir())) == 1  # the documents were encoded once
    assert "RR(rel=2)@10" in printed
