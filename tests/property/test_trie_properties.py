"""What holds for any titles: a trie says what a dict of them does, in every form, whatever was added and removed before."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdistill.generation.trie import Allowed, OnDeadEnd, TokenTrie
from tests.reference.trie import EntityTwin

EOS, PAD, V = 2, 1, 70
TOKEN = st.sampled_from([0, 1, 3, 4, 69])
SEQUENCE = st.lists(TOKEN, max_size=5).map(lambda tokens: [*tokens, EOS])
PAIRS = st.lists(st.tuples(SEQUENCE, st.integers(0, 4)), max_size=12)
ROWS = st.lists(st.lists(TOKEN | st.just(EOS) | st.integers(-2, 200), min_size=3, max_size=3), min_size=1, max_size=5)


def build(pairs: list[tuple[list[int], int]]) -> tuple[TokenTrie, EntityTwin]:
    twin = EntityTwin(EOS, PAD)
    for sequence, id_ in pairs:
        twin.add(sequence, id_)
    sequences, ids = [sequence for sequence, _ in pairs], [id_ for _, id_ in pairs]
    return TokenTrie.build(sequences, vocab_size=V, eos=EOS, pad=PAD, ids=ids), twin


def rows_of(allowed: Allowed) -> list[list[int]]:
    assert allowed.indptr.dtype == allowed.ids.dtype == allowed.next_states.dtype == np.int32
    return [part.tolist() for part in np.split(allowed.ids, allowed.indptr[1:-1])]


def assert_equal(trie: TokenTrie, twin: EntityTwin) -> None:
    assert [(tuple(tokens), set(ids)) for tokens, ids in trie.sequences()] == sorted(twin.ids.items())
    assert trie.num_sequences == len(twin.ids)
    assert trie.num_entities == sum(map(len, twin.ids.values()))


@given(pairs=PAIRS, rows=ROWS, depth=st.integers(0, 3), on_dead_end=st.sampled_from(["eos", "pad"]))
def test_every_form_says_what_the_twin_says(
    pairs: list[tuple[list[int], int]], rows: list[list[int]], depth: int, on_dead_end: OnDeadEnd
) -> None:
    trie, twin = build(pairs)
    # Some rows that lead somewhere, behind a start token.
    rows += [[*sequence, PAD, PAD, PAD][:3] for sequence in twin.ids]
    rows = [[9, *row[:depth]] for row in rows]
    wanted = [twin.allowed(row[1:], EOS if on_dead_end == "eos" else PAD) for row in rows]
    allowed = trie.allow(rows, on_dead_end=on_dead_end)
    assert rows_of(allowed) == wanted
    bits = np.full((len(rows), 4), -1, np.int32)
    trie.fill_bitmask(rows, bits, on_dead_end=on_dead_end)
    logits = np.full((len(rows), V + 3), 0.5, np.float32)
    trie.mask_logits_(rows, logits, on_dead_end=on_dead_end)
    for row, tokens in enumerate(wanted):
        flags = np.unpackbits(bits[row].view(np.uint8), bitorder="little")
        assert np.flatnonzero(flags).tolist() == np.flatnonzero(np.isfinite(logits[row])).tolist() == tokens
    assert set(logits.ravel().tolist()) <= {0.5, -np.inf}
    buffers = [np.full(size, -7, np.int32) for size in (len(rows) + 1, 400, 400)]
    count = trie.fill_csr(rows, *buffers, on_dead_end=on_dead_end)
    for buffer, part, size in zip(buffers, allowed, (len(rows) + 1, count, count), strict=True):
        assert buffer[:size].tolist() == part.tolist()
        assert set(buffer[size:].tolist()) <= {-7}
    found = trie.entity_ids(rows)
    assert [part.tolist() for part in np.split(found.ids, found.indptr[1:-1])] == [twin.ids_of(row[1:]) for row in rows]


@given(
    pairs=PAIRS, steps=st.lists(st.lists(st.tuples(st.integers(0, 9), TOKEN | st.just(EOS)), min_size=1), max_size=5)
)
def test_states_are_what_walking_finds(pairs: list[tuple[list[int], int]], steps: list[list[tuple[int, int]]]) -> None:
    trie, _ = build(pairs)
    rows: list[list[int]] = [[], []]
    states = trie.states(2)
    for step in steps:
        parents, tokens = [parent % len(rows) for parent, _ in step], [token for _, token in step]
        states.advance(tokens, parents)
        rows = [[*rows[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        stepped, walked = states.allow(), trie.allow(np.array(rows), start=0)
        assert all((a == b).all() for a, b in zip(stepped, walked, strict=True))
        assert states.entity_ids().ids.tolist() == trie.entity_ids(rows, start=0).ids.tolist()
        # Every allowed token leads where `next_states` says.
        for row in range(len(rows)):
            for at in range(*stepped.indptr[row : row + 2].tolist()):
                after = states.copy()
                after.advance([stepped.ids[at]], [row])
                assert after.values.tolist() == [stepped.next_states[at]]


CHANGES = st.lists(
    st.tuples(st.just("add"), st.lists(st.tuples(SEQUENCE, st.integers(0, 4)), max_size=3))
    | st.tuples(st.sampled_from(["remove", "remove all", "compact", "reopen"]), st.integers(0, 99)),
    max_size=8,
)


@settings(max_examples=60)
@given(pairs=PAIRS, changes=CHANGES)
def test_updates_are_rebuilding(pairs: list[tuple[list[int], int]], changes: list[tuple[str, object]]) -> None:
    trie, twin = build(pairs)
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, what) in enumerate(changes):
            if kind == "add":
                added: list[tuple[list[int], int]] = what  # type: ignore[assignment]
                count = trie.add([sequence for sequence, _ in added], [id_ for _, id_ in added])
                assert count == sum([twin.add(sequence, id_) for sequence, id_ in added])
            elif kind == "compact":
                trie.compact()
            elif kind == "reopen":
                path = Path(folder) / str(number)
                trie.save(path)
                trie = TokenTrie.open(path, verify=True)
            elif twin.ids:
                sequence = sorted(twin.ids)[int(what) % len(twin.ids)]  # type: ignore[call-overload]
                id_ = min(twin.ids[sequence]) if kind == "remove" else None
                assert trie.remove([sequence], None if id_ is None else [id_]) == twin.remove(sequence, id_)
            assert_equal(trie, twin)
        rebuilt, _ = build([(list(sequence), id_) for sequence, ids in twin.ids.items() for id_ in ids])
        trie.save(Path(folder) / "updated")
        rebuilt.save(Path(folder) / "rebuilt")
        assert (Path(folder) / "updated").read_bytes() == (Path(folder) / "rebuilt").read_bytes()
