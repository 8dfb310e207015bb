"""`train genre` on linked texts, `link_entities` and `rankdistill entities link`: texts in, places of mentions out."""

from __future__ import annotations

import functools
import io
import json
import subprocess
import sys
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
from rankdistill.generation.link_candidates import CandidateSets, Surfaces
from rankdistill.generation.link_source import SourceText, Window, model_window, source_texts, windows
from rankdistill.generation.linking import LinkedMention, _spans, link_entities
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

    hook = model.decoder.bert.register_forward_hook(count)
    text = GOLD[1].text
    found = link([text], num_beams=num_beams)[0]
    hook.remove()
    assert len(found) == 2
    copied, *titles = tokenizer([text, *(own.title for own in found)], add_special_tokens=False)["input_ids"]
    # Of each link "{ } [ ]", and the end token.
    written = len(copied) + 4 * len(found) + sum(map(len, titles)) + 1
    assert 0 < 3 * calls <= written


def test_only_given_surfaces_may_be_mentions(link: Any, tokenizer: Any, trie: TokenTrie) -> None:
    texts = [text.text for text in GOLD]
    wanted = [[own for own in mentions if own[2] in (TITLES[1], TITLES[3])] for mentions in gold_places(GOLD)]
    assert places(link(texts, mentions=["the", "dictionary", "Of java"])) == [wanted[0], wanted[1], [], []]
    assert places(link(texts, mentions=["list", "dictionary"]))[:2] == [gold_places(GOLD)[0], wanted[1]]
    given = Surfaces(["dictionary"], tokenizer)
    assert places(link(texts, mentions=given)) == [[], wanted[1], [], []]
    assert places(link(texts, mentions=[])) == [[], [], [], []]


def test_a_bonus_links_more_or_less(link: Any) -> None:
    texts = [text.text for text in GOLD]
    found = link(texts)
    assert not any(link(texts, bonus=-100.0))
    more = link(texts, bonus=100.0, max_gap=np.inf)
    assert sum(map(len, more)) > sum(map(len, found)) == 4
    # A score is without it.
    same = link(texts[:1], bonus=2.0)[0][0]
    assert same.score == pytest.approx(found[0][0].score, abs=1e-4)


def test_candidates_of_a_mention_are_its_titles(link: Any) -> None:
    texts = [text.text for text in GOLD]
    table = {"list": [TITLES[3], TITLES[0]], "Dictionary": [TITLES[0], "no title at all"]}
    found = places(link(texts, candidates=table, on_unknown="skip", num_beams=8, max_gap=np.inf))
    # Capitals are the text's own.
    assert all(title in table[texts[row][start:end]] for row, own in enumerate(found) for start, end, title in own)
    assert [found[0], found[2]] == [gold_places(GOLD)[0], gold_places(GOLD)[2]]
    asked = list[str]()

    def candidates(mention: str) -> list[str]:
        asked.append(mention)
        return table.get(mention, [])[:1]

    link(texts, candidates=candidates, on_unknown="skip")
    assert len(asked) == len(set(asked))
    assert {"list", "Dictionary", "list } of java"} <= set(asked)
    with pytest.raises(BadDataError, match='found "no title at all" for the mention "Dictionary"; add it to the trie'):
        link(texts, candidates=table)
    with pytest.raises(ValueError, match="expected on_unknown of error or skip, found 'drop'"):
        link(texts, candidates=table, on_unknown="drop")


def test_titles_are_those_of_the_file_of_the_candidates_or_of_the_tokenizer(
    model: Any, tokenizer: Any, trie: TokenTrie
) -> None:
    texts = [GOLD[1].text]
    assert [own.title for own in link_entities(model, tokenizer, trie, texts)[0]] == [
        "dictionary ( python )",
        "file { format }",
    ]
    table = {"Dictionary": ["Dictionary (Python)"], "file": ["FILE {format}"]}
    assert [own.title for own in link_entities(model, tokenizer, trie, texts, candidates=table)[0]] == [
        "Dictionary (Python)",
        "FILE {format}",
    ]
    with pytest.raises(
        ValueError, match="expected titles of all entities of the trie, found none of entity 1; was the"
    ):
        link_entities(model, tokenizer, trie, texts, titles=TITLES[:1])


