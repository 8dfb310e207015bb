"""`train genre` on linked texts, `link_entities` and `rankdistill entities link`: texts in, places of mentions out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, BertConfig, BertModel

from rankdistill.cli import main
from rankdistill.errors import BadDataError, BadStoreError
from rankdistill.formats.linked_texts import LinkedText, TextMention, read_linked_texts, write_linked_texts
from rankdistill.generation.link_automaton import LinkAutomaton, link_marks
from rankdistill.generation.link_candidates import surface_trie
from rankdistill.generation.link_source import Window, model_window, source_texts, windows
from rankdistill.generation.linking import LinkedMention, link_entities
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.seq2seq import Seq2SeqModel
from rankdistill.options.training import GenreOptions
from rankdistill.training.genre import train_genre
from rankdistill.training.linked_pairs import linked_pairs

TITLES = ["List (Python)", "Dictionary (Python)", "File {format}", "Java [list]"]
# Braces, brackets, capitals and spaces on both sides; a mention at the very beginning, one at the very end.
GOLD = [
    LinkedText("a", "how to sort a list by value in python", (TextMention(14, 18, TITLES[0]),)),
    LinkedText("b", "Dictionary {a: [1]} to file", (TextMention(0, 10, TITLES[1]), TextMention(23, 27, TITLES[2]))),
    LinkedText("c", "  read the list } of java ] ", (TextMention(11, 15, TITLES[3]),)),
    LinkedText("d", "nothing to see here", ()),
]


def options(init: Path, files: tuple[str, ...], folder: Path, **more: Any) -> GenreOptions:
    given = {"batch_size": 4, "learning_rate": 3e-3, "device": "cpu", "dtype": "float32", "dropout": 0.0}
    return GenreOptions(
        init=str(init), files=files, output_dir=folder, **(given | {"label_smoothing": 0.0, "window_batches": 1} | more)
    )


@pytest.fixture(scope="module")
def init(tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder that learns a few texts by heart in a second."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    folder = tmp_path_factory.mktemp("init")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.1, **sizes)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(init: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that knows the gold by heart, and of a trie."""
    folder = tmp_path_factory.mktemp("linking")
    write_linked_texts(folder / "gold.jsonl.gz", GOLD)
    train_genre(options(init, (f"{folder / 'gold.jsonl.gz'}:2",), folder / "run", max_steps=120))
    tokenizer = AutoTokenizer.from_pretrained(folder / "run" / "model")
    TokenTrie.from_titles(TITLES, tokenizer, progress=False).save(folder / "titles.rdtrie")
    (folder / "titles.txt").write_text("\n".join(TITLES) + "\n")
    return folder


@pytest.fixture(scope="module")
def tokenizer(trained: Path) -> Any:
    return AutoTokenizer.from_pretrained(trained / "run" / "model")


@pytest.fixture(scope="module")
def model(trained: Path) -> Any:
    return AutoModelForSeq2SeqLM.from_pretrained(trained / "run" / "model").eval()


@pytest.fixture(scope="module")
def trie(trained: Path, tokenizer: Any) -> TokenTrie:
    return TokenTrie.open(trained / "titles.rdtrie", tokenizer=tokenizer)


@pytest.fixture
def link(model: Any, tokenizer: Any, trie: TokenTrie) -> Callable[..., list[list[LinkedMention]]]:
    return lambda texts, **more: link_entities(model, tokenizer, trie, texts, titles=TITLES, **more)


def places(found: list[list[LinkedMention]]) -> list[list[tuple[int, int, str]]]:
    return [[(own.start, own.end, own.title) for own in mentions] for mentions in found]


def gold_places(texts: list[LinkedText]) -> list[list[tuple[int, int, str]]]:
    return [[(own.start, own.end, own.title) for own in text.mentions] for text in texts]


@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_trained_model_links_the_texts_it_was_shown(link: Any, trie: TokenTrie, num_beams: int) -> None:
    found = link([text.text for text in GOLD], num_beams=num_beams, batch_size=3)
    assert places(found) == gold_places(GOLD)
    for text, mentions in zip(GOLD, found, strict=True):
        for own in mentions:
            assert own.text == text.text[own.start : own.end]
            assert own.entity_id == TITLES.index(own.title)
            assert -1 < own.score <= 0


@pytest.mark.parametrize("num_beams", [1, 4])
def test_three_times_fewer_calls_of_the_decoder_than_tokens(
    model: Any, tokenizer: Any, link: Any, num_beams: int
) -> None:
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = model.decoder.register_forward_hook(count)
    text = GOLD[1].text
    found = link([text], num_beams=num_beams)[0]
    hook.remove()
    assert len(found) == 2
    copied, *titles = tokenizer([text, *(own.title for own in found)], add_special_tokens=False)["input_ids"]
    # Of each link "{ } [ ]", and the end token.
    written = len(copied) + 4 * len(found) + sum(map(len, titles)) + 1
    assert 3 * calls <= written
