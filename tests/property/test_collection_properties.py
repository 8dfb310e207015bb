"""What holds for any texts: every layout gives back what was written, in memory or through the cached index."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.formats import texts as texts_module
from rankdistill.formats.collection import Collection, collection_from_texts, open_collection
from rankdistill.formats.trec import is_quoted

# Line separators of Unicode are no ends of lines here; lone surrogates can't be written as UTF-8.
CHARACTERS = st.characters(exclude_categories=["Cs"]) | st.sampled_from('\x0b\x1c\x85\u2028 \t"\\')
# White space of ASCII is no part of an id; other white space is.
ID_CHARACTERS = CHARACTERS.filter(lambda character: character not in " \t\n\v\f\r")
TEXTS = st.dictionaries(
    st.text(ID_CHARACTERS, min_size=1, max_size=8).filter(lambda id_: not is_quoted(id_)),
    st.tuples(st.text(CHARACTERS, max_size=9), st.text(CHARACTERS, max_size=30)),
)


def check(collection: Collection, expected: dict[str, str], order: list[int]) -> None:
    assert dict(collection.docs()) == expected
    assert list(collection.doc_ids) == list(expected)
    asked = [list(expected)[i % len(expected)] for i in order] if expected else []
    assert collection.doc_texts(asked) == [expected[id_] for id_ in asked]
    assert collection.doc_rows(asked).tolist() == [i % len(expected) for i in order[: len(asked)]]


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, order=st.lists(st.integers(0, 50), max_size=9), packed=st.booleans(), in_memory=st.booleans())
def test_beir_gives_back_what_was_written(
    texts: dict[str, tuple[str, str]], order: list[int], packed: bool, in_memory: bool
) -> None:
    expected = {id_: f"{title} {text}".strip() if title else text.strip() for id_, (title, text) in texts.items()}
    rows = [{"_id": id_, "title": title, "text": text} for id_, (title, text) in texts.items()]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    limits = texts_module._IN_MEMORY_BYTES, texts_module._IN_MEMORY_GZIP_BYTES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"corpus.jsonl{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
        try:
            if not in_memory and content:
                texts_module._IN_MEMORY_BYTES = texts_module._IN_MEMORY_GZIP_BYTES = 0
            for _ in range(2):  # the second time from the kept index
                check(open_collection(folder, cache_dir=folder / "cache"), expected, order)
        finally:
            texts_module._IN_MEMORY_BYTES, texts_module._IN_MEMORY_GZIP_BYTES = limits
    check(collection_from_texts(expected), expected, order)


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, order=st.lists(st.integers(0, 50), max_size=9))
def test_msmarco_gives_back_what_was_written(texts: dict[str, tuple[str, str]], order: list[int]) -> None:
    def plain(text: str) -> str:
        return text.translate(dict.fromkeys(map(ord, "\t\r\n"), "_"))

    expected = {plain(id_): plain(text).strip() for id_, (_, text) in texts.items()}
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(f"{id_}\t{text}\n" for id_, text in expected.items())
        (Path(folder) / "collection.tsv").write_bytes(lines.encode())
        check(open_collection(folder), expected, order)
