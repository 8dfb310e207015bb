"""What holds for any record and any context."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rankdistill.formats.kilt import KiltOutput, KiltPage, KiltRecord, mention_text, read_kilt, write_kilt

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | TEXT, lambda own: st.lists(own, max_size=2)
)
MORE = st.dictionaries(st.sampled_from(["section", "x", "start_character"]), JSON, max_size=2)
PAGE = st.builds(KiltPage, st.none() | TEXT, st.none() | TEXT, st.floats(-1, 2), MORE)
OUTPUT = st.builds(KiltOutput, st.none() | TEXT, st.lists(PAGE, max_size=2).map(tuple), MORE)
RECORD = st.builds(
    KiltRecord,
    TEXT.filter(bool),
    TEXT,
    st.lists(OUTPUT, max_size=2).map(tuple),
    st.dictionaries(TEXT, JSON, max_size=2),
    st.none() | st.lists(TEXT, max_size=3).map(tuple),
    MORE,
)
WORDS = st.lists(st.sampled_from(["a", "b", "c&d", "[", "é"]), max_size=9)


@given(records=st.lists(RECORD, max_size=4), suffix=st.sampled_from([".jsonl", ".jsonl.gz"]))
def test_records_come_back(records: list[KiltRecord], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write_kilt(path, records)
        assert list(read_kilt(path)) == records


@given(left=WORDS, mention=WORDS, right=WORDS, max_words=st.integers(0, 30), space=st.sampled_from([" ", "\n", " \t "]))
def test_context_is_cut_where_it_must_be_and_nowhere_else(
    left: list[str], mention: list[str], right: list[str], max_words: int, space: str
) -> None:
    text = mention_text(space.join(left), space.join(mention), space.join(right), max_words=max_words)
    words = text.split(" ")
    start, end = words.index("[START_ENT]"), words.index("[END_ENT]")
    before, own, after = words[:start], words[start + 1 : end], words[end + 1 :]
    assert own == mention
    assert before == left[len(left) - len(before) :]
    assert after == right[: len(after)]
    whole = len(left) + len(mention) + len(right) + 2
    if whole <= max_words:
        assert len(words) == whole
    else:
        # All of the room is used that there's use for, and a side that is cut has its half.
        assert len(before) + len(after) == min(max_words, len(left) + len(right))
        assert len(before) >= min(len(left), max_words // 2)
        assert len(after) >= min(len(right), max_words // 2)
