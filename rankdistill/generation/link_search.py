"""The search for links: which mentions a model writes in a text, and with which titles.

Beams are compared where they have copied as much of the text: at each place p of it the `num_beams` most probable go on, less
those that are `max_gap` below the best. Each is copied on; and a mention is begun where "{" is among the best `num_beams` ways on
of all beams there, and no more than `max_gap` below the best of them. By the same rule it is ended by "}" or copied on, or both.
Behind an end the titles are searched by beams (`num_beams` for each mention, compared at equal length; a title is found if its end
is among the best `num_beams` continuations). A mention with its title comes down at its end, as a beam there.

What can't come to anything is dropped: at every end the floor is the probability of the `num_beams`-th best of p's beams copied to
there, and at least that of the best less `max_gap`. A mention below the floor wouldn't get a place.

What is exact: with as many beams as there are outputs, and no gap, the best result is the most probable of all outputs (with a
bonus: the one with the highest sum of log-probability and bonuses). With fewer, results are those of a search that computes token
by token by the same rules. How tokens are fed changes nothing but time.

How they are fed: a beam's text goes through the decoder at once, and says at every place how probable copying is, and how
probable a mention. Then a mention with all its ends in one pass, its titles a token a pass (what follows alone goes along), and the
rest of the text behind it in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdistill.generation.link_automaton import MENTION, LinkAutomaton
from rankdistill.generation.link_nodes import LinkNodes, Wish
from rankdistill.generation.link_titles import Title, search_titles
from rankdistill.generation.tree import PackedTree, PrefixTree

__all__ = ["Link", "LinkHypothesis", "link_search"]

_COPY, _OPEN = 0, 1


class Link(NamedTuple):
    """A mention with its title.

    Attributes:
        start, end: its tokens in the text.
        title: the title's tokens, without an end.
        ids: the entities that it names, ascending.
        log_prob: the sum of the log-probabilities of all tokens from "{" to "]", given all before.
    """

    start: int
    end: int
    title: tuple[int, ...]
    ids: tuple[int, ...]
    log_prob: float


class LinkHypothesis(NamedTuple):
    """A whole output.

    Attributes:
        links: its mentions, in the order of the text.
        log_prob: the sum of the log-probabilities of its tokens, the end token included.
    """

    links: tuple[Link, ...]
    log_prob: float


@dataclass(eq=False)
class _Beam:
    """What has been written up to a place outside of mentions, and the text behind it as far as it was fed.

    Attributes:
        begin: the place where its last link ended.
        length: tokens written up to there.
        wish: the token that ended the link; None at the start.
        nodes: those before the text's tokens from `begin` on.
        totals: its log-probability at the places from `begin` on; one more than nodes but at the text's end.
    """

    begin: int
    length: int
    wish: Wish | None
    links: tuple[Link, ...]
    totals: list[float]
    nodes: list[int] = field(default_factory=list)

    def knows(self, place: int) -> bool:
        return place - self.begin < len(self.totals)

    def total(self, place: int) -> float:
        return self.totals[place - self.begin]

    def next_wish(self) -> Wish:
        if self.nodes:
            return Wish(self.nodes[-1], _COPY)
        assert self.wish is not None, "the start is fed before the search"
        return self.wish


@dataclass(frozen=True)
class _Rules:
    """What a search goes by; `room` is how many tokens may be written."""

    num_beams: int
    max_gap: float
    room: float
    bonus: float = 0.0


class _Search:
    """The search in one text; `last_end` is, of each of its places, where the longest mention ends that begins there."""

    def __init__(
        self, nodes: LinkNodes, automaton: LinkAutomaton, text: int, last_end: NDArray[np.int64], rules: _Rules
    ) -> None:
        self._nodes, self._automaton, self._text, self._rules = nodes, automaton, text, rules
        self._last_end, self._length = last_end.tolist(), len(last_end)
        # The titles of mentions whose search is at its end, by the node behind "[".
        self._found: dict[int, list[Title]] = {}
        self._landed: list[list[_Beam]] = [[] for _ in range(self._length + 1)]
        self._beams = [_Beam(0, 0, None, (), [0.0], [nodes.roots[text]])]
        self._place = 0
        self.results: list[LinkHypothesis] = []

    def advance(self) -> list[Wish]:
        """Goes on until there's something to be fed, which it returns; nothing when it's at its end."""
        while self._place <= self._length:
            own = self._chosen(self._beams + self._landed[self._place], self._place)
            landed, wishes = self._step(own, self._place)
            if wishes:
                return wishes
            for beam in landed:
                self._landed[beam.begin].append(beam)
            self._beams = own
            self._place += 1
        ended = [(self._total_at_end(beam), beam) for beam in self._beams]
        ended.sort(key=lambda pair: -pair[0])
        bonus = self._rules.bonus
        self.results = [LinkHypothesis(beam.links, total - bonus * len(beam.links)) for total, beam in ended]
        return []

    def _total_at_end(self, beam: _Beam) -> float:
        """The log-probability of the whole output, with its bonuses."""
        (end_log_prob,) = self._nodes.edges(beam.nodes[-1]).log_probs
        return beam.totals[-1] + float(end_log_prob)

    def _chosen(self, beams: list[_Beam], place: int) -> list[_Beam]:
        """The best beams at a place, the best first; of equals, who was there first."""
        ranked = sorted((beam for beam in beams if beam.total(place) > -np.inf), key=lambda beam: -beam.total(place))
        rules = self._rules
        return [
            beam for beam in ranked[: rules.num_beams] if beam.total(place) >= ranked[0].total(place) - rules.max_gap
        ]

    def _step(self, beams: list[_Beam], place: int) -> tuple[list[_Beam], list[Wish]]:
        """Beams with a link that begins at `place`; or what must be fed to know."""
        last = self._last_end[place] if place < self._length else place
        wishes = [
            beam.next_wish()
            for beam in beams
            if not self._reaches(beam, place, max(last, min(place + 1, self._length)))
        ]
        if wishes or last == place or not beams:
            return [], wishes
        floors = [self._floor(beams, end) for end in range(place, last + 1)]
        opened = [(beam, self._opened(beam, place)) for beam in beams]
        least = self._least([beam.total(place + 1) for beam in beams] + [total for _, total in opened])
        landed = list[_Beam]()
        for beam in [beam for beam, total in opened if total >= least and total > -np.inf]:
            own, more = self._links(beam, place, floors)
            landed += own
            wishes += more
        return landed, wishes

    def _reaches(self, beam: _Beam, place: int, last: int) -> bool:
        """Follows what was fed; whether the node at `place`, and the log-probability up to `last`, are known."""
        while True:
            is_whole = beam.begin + len(beam.nodes) > self._length
            if beam.nodes and not is_whole and len(beam.totals) == len(beam.nodes):
                log_prob = self._nodes.edges(beam.nodes[-1]).log_probs[_COPY]
                beam.totals.append(beam.totals[-1] + float(log_prob))
            if is_whole or (place - beam.begin < len(beam.nodes) and beam.knows(last)):
                return True
            node = self._nodes.child(*beam.next_wish())
            if node is None:
                return False
            beam.nodes.append(node)

    def _opened(self, beam: _Beam, place: int) -> float:
        """The log-probability after "{", with the bonus; minus infinity without room for a link."""
        if self._longest(beam, place) < 1:
            return -np.inf
        edges = self._nodes.edges(beam.nodes[place - beam.begin])
        return beam.total(place) + float(edges.log_probs[_OPEN]) + self._rules.bonus

    def _longest(self, beam: _Beam, place: int) -> float:
        """Tokens that a title may have: the rest of the text and "{ } [ ]" must find room, too."""
        return self._rules.room - (beam.length + place - beam.begin) - (self._length - place) - 4

    def _least(self, totals: list[float]) -> float:
        """What a way on must have to be among the best."""
        ranked = sorted(totals, reverse=True)
        return max(ranked[: self._rules.num_beams][-1], ranked[0] - self._rules.max_gap)

    def _floor(self, beams: list[_Beam], end: int) -> float:
        copied = sorted((beam.total(end) for beam in beams), reverse=True)
        worst = copied[self._rules.num_beams - 1] if len(copied) >= self._rules.num_beams else -np.inf
        return max(worst, copied[0] - self._rules.max_gap)

    def _links(self, beam: _Beam, place: int, floors: list[float]) -> tuple[list[_Beam], list[Wish]]:
        """The beam with one more link, which begins here, in all ways; or what must be fed to know."""
        node = beam.nodes[place - beam.begin]
        written, longest = beam.length + place - beam.begin, self._longest(beam, place)
        total, wish = self._opened(beam, place), Wish(node, _OPEN)
        before, landed, wishes = beam.total(place), list[_Beam](), list[Wish]()
        for end, floor in enumerate(floors, place):
            # The lowest floor is the last.
            if total < floors[-1] or total == -np.inf:
                break
            if (inner := self._nodes.child(*wish)) is None:
                return landed, [*wishes, wish]
            edges = self._nodes.edges(inner)
            totals = (total + edges.log_probs).tolist()
            least, copied = self._least(totals), -np.inf
            for edge, (mode, after) in enumerate(zip(edges.states[:, 0].tolist(), totals, strict=True)):
                if after < least:
                    continue
                if mode == MENTION:
                    wish, copied = Wish(inner, edge), after
                    continue
                titles, more = self._behind(Wish(inner, edge), after, floor, longest)
                wishes += more
                for title in titles:
                    ids = tuple(self._automaton.ids(self._text, self._nodes.state(title.node)))
                    link = Link(place, end, title.tokens, ids, title.total - before - self._rules.bonus)
                    length = written + end - place + 4 + len(title.tokens)
                    landed.append(_Beam(end, length, Wish(title.node, title.edge), (*beam.links, link), [title.total]))
            total = copied
        return landed, wishes

    def _behind(self, close: Wish, total: float, floor: float, longest: float) -> tuple[list[Title], list[Wish]]:
        """Titles of a mention that "}" would end, the best first; or what must be fed to know."""
        if total < floor or total == -np.inf:
            return [], []
        if (opened := self._nodes.child(*close)) is None:
            return [], [close]
        total += float(self._nodes.edges(opened).log_probs[0])
        if total < floor or total == -np.inf:
            return [], []
        if (root := self._nodes.child(opened, 0)) is None:
            return [], [Wish(opened, 0)]
        if root not in self._found:
            titles, wishes = search_titles(
                self._nodes, root, total, num_beams=self._rules.num_beams, floor=floor, longest=longest
            )
            if wishes:
                return [], wishes
            self._found[root] = titles
        return self._found[root], []


def link_search(
    tree: PackedTree | PrefixTree,
    automaton: LinkAutomaton,
    last_ends: Sequence[NDArray[np.int64]],
    *,
    prefix: Sequence[int],
    num_beams: int,
    max_gap: float = np.inf,
    bonus: float = 0.0,
    positions: int | None = None,
    max_copies: int = 32,
) -> tuple[list[list[LinkHypothesis]], int]:
    """Outputs of each text, the best first by log_prob plus `bonus` for each link.

    Args:
        tree: an empty tree of the texts.
        automaton: of the same texts.
        last_ends: of each text, for each of its tokens, where the longest mention ends that begins there; the token's own place
            where none does.
        prefix: tokens that the decoder begins with.
        num_beams: beams at a place, and titles of a mention that are followed.
        max_gap: how much less probable (in nats) than the best a beam may be.
        bonus: nats that a beam gets for each link, wherever beams and outputs are compared; in no log-probability that comes back.
        positions: how many tokens the decoder has positions for, the prefix included; None for any number.
        max_copies: how much of a text is fed at once; with 0, nothing is fed before it's needed. It changes nothing but time.

    Returns:
        For each text its results, and how often the decoder was called.
    """
    nodes = LinkNodes(tree, automaton, prefix, positions, max_copies)
    room = np.inf if positions is None else float(positions - len(prefix))
    rules = _Rules(num_beams, max_gap, room, bonus)
    searches = [_Search(nodes, automaton, text, last_end, rules) for text, last_end in enumerate(last_ends)]
    while wishes := [wish for search in searches for wish in search.advance()]:
        nodes.feed(wishes)
    return [search.results for search in searches], nodes.num_passes
