"""Files of titles, and `rankdistill trie build`, `info`, `query`."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from rankdistill.cli import main
from rankdistill.errors import BadDataError
from rankdistill.formats.titles import read_titles


def run(*arguments: str | Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, arguments)))
    assert not caught.value.code


def test_titles_alone_and_behind_ids(tmp_path: Path) -> None:
    path = tmp_path / "titles.txt"
    path.write_bytes("Ærø\r\n Pushkin \nlast".encode())
    assert read_titles(path) == (["Ærø", " Pushkin ", "last"], None)
    packed = tmp_path / "titles.tsv.gz"
    packed.write_bytes(gzip.compress(b"7\tA\n") + gzip.compress(b"4294967295\tB\n"))
    titles, ids = read_titles(packed)
    assert titles == ["A", "B"]
    assert ids is not None
    assert ids.tolist() == [7, 4294967295]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"A\n\nB\n", 2, "expected a title, found a blank line"),
        (b"A\n \nB\n", 2, "expected a title, found a blank line"),
        (b"A\n1\tB\n", 2, "expected a title, found '1.tB'; the first line decides"),
        (b"1\tA\nB\n", 2, "expected a number, a tab and a title, found 'B'"),
        (b"1\tA\n2\t\n", 2, "expected a number, a tab and a title"),
        (b"1\tA\tB\n", 1, "expected a number, a tab and a title"),
        (b"Q1\tA\n", 1, "expected an id from 0 to 4,294,967,295, found 'Q1'; leave the column out"),
        (b"4294967296\tA\n", 1, "expected an id from 0 to 4,294,967,295"),
        (b"-1\tA\n", 1, "expected an id from 0"),
        (b"A\n\xff\n", 2, "expected UTF-8"),
        (b"", None, "expected at least one title, found an empty file"),
    ],
)
def test_lines_that_are_no_titles(tmp_path: Path, content: bytes, line: int | None, message: str) -> None:
    path = tmp_path / "titles"
    path.write_bytes(content)
    with pytest.raises(BadDataError, match=message) as caught:
        read_titles(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)


def test_a_torn_archive(tmp_path: Path) -> None:
    path = tmp_path / "titles.gz"
    path.write_bytes(gzip.compress(b"A\n" * 9999)[:-9])
    with pytest.raises(BadDataError, match="expected a whole gzip archive"):
        read_titles(path)


def test_build_info_query(tmp_path: Path, tiny_tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    titles, trie = tmp_path / "titles.tsv", tmp_path / "x.rdtrie"
    titles.write_text("7\tsort a list\n9\tSort a list\n3\tsort lines\n", encoding="utf-8")
    run("trie", "build", titles, "--tokenizer", tiny_tokenizer_dir, "-o", trie)
    assert "3 entities" in (out := capsys.readouterr().out)
    assert "entities that share the tokens of another: 1" in out
    run("trie", "info", trie, "--verify", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert (facts["num_entities"], facts["num_sequences"], facts["bytes"]) == (3, 2, trie.stat().st_size)
    run("trie", "info", trie)
    assert "num entities           3\n" in capsys.readouterr().out
    run("trie", "query", trie, "Sort", "--tokenizer", tiny_tokenizer_dir)
    assert "next tokens: 2: a, lines\n  7, 9\t'sort a list'\n  3\t'sort lines'\n" in capsys.readouterr().out
    run("trie", "query", trie, "--k", "1")
    first = capsys.readouterr().out.splitlines()
    assert (first[0], len(first)) == ("prefix: []", 3)
    token = first[1].split()[-1]
    run("trie", "query", trie, token)
    assert "next tokens: 2: " in capsys.readouterr().out


def test_the_page_about_tries_runs(
    tmp_path: Path, tiny_tokenizer_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "trie.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"MODEL"', repr(str(tiny_tokenizer_dir))), {})
    assert capsys.readouterr().out == "[3]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "{trie}", "7 8"], "expected the beginning of a title, found '7 8' (tokens [7, 8])"),
        (["query", "{trie}", "sort"], "expected token ids with spaces between, found 'sort'; pass --tokenizer MODEL"),
        (["info", "{folder}/absent"], "No such file"),
        (
            ["build", "{folder}/bad.txt", "--tokenizer", "{tokenizer}", "-o", "{folder}/y"],
            "bad.txt:2: expected a title",
        ),
        (
            ["build", "{folder}/titles.txt", "--tokenizer", "{tokenizer}", "-o", "{folder}/y", "--max-length", "2"],
            'titles.txt:1: expected titles of at most 2 tokens, the end token included, found "sort a list": 4',
        ),
    ],
)
def test_commands_that_fail_say_why(
    tmp_path: Path, tiny_tokenizer_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "titles.txt").write_text("sort a list\n")
    (tmp_path / "bad.txt").write_text("a\n\nb\n")
    names = {"trie": str(tmp_path / "x"), "folder": str(tmp_path), "tokenizer": str(tiny_tokenizer_dir)}
    run("trie", "build", tmp_path / "titles.txt", "--tokenizer", tiny_tokenizer_dir, "-o", names["trie"])
    with pytest.raises(SystemExit) as caught:
        main(["trie", *(argument.format(**names) for argument in arguments)])
    assert caught.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "y").exists()
