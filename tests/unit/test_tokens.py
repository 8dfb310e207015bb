"""Token stores: equal to the tokenizer, exact after a kill, and refused when they are of something else."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankdistill.data.tokens import (
    build_tokens,
    cached_tokens,
    open_tokens,
    pair_batch,
    pair_shape,
    tokenizer_fingerprint,
)
from rankdistill.errors import BadStoreError, WrongModelError
from rankdistill.formats.collection import collection_from_texts, open_collection
from rankdistill.training.rows import CrossSource


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


def roberta_tokenizer() -> Any:
    """A byte-level tokenizer that joins pairs as RoBERTa does: <s> a </s></s> b </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pre_tokenizers.ByteLevel.alphabet()])
    }
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def test_a_whole_collection_equals_the_tokenizer(tmp_path: Path, conala: Path, tokenizer: Any) -> None:
    collection = open_collection(conala)
    store = build_tokens(collection.side("docs"), tokenizer, 32, tmp_path / "docs.rdtokens", progress=False, chunk=500)
    assert len(store) == collection.num_docs
    assert store.max_length == 32
    texts = [text for _, text in collection.docs()]
    expected = tokenizer(texts, truncation=True, max_length=32)["input_ids"]
    rows = np.arange(len(texts))
    assert store.lengths(rows).tolist() == [len(ids) for ids in expected]
    assert store.num_tokens == sum(map(len, expected))
    some = np.random.default_rng(0).integers(0, len(texts), 64)
    ids, mask = store.batch(some, tokenizer.pad_token_id)
    wanted = tokenizer([texts[row] for row in some], truncation=True, max_length=32, padding=True, return_tensors="np")
    np.testing.assert_array_equal(ids, wanted["input_ids"])
    np.testing.assert_array_equal(mask, wanted["attention_mask"])
    assert ids.dtype == mask.dtype == np.int64
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob("*.journal"))


