"""`rankdistill entities`: from linked text to a table, answers, a run, measures and a view, with a tiny random model."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from rankdistill.cli import main
from rankdistill.formats.kilt import KiltOutput, KiltPage, KiltRecord, read_kilt, write_kilt
from rankdistill.formats.linked_texts import LinkedText, TextMention, write_linked_texts
from rankdistill.formats.mentions import MentionTable
from rankdistill.formats.trec import read_qrels, read_run
from rankdistill.generation.trie import TokenTrie
from tests.reference.decoding import tiny_model

TITLES = ["Albert Einstein", "Einstein (crater)", "Alan Turing", "Turing Award", "Paris"]


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, arguments)))
    assert not caught.value.code


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, arguments)))
    assert caught.value.code == 1
    return capsys.readouterr().err


def mention(id_: str, left: str, surface: str, right: str, title: str) -> KiltRecord:
    gold = (KiltOutput(title, (KiltPage(title),)),)
    return KiltRecord(id_, "x", gold, {"left_context": left, "mention": surface, "right_context": right})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A folder with a model, a trie, titles, linked text and a file of mentions."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    model = tiny_model("bert", seed=11, vocab_size=len(tokenizer))
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        config.pad_token_id = tokenizer.pad_token_id
    folder = tmp_path_factory.mktemp("entities")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "titles.txt").write_text("\n".join(TITLES) + "\n", encoding="utf-8")
    TokenTrie.from_titles(TITLES, tokenizer, progress=False).save(folder / "titles.rdtrie")
    text = {"id": "1", "text": "Einstein met Turing.", "mentions": [{"start": 0, "end": 8, "title": "Albert Einstein"}]}
    text["mentions"].append({"start": 13, "end": 19, "title": "Alan Turing"})  # type: ignore[attr-defined]
    (folder / "text.jsonl").write_text(json.dumps(text) + "\n", encoding="utf-8")
    anchors = ["Einstein (crater)\t2", "Albert Einstein\t3", "Einstein family\t9"]
    lines = "".join(f"Einstein\t{line}\n" for line in anchors) + "Turing\tTuring Award\t1\n"
    (folder / "anchors.tsv").write_text(lines, encoding="utf-8")
    records = [
        mention("m1", "the physicist", "Einstein", "wrote", "Albert Einstein"),
        mention("m2", "the crater", "EINSTEIN", "is old", "Einstein (crater)"),
        mention("m3", "the award of", "Turing", "", "Turing Award"),
        mention("m4", "a", "stranger", "came", "Paris"),
        mention("m5", "a", "ghost", "came", "Ghost"),
    ]
    write_kilt(folder / "dev.jsonl", records)
    run("entities", "mentions", folder / "text.jsonl", folder / "anchors.tsv", "-o", folder / "mentions.tsv.gz", "--trie",
        folder / "titles.rdtrie", "--tokenizer", folder / "model")  # fmt: skip
    return folder


def disambiguated(made: Path, tmp_path: Path, *more: object) -> list[KiltRecord]:
    output = tmp_path / "out.jsonl"
    run("entities", "disambiguate", made / "model", "--trie", made / "titles.rdtrie", "--files", made / "dev.jsonl",
        "--titles", made / "titles.txt", "-o", output, *more)  # fmt: skip
    return list(read_kilt(output))


def test_a_table_of_what_is_in_the_trie(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = made / "text.jsonl", made / "anchors.tsv"
    run("entities", "mentions", *files, "-o", tmp_path / "all.tsv")
    assert capsys.readouterr().out == f"{tmp_path / 'all.tsv'}: 2 mentions, 5 pairs with a title, of 17 links\n"
    options = ["--trie", made / "titles.rdtrie", "--tokenizer", made / "model", "--min-count", 2, "--max-candidates", 1]
    run("entities", "mentions", *files, "-o", tmp_path / "few.tsv", *options)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [
        "links left out: 9 to 1 titles that aren't in the trie",
        "links left out: 2 of pairs seen less than 2 times",
        "links left out: 2 beyond a mention's 1 titles",
    ]
    assert (tmp_path / "few.tsv").read_text(encoding="utf-8") == "Einstein\tAlbert Einstein\t4\n"
    assert MentionTable.read(made / "mentions.tsv.gz").candidates("turing") == [
        ("Alan Turing", 0.5),
        ("Turing Award", 0.5),
    ]


@pytest.mark.parametrize("mode", ["beams", "candidate-beams", "candidates", "free", "prior"])
def test_every_mode_writes_kilt(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    table = [] if mode in ("beams", "free") else ["--mentions", made / "mentions.tsv.gz"]
    records = disambiguated(made, tmp_path, "--mode", mode, *table)
    page = capsys.readouterr().out
    assert [record.id for record in records] == ["m1", "m2", "m3", "m4", "m5"]
    answers = [[each.title for each in record.output[0].provenance] for record in records]
    scores = [[each.more["score"] for each in record.output[0].provenance] for record in records]
    assert all(own == sorted(own, reverse=True) for own in scores)
    assert all(
        record.output[0].answer == (own[0] if own else None) for record, own in zip(records, answers, strict=True)
    )
    if mode == "beams":
        assert all(sorted(own) == sorted(TITLES) for own in answers)
    if "candidate" in mode:
        assert [set(own) for own in answers[:3]] == [set(TITLES[:2])] * 2 + [set(TITLES[2:4])]
        assert sorted(answers[3]) == sorted(TITLES)
        assert "mentions without a candidate in the trie: 2" in page
    if mode == "prior":
        assert answers == [TITLES[:2], TITLES[:2], TITLES[2:4], [], []]
    if mode == "free":
        assert "mentions whose best answer is no title of the trie: 5" in page
    assert re.search(r"of 4 mentions in the knowledge base \(1 are not\): micro F1 0\.\d{4}", page)


def test_priors_alone_are_right_as_often_as_by_hand(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disambiguated(made, tmp_path, "--mode", "prior", "--mentions", made / "mentions.tsv.gz")
    # m1 is right, m2 and m3 (Alan Turing comes first by name) aren't, m4 has no answer, m5 is out of the knowledge base.
    assert "micro F1 0.2857, precision 0.3333, accuracy 0.2500" in capsys.readouterr().out
    shutil.copy(tmp_path / "out.jsonl", tmp_path / "prior.jsonl")
    disambiguated(made, tmp_path, "--mode", "beams")
    capsys.readouterr()
    report, known = tmp_path / "report.json", ["--trie", made / "titles.rdtrie", "--tokenizer", made / "model"]
    files = tmp_path / "prior.jsonl", tmp_path / "out.jsonl"
    run("entities", "score", *files, "--gold", made / "dev.jsonl", *known, "--json", report)
    page = capsys.readouterr().out
    assert "4 mentions or questions, 1 left out whose titles aren't known" in page
    found = json.loads(report.read_text(encoding="utf-8"))
    prior = found["systems"][str(files[0])]
    assert (prior["F1"], prior["accuracy"], prior["R-precision"]) == pytest.approx((2 / 7, 1 / 4, 1 / 5))
    assert prior["recall@5"] == pytest.approx(3 / 5)
    assert [each["measure"] for each in found["comparisons"]] == ["accuracy", "R-precision"]
    run("entities", "score", files[0], "--gold", made / "dev.jsonl")
    assert "5 mentions or questions, 0 left out" in capsys.readouterr().out


def test_links_are_measured_by_place_and_title(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write(name: str, **links: list[tuple[int, int, str]]) -> Path:
        texts = [
            LinkedText(id_, "Einstein met Turing in Paris.", tuple(TextMention(*own) for own in links.get(id_, [])))
            for id_ in ("1", "2")
        ]
        write_linked_texts(tmp_path / name, texts)
        return tmp_path / name

    einstein, turing = (0, 8, "Albert Einstein"), (13, 19, "Alan Turing")
    gold = write("gold.jsonl", **{"1": [einstein, turing], "2": [(23, 28, "Paris, Texas")]})
    files = write("few.jsonl", **{"1": [(0, 8, "albert einstein")]}), write("more.jsonl", **{"1": [einstein, turing]})
    report, known = tmp_path / "report.json", ["--trie", made / "titles.rdtrie", "--tokenizer", made / "model"]
    run("entities", "score", *files, "--gold", gold, *known, "--json", report)
    assert "2 texts with 2 links, 1 more left out whose titles aren't known" in capsys.readouterr().out
    found = json.loads(report.read_text(encoding="utf-8"))
    # An uncased tokenizer's title is the same entity.
    few, more = (found["systems"][str(path)] for path in files)
    assert (few["precision"], few["recall"], few["F1"], few["macro F1"]) == pytest.approx((1, 1 / 2, 2 / 3, 5 / 6))
    assert more["F1"] == more["macro F1"] == 1
    assert [(each["measure"], each["wins"]) for each in found["comparisons"]] == [("macro F1", 1)]
    run("entities", "score", files[1], "--gold", gold)
    assert "2 texts with 3 links, 0 more left out" in capsys.readouterr().out
    write_linked_texts(tmp_path / "foreign.jsonl", [LinkedText("3", "x")])
    found = fails(capsys, "entities", "score", tmp_path / "foreign.jsonl", "--gold", gold)
    assert "expected predictions for texts of" in found
    write_linked_texts(tmp_path / "twice.jsonl", [LinkedText("1", "x"), LinkedText("1", "y")])
    found = fails(capsys, "entities", "score", tmp_path / "twice.jsonl", "--gold", gold)
    assert 'twice.jsonl:2: expected distinct ids, found "1" a second time' in found


def test_priors_are_mixed_in(made: Path, tmp_path: Path) -> None:
    own = ["--mode", "candidates", "--mentions", made / "mentions.tsv.gz"]
    heavy = disambiguated(made, tmp_path, *own, "--prior-weight", 1000)
    assert heavy[0].output[0].answer == heavy[1].output[0].answer == "Albert Einstein"


def test_pages_are_a_run_that_is_measured_and_ranked_again(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_cross_encoder_dir: Path
) -> None:
    questions = {"q1": ("who met the physicist", "Alan Turing"), "q2": ("a city", "Paris")}
    records = [
        KiltRecord(id_, text, (KiltOutput("a", (KiltPage(title),)),)) for id_, (text, title) in questions.items()
    ]
    write_kilt(tmp_path / "kilt.jsonl", records)
    beir = [{"_id": id_, "text": text} for id_, (text, _) in questions.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, beir)), encoding="utf-8")
    (tmp_path / "queries.tsv").write_text(
        "".join(f"{i}\t{text}\n" for i, (text, _) in questions.items()), encoding="utf-8"
    )
    own = ["entities", "retrieve", made / "model", "--trie", made / "titles.rdtrie", "--k", 3]
    runs = []
    for name in ("kilt.jsonl", "queries.jsonl", "queries.tsv"):
        run(*own, "--queries", tmp_path / name, "--titles", made / "titles.txt", "-o", tmp_path / f"{name}.run")
        runs.append(read_run(tmp_path / f"{name}.run"))
    assert runs[0] == runs[1] == runs[2]
    assert {len(scores) for scores in runs[0].values()} == {3}
    assert set().union(*runs[0].values()) <= {title.replace(" ", "_") for title in TITLES}
    run(*own, "--queries", tmp_path / "queries.tsv", "--doc-ids", "id", "-o", tmp_path / "ids.run")
    by_id = read_run(tmp_path / "ids.run")["q1"]
    assert {TITLES[int(id_)].replace(" ", "_"): score for id_, score in by_id.items()} == runs[0]["q1"]
    # Measured by evidence, measured as any run, ranked again as any run.
    run("entities", "score", tmp_path / "kilt.jsonl.run", "--gold", tmp_path / "kilt.jsonl", "--ks", 3)
    assert "R-precision" in (page := capsys.readouterr().out)
    assert "recall@3" in page
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    docs = [{"_id": title.replace(" ", "_"), "title": title, "text": f"{title} is a page"} for title in TITLES]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, docs)), encoding="utf-8")
    shutil.copy(tmp_path / "queries.jsonl", folder / "queries.jsonl")
    qrels = "query-id\tcorpus-id\tscore\nq1\tAlan_Turing\t1\nq2\tParis\t1\n"
    (folder / "qrels" / "test.tsv").write_text(qrels, encoding="utf-8")
    run("rerank", "--model", tiny_cross_encoder_dir, "--collection", folder, "--run", tmp_path / "kilt.jsonl.run", "--output",
        tmp_path / "again.run", "--depth", 3)  # fmt: skip
    again = read_run(tmp_path / "again.run")
    assert {id_: set(scores) for id_, scores in again.items()} == {id_: set(scores) for id_, scores in runs[0].items()}
    run(
        "evaluate",
        "--runs",
        tmp_path / "kilt.jsonl.run",
        tmp_path / "again.run",
        "--collection",
        folder,
        "--measures",
        "R@3",
    )
    assert read_qrels(folder / "qrels" / "test.tsv").keys() == runs[0].keys()


def test_the_view_shows_every_step(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["entities", "watch", made / "model", "the physicist Einstein", "--trie", made / "titles.rdtrie"]
    run(*own, "--all")
    page = capsys.readouterr().out
    assert page.startswith("0 tokens written, 1 beam\n")
    assert "\x1b" not in page
    assert len(re.findall(r"^  found: ", page, flags=re.MULTILINE)) == 5
    assert "goes on in 5 ways" in page.splitlines()[1] or "goes on in" in page.splitlines()[1]
    assert ", computed along with the token before it" in page
    last = page[page.index("5 titles found") :].splitlines()
    assert re.match(r"5 titles found, \d+ passes of the decoder for \d+ steps", last[0])
    assert sorted(re.findall(r"\(entity (\d)\)", page)) == list("01234")
    run(*own, "--allowed", "Paris", "Alan Turing")
    assert "2 titles found" in capsys.readouterr().out


def test_commands_that_fail_say_why(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_bert_dir: Path
) -> None:
    own = ["entities", "disambiguate", made / "model", "--files", made / "dev.jsonl", "-o", tmp_path / "y"]
    TokenTrie.build([[5, 2]], vocab_size=9, eos=2).save(tmp_path / "other.rdtrie")
    found = fails(capsys, *own, "--trie", tmp_path / "other.rdtrie")
    assert "other.rdtrie: expected a trie built for tokenizer" in found
    assert 'build it again for this one with "rankdistill trie build"' in found
    trie = ["--trie", made / "titles.rdtrie"]
    write_kilt(tmp_path / "bare.jsonl", [mention("1", "a", "b", "c", "Paris"), KiltRecord("2", "no mention here")])
    found = fails(capsys, *own[:3], "--files", tmp_path / "bare.jsonl", "-o", tmp_path / "y", *trie)
    assert "bare.jsonl:2: expected a mention: " in found
    (tmp_path / "bad.tsv").write_text("a\tA\t1\na\tA\n", encoding="utf-8")
    assert "bad.tsv:2: expected a mention, a title and a count" in fails(
        capsys, *own, *trie, "--mentions", tmp_path / "bad.tsv"
    )
    (tmp_path / "bad.jsonl").write_text('{"id": "1"}\n', encoding="utf-8")
    found = fails(capsys, *own[:3], "--files", tmp_path / "bad.jsonl", "-o", tmp_path / "y", *trie)
    assert 'bad.jsonl:1: expected "input", a string' in found
    found = fails(capsys, "entities", "mentions", made / "text.jsonl", "-o", tmp_path / "y", *trie)
    assert "expected --tokenizer MODEL with --trie, found none" in found
    found = fails(capsys, "entities", "watch", tiny_bert_dir, "text", *trie)
    assert "expected an encoder-decoder, found another model" in found
    found = fails(capsys, "entities", "watch", made / "model", "text", *trie, "--allowed", "Paris", "Atlantis")
    assert 'expected all 2 titles of the trie, found 1 that are not there (first: "Atlantis")' in found
    found = fails(capsys, *own, *trie, "--mode", "prior", "--titles", tmp_path / "absent")
    assert "absent" in found
    write_kilt(tmp_path / "twice.jsonl", [KiltRecord("1", "a"), KiltRecord("1", "b")])
    retrieve = ["entities", "retrieve", made / "model", *trie, "-o", tmp_path / "y", "--queries"]
    assert 'twice.jsonl:2: expected distinct ids, found "1" a second time' in fails(
        capsys, *retrieve, tmp_path / "twice.jsonl"
    )
    found = fails(capsys, "entities", "score", tmp_path / "twice.jsonl", "--gold", made / "dev.jsonl")
    assert 'twice.jsonl:2: expected distinct ids, found "1" a second time' in found
    write_kilt(tmp_path / "foreign.jsonl", [KiltRecord("z", "a")])
    found = fails(capsys, "entities", "score", tmp_path / "foreign.jsonl", "--gold", made / "dev.jsonl")
    assert "expected predictions for records of" in found
    assert not (tmp_path / "y").exists()


def test_the_page_about_entities(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python runs, and its commands parse and run, but for the placeholders."""
    page = (Path(__file__).parents[2] / "docs" / "entities.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(made)
    exec(code.replace('"MODEL"', '"model"'), {})
    candidates, titles, written = capsys.readouterr().out.splitlines()
    assert candidates.startswith("[('Albert Einstein', 0.66")
    assert eval(titles)[0] in TITLES
    # What was added is found, of random weights too, since there are fewer titles than beams.
    assert {"ada lovelace", "countess of lovelace"} & set(eval(written))
    commands = [shlex.split(line.strip()) for line in page.splitlines() if line.startswith("    rankdistill ")]
    assert len(commands) == 8
    (made / "titles.txt.gz").write_bytes(gzip.compress((made / "titles.txt").read_bytes()))
    (made / "paragraphs.jsonl.gz").write_bytes(gzip.compress((made / "text.jsonl").read_bytes()))
    (made / "anchors.tsv.gz").write_bytes(gzip.compress((made / "anchors.tsv").read_bytes()))
    shutil.copy(made / "dev.jsonl", made / "questions.jsonl")
    for command in commands:
        if command[1] != "rerank":
            run(*["model" if word == "MODEL" else word for word in command[1:]])