def test_a_long_text_is_read_in_windows(link: Any) -> None:
    one = GOLD[0].text
    text = " ".join([one] * 3)
    expected = [(start + 14, start + 18, TITLES[0]) for start in (0, len(one) + 1, 2 * len(one) + 2)]
    found = link([text, *(each.text for each in GOLD)], window=9, overlap=0, batch_size=2)
    assert places(found)[0] == expected
    assert places(link([text], window=9, overlap=4))[0]


@pytest.mark.parametrize(
    "text", ["", "   ", "\n", "\u200b", "}", "{ [ ] }", "\U0001f600\u00a0x", "nul\x00l", "[SEP] [PAD]"]
)
def test_any_text_is_taken_as_it_is(link: Any, text: str) -> None:
    found = link([text, GOLD[0].text, text], max_gap=np.inf, num_beams=2)
    assert found[0] == found[2]
    assert places(found)[1] == gold_places(GOLD)[0]
    assert all(own.text == text[own.start : own.end] and own.text == own.text.strip() != "" for own in found[0])


def test_a_trie_without_titles_links_nothing_and_added_ones_count_from_the_next_call(tokenizer: Any) -> None:
    marks = link_marks(tokenizer)
    trie = TokenTrie.build([], vocab_size=len(tokenizer), eos=tokenizer.sep_token_id)
    before = LinkAutomaton([[7]], [(0, 0, 1, -1)], trie, marks)
    assert before.allow([0], before.start(1)).tokens.tolist() == [7]
    trie.add([[9, trie.eos]], [5])
    after = LinkAutomaton([[7]], [(0, 0, 1, -1)], trie, marks)
    assert before.allow([0], before.start(1)).tokens.tolist() == [7]
    assert after.allow([0], after.start(1)).tokens.tolist() == [7, marks.open]
    state = after.walk(0, [marks.open, 7, marks.close, marks.begin, 9])
    assert after.ids(0, state[0]) == [5]
    assert after.ids(0, after.start(1)[0]) == []


def byte_level() -> Any:
    """Bytes as tokens, spaces in front of words, as GPT-2 and BART have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    own = Tokenizer(models.BPE({char: at for at, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return own


_AROUND = ["()", "“”", "「」", "--", "//", "東京", '""', "[]", "😀😀", "'ı"]


def metaspace(characters: str = "") -> Any:
    """Pieces with a mark for spaces, as T5 has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = ["<unk>", "▁", "▁Ærø", "▁is", "▁", "an", "▁an", "land", "{", "}", "😀", *characters]
    own = Tokenizer(models.Unigram([(piece, -1.0 - at) for at, piece in enumerate(dict.fromkeys(pieces))], unk_id=0))
    own.pre_tokenizer = pre_tokenizers.Metaspace()
    return own


@pytest.mark.parametrize("make", [byte_level, metaspace])
def test_mentions_begin_and_end_between_characters(make: Callable[[], Any]) -> None:
    text = "  Ærø is an {island} 😀😀 "
    (source,) = source_texts(make(), [text])
    rows = [source.characters(start, end) for start, end in source.spans(Window(0, len(source)), 99).tolist()]
    found = set(rows)
    assert len(rows) == len(found)
    surfaces = {text[start:end] for start, end in found}
    assert all(surface == surface.strip() != "" for surface in surfaces)
    assert "Ærø" in surfaces
    if make is byte_level:
        # Of each run of whole characters that spaces don't begin or end, once: no byte alone.
        places = [at for at, char in enumerate(text) if char != " "]
        assert found == {(start, end + 1) for start in places for end in places if start <= end}


