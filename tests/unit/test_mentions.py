"""Links out of every kind of file, and the table of mentions: what it counts, gives, leaves out and refuses."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.errors import BadDataError
from rankdistill.formats.kilt import KiltOutput, KiltPage, KiltRecord, write_kilt
from rankdistill.formats.links import Link, read_links
from rankdistill.formats.mentions import MentionTable, build_mentions

PARAGRAPH: dict[str, Any] = {
    "id": "p-0",
    "page": "P",
    "text": "Paris  of Troy went to Paris.",
    "mentions": [
        {"start": 0, "end": 14, "title": "Paris (mythology)"},
        {"start": 23, "end": 28, "title": "Paris"},
    ],
}
LINKS = [Link("Paris", "Paris", 6), Link("paris", "Paris", 1), Link("Paris", "Paris, Texas", 2), Link("Troy", "Troy")]


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_links_of_linked_text(tmp_path: Path) -> None:
    path = written(tmp_path / "text.jsonl", PARAGRAPH)
    # In one line, as a model reads it.
    assert list(read_links(path)) == [Link("Paris of Troy", "Paris (mythology)"), Link("Paris", "Paris")]


def test_links_of_kilt_files_and_of_anchors(tmp_path: Path) -> None:
    meta = {"left_context": "to", "mention": "AT&amp;T\n", "right_context": "."}
    pages = (KiltPage("AT&T"), KiltPage("AT&T"), KiltPage("Bell"), KiltPage("Weak", bleu_score=0.1))
    records = [
        KiltRecord("1", "x", (KiltOutput("a", pages),), meta),
        KiltRecord("2", "a question", (KiltOutput("a", (KiltPage("Page"),)),)),
        KiltRecord("3", "x", meta=meta),
    ]
    write_kilt(tmp_path / "x.jsonl.gz", records)
    assert list(read_links(tmp_path / "x.jsonl.gz")) == [Link("AT&T", "AT&T"), Link("AT&T", "Bell")]
    (tmp_path / "anchors.tsv.gz").write_bytes(gzip.compress("Ærø\tÆrø\t3\n{x\tX\t1\n".encode()))
    assert list(read_links(tmp_path / "anchors.tsv.gz")) == [Link("Ærø", "Ærø", 3), Link("{x", "X", 1)]
    assert list(read_links(written(tmp_path / "empty"))) == []


def test_candidates_have_priors_exactly_first_then_folded() -> None:
    table = build_mentions(LINKS).table
    assert (len(table), table.num_pairs) == (3, 4)
    assert table.candidates("Paris") == [("Paris", 6 / 8), ("Paris, Texas", 2 / 8)]
    assert table.candidates(" Paris\n", 1) == [("Paris", 6 / 8)]
    assert table.candidates("paris") == [("Paris", 1.0)]
    # Not there as it is: all that are the same when folded, together.
    assert table.candidates("PARIS") == [("Paris", 7 / 9), ("Paris, Texas", 2 / 9)]
    assert table.most_frequent("PARIS") == "Paris"
    assert (table.candidates("Rome"), table.most_frequent("Rome")) == ([], None)
    # Of equal ones, by title.
    assert build_mentions([Link("m", "B"), Link("m", "A")]).table.most_frequent("m") == "A"
    # As a model reads it, HTML's entities are resolved.
    assert build_mentions([Link("AT&T", "AT&T")]).table.most_frequent("AT&amp;T") == "AT&T"
    assert build_mentions([Link("&lt", "HTML"), Link("<", "Less")]).table.most_frequent("&lt") == "HTML"


def test_what_is_left_out_is_counted() -> None:
    links = [*LINKS, Link("Paris", "Paris Hilton", 4), Link("Paris", "Ghost", 9)]
    built = build_mentions(
        links, min_count=2, max_candidates=2, known=lambda titles: [t for t in titles if t != "Ghost"]
    )
    assert built.table.candidates("Paris") == [("Paris", 0.6), ("Paris Hilton", 0.4)]
    assert built[1:] == (23, 9, 1, 2, 2)
    assert len(built.table) == 1
    with pytest.raises(ValueError, match="expected min_count and max_candidates of at least 1, found 0 and None"):
        build_mentions(links, min_count=0)


NAMES = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"], exclude_characters="&"), min_size=1, max_size=3
)


@given(st.lists(st.builds(Link, NAMES, NAMES, st.integers(1, 9)), min_size=1), st.randoms())
def test_a_table_is_its_file(tmp_path_factory: pytest.TempPathFactory, links: list[Link], random: Any) -> None:
    folder = tmp_path_factory.mktemp("table")
    table = build_mentions(links).table
    table.write(folder / "a.tsv.gz")
    random.shuffle(links)
    build_mentions(links).table.write(folder / "b.tsv.gz")
    assert (folder / "a.tsv.gz").read_bytes() == (folder / "b.tsv.gz").read_bytes()
    read = MentionTable.read(folder / "a.tsv.gz")
    pairs = Counter[tuple[str, str]]()
    for link in links:
        pairs[link.mention, link.title] += link.times
    for mention in {link.mention for link in links}:
        total = sum(times for (own, _), times in pairs.items() if own == mention)
        assert dict(read.candidates(mention)) == {
            t: times / total for (own, t), times in pairs.items() if own == mention
        }
        assert read.candidates(mention) == table.candidates(mention)
        assert read.candidates(mention)[0][0] == read.most_frequent(mention)
    # A table is a table of anchors, so tables can be counted together.
    assert build_mentions(read_links(folder / "a.tsv.gz")).num_links == sum(link.times for link in links)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a\tA", "expected a mention, a title and a count of at least 1, with tabs between, found 'a.tA'"),
        (b"a\tA\t0", "expected a mention, a title and a count of at least 1"),
        (b"a\tA\t-1", "expected a mention, a title and a count of at least 1"),
        (b"a\tA\tmany", "expected a mention, a title and a count of at least 1"),
        (b" \tA\t1", "expected a mention, a title and a count of at least 1"),
        (b"a\t\t1", "expected a mention, a title and a count of at least 1"),
        (b"a\tA\t1\t2", "expected a mention, a title and a count of at least 1"),
        (b"\xff\tA\t1", "expected UTF-8"),
    ],
)
def test_lines_that_are_no_anchors(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "table.tsv"
    path.write_bytes(b"good\tGood\t1\n" + line + b"\n")
    for read in (MentionTable.read, lambda path: list(read_links(path))):
        with pytest.raises(BadDataError, match=message) as caught:
            read(path)
        assert (caught.value.path, caught.value.line) == (str(path), 2)


def test_a_line_that_is_no_linked_text(tmp_path: Path) -> None:
    path = written(
        tmp_path / "text.jsonl", PARAGRAPH, PARAGRAPH | {"mentions": [{"start": 0, "end": 99, "title": "T"}]}
    )
    with pytest.raises(BadDataError, match="expected a mention in the 29 characters of its text") as caught:
        list(read_links(path))
    assert (caught.value.path, caught.value.line) == (str(path), 2)


def test_composed_and_decomposed_letters_are_one_mention(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(
        "Caf\u00e9\tCafe A\t2\nCafe\u0301\tCafe A\t3\nCafe\u0301\tCafe B\t4\n", encoding="utf-8"
    )
    table = MentionTable.read(tmp_path / "t.tsv")
    for asked in ("Caf\u00e9", "Cafe\u0301", "CAF\u00c9", "cafe\u0301"):
        assert table.candidates(asked) == [("Cafe A", 5 / 9), ("Cafe B", 4 / 9)]
    given = MentionTable({"Cafe\u0301": {"Cafe A": 1}})
    assert given.titles_of("Caf\u00e9") == given.titles_of("Cafe\u0301") == ["Cafe A"]
