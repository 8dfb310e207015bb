"""What holds for any texts: a store equals the tokenizer, and an interrupted build equals an uninterrupted one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.data.tokens import TokenStore, build_tokens, pair_batch, pair_shape
from rankdistill.errors import RankDistillError

TEXTS = st.lists(st.text(max_size=60) | st.text("ab(), .[]=\n", max_size=200), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


def build(texts: list[str], tokenizer: Any, max_length: int, path: Path) -> TokenStore:
    return build_tokens(enumerate_texts(texts), tokenizer, max_length, path, fingerprint="t", progress=False)


def enumerate_texts(texts: list[str]) -> list[tuple[str, str]]:
    return [(str(i), text) for i, text in enumerate(texts)]


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, stored=st.integers(2, 70), shown=st.integers(2, 70), multiple=st.sampled_from([1, 8]))
def test_a_batch_is_what_the_tokenizer_pads(
    tokenizer: Any, texts: list[str], stored: int, shown: int, multiple: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = build(texts, tokenizer, stored, Path(folder) / "x")
        rows = np.arange(len(texts))[::-1].copy()
        ids, mask = store.batch(rows, tokenizer.pad_token_id, shown, multiple)
    # In two steps, since transformers refuses a max_length that isn't a multiple of pad_to_multiple_of.
    cut = tokenizer(texts[::-1], truncation=True, max_length=min(stored, shown))
    wanted = tokenizer.pad(cut, pad_to_multiple_of=multiple, return_tensors="np")
    np.testing.assert_array_equal(ids, wanted["input_ids"])
    np.testing.assert_array_equal(mask, wanted["attention_mask"])


@settings(max_examples=40, deadline=None)
@given(queries=TEXTS, docs=TEXTS, max_length=st.integers(3, 80))
def test_pairs_are_what_the_tokenizer_joins(
    tokenizer: Any, queries: list[str], docs: list[str], max_length: int
) -> None:
    count = min(len(queries), len(docs))
    queries, docs = queries[:count], docs[:count]
    rows = np.arange(count)
    with tempfile.TemporaryDirectory() as folder:
        left, right = (
            build(texts, tokenizer, 512, Path(folder) / name) for texts, name in ((queries, "q"), (docs, "d"))
        )
        joiner, second_type = pair_shape(tokenizer)
        ids, mask, types = pair_batch(
            left, rows, right, rows, max_length, tokenizer.pad_token_id, joiner=joiner, second_type=second_type
        )
    wanted = tokenizer(
        queries, docs, truncation="longest_first", max_length=max_length, padding=True, return_tensors="np"
    )
    np.testing.assert_array_equal(ids, wanted["input_ids"])
    np.testing.assert_array_equal(mask, wanted["attention_mask"])
    np.testing.assert_array_equal(types, wanted["token_type_ids"])


class Stop(Exception):
    pass


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, stops=st.lists(st.integers(0, 12), max_size=4), chunk=st.integers(1, 5))
def test_an_interrupted_build_is_the_same_file(tokenizer: Any, texts: list[str], stops: list[int], chunk: int) -> None:
    def until(stop: int) -> Any:
        for i, pair in enumerate(enumerate_texts(texts)):
            if i == stop:
                raise Stop
            yield pair

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(texts, tokenizer, 20, folder / "whole")
        for stop in sorted(stops):
            try:
                build_tokens(until(stop), tokenizer, 20, folder / "x", fingerprint="t", progress=False, chunk=chunk)
            except Stop:
                assert not (folder / "x").exists()
            else:
                assert stop >= len(texts)
        build(texts, tokenizer, 20, folder / "x")
        assert (folder / "x").read_bytes() == (folder / "whole").read_bytes()


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300), keep=st.integers(0, 200))
def test_no_file_crashes_the_reader(tokenizer: Any, content: bytes, keep: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x"
        build(["a list", "b"], tokenizer, 20, path)
        whole = path.read_bytes()
        path.write_bytes(whole[:keep] + content)
        if whole[:keep] + content == whole:
            return
        with pytest.raises((RankDistillError, OSError)):
            TokenStore(path, verify=True)