@pytest.mark.parametrize("make", [byte_level, functools.partial(metaspace, "".join([*_AROUND, "Ærøisan"]))])
def test_surfaces_are_found_by_their_characters_whatever_stands_around_them(make: Callable[[], Any]) -> None:
    tokenizer, wanted = make(), "Ærø an"
    sets = CandidateSets({wanted: ["Ærø"]}, TokenTrie.from_titles(["Ærø"], tokenizer, eos=0, progress=False), tokenizer)
    for around in _AROUND:
        text = f"is {wanted}{around[0]}{wanted}{around[1]} {wanted} {around[0]}{wanted}"
        (source,) = source_texts(tokenizer, [text])
        window = Window(0, len(source))
        places = [at for at in range(len(text)) if text.startswith(wanted, at)]
        for found in (
            _spans(source, window, Surfaces([wanted, "nowhere"], tokenizer), None, 99),
            _spans(source, window, None, sets, 99),
            _spans(source, window, Surfaces([wanted], tokenizer), sets, 99),
        ):
            assert [source.characters(*span) for span in found[:, :2].tolist()] == [(at, at + 6) for at in places]


def test_surfaces_are_compared_as_the_tokenizer_normalizes_them(tokenizer: Any) -> None:
    surfaces = Surfaces(["List  OF", "Café"], tokenizer)
    assert all(text in surfaces for text in ("list of", "LIST\nof", "CAFE\u0301", "cafe"))
    assert not any(text in surfaces for text in ("", "lists of", "listof"))


def test_runs_of_tokens_are_those_between_borders() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        length = int(random.integers(0, 9))
        begins, ends = random.random((2, length)) < 0.6
        numbers = np.arange(length)
        source = SourceText(" " * length, numbers.astype(np.uint32), numbers, numbers + 1, begins, ends)
        first, last = sorted(random.integers(0, length + 1, 2).tolist())
        max_length = int(random.integers(1, 5))
        wanted = [
            [start - first, end - first]
            for start in range(first, last)
            for end in range(start + 1, min(last, start + max_length) + 1)
            if begins[start] and ends[end - 1]
        ]
        assert source.spans(Window(first, last), max_length).tolist() == wanted


def test_linked_pairs_are_what_the_automaton_may_write(init: Path, tmp_path: Path) -> None:
    long = LinkedText("long", " ".join(f"list word{at}" for at in range(40)), (TextMention(0, 4, TITLES[0]),))
    inside = LinkedText("inside", "listing lists", (TextMention(0, 3, TITLES[0]), TextMention(8, 14 - 1, TITLES[1])))
    write_linked_texts(tmp_path / "gold.jsonl", [*GOLD, long, inside])
    model = Seq2SeqModel.from_pretrained(init, device="cpu", source_max_length=32)
    pairs = linked_pairs(model, str(tmp_path / "gold.jsonl"))
    size = model_window(model.model, model.tokenizer, 1, max_length=32)
    tokenizer = model.tokenizer
    trie = TokenTrie.from_titles(TITLES, tokenizer, progress=False)
    parts = [part for text in [*GOLD, long, inside] for part in _windows(tokenizer, text.text, size)]
    assert len(pairs.sources) == len(pairs.targets) == len(parts) > len(GOLD) + 2
    spans = [
        (text, a, b, -1) for text, own in enumerate(parts) for a in range(len(own)) for b in range(a + 1, len(own) + 1)
    ]
    automaton = LinkAutomaton(parts, spans, trie, link_marks(tokenizer))
    for at, (part, source, target) in enumerate(zip(parts, pairs.sources, pairs.targets, strict=True)):
        assert source == [tokenizer.cls_token_id, *part, tokenizer.sep_token_id]
        assert target[0] == tokenizer.cls_token_id
        assert len(automaton.walk(at, target[1:])) >= 1
    assert (pairs.num_mentions, pairs.num_left_out, pairs.num_too_long) == (6, 1, 0)


def _windows(tokenizer: Any, text: str, size: int) -> list[list[int]]:
    (source,) = source_texts(tokenizer, [text])
    return [source.tokens[window.start : window.end].tolist() for window in windows(source, size, 0)]


