"""Two plain tries, written from descriptions of GENRE's: nested dicts, and keys of characters in a marisa trie.

Both answer `get(prefix)`: the tokens that may follow, none if the prefix begins no sequence. They are twins of the Rust trie, and
what `scripts/bench_trie.py` compares it with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Node = dict[int, Any]


class DictTrie:
    """A dict of dicts: token -> what follows it. `get` goes down by one call and one copy of the rest for each token."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self.root: Node = {}
        for sequence in sequences:
            self.add(sequence)

    def add(self, sequence: Sequence[int]) -> None:
        node = self.root
        for token in sequence:
            node = node.setdefault(int(token), {})

    def get(self, prefix: list[int]) -> list[int]:
        return self._below(self.root, prefix)

    def _below(self, node: Node, prefix: list[int]) -> list[int]:
        if not prefix:
            return list(node.keys())
        if prefix[0] not in node:
            return []
        return self._below(node[prefix[0]], prefix[1:])


def _character(token: int) -> str:
    """A character for each token; those from 0xD800 on go behind the surrogates, which are no characters."""
    return chr(token + 1 if token < 0xD7FF else token + 0x2001)


def _token(character: str) -> int:
    code = ord(character)
    return code - 1 if code < 0xD800 else code - 0x2001


class MarisaTrie:
    """Sequences as strings of one character a token. `get` lists every key below the prefix; the first two levels are kept."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        import marisa_trie

        keys = ["".join(map(_character, sequence)) for sequence in sequences]
        self.trie = marisa_trie.Trie(keys)
        self.kept: dict[str, list[int]] = {"": sorted({_token(key[0]) for key in keys})}
        for first in self.kept[""]:
            self.kept[_character(first)] = self._next(_character(first))

    def _next(self, prefix: str) -> list[int]:
        depth = len(prefix)
        return list({_token(key[depth]) for key in self.trie.iterkeys(prefix) if len(key) > depth})

    def get(self, prefix: list[int]) -> list[int]:
        text = "".join(map(_character, prefix))
        return self.kept[text] if text in self.kept else self._next(text)


class EntityTwin:
    """Everything that a `TokenTrie` says, from a dict of whole sequences to sets of ids."""

    def __init__(self, eos: int, pad: int) -> None:
        self.eos, self.pad = eos, pad
        self.ids: dict[tuple[int, ...], set[int]] = {}

    def add(self, sequence: Sequence[int], id_: int) -> bool:
        ids = self.ids.setdefault(tuple(sequence), set())
        is_new = id_ not in ids
        ids.add(id_)
        return is_new

    def remove(self, sequence: Sequence[int], id_: int | None = None) -> int:
        """How many were removed."""
        ids = self.ids.get(tuple(sequence), set())
        gone = set(ids) if id_ is None else ids & {id_}
        ids -= gone
        if not ids:
            self.ids.pop(tuple(sequence), None)
        return len(gone)

    def ids_of(self, row: Sequence[int]) -> list[int]:
        """Of a whole title, padded or not."""
        if self.eos not in row:
            return []
        end = list(row).index(self.eos) + 1
        is_padded = all(token == self.pad for token in row[end:])
        return sorted(self.ids.get(tuple(row[:end]), ())) if is_padded else []

    def allowed(self, row: Sequence[int], dead_end: int) -> list[int]:
        found = sorted(DictTrie(self.ids).get(list(row)))
        if found:
            return found
        return [self.pad if self.ids_of(row) else dead_end]
