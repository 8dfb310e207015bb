"""Beam search over the titles of a trie.

At each length a text's best beams go on, as many as `num_beams`, among the continuations that the trie has; no others are looked
at, and none with probability zero is kept. A title is found when its end token is among the best `num_beams` continuations of its
text, finished or not (the rule of fairseq and transformers).

Stopping: log-probabilities only fall, so a beam with sum s at length t ends with at most max(s / (t + 1)^p, s / d^p), where p is
the length penalty and d the trie's depth. It's dropped when that is less than the worst result of a full list, and the search ends
when no beam is left. A beam that gets its place has no greater sum, so the bound holds for it too: results are exactly those of
a search to the end. Where there are no more titles than beams, that looks at every title.

Jump-forward: where only one continuation is legal, it and those after it go through the decoder along with the token before; the
beam then waits at each length with a known sum, so that beams are compared at equal length all the same. On a CPU that pays while
a pass is small, when it takes as long as reading the model's weights does; forced tokens of beams that fall are work for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdistill.generation.states import TrieStates
from rankdistill.generation.tree import Ints, PackedTree, PrefixTree
from rankdistill.generation.trie import TokenTrie

__all__ = ["BeamStep", "Hypothesis", "beam_search", "best_places"]

# Tokens of a pass on a CPU beyond which forced ones don't go along: with 8 texts of 10 beams that took a sixth of the time off.
_CPU_TOKENS = 24


class Hypothesis(NamedTuple):
    """A title that was found.

    Attributes:
        sequence: its tokens, the end token included.
        log_prob: the sum of their log-probabilities.
        ids: the entities that it names.
    """

    sequence: tuple[int, ...]
    log_prob: float
    ids: tuple[int, ...]


class BeamStep(NamedTuple):
    """The N beams of all texts at one length, before they go on.

    Attributes:
        length: tokens that each has written.
        text: whose each is, [N].
        paths: what each has written.
        log_probs: the sum of its tokens' log-probabilities, [N].
        num_legal: tokens that it may go on with, [N].
        legal_mass: the probability of those together, [N]; what the trie forbids is the rest.
        jumped: whether it went through the decoder along with an earlier token, since it was forced, [N].
        ended: titles that are found in this step, and whose.
    """

    length: int
    text: Ints
    paths: list[tuple[int, ...]]
    log_probs: NDArray[np.float64]
    num_legal: Ints
    legal_mass: NDArray[np.float64]
    jumped: NDArray[np.bool_]
    ended: list[tuple[int, Hypothesis]]


class _Beams(NamedTuple):
    """Beams of all texts, in the order of texts; `node` is the last token's place in the tree, or -1 while it isn't computed."""

    text: Ints
    parent: Ints
    token: Ints
    state: NDArray[np.int32]
    node: Ints
    total: NDArray[np.float64]
    path: list[tuple[int, ...]]

    def take(self, rows: Ints) -> _Beams:
        paths = [self.path[row] for row in rows.tolist()]
        text, parent, token, state, node, total, _ = self
        return _Beams(text[rows], parent[rows], token[rows], state[rows], node[rows], total[rows], paths)


class _Continuations:
    """What each token of the tree may go on with, and with what log-probability."""

    def __init__(
        self, tree: PackedTree | PrefixTree, states: TrieStates, eos: int, renormalise: bool, jump: bool
    ) -> None:
        self._tree, self._states, self._eos, self._renormalise, self._jump = tree, states, eos, renormalise, jump
        self.first = np.zeros(1, np.int64)
        self.token, self.node = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.state, self.log_prob = np.zeros(0, np.int32), np.zeros(0, np.float64)

    def compute(self, texts: Ints, parents: Ints, tokens: Ints, states: NDArray[np.int32], num_silent: int = 0) -> None:
        """Adds tokens to the tree, and, of each that isn't among the first `num_silent`, what may follow.

        What follows alone is added too, and what follows that.
        """
        own = len(self._tree)
        jump = self._jump and (len(tokens) <= _CPU_TOKENS or self._tree.device.type != "cpu")
        new, flat = [(texts, parents, tokens)], list[tuple[Ints, Ints, NDArray[np.int32], Ints]]()
        counts = [np.zeros(num_silent, np.int64)]
        at = np.arange(num_silent, len(texts))
        texts, added = texts[at], own + len(tokens)
        at += own
        while len(at):
            self._states.set(states)
            indptr, ids, next_states = self._states.allow(on_dead_end="error")
            count = np.diff(indptr).astype(np.int64)
            counts.append(count)
            nodes = np.full(len(ids), -1, np.int64)
            forced = np.flatnonzero((count == 1) & (ids[indptr[:-1]] != self._eos)) if jump else np.zeros(0, np.int64)
            entry = indptr[forced]
            nodes[entry] = added + np.arange(len(forced))
            flat.append((ids.astype(np.int64), np.repeat(at, count), next_states, nodes))
            texts, states = texts[forced], next_states[entry]
            if len(forced):
                new.append((texts, at[forced], flat[-1][0][entry]))
            at = nodes[entry]
            added += len(forced)
        hidden = self._tree.extend(*(np.concatenate(part) for part in zip(*new, strict=True)))
        tokens, rows, next_states, nodes = (np.concatenate(part) for part in zip(*flat, strict=True))
        found = self._tree.log_probs(hidden, rows - own, tokens, renormalise=self._renormalise)
        if np.isnan(found).any():
            raise ValueError("expected log-probabilities, found NaN: the model's logits are not numbers")
        self.first = np.concatenate([self.first, self.first[-1] + np.cumsum(np.concatenate(counts))])
        self.token, self.node = np.concatenate([self.token, tokens]), np.concatenate([self.node, nodes])
        self.state = np.concatenate([self.state, next_states])
        self.log_prob = np.concatenate([self.log_prob, found])


def beam_search(
    tree: PackedTree | PrefixTree,
    trie: TokenTrie,
    num_texts: int,
    *,
    prefix: Sequence[int],
    num_beams: int,
    num_results: int | None,
    length_penalty: float = 1.0,
    renormalise: bool = False,
    jump: bool = True,
    behind: Sequence[int] | None = None,
    observe: Callable[[BeamStep], object] | None = None,
) -> list[list[Hypothesis]]:
    """Titles that a decoder writes of each text, the best first.

    Args:
        tree: an empty tree of the texts.
        prefix: tokens that the decoder begins with.
        num_beams: beams of each text.
        num_results: entities that are wanted, so that beams are dropped which can't bring one; None drops none.
        length_penalty: p in log-probability / length^p, the end token included in the length.
        renormalise: probabilities among the legal tokens, not among all.
        jump: let forced tokens go through the decoder together; changes nothing but time.
        behind: for each text, the token of the trie behind which its titles stand, and which isn't written (`joined`); all
            titles are everyone's without it.
        observe: is shown every step, for those who want to see how beams fare.

    Returns:
        For each text what was found, by log_prob / length^p; the worst of it may be more than `num_results`.
    """
    found: list[list[Hypothesis]] = [[] for _ in range(num_texts)]
    if trie.num_sequences == 0:
        return found
    states, max_depth = trie.states(num_texts), trie.max_depth
    if behind is not None:
        states.advance(behind)
        max_depth -= 1
    continuations = _Continuations(tree, states, trie.eos, renormalise, jump)
    beams = _start(continuations, states, num_texts, prefix)
    best: list[dict[int, float]] = [{} for _ in range(num_texts)]
    length = 0
    while len(beams.text):
        jumped = beams.node >= 0
        if length:
            beams = _computed(beams, continuations, len(tree))
        length, before = length + 1, beams
        beams, ended = _step(beams, continuations, num_beams, trie.eos)
        states.set(ended.state)
        indptr, ids = states.entity_ids()
        new = list[tuple[int, Hypothesis]]()
        for row, text in enumerate(ended.text.tolist()):
            own = tuple(ids[indptr[row] : indptr[row + 1]].tolist())
            new.append((text, Hypothesis(ended.path[row], float(ended.total[row]), own)))
            found[text].append(new[-1][1])
            score = float(ended.total[row]) / length**length_penalty
            best[text].update((id_, max(score, best[text].get(id_, -np.inf))) for id_ in own)
        if observe is not None:
            observe(_seen(length - 1, before, continuations, jumped & (length > 1), new))
        if num_results is not None:
            worst = np.array(
                [sorted(own.values())[-num_results] if len(own) >= num_results else -np.inf for own in best]
            )
            bound = np.maximum(beams.total / (length + 1) ** length_penalty, beams.total / max_depth**length_penalty)
            beams = beams.take(np.flatnonzero(bound >= worst[beams.text]))
    for results in found:
        results.sort(key=lambda hypothesis: -hypothesis.log_prob / len(hypothesis.sequence) ** length_penalty)
    return found


def _start(continuations: _Continuations, states: TrieStates, num_texts: int, prefix: Sequence[int]) -> _Beams:
    """One beam a text, at the end of the prefix; its tokens lie text by text within each place of the prefix."""
    texts, place = np.tile(np.arange(num_texts), len(prefix)), np.repeat(np.arange(len(prefix)), num_texts)
    parents = np.where(place > 0, np.arange(len(texts)) - num_texts, -1)
    root = states.values
    continuations.compute(texts, parents, np.array(prefix, np.int64)[place], root, len(texts) - num_texts)
    nodes = np.arange(len(texts) - num_texts, len(texts))
    nothing = np.full(num_texts, -1, np.int64)
    return _Beams(np.arange(num_texts), nothing, nothing, root, nodes, np.zeros(num_texts), [()] * num_texts)


def _seen(
    length: int,
    beams: _Beams,
    continuations: _Continuations,
    jumped: NDArray[np.bool_],
    ended: list[tuple[int, Hypothesis]],
) -> BeamStep:
    starts, stops = continuations.first[beams.node], continuations.first[beams.node + 1]
    runs = zip(starts.tolist(), stops.tolist(), strict=True)
    mass = np.array([np.exp(continuations.log_prob[start:stop]).sum() for start, stop in runs])
    return BeamStep(length, beams.text, beams.path, beams.total, stops - starts, mass, jumped, ended)


def _computed(beams: _Beams, continuations: _Continuations, num_nodes: int) -> _Beams:
    """The beams with every last token in the tree."""
    rows = np.flatnonzero(beams.node < 0)
    if len(rows) == 0:
        return beams
    continuations.compute(beams.text[rows], beams.parent[rows], beams.token[rows], beams.state[rows])
    nodes = beams.node.copy()
    nodes[rows] = num_nodes + np.arange(len(rows))
    return beams._replace(node=nodes)


def _step(beams: _Beams, continuations: _Continuations, num_beams: int, eos: int) -> tuple[_Beams, _Beams]:
    """The beams one token later: those that go on, and those that ended, each in the order of texts and then of rank."""
    starts = continuations.first[beams.node]
    counts = continuations.first[beams.node + 1] - starts
    rows = np.repeat(np.arange(len(counts)), counts)
    entries = np.arange(len(rows)) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    totals = beams.total[rows] + continuations.log_prob[entries]
    bounds = np.searchsorted(beams.text[rows], np.unique(beams.text))
    kept, ended = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for start, stop in zip(bounds, [*bounds[1:], len(rows)], strict=True):
        best = start + best_places(totals[start:stop], 2 * num_beams)
        is_end = continuations.token[entries[best]] == eos
        # Each beam has one end at most, so twice the beams hold as many that go on, if there are as many.
        kept.append(best[~is_end][:num_beams])
        ended.append(best[:num_beams][is_end[:num_beams]])

    def after(chosen: list[NDArray[np.int64]]) -> _Beams:
        at = np.concatenate(chosen)
        row, entry = rows[at], entries[at]
        tokens = continuations.token[entry]
        paths = [(*beams.path[parent], token) for parent, token in zip(row.tolist(), tokens.tolist(), strict=True)]
        parts = beams.node[row], tokens, continuations.state[entry], continuations.node[entry], totals[at]
        return _Beams(beams.text[row], *parts, paths)

    return after(kept), after(ended)


def best_places(totals: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places of the greatest totals, the greatest first; none of minus infinity."""
    at = np.argpartition(-totals, count)[:count] if len(totals) > count else np.arange(len(totals))
    at = np.sort(at)
    at = at[np.argsort(-totals[at], kind="stable")]
    return at[totals[at] > -np.inf]