def test_refuses_what_cannot_be_linked(model: Any, tokenizer: Any, trie: TokenTrie, link: Any, tmp_path: Path) -> None:
    other = TokenTrie.build([[5, 2]], vocab_size=9, eos=2, fingerprint="f" * 32)
    with pytest.raises(BadStoreError, match=r'found f{32}; build it again for this one with "rankdistill trie build"'):
        link_entities(model, tokenizer, other, ["a"])
    with pytest.raises(
        ValueError, match=r"expected the tokens \{ \} \[ \] .* in the tokenizer, found none for <x>; train the"
    ):
        link(["a"], marks=["{", "}", "<x>", "]"])
    with pytest.raises(ValueError, match="expected four marks, found 1"):
        link(["a"], marks=["{"])
    with pytest.raises(
        ValueError, match=r"expected a window of 1 to 62 tokens .the model reads 62 and writes 63., found 63"
    ):
        link(["a"], window=63)
    with pytest.raises(ValueError, match=r"expected an overlap of 0 to 5 tokens, half a window, found 6"):
        link(["a"], window=10, overlap=6)
    with pytest.raises(ValueError, match="expected a finite bonus, found inf"):
        link(["a"], bonus=float("inf"))
    with pytest.raises(ValueError, match=r"max_gap of 0 or more, found 0, 12 and 7\.0"):
        link(["a"], num_beams=0)
    write_linked_texts(tmp_path / "none.jsonl", GOLD[3:])
    none = options(Path(model.config._name_or_path), (str(tmp_path / "none.jsonl"),), tmp_path / "run")
    with pytest.raises(
        BadDataError, match="expected mentions with titles, found none that begins and ends with tokens"
    ):
        train_genre(none)
    with pytest.raises(ValueError, match="expected mentions in 1 texts with one of 0 sets, found Span"):
        LinkAutomaton([[5]], [(0, 0, 2, -1)], trie, link_marks(tokenizer))
    with pytest.raises(ValueError, match="expected each mention once"):
        LinkAutomaton([[5]], [(0, 0, 1, -1)] * 2, trie, link_marks(tokenizer))
    automaton = LinkAutomaton([[5]], [(0, 0, 1, -1)], trie, link_marks(tokenizer))
    for state in ([5, 0, 0, 0], [0, 2, 0, 0], [1, 2, 0, 0], [2, 0, 0, 0], [3, 1, 0, 1 << 30]):
        with pytest.raises(ValueError, match="expected"):
            automaton.allow([0], np.array([state], np.int32))


def test_marks_that_a_tokenizer_lacks_are_added_in_training(tmp_path: Path, init: Path) -> None:
    folder = tmp_path / "bare"
    tokenizer = AutoTokenizer.from_pretrained(init)
    words = [word for word in tokenizer.get_vocab() if word not in "{}[]"]
    bare = type(tokenizer)(vocab={word: at for at, word in enumerate(words)}, model_max_length=64)
    BertModel(
        BertConfig(
            vocab_size=len(bare), hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16
        )
    ).save_pretrained(folder)
    bare.save_pretrained(folder)
    write_linked_texts(tmp_path / "gold.jsonl", GOLD)
    trained = train_genre(options(folder, (str(tmp_path / "gold.jsonl"),), tmp_path / "run", max_steps=1))
    assert len(set(link_marks(AutoTokenizer.from_pretrained(trained)))) == 4
    # Trained on, tokens that are there stay as they are.
    again = Seq2SeqModel.from_pretrained(trained, device="cpu", special_tokens=["[START_ENT]", "{"])
    before = Seq2SeqModel.from_pretrained(trained, device="cpu")
    assert all(map(torch.equal, again.state_dict().values(), before.state_dict().values()))
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (facts["pairs"], facts["linked_mentions"], facts["left_out"]) == ([4], 4, 0)


def run(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, arguments)))
    assert not caught.value.code


