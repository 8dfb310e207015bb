"""What may be written of a text that is copied with ` { mention } [ Title ]` around its mentions; one Rust call for all beams.

A state is four numbers: what is being written (`OUTSIDE`, `MENTION`, `OPEN`, `ENTITY`, `DONE`), how many tokens of the text are,
where the mention begins, and the title's state in its trie. It goes by places in the text, never by what a token is, so texts and
titles may hold the markup's own tokens; such a token may then stand twice in a list, and leads to two states.

No state is without a way on: "{" is legal only where a mention of at least one title begins, "}" only where one ends, and the end
token only behind the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rankdistill import _core
from rankdistill.generation.arrays import TokenSequences, flatten, int64
from rankdistill.generation.trie import TokenTrie

__all__ = [
    "DONE",
    "ENTITY",
    "MARKS",
    "MENTION",
    "OPEN",
    "OUTSIDE",
    "Ahead",
    "Edges",
    "LinkAutomaton",
    "Marks",
    "link_marks",
]

Ints = NDArray[np.int64]
States = NDArray[np.int32]

OUTSIDE, MENTION, OPEN, ENTITY, DONE = range(5)
MARKS = ("{", "}", "[", "]")


class Marks(NamedTuple):
    """The markup's tokens: before and behind a mention, before and behind its title."""

    open: int
    close: int
    begin: int
    end: int


class Edges(NamedTuple):
    """Legal tokens of R rows: row i's are `tokens[indptr[i]:indptr[i + 1]]`, never none.

    Attributes:
        indptr: where each row begins, and the end, [R + 1].
        tokens: the text's next token first, then the markup's; a title's ascend.
        states: the state after each, [N, 4].
    """

    indptr: Ints
    tokens: Ints
    states: States


class Ahead(NamedTuple):
    """Rows, and behind them what a decoder may be fed before it's known to be wanted, as trees.

    Attributes:
        parents: the node that each stands behind; -1 for the rows, which come first.
        rows: the row that each belongs to.
        edges: the place in `allowed.tokens` of the edge that leads to each; -1 for the rows.
        states: the state after each, [N, 4].
        allowed: what each may go on with.
    """

    parents: Ints
    rows: Ints
    edges: Ints
    states: States
    allowed: Edges


def link_marks(tokenizer: Any, marks: Sequence[str] = MARKS) -> Marks:
    """The markup's tokens in a vocabulary.

    Raises:
        ValueError: if one isn't there.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if len(marks) != 4:
        raise ValueError(
            f"expected four marks, found {len(marks)}: {' '.join(marks)}; a mention's two, then its title's"
        )
    found = [backend.token_to_id(mark) for mark in marks]
    if None in found:
        missing = ", ".join(mark for mark, token in zip(marks, found, strict=True) if token is None)
        raise ValueError(
            f"expected the tokens {' '.join(MARKS)} (or others, marks=) in the tokenizer, found none for {missing}; train the "
            'model on linked texts with "rankdistill train genre", which adds them'
        )
    return Marks(*found)


class LinkAutomaton:
    """What may be written of some texts, in the trie of this moment.

    Args:
        texts: their tokens.
        spans: which runs of tokens may be mentions, [S, 4]: text, first token, the one behind the last, and the set of titles that
            it may have; -1 for all of the trie. One whose set has no title is left out.
        entities: the trie of titles.
        sets: tries of candidates.
        marks: the markup's tokens.

    Raises:
        ValueError: for a span outside of its text, empty, twice, or of a set that isn't there.
    """

    def __init__(
        self, texts: TokenSequences, spans: ArrayLike, entities: TokenTrie, marks: Marks, sets: Sequence[TokenTrie] = ()
    ) -> None:
        rows = np.ascontiguousarray(np.asarray(spans, np.int32).reshape(-1, 4))
        self.eos = entities.eos
        self._core = _core.LinkAutomaton(
            *flatten(texts), rows, entities=entities._core, sets=[each._core for each in sets], marks=marks
        )

    def __len__(self) -> int:
        return len(self._core)

    @staticmethod
    def start(num_rows: int) -> States:
        """States before the first token."""
        return np.zeros((num_rows, 4), np.int32)

    def allow(self, texts: ArrayLike, states: States) -> Edges:
        """What each row may go on with; one that is done, with padding.

        Args:
            texts: the text of each of R rows.
            states: [R, 4].

        Raises:
            ValueError: for a text or a state that isn't there.
        """
        return Edges(*self._core.allow(int64(texts, 1), states))

    def advance(self, texts: ArrayLike, states: States, tokens: ArrayLike) -> tuple[Ints, States]:
        """The states of each row after its token: none where it isn't legal, two where the text (or the title) has a token of the
        markup and the markup may come as well. Returns where each row's begin and end, and the states."""
        return self._core.advance(int64(texts, 1), states, int64(tokens, 1))

    def forced(self, texts: ArrayLike, states: States) -> Edges:
        """The run of tokens that each row must go on with, as there is one way only; and the state after each."""
        return Edges(*self._core.forced(int64(texts, 1), states))

    def ahead(self, texts: ArrayLike, states: States, room: ArrayLike, max_copies: int) -> Ahead:
        """What follows each row as far as it's foreseen: outside of mentions the text; in a mention the text to its last possible
        end (a few tokens at once), and "} [" behind each end; in a title what alone may follow.

        Args:
            room: how many tokens may stand behind each row, one after the other.
            max_copies: tokens of text outside of mentions; with 0, nothing at all is foreseen.
        """
        parents, rows, edges, own, allowed = self._core.ahead(int64(texts, 1), states, int64(room, 1), max_copies)
        return Ahead(parents, rows, edges, own, Edges(*allowed))

    def ids(self, text: int, state: Sequence[int] | States) -> list[int]:
        """The entities that the title before this state names, if it is whole; ascending."""
        return self._core.ids(text, [int(number) for number in state])

    def walk(self, text: int, tokens: ArrayLike) -> States:
        """All states after these tokens from the start, [N, 4]: none where they aren't legal."""
        return self._core.walk(text, int64(tokens, 1))
