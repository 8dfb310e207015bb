"""Tokens that a decoder was fed for a search of links, what may follow each, and with what log-probability; each computed once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdistill.generation.link_automaton import DONE, LinkAutomaton
from rankdistill.generation.tree import PackedTree, PrefixTree

__all__ = ["LinkNodes", "NodeEdges", "Wish"]

Ints = NDArray[np.int64]
# Positions of decoders without a limit.
_ROOM = 1 << 40


class Wish(NamedTuple):
    """A token that a search wants to be fed: an edge of a node, by its place among the node's."""

    node: int
    edge: int


class NodeEdges(NamedTuple):
    """What may follow a node.

    Attributes:
        tokens: as `LinkAutomaton.allow` has them.
        states: after each.
        log_probs: of each, among all tokens.
    """

    tokens: Ints
    states: NDArray[np.int32]
    log_probs: NDArray[np.float64]


class LinkNodes:
    """Nodes of the trees of some texts.

    Args:
        tree: an empty tree of the texts.
        prefix: tokens that the decoder begins with.
        positions: how many tokens the decoder has positions for; None for any number.
        max_copies: how much text is fed at once; 0 feeds what is wished for alone.
    """

    def __init__(
        self,
        tree: PackedTree | PrefixTree,
        automaton: LinkAutomaton,
        prefix: Sequence[int],
        positions: int | None,
        max_copies: int,
    ) -> None:
        self._tree, self._automaton, self._max_copies = tree, automaton, max_copies
        self._room = _ROOM if positions is None else positions
        self._edges: list[NodeEdges] = []
        self._states: list[NDArray[np.int32]] = []
        self._children: dict[Wish, int] = {}
        self._texts, self._depths = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.num_passes = 0
        num_texts = len(automaton)
        # Silent tokens stand in a state from which nothing is foreseen.
        before, states = np.full(num_texts, -1, np.int64), automaton.start(num_texts)
        for token in prefix[:-1]:
            states[:, 0] = DONE
            before = self._grow(np.arange(num_texts), before, np.full(num_texts, token), states, 0)
        before = self._grow(
            np.arange(num_texts), before, np.full(num_texts, prefix[-1]), automaton.start(num_texts), max_copies
        )
        self.roots: list[int] = before.tolist()
        """Of each text, the node before its first token."""

    def edges(self, node: int) -> NodeEdges:
        """What may follow a node."""
        return self._edges[node]

    def state(self, node: int) -> NDArray[np.int32]:
        """The automaton's state after a node."""
        return self._states[node]

    def child(self, node: int, edge: int) -> int | None:
        """The node behind an edge, if it was fed."""
        return self._children.get(Wish(node, edge))

    def feed(self, wishes: Iterable[Wish]) -> None:
        """Feeds what is wished for, and what is foreseen behind it, in one pass of the decoder."""
        wanted = [wish for wish in dict.fromkeys(wishes) if wish not in self._children]
        parents = np.array([wish.node for wish in wanted], np.int64)
        tokens = np.array([self._edges[node].tokens[edge] for node, edge in wanted], np.int64)
        states = np.stack([self._edges[node].states[edge] for node, edge in wanted])
        nodes = self._grow(self._texts[parents], parents, tokens, states, self._max_copies)
        self._children.update(zip(wanted, nodes.tolist(), strict=True))

    def _grow(self, texts: Ints, parents: Ints, tokens: Ints, states: NDArray[np.int32], max_copies: int) -> Ints:
        own = len(self._edges)
        depths = np.where(parents >= 0, np.append(self._depths, 0)[parents], 0) + 1
        ahead = self._automaton.ahead(texts, states, self._room - depths, max_copies)
        allowed, num_rows = ahead.allowed, len(texts)
        fed = np.concatenate([tokens, allowed.tokens[ahead.edges[num_rows:]]])
        behind = np.concatenate([parents, own + ahead.parents[num_rows:]])
        texts = texts[ahead.rows]
        hidden = self._tree.extend(texts, behind, fed)
        self.num_passes += 1
        counts = np.diff(allowed.indptr)
        rows = np.repeat(np.arange(len(fed)), counts)
        log_probs = self._tree.log_probs(hidden, rows, allowed.tokens, renormalise=False)
        if np.isnan(log_probs).any():
            raise ValueError("expected log-probabilities, found NaN: the model's logits are not numbers")
        bounds = allowed.indptr.tolist()
        for start, end in itertools.pairwise(bounds):
            part = slice(start, end)
            self._edges.append(NodeEdges(allowed.tokens[part], allowed.states[part], log_probs[part]))
        self._states += list(ahead.states)
        starts = allowed.indptr[ahead.parents[num_rows:]]
        edge_places = (ahead.edges[num_rows:] - starts).tolist()
        for at, (node, edge) in enumerate(zip(behind[num_rows:].tolist(), edge_places, strict=True)):
            self._children[Wish(node, edge)] = own + num_rows + at
        all_depths = depths.tolist()
        for parent in ahead.parents[num_rows:].tolist():
            all_depths.append(all_depths[parent] + 1)
        self._texts = np.concatenate([self._texts, texts])
        self._depths = np.concatenate([self._depths, np.array(all_depths, np.int64)])
        return own + np.arange(num_rows)
