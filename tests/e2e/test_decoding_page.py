"""The Python of docs/decoding.md and docs/linking.md runs as it stands there, with a tiny model; KILT's mentions go that way."""

from __future__ import annotations

import json
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


@pytest.fixture(scope="module")
def stock_bart(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """A BART with its default generation settings (a forced end), and those of summarizers."""
    from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ids = {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0}
    layers = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, **layers,
        **ids, decoder_start_token_id=tokenizer.sep_token_id, forced_eos_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    bart = tmp_path_factory.mktemp("bart")
    model = BartForConditionalGeneration(config)
    assert model.generation_config.forced_eos_token_id == tokenizer.sep_token_id
    model.generation_config.update(no_repeat_ngram_size=3, bad_words_ids=[[tokenizer.pad_token_id]], num_beams=4)
    model.save_pretrained(bart)
    tokenizer.save_pretrained(bart)
    stated = bart / "tokenizer_config.json"  # BART reads no token types
    settings = json.loads(stated.read_text()) | {"model_input_names": ["input_ids", "attention_mask"]}
    stated.write_text(json.dumps(settings))
    (bart / "titles.rdtrie").write_bytes((folder / "titles.rdtrie").read_bytes())
    return bart


def test_the_pages_python_works_with_a_stock_bart(stock_bart: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(code_of(PAGE, stock_bart), {})
    *entities, _, ids = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in entities) == ["0", "1", "2"]
    assert ids.strip("[]").split()[0] in {"0", "1", "2"}


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
    done = subprocess.run([sys.executable, "-c", code_of(page, folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def code_of(page: Path, folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(code).replace("MODEL", str(folder)).replace("titles.rdtrie", str(folder / "titles.rdtrie"))


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