def test_wide_vocabularies_and_prompts(tmp_path: Path, tokenizer: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 70_000, "b": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    store = build_tokens([("1", "a b"), ("2", "")], backend, 8, tmp_path / "wide", fingerprint="x", progress=False)
    ids, mask = store.batch(np.array([0, 1]), pad_id=9, pad_to_multiple_of=4)
    assert ids.tolist() == [[70_000, 2, 9, 9], [9, 9, 9, 9]]
    assert mask.sum(1).tolist() == [2, 0]
    texts = collection_from_texts({"1": "sort a list"}).side("docs")
    store = build_tokens(texts, tokenizer, 16, tmp_path / "prompt", prompt="query: ", progress=False)
    assert store.batch(np.array([0]), 0)[0].tolist() == [tokenizer("query: sort a list")["input_ids"]]
    with pytest.raises(BadStoreError, match="texts"):
        open_tokens(tmp_path / "prompt", texts=texts)


def test_texts_are_cut_on_the_tokenizers_side(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    texts = collection_from_texts({"1": "sort a list of dictionaries by value", "2": "x"}, {}).side("docs")
    from transformers import AutoTokenizer

    right, left = (
        AutoTokenizer.from_pretrained(tiny_tokenizer_dir, truncation_side=side) for side in ("right", "left")
    )
    given = [text for _, text in texts.pairs()]
    stores = [cached_tokens(texts, "docs", tokenizer, 6, tmp_path, progress=False) for tokenizer in (right, left, left)]
    wanted = [tokenizer(given, truncation=True, max_length=6)["input_ids"] for tokenizer in (right, left)]
    assert wanted[0] != wanted[1]
    for store, expected in zip(stores, (*wanted, wanted[1]), strict=True):
        ids, mask = store.batch(np.arange(2), 0)
        assert [row[kept.astype(bool)].tolist() for row, kept in zip(ids, mask, strict=True)] == expected
    with pytest.raises(BadStoreError, match="a store built with texts"):
        open_tokens(stores[0].path, left, 6, texts)


def test_pairs_are_refused_that_would_be_cut_on_the_left(tiny_tokenizer_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir, truncation_side="left")
    nothing: Any = None
    with pytest.raises(WrongModelError, match="expected a tokenizer that truncates on the right"):
        CrossSource.of(tokenizer, nothing, nothing, nothing, nothing, max_length=8)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_pairs_equal_the_tokenizer(tmp_path: Path, tokenizer: Any, kind: str) -> None:
    if kind == "roberta":
        tokenizer = roberta_tokenizer()
    queries = {str(i): "sort a list " * i for i in range(9)}
    docs = {str(i): "x = y[::-1] " * ((i * 5) % 9) for i in range(9)}
    collection = collection_from_texts(docs, queries)
    stores = [cached_tokens(collection, side, tokenizer, 512, tmp_path, progress=False) for side in ("queries", "docs")]
    joiner, second_type = pair_shape(tokenizer)
    assert (len(joiner), second_type) == ((1, 1) if kind == "bert" else (2, 0))
    rows = np.arange(9)
    for max_length in (8, 13, 20, 47, 512):
        ids, mask, types = pair_batch(
            stores[0], rows, stores[1], rows, max_length, tokenizer.pad_token_id, joiner=joiner, second_type=second_type
        )
        wanted = tokenizer(
            list(queries.values()),
            list(docs.values()),
            truncation="longest_first",
            max_length=max_length,
            padding=True,
            return_token_type_ids=True,
            return_tensors="np",
        )
        np.testing.assert_array_equal(ids, wanted["input_ids"])
        np.testing.assert_array_equal(mask, wanted["attention_mask"])
        np.testing.assert_array_equal(types, wanted["token_type_ids"])
    with pytest.raises(ValueError, match="expected max_length of"):
        pair_batch(stores[0], rows, stores[1], rows, 2, 0, joiner=joiner)
    with pytest.raises(ValueError, match="as many rows of each store"):
        pair_batch(stores[0], rows, stores[1], rows[:3], 20, 0, joiner=joiner)


def test_the_cache_is_filled_once(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = collection_from_texts({"1": "sort a list"}, {"1": "sort"})
    path = cached_tokens(collection, "docs", tokenizer, 16, tmp_path, progress=False).path
    with monkeypatch.context() as patched:
        patched.setattr("rankdistill.data.tokens.build_tokens", lambda *_, **__: pytest.fail("built again"))
        assert cached_tokens(collection, "docs", tokenizer, 16, tmp_path, progress=False).path == path
    assert cached_tokens(collection, "docs", tokenizer, 8, tmp_path, progress=False).path != path
    assert cached_tokens(collection, "queries", tokenizer, 16, tmp_path, progress=False).path != path
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:-1])
    cached_tokens(collection, "docs", tokenizer, 16, tmp_path, progress=False)
    assert Path(path).read_bytes() == whole


def test_processes_that_ask_at_once_build_once(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    collection, builds = collection_from_texts({str(i): f"sort {i}" for i in range(50)}), []

    def counted(*arguments: Any, **options: Any) -> Any:
        builds.append(arguments)
        time.sleep(0.2)
        return build_tokens(*arguments, **options)

    monkeypatch.setattr("rankdistill.data.tokens.build_tokens", counted)
    # The lock is on an open file, so threads meet it as processes do.
    with ThreadPoolExecutor(3) as pool:
        ask = partial(cached_tokens, collection, "docs", tokenizer, 16, tmp_path, progress=False)
        stores = [future.result() for future in [pool.submit(ask) for _ in range(3)]]
    assert len(builds) == 1
    assert [len(store) for store in stores] == [50, 50, 50]


def test_the_fingerprint_follows_the_tokenizer_not_its_state(tokenizer: Any) -> None:
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "b c"], truncation=True, max_length=7, padding=True)
    assert tokenizer_fingerprint(tokenizer) == before
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    other.add_tokens(["rankdistill"])
    assert tokenizer_fingerprint(other) != before


