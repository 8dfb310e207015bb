"""eval/entities.py and eval/entity_sets.py, on a tiny random model and files of the published shapes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rankdistill.formats.collection import open_collection
from rankdistill.formats.kilt import KiltOutput, KiltPage, KiltRecord, gold_titles, read_kilt, source_text, write_kilt
from rankdistill.formats.trec import read_qrels
from rankdistill.generation.trie import TokenTrie
from tests.reference.decoding import tiny_model
from tests.scripts import REPOSITORY, script

TITLES = ["Albert Einstein", "Einstein (crater)", "Alan Turing", "Turing Award", "Paris"]


def test_published_sets_become_files(tmp_path: Path) -> None:
    sets, data = script("eval/entity_sets"), tmp_path / "data"
    for name in ("wned_wiki", "conel2021", "ottqa_pages", "hover", "titles_union", "dbpedia_entity_v2"):
        (data / name).mkdir(parents=True)
    with gzip.open(data / "titles_union" / "wikipedia_titles.txt.gz", "wt", encoding="utf-8") as file:
        file.write("P1\nQ\nLone 7\nAnother page\n")
    linked = {"id": "w", "text": "In Paris &amp; Rome", "mentions": [{"start": 3, "end": 8, "title": "Paris"}]}
    with gzip.open(data / "wned_wiki" / "wned_wiki.el.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(f"{json.dumps(linked)}\n{json.dumps(linked)}\n")
    own = {"mention": "hotel", "entity": "Hotel_%26_inn", "entity_type": "concept"}
    turns = [
        {"speaker": "USER", "turn_number": 0, "utterance": "Hi.", "el_annotations": []},
        {"speaker": "SYSTEM", "turn_number": 1},
        {"speaker": "USER", "turn_number": 2, "utterance": "A hotel, please.", "el_annotations": [own]},
    ]
    dialogue = {"dialogue_id": "d", "dataset_name": "mwoz", "turns": turns}
    (data / "conel2021" / "ConEL_CNE.json").write_text(json.dumps([dialogue]), encoding="utf-8")
    question = {"id": "q", "question": "who?", "answer": "A", "gold_passage_titles": ["P_1", "Q"], "table_page": "T"}
    empty = question | {"id": "e", "gold_passage_titles": []}
    (data / "ottqa_pages" / "dev_questions.jsonl").write_text(
        f"{json.dumps(question)}\n{json.dumps(empty)}\n", encoding="utf-8"
    )
    claims = [
        {
            "uid": str(n),
            "claim": f"Claim {n}.",
            "label": "SUPPORTED",
            "supporting_facts": [[f"P{n % 30}", 0], ["Q", n]][: 1 + n % 2],
        }
        for n in range(60)
    ]
    claims += [
        row | {"uid": f"lone-{n}", "supporting_facts": [[f"Lone {n}", 0], [f"Lone {n}", 1]]}
        for n, row in enumerate(claims)
    ]
    (data / "hover" / "hover_dev_release_v1.1.json").write_text(json.dumps(claims), encoding="utf-8")
    (data / "dbpedia_entity_v2" / "queries-v2.txt").write_text("a\tafghan food\nb\tunjudged\n", encoding="utf-8")
    qrels = "a\tQ0\t<dbpedia:Afghan_cuisine>\t2\na\tQ0\t<dbpedia:AT%26T>\t0\n"
    (data / "dbpedia_entity_v2" / "qrels-v2.txt").write_text(qrels, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, str(REPOSITORY / "eval" / "entity_sets.py"), "--data", str(data), "--out", str(out)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True, capture_output=True)
    one, two = read_kilt(out / "wned-wiki.jsonl.gz")
    assert one.id != two.id
    assert source_text(one) == "In [START_ENT] Paris [END_ENT] & Rome"
    (mention,) = read_kilt(out / "conel.jsonl.gz")
    assert source_text(mention) == "Hi. A [START_ENT] hotel [END_ENT] , please."
    assert gold_titles(mention) == ["Hotel & inn"]
    (record,) = read_kilt(out / "ottqa.jsonl.gz")
    assert [[page.title for page in output.provenance] for output in record.output] == [["P 1"], ["Q"]]
    train, aside = (
        [[page.title for page in record.output[0].provenance] for record in read_kilt(out / f"hover-{split}.jsonl.gz")]
        for split in ("train", "test")
    )
    assert 0 < len(aside) < len(train) < len(claims)
    assert ["P1", "Q"] in train
    assert not {page for pages in train for page in pages} & {page for pages in aside for page in pages}
    assert all(len(pages) == 1 and pages[0].startswith("Lone ") for pages in aside if pages[0].startswith("Lone "))
    titles = open_collection(out / "hover-titles")
    assert dict(titles.docs()) == {"P1": "P1", "Q": "Q", "Lone_7": "Lone 7", "Another_page": "Another page"}
    pages = {
        claim.id: {page.title for page in claim.output[0].provenance}
        for claim in read_kilt(out / "hover-train.jsonl.gz")
    }
    assert set(titles.query_ids) == set(pages)
    expected = {id_: own & {"P1", "Q", "Lone 7"} for id_, own in pages.items()}
    relevant = {id_: {page.replace("_", " ") for page in own} for id_, own in titles.qrels("train").items()}
    assert relevant == {id_: own for id_, own in expected.items() if own}
    assert (out / "dbpedia-entity.tsv").read_text(encoding="utf-8") == "a\tafghan food\n"
    assert read_qrels(out / "dbpedia-entity.qrels") == {"a": {"Afghan_cuisine": 2, "AT&T": 0}}
    turns[2]["utterance"] = "An inn."
    (data / "conel2021" / "ConEL_CNE.json").write_text(json.dumps([dialogue]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected 'hotel' in its turn, found 'An inn\."):
        list(sets.conel(data / "conel2021" / "ConEL_CNE.json"))


def test_all_rows_are_measured(tmp_path: Path, tiny_tokenizer_dir: Path, tiny_sentence_transformer_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    model = tiny_model("bert", seed=11, vocab_size=len(tokenizer))
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "titles.txt").write_text("\n".join(TITLES) + "\n", encoding="utf-8")
    TokenTrie.from_titles(TITLES, tokenizer, progress=False).save(tmp_path / "titles.rdtrie")
    (tmp_path / "mentions.tsv").write_text(
        "Einstein\tAlbert Einstein\t3\nEinstein\tEinstein (crater)\t1\n", encoding="utf-8"
    )
    records = [
        KiltRecord(
            str(row),
            f"who is {title} ?",
            (KiltOutput(title, (KiltPage(title),)),),
            {"left_context": "so", "mention": mention, "right_context": "said"},
        )
        for row, (mention, title) in enumerate([("Einstein", TITLES[0]), ("EINSTEIN", TITLES[1]), ("He", "Nobody")])
    ]
    write_kilt(tmp_path / "test.jsonl", records)
    (tmp_path / "queries.tsv").write_text("a\twho met Turing\n", encoding="utf-8")
    (tmp_path / "qrels").write_text("a 0 Alan_Turing 1\n", encoding="utf-8")
    command = [
        sys.executable,
        str(REPOSITORY / "eval" / "entities.py"),
        "--json",
        "out.json",
        "--out",
        "parts",
        "--beams",
        "4",
    ]
    files = {
        "model": "model",
        "trie": "titles.rdtrie",
        "titles": "titles.txt",
        "mentions": "mentions.tsv",
        "dev": "test.jsonl",
    }
    command += [word for name, file in files.items() for word in (f"--{name}", file)]
    command += ["--test", "own=test.jsonl", "--pages", "kilt=test.jsonl", "trec=queries.tsv,qrels"]
    command += ["--dense", f"dot={tiny_sentence_transformer_dir}"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Parts are kept.
    (folder,) = (tmp_path / "parts").iterdir()
    assert (folder / "own" / "constrained.json").is_file()
    assert (folder / "trec" / "BM25.run.gz").is_file()
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    own = result["mentions"]["own"]
    assert (own["num_in_kb"], own["num_out_of_kb"], own["candidates_have_it"]) == (2, 1, 2 / 3)
    rows = {row["way"]: row for row in own["rows"]}
    assert rows["prior"]["accuracy"] == 0.5
    assert rows["constrained"]["p"] is None
    assert all(0 < row["p"] <= 1 for way, row in rows.items() if way != "constrained")
    assert all(0 < rows[way]["constraint"] < 1 for way in ("constrained", "constrained, candidates"))
    assert rows["constrained, candidates"]["accuracy"] == rows["candidates, exact"]["accuracy"]
    assert rows["free"]["no title"] == 1.0
    assert [row["way"] for row in result["pages"]["kilt"]["rows"]] == ["written titles", "dot", "BM25"]
    assert result["pages"]["kilt"]["measure"] == "R-precision"
    words = result["pages"]["trec"]["rows"][-1]
    assert words["R@10"] == 1.0
    rendered = script("scripts/render_experiments").entities(result)
    assert "2 mentions in the knowledge base, 1 not" in rendered
    assert "Pages by their titles, trec: 1 questions" in rendered
