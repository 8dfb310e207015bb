"""What holds for all readers of files: byte order marks, ends of lines, blank lines, torn archives, bad UTF-8, bad JSON."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.data.tas import read_clusters
from rankdistill.errors import BadDataError
from rankdistill.formats import texts as texts_module
from rankdistill.formats.beir import jsonl
from rankdistill.formats.json_lines import json_value
from rankdistill.formats.kd_sets import kd_format, read_kd
from rankdistill.formats.kilt import read_distinct, read_kilt
from rankdistill.formats.linked_texts import read_distinct_texts, read_linked_texts
from rankdistill.formats.links import read_anchors, read_links
from rankdistill.formats.mentions import MentionTable
from rankdistill.formats.msmarco import tsv
from rankdistill.formats.queries import read_queries
from rankdistill.formats.repositories import open_repositories
from rankdistill.formats.scores import read_scores
from rankdistill.formats.texts import read_lines
from rankdistill.formats.titles import names_of, read_titles
from rankdistill.formats.trec import read_qrels, read_run
from rankdistill.formats.triples import read_triples
from rankdistill.formats.word_vectors import read_word_vectors
from rankdistill.generation.link_commands import _texts
from rankdistill.options.linking import EntitiesLinkOptions

MARK = b"\xef\xbb\xbf"


class Reader(NamedTuple):
    """A reader, and two lines of a file for it; the name tells some readers what the file is."""

    name: str
    lines: tuple[str, str]
    read: Callable[[Path], Any]
    reads_gzip: bool = True


def texts_of(parse: Any, is_big: bool = False) -> Callable[[Path], Any]:
    """Reads a collection's file in memory, or mapped, as big ones are."""

    def read(path: Path) -> Any:
        with pytest.MonkeyPatch.context() as patched:
            if is_big:
                patched.setattr(texts_module, "_IN_MEMORY_BYTES", 0)
                patched.setattr(texts_module, "_IN_MEMORY_GZIP_BYTES", 0)
            texts = read_lines(path, parse, cache_dir=path.parent / "cache")
        return list(texts.pairs()), texts.take([1, 0])

    return read


def scores_of(path: Path) -> Any:
    reader = read_scores(path)
    return reader.format, [(block.query_ids(), block.doc_ids(), block.scores.tolist()) for block in reader]


def kd_of(path: Path) -> Any:
    format = kd_format(str(path))
    assert format is not None
    return format, list(read_kd(str(path), format))


def vectors_of(path: Path) -> Any:
    words, vectors = read_word_vectors(path)
    return words, vectors.tolist()


def snippets_of(path: Path) -> Any:
    snippets = open_repositories(path)
    return list(snippets.pairs())


def titles_of(path: Path) -> Any:
    titles, ids = read_titles(path)
    return titles, None if ids is None else ids.tolist(), names_of(path)


def table_of(path: Path) -> Any:
    return MentionTable.read(path)._counts


def plain_texts_of(path: Path) -> Any:
    options = EntitiesLinkOptions(model="m", trie=Path("t"), input=path)
    return [text for text in _texts(options) if text.text]


