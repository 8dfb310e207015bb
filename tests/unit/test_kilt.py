"""KILT's lines: what is read, what is written, what is refused and where; a mention in its context."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rankdistill.errors import BadDataError
from rankdistill.formats.kilt import (
    KiltOutput,
    KiltPage,
    KiltRecord,
    gold_titles,
    mention_text,
    one_line,
    read_kilt,
    source_text,
    write_kilt,
)

# In the shape of the format's own description (KILT README): a question with two pages, and a mention with candidates.
QUESTION: dict[str, Any] = {
    "id": 33078,
    "input": "Who wrote\nit &amp; when?",
    "output": [
        {"answer": "A"},
        {
            "answer": "B",
            "provenance": [
                {"wikipedia_id": 12, "title": "Book (novel)", "start_paragraph_id": 3, "bleu_score": 0.9},
                {"wikipedia_id": "13", "title": "Film", "bleu_score": 0.5},
                {"title": "Book (novel)", "meta": {"fever_page_id": "x"}},
            ],
        },
    ],
    "meta": {"left_context": "", "mention": "", "right_context": "", "partial_evidence": []},
}
MENTION: dict[str, Any] = {
    "id": "1",
    "input": "x",
    "output": [{"answer": "Leicestershire", "provenance": [{"title": "Leicestershire County Cricket Club"}]}],
    "meta": {"left_context": "CRICKET -", "mention": "LEICESTERSHIRE", "right_context": "TAKE OVER"},
    "candidates": ["Leicestershire", "Leicestershire County Cricket Club"],
    "split": "dev",
}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_reads_and_writes_records(tmp_path: Path) -> None:
    question, mention = read_kilt(written(tmp_path / "in.jsonl", QUESTION, MENTION))
    assert question.id == "33078"
    assert question.candidates is None
    assert question.output[1].provenance[0] == KiltPage("Book (novel)", "12", 0.9, {"start_paragraph_id": 3})
    assert question.output[0] == KiltOutput("A")
    assert mention == KiltRecord(
        "1",
        "x",
        (KiltOutput("Leicestershire", (KiltPage("Leicestershire County Cricket Club"),)),),
        MENTION["meta"],
        ("Leicestershire", "Leicestershire County Cricket Club"),
        {"split": "dev"},
    )
    write_kilt(tmp_path / "out.jsonl.gz", [question, mention])
    assert list(read_kilt(tmp_path / "out.jsonl.gz")) == [question, mention]
    lines = gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).decode().splitlines()
    assert json.loads(lines[1]) == MENTION
    assert list(read_kilt(written(tmp_path / "empty.jsonl"))) == []


def test_what_a_model_reads_and_writes() -> None:
    question, mention = (
        KiltRecord("1", QUESTION["input"], meta=QUESTION["meta"]),
        KiltRecord("2", "x", meta=MENTION["meta"]),
    )
    assert source_text(question) == "Who wrote it & when?"
    assert source_text(mention) == "CRICKET - [START_ENT] LEICESTERSHIRE [END_ENT] TAKE OVER"
    pages = tuple(
        KiltPage(title, bleu_score=score) for title, score in (("A", 0.6), (None, 1.0), ("B", 0.5), ("A", 1.0))
    )
    record = KiltRecord("1", "x", (KiltOutput("a"), KiltOutput(None, pages)))
    assert gold_titles(record) == ["A"]
    assert gold_titles(record, min_bleu=0.4) == ["A", "B"]


def test_a_long_context_is_cut_around_the_mention() -> None:
    left, right = "l1 l2 l3 l4 l5 l6", "r1 r2 r3 r4 r5 r6"
    assert mention_text(left, "m", right, max_words=4) == "l5 l6 [START_ENT] m [END_ENT] r1 r2"
    assert mention_text("l1", "m n", right, max_words=5) == "l1 [START_ENT] m n [END_ENT] r1 r2 r3 r4"
    assert mention_text(left, "m", "r1\u00a0r2", max_words=6) == "l3 l4 l5 l6 [START_ENT] m [END_ENT] r1 r2"
    assert mention_text(left, "m", "", max_words=0) == "[START_ENT] m [END_ENT]"
    assert mention_text("a &lt;b&gt;", "AT&amp;T\n", "&nbsp;c") == "a <b> [START_ENT] AT&T [END_ENT] c"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"expected a JSON object, found b'\{"),
        (b'{"id": "\xff"}', "expected a JSON object, found .*can't decode byte 0xff"),
        (b"[1]", r"expected a JSON object, found \[1\]"),
        (b'{"input": "x"}', 'expected an "id", a string, found null'),
        (b'{"id": true, "input": "x"}', 'expected an "id", a string, found true'),
        (b'{"id": "1"}', 'expected "input", a string, found null'),
        (b'{"id": "1", "input": ["x"]}', r'expected "input", a string, found \["x"\]'),
        (b'{"id": "1", "input": "x", "output": {}}', r'expected "output", a list of objects, found \{\}'),
        (b'{"id": "1", "input": "x", "output": ["y"]}', 'expected "output", a list of objects, found "y"'),
        (b'{"id": "1", "input": "x", "output": [{"answer": 3}]}', 'expected "answer", a string, found 3'),
        (
            b'{"id": "1", "input": "x", "output": [{"provenance": ["y"]}]}',
            'expected "provenance", a list of objects, found "y"',
        ),
        (
            b'{"id": "1", "input": "x", "output": [{"provenance": [{"title": 3}]}]}',
            'expected "title", a string, found 3',
        ),
        (
            b'{"id": "1", "input": "x", "output": [{"provenance": [{"wikipedia_id": 1.5}]}]}',
            'expected "wikipedia_id", a string, found 1.5',
        ),
        (
            b'{"id": "1", "input": "x", "output": [{"provenance": [{"bleu_score": "1"}]}]}',
            'expected "bleu_score", a number, found "1"',
        ),
        (b'{"id": "1", "input": "x", "meta": []}', r'expected "meta", an object, found \[\]'),
        (b'{"id": "1", "input": "x", "candidates": [1]}', r'expected "candidates", a list of titles, found \[1\]'),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(json.dumps(QUESTION).encode() + b"\n" + line)
    with pytest.raises(BadDataError, match=message) as caught:
        list(read_kilt(path))
    assert (caught.value.path, caught.value.line) == (str(path), 2)


def test_what_json_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_kilt(tmp_path / "x.jsonl", [KiltRecord("1", "x", meta={"score": float("nan")})])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        list(read_kilt(tmp_path / "x.jsonl"))


def test_entities_of_html_end_in_a_semicolon() -> None:
    assert one_line("a?x=1&copy=2&reg;&amp;&#233;&#xE9;&notes;&lt") == "a?x=1&copy=2\u00ae&\u00e9\u00e9&notes;&lt"