def test_the_command_links_json_lines(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--trie", trained / "titles.rdtrie", "--titles", trained / "titles.txt"]
    out = tmp_path / "found.jsonl.gz"
    run("entities", "link", trained / "run" / "model", *files, "--input", trained / "gold.jsonl.gz", "-o", out)
    assert capsys.readouterr().out == f"{out}: 4 mentions in 4 texts\n"
    found = list(read_linked_texts(out))
    assert [(text.id, text.text) for text in found] == [(text.id, text.text) for text in GOLD]
    assert gold_places(found) == gold_places(GOLD)
    assert [own.more["entity_id"] for text in found for own in text.mentions] == [0, 1, 2, 3]
    surfaces = tmp_path / "surfaces.txt"
    surfaces.write_text("dictionary\n")
    run("entities", "link", trained / "run" / "model", *files, "--input", trained / "gold.jsonl.gz", "-o", out,
        "--mentions", surfaces)  # fmt: skip
    assert capsys.readouterr().out == f"{out}: 1 mentions in 4 texts\n"
    table = tmp_path / "mentions.tsv"
    table.write_text(f"Dictionary\t{TITLES[1]}\t2\nfile\tnot a title of the trie\t3\n")
    run("entities", "link", trained / "run" / "model", *files, "--input", trained / "gold.jsonl.gz", "-o", out,
        "--candidates", table)  # fmt: skip
    assert {own.title for text in read_linked_texts(out) for own in text.mentions} == {TITLES[1]}
    capsys.readouterr()
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"text": 1}\n')
    with pytest.raises(SystemExit):
        main(["entities", "link", str(trained / "run" / "model"), *map(str, files), "--input", str(bad)])
    assert 'bad.jsonl:2: expected an object with a "text", a string, found {"text": 1}' in capsys.readouterr().err


def test_the_script_measures_links_against_a_dictionary(trained: Path, tmp_path: Path) -> None:
    # A table that has "list" and "to": the likelier title of "list" is right once, "to" is never a link.
    table = tmp_path / "mentions.tsv"
    table.write_text(f"list\t{TITLES[0]}\t2\nlist\t{TITLES[3]}\t1\nto\t{TITLES[1]}\t1\n")
    files = {"--trie": "titles.rdtrie", "--titles": "titles.txt"} | dict.fromkeys(
        ("--train", "--dev", "--test"), "gold.jsonl.gz"
    )
    own = [part for flag, name in files.items() for part in (flag, str(trained / name))]
    script = Path(__file__).parents[2] / "eval" / "linking.py"
    command = [sys.executable, str(script), "--model", str(trained / "run" / "model"), "--mentions", str(table), *own]
    subprocess.run([*command, "--json", str(tmp_path / "result.json")], check=True, capture_output=True)
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    rows = {row["way"]: row for row in result["rows"]}
    assert (result["num_links"], result["num_links_out_of_kb"], result["links_in_table"]) == (4, 0, 0.5)
    dictionary = rows["dictionary"]
    assert (dictionary["precision"], dictionary["recall"]) == (0.5, 0.25)
    assert rows["all titles"]["F1"] == 1
    assert (rows["candidates"]["precision"], rows["candidates"]["recall"]) == (1, 0.5)
    assert dictionary["p"] is None
    assert 0 < rows["all titles"]["p"] <= 1


def test_the_command_links_lines_of_standard_input(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    files = ["--trie", trained / "titles.rdtrie", "--titles", trained / "titles.txt"]
    given = f"{GOLD[1].text}\r\n{GOLD[3].text}".encode()

    def stdin(content: bytes) -> Any:
        return SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(content)), isatty=lambda: False)

    monkeypatch.setattr("sys.stdin", stdin(given))
    run("entities", "link", trained / "run" / "model", *files)
    rows = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [row["id"] for row in rows] == ["0", "1"]
    assert [[own["title"] for own in row["mentions"]] for row in rows] == [TITLES[1:3], []]
    monkeypatch.setattr("sys.stdin", stdin(given))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    run("entities", "link", trained / "run" / "model", *files, "--min-score", "-1")
    marked = "\033[1mDictionary\033[0m \033[34m[Dictionary (Python)]\033[0m {a: [1]} to"
    assert capsysbinary.readouterr().out.decode().startswith(marked)
    monkeypatch.setattr("sys.stdin", stdin(b"a\n\xff\n"))
    with pytest.raises(SystemExit):
        main(["entities", "link", str(trained / "run" / "model"), *map(str, files)])
    assert b"standard input:2: expected UTF-8" in capsysbinary.readouterr().err
