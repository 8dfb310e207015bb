"""The Python of docs/decoding.md and docs/linking.md runs as it stands there, with a tiny model; KILT's mentions go that way."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rankdistill.formats.kilt import KiltOutput, KiltPage, KiltRecord, gold_titles, read_kilt, source_text, write_kilt
from rankdistill.generation.decoding import generate_entities, score_candidates
from rankdistill.generation.trie import TokenTrie
from tests.reference.decoding import tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "decoding.md"
LINKING_PAGE = PAGE.with_name("linking.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    model = tiny_model("bert", seed=11, vocab_size=len(tokenizer))
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
        config.pad_token_id = tokenizer.pad_token_id
    folder = tmp_path_factory.mktemp("generator")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    titles = ["Albert Einstein", "Einstein (crater)", "Alan Turing"]
    TokenTrie.from_titles(titles, tokenizer, progress=False).save(folder / "titles.rdtrie")
    return folder


def test_the_pages_python_works(folder: Path) -> None:
    *entities, merged, ids = output_of(PAGE, folder).splitlines()
    assert sorted(line.split()[0] for line in entities) == ["0", "1", "2"]
    assert set(eval(merged)) == {937, 1024}
    assert ids.strip("[]").split()[0] == entities[0].split()[0]


def test_the_linking_pages_python_works(folder: Path) -> None:
    for line in output_of(LINKING_PAGE, folder).splitlines():
        start, end, *_ = line.split()
        assert 0 <= int(start) < int(end) <= len("In 1921, Einstein received a prize.")


def output_of(page: Path, folder: Path) -> str:
    """What the page's Python prints."""
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    code = code.replace("MODEL", str(folder)).replace("titles.rdtrie", str(folder / "titles.rdtrie"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mentions_of_a_kilt_file_are_disambiguated(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    trie = TokenTrie.open(folder / "titles.rdtrie", tokenizer=tokenizer)
    meta = {"left_context": "In 1921,", "mention": "Einstein", "right_context": "received a prize."}
    gold = (KiltOutput("Albert Einstein", (KiltPage("Albert Einstein"),)),)
    titles = ("Einstein (crater)", "Albert Einstein")
    write_kilt(tmp_path / "dev.jsonl", [KiltRecord("1", "x", gold, meta, titles)])
    (record,) = read_kilt(tmp_path / "dev.jsonl")
    assert gold_titles(record) == ["Albert Einstein"]
    text = source_text(record)
    assert text == "In 1921, [START_ENT] Einstein [END_ENT] received a prize."
    found = {entity.entity_id: entity.score for entity in generate_entities(model, tokenizer, trie, [text])[0]}
    scores = score_candidates(model, tokenizer, [text], [record.candidates or ()])[0]
    assert scores.tolist() == pytest.approx([found[1], found[0]], abs=1e-4)