KILT = (
    '{"id": %s, "input": "ü", "meta": {"left_context": "", "mention": "ü", "right_context": ""}, '
    '"output": [{"provenance": [{"title": "U"}]}]}'
)
LINKED = '{"id": %s, "text": "ü b", "mentions": [{"start": 0, "end": 1, "title": "U"}]}'
BEIR = '{"_id": %s, "text": "ü"}'
TABLE = ("ü\tU\t3", "b\tB\t1")
JSON_READERS = [
    Reader("kilt.jsonl", (KILT % '"q1"', KILT % "2"), lambda path: list(read_kilt(path))),
    Reader("kilt_distinct.jsonl", (KILT % '"q1"', KILT % "2"), lambda path: list(read_distinct(path))),
    Reader("linked.jsonl", (LINKED % '"q1"', LINKED % "2"), lambda path: list(read_linked_texts(path))),
    Reader("linked_distinct.jsonl", (LINKED % '"q1"', LINKED % "2"), lambda path: list(read_distinct_texts(path))),
    Reader("link.jsonl", (LINKED % '"q1"', LINKED % "2"), plain_texts_of),
    Reader("corpus.jsonl", (BEIR % '"q1"', BEIR % "2"), texts_of(jsonl)),
    Reader("big_corpus.jsonl", (BEIR % '"q1"', BEIR % "2"), texts_of(jsonl, is_big=True)),
    Reader(
        "repositories.jsonl",
        ('{"repository": "a", "text": "ü"}', '{"repository": "b", "text": "b"}'),
        snippets_of,
        False,
    ),
    Reader(
        "pylate.jsonl",
        (
            '{"query_id": "ü", "document_ids": ["a", "b"], "scores": [1, 2]}',
            '{"query_id": "q", "document_ids": ["a", "b"], "scores": [1, 2]}',
        ),
        kd_of,
    ),
]
READERS = [
    *JSON_READERS,
    Reader("links_kilt.jsonl", (KILT % '"q1"', KILT % "2"), lambda path: list(read_links(path))),
    Reader("links_linked.jsonl", (LINKED % '"q1"', LINKED % "2"), lambda path: list(read_links(path))),
    Reader("queries_kilt.jsonl", (KILT % '"q1"', KILT % "2"), read_queries),
    Reader("queries_beir.jsonl", (BEIR % '"q1"', BEIR % "2"), read_queries),
    Reader("queries.tsv", ("q1\tü", "q2\tb"), read_queries),
    Reader("collection.tsv", ("d1\tü", "d2\tb"), texts_of(tsv)),
    Reader("big_collection.tsv", ("d1\tü", "d2\tb"), texts_of(tsv, is_big=True)),
    Reader("run.trec", ("q1 Q0 ü 1 2.5 t", "q2 Q0 a 1 2.5 t"), read_run),
    Reader("run.tsv", ("q1\tü\t1", "q2\ta\t1"), read_run),
    Reader("qrels.trec", ("q1 0 ü 1", "q2 0 a 0"), read_qrels),
    Reader("qrels.tsv", ("query-id\tcorpus-id\tscore", "q2\tü\t0"), read_qrels),
    Reader("titles.txt", ("Ü", "B"), titles_of),
    Reader("titles.tsv", ("7\tÜ", "9\tB"), titles_of),
    Reader("anchors.tsv", TABLE, lambda path: list(read_anchors(path))),
    Reader("links.tsv", TABLE, lambda path: list(read_links(path))),
    Reader("table.tsv", TABLE, table_of),
    Reader("triples.tsv", ("q1\tü\tb", "q2\ta\tb"), read_triples),
    Reader("clusters.txt", ("q1 ü", "q2"), read_clusters),
    Reader("vectors.txt", ("ü 1 2", "b 3 4"), vectors_of),
    Reader("lines.txt", ("ü", "b"), plain_texts_of),
    Reader("ids.tsv", ("1.5\t0\tü\td1\td2", "2\t1\tq2\td1\td2"), scores_of),
    Reader("text.tsv", ("1.5\t0\tü b\td1\td2", "2\t1\tq2\td1\td2"), scores_of),
    Reader("margin.tsv", ("query_id\tpos\tneg\tmargin", "ü\td1\td2\t1"), scores_of),
    Reader("plain_margin.tsv", ("5\t1\t2\t1.5", "ü\td1\td2\t1"), scores_of),
    Reader("nway.jsonl", ('["ü", ["d1", 1.5], ["d2", 1]]', '[2, ["d1", 1.5], ["d2", 1]]'), scores_of),
]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def named(reader: Reader) -> str:
    return reader.name


@pytest.mark.parametrize("reader", READERS, ids=named)
def test_a_byte_order_mark_and_the_ends_of_lines_change_nothing(tmp_path: Path, reader: Reader) -> None:
    first, second = (line.encode() for line in reader.lines)
    plain = first + b"\n" + second + b"\n"
    expected = reader.read(written(tmp_path / reader.name, plain))
    assert r"\ufeff" not in repr(expected)
    for content in (plain, first + b"\n" + second, first + b"\r\n" + second + b"\r\n", plain + b"\n\r\n\n"):
        for mark in (b"", MARK):
            assert reader.read(written(tmp_path / f"1{reader.name}", mark + content)) == expected
    if reader.reads_gzip:
        packed = gzip.compress(MARK + plain[:5]) + gzip.compress(plain[5:])
        assert reader.read(written(tmp_path / f"{reader.name}.gz", packed)) == expected


@pytest.mark.parametrize("reader", READERS, ids=named)
def test_a_mark_further_down_is_no_mark(tmp_path: Path, reader: Reader) -> None:
    content = reader.lines[0].encode() + b"\n" + MARK + reader.lines[1].encode() + b"\n"
    path = written(tmp_path / reader.name, content)
    if reader.lines[1][0] in "{[" or reader.name in ("titles.tsv", "ids.tsv", "text.tsv"):
        with pytest.raises(BadDataError) as caught:
            reader.read(path)
        assert caught.value.line == 2
    else:
        assert r"\ufeff" in repr(reader.read(path))