def test_what_does_not_fit_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    texts = collection_from_texts({"1": "sort a list", "2": "sort"}).side("docs")
    path = tmp_path / "x.rdtokens"
    store = build_tokens(texts, tokenizer, 16, path, progress=False)
    assert len(open_tokens(path, tokenizer, 16, texts)) == 2
    for arguments, message in (
        ((roberta_tokenizer(),), "expected a store built with tokenizer .*; rebuild it"),
        ((tokenizer, 17), "expected a store built with max_length 17, found 16; rebuild it"),
        (
            (None, None, collection_from_texts({"1": "x"}).side("docs")),
            r"expected a store built with texts .*; rebuild it",
        ),
    ):
        with pytest.raises(BadStoreError, match=message) as caught:
            open_tokens(path, *arguments)
        assert caught.value.path == str(path)
    with pytest.raises(
        ValueError, match="expected rows from 0 to 1, found -1; a row of -1 is an id that the collection lacks"
    ):
        store.batch(np.array([0, -1]), 0)
    with pytest.raises(ValueError, match="expected max_length of 2 or more, found 1"):
        store.batch(np.array([0]), 0, 1)
    with pytest.raises(FileNotFoundError):
        open_tokens(tmp_path / "absent")
    with pytest.raises(ValueError, match="expected a fingerprint that names the texts"):
        build_tokens([("1", "a")], tokenizer, 16, tmp_path / "y")
    with pytest.raises(ValueError, match=r"expected a fast tokenizer .*found str"):
        tokenizer_fingerprint("bert")
    whole = path.read_bytes()
    for content, message in (
        (b"GARBAGE!" + whole[8:], "expected a token store of rankdistill"),
        (whole[:8] + b"\x09" + whole[9:], "expected version 1 of the token store, found version 9; remove the file"),
        (whole[:60], "expected a whole header"),
        (whole[:-8], f"expected {len(whole)} bytes, found {len(whole) - 8}"),
        (whole[:130] + bytes([whole[130] ^ 4]) + whole[131:], "expected the checksum in the header, found another"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadStoreError, match=message):
            open_tokens(path)


def test_a_store_travels_to_workers(tmp_path: Path, tokenizer: Any) -> None:
    texts = collection_from_texts({"1": "sort a list"}).side("docs")
    store = build_tokens(texts, tokenizer, 16, tmp_path / "x", progress=False)
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.batch(np.array([0]), 0)[0], store.batch(np.array([0]), 0)[0])


def test_an_iterable_shorter_than_what_was_done_is_an_error(tmp_path: Path, tokenizer: Any) -> None:
    def texts(count: int, fail: bool) -> Any:
        for i in range(count):
            yield str(i), f"sort {i}"
        if fail:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_tokens(texts(5, True), tokenizer, 16, tmp_path / "x", fingerprint="t", progress=False, chunk=2)
    with pytest.raises(BadStoreError, match="expected at least the 4 texts that were tokenised before, found 3"):
        build_tokens(texts(3, False), tokenizer, 16, tmp_path / "x", fingerprint="t", progress=False)


SLOW_BUILD = """
import sys
import time
from rankdistill.data.tokens import build_tokens
from rankdistill.formats.collection import open_collection
from tokenizers import Tokenizer

class Slow:
    def __init__(self, texts): self.texts = texts
    def __iter__(self):
        for pair in self.texts.pairs():
            time.sleep(0.002)
            yield pair

folder, tokenizer, path = sys.argv[1:]
texts = open_collection(folder).side("docs")
build_tokens(
    Slow(texts), Tokenizer.from_file(tokenizer), 32, path, fingerprint=texts.fingerprint, chunk=50, progress=False
)
"""


def test_a_killed_build_goes_on_to_the_same_file(tmp_path: Path, conala: Path, tokenizer: Any) -> None:
    texts = open_collection(conala).side("docs")
    build_tokens(texts, tokenizer, 32, tmp_path / "whole", progress=False)
    path, journal = tmp_path / "killed", tmp_path / "killed.journal"
    # The bare backend: importing transformers would take most of the test's time.
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    command = [sys.executable, "-c", SLOW_BUILD, str(conala), str(tmp_path / "tokenizer.json"), str(path)]
    process = subprocess.Popen(command)
    # At least two chunks are journalled (a header of 128 bytes, 224 a chunk); the build takes some 6 s more.
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 128 + 2 * 224):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not path.exists()
    started_at = []

    class Watched(type(texts)):  # type: ignore[misc]
        def pairs(self, start: int = 0) -> Any:
            started_at.append(start)
            return super().pairs(start)

    texts.__class__ = Watched
    build_tokens(texts, tokenizer, 32, path, progress=False)
    assert started_at[0] >= 100
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
