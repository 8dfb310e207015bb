"""Commands that would end with nothing done exit with 1, name the file, and leave no output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rankdistill.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_bert_dir: Path) -> Path:
    """Collections whose queries and documents share no word, or that are empty; an empty file; a run of foreign ids."""
    folder = tmp_path_factory.mktemp("nothing")
    for name, texts in {"apart": ["snakes", "birds"], "empty": []}.items():
        (folder / name / "qrels").mkdir(parents=True)
        rows = [json.dumps({"_id": f"d{row}", "text": text}) for row, text in enumerate(texts)]
        (folder / name / "corpus.jsonl").write_text("\n".join(rows))
        (folder / name / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "zebra"}))
        (folder / name / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\n")
    (folder / "nothing").write_text("")
    (folder / "foreign.run").write_text("other Q0 d0 1 1.0 x\n")
    (folder / "model").symlink_to(tiny_bert_dir)
    return folder


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("search --model bm25 --collection {0}/apart --output {1}", "apart"),
        ("search --model bm25 --collection {0}/empty --output {1}", "empty"),
        ("triples --collection {0}/apart --split test --output {1}", "apart"),
        ("score --teacher bm25 --collection {0}/apart --triples {0}/nothing --output {1}", "nothing"),
        ("score --teacher bm25 --collection {0}/apart --candidates {0}/nothing --output {1}", "nothing"),
        ("encode --model {0}/model --collection {0}/empty --output {1}", "empty"),
        ("rerank --model {0}/model --collection {0}/apart --run {0}/nothing --output {1}", "nothing"),
        ("join a={0}/empty b={0}/empty --output {1}", "empty"),
        ("evaluate --runs {0}/nothing --qrels {0}/apart/qrels/test.tsv --json {1}", "nothing"),
        ("evaluate --runs {0}/foreign.run --qrels {0}/apart/qrels/test.tsv --json {1}", "foreign.run"),
        ("scores inspect {0}/nothing", "nothing"),
        ("scores compile {0}/nothing --output {1}", "nothing"),
        ("scores merge {0}/nothing {0}/nothing --output {1}", "nothing"),
        ("scores clean {0}/nothing --output {1} --min-margin 0", "nothing"),
        ("scores convert {0}/nothing --output {1} --to nway", "nothing"),
        ("trie build {0}/nothing --tokenizer {0}/model --output {1}", "nothing"),
        ("entities mentions {0}/nothing --output {1}", "nothing"),
        ("entities disambiguate {0}/model --trie {0}/nothing --files {0}/nothing --output {1}", "nothing"),
        ("entities retrieve {0}/model --trie {0}/nothing --queries {0}/nothing --output {1}", "nothing"),
    ],
)
@pytest.mark.filterwarnings("ignore:BM25 found no document")
def test_nothing_done_is_an_error(
    files: Path, tmp_path: Path, arguments: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    with pytest.raises(SystemExit) as stopped:
        main(arguments.format(files, output).split())
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert f"/{named}" in error
    assert "found no" in error or "expected at least one" in error or "empty" in error
    assert not list(tmp_path.iterdir())