# Published tables of word vectors have words that aren't UTF-8.
@pytest.mark.parametrize("reader", [reader for reader in READERS if reader.name != "vectors.txt"], ids=named)
def test_a_line_that_is_not_utf8_is_named(tmp_path: Path, reader: Reader) -> None:
    content = MARK + reader.lines[0].encode() + b"\n\xff" + reader.lines[1].encode() + b"\n"
    with pytest.raises(BadDataError) as caught:
        reader.read(written(tmp_path / reader.name, content))
    assert (caught.value.path, caught.value.line) == (str(tmp_path / reader.name), 2)


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader.reads_gzip], ids=named)
def test_an_archive_cut_anywhere_is_named(tmp_path: Path, reader: Reader) -> None:
    packed = gzip.compress("\n".join(reader.lines).encode())
    path = tmp_path / f"{reader.name}.gz"
    for length in (2, 5, 9, 12, len(packed) - 9, len(packed) - 1):
        with pytest.raises(BadDataError) as caught:
            reader.read(written(path, packed[:length]))
        assert caught.value.path == str(path)
        assert "gzip" in caught.value.expected


@pytest.mark.parametrize("reader", JSON_READERS, ids=named)
@pytest.mark.parametrize("more", ['"\\ud800"', '"\\udc00\\ud800x"', "[" * 100_000 + "]" * 100_000, "1" * 5000, "NUL\0"])
def test_json_that_no_text_can_hold_is_named(tmp_path: Path, reader: Reader, more: str) -> None:
    bad = reader.lines[1][:-1] + f', "x": {more}}}'
    with pytest.raises(BadDataError) as caught:
        reader.read(written(tmp_path / reader.name, f"{reader.lines[0]}\n\n{bad}\n".encode()))
    assert (caught.value.path, caught.value.line) == (str(tmp_path / reader.name), 3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=5), max_size=3))
def test_json_is_read_as_by_json_unless_a_text_is_no_text(value: list[str]) -> None:
    # st.characters() draws halves of surrogate pairs too; two of them side by side are a pair again in JSON.
    line = json.dumps(value).encode()
    twin = json.loads(line)
    if any("\ud800" <= character <= "\udfff" for text in twin for character in text):
        with pytest.raises(ValueError, match="half of a surrogate pair"):
            json_value(line)
    else:
        assert json_value(line) == twin


@pytest.mark.parametrize("is_big", [False, True])
def test_a_mark_changes_no_fingerprint_and_a_kept_index_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_big: bool
) -> None:
    if is_big:
        monkeypatch.setattr(texts_module, "_IN_MEMORY_BYTES", 0)
    lines = b"d1\t\xc3\xbc\nd2\tb\n"
    plain = read_lines(written(tmp_path / "plain.tsv", lines), tsv, cache_dir=tmp_path / "cache")
    path = written(tmp_path / "marked.tsv", MARK + lines)
    for _ in range(2):  # the second time from the kept index
        marked = read_lines(path, tsv, cache_dir=tmp_path / "cache")
        assert marked.fingerprint == plain.fingerprint
        assert list(marked.pairs()) == list(plain.pairs()) == [("d1", "ü"), ("d2", "b")]


def test_lines_are_counted_with_the_blank_ones(tmp_path: Path) -> None:
    twice = (KILT % '"q"').encode()
    path = written(tmp_path / "a.jsonl", b"\n" + twice + b"\n\n" + twice + b"\n")
    with pytest.raises(BadDataError, match=r'a\.jsonl:4: expected distinct ids, found "q" a second time'):
        list(read_distinct(path))
    path = written(tmp_path / "b.jsonl", b"\n" + twice + b"\n \n[]\n")
    with pytest.raises(BadDataError, match=r"b\.jsonl:4: expected a JSON object, found \[\]"):
        list(read_kilt(path))


def test_a_blank_line_between_titles_is_named(tmp_path: Path) -> None:
    # Without ids, a title's line is its number: leaving one out would rename all that follow.
    with pytest.raises(BadDataError, match=r"titles:2: expected a title, found a blank line; remove it"):
        read_titles(written(tmp_path / "titles", b"A\n \n\nB\n\n"))
    assert read_titles(written(tmp_path / "titles", b"A\nB\n \n\n")).titles == ["A", "B"]


@pytest.mark.parametrize("id_", ["null", "true", "1.0", '""', "[1]"])
@pytest.mark.parametrize(
    "reader", [reader for reader in JSON_READERS if reader.name != "repositories.jsonl"], ids=named
)
def test_what_is_no_id_in_json_is_named(tmp_path: Path, reader: Reader, id_: str) -> None:
    record = json.loads(reader.lines[0])
    name = next(iter(record))
    bad = reader.lines[0].replace(f'"{name}": {json.dumps(record[name], ensure_ascii=False)}', f'"{name}": {id_}')
    with pytest.raises(BadDataError) as caught:
        reader.read(written(tmp_path / reader.name, f"{reader.lines[1]}\n{bad}\n".encode()))
    assert caught.value.line == 2
