"""Titles of one mention, by beams that are compared at equal length; the rule of `beam.py`, over nodes that may not be fed yet."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rankdistill.generation.beam import best_places
from rankdistill.generation.link_automaton import OUTSIDE
from rankdistill.generation.link_nodes import LinkNodes, Wish

__all__ = ["Title", "search_titles"]


class Title(NamedTuple):
    """A title in the making; `node` is its last token, `edge` of which ends it where it has ended."""

    total: float
    tokens: tuple[int, ...]
    node: int
    edge: int


def search_titles(
    nodes: LinkNodes, root: int, total: float, *, num_beams: int, floor: float, longest: float
) -> tuple[list[Title], list[Wish]]:
    """Titles of one mention by beam search, the best first; or what must be fed to know.

    Args:
        root: the node behind "[".
        total: log-probability of all before the title.
        floor: what is less probable isn't wanted.
        longest: tokens of a title.
    """
    # A node and what was written before it.
    live: list[tuple[float, tuple[int, ...], int]] = [(total, (), root)]
    found = list[Title]()
    while live:
        edges = [nodes.edges(node) for _, _, node in live]
        counts = [len(own.tokens) for own in edges]
        rows = np.repeat(np.arange(len(live)), counts)
        starts = np.cumsum([0, *counts])
        totals = np.concatenate([own.log_probs + each[0] for own, each in zip(edges, live, strict=True)])
        is_end = np.concatenate([own.states[:, 0] for own in edges]) == OUTSIDE
        best = best_places(totals, 2 * num_beams)
        worst = sorted(title.total for title in found)[-num_beams] if len(found) >= num_beams else -np.inf
        best = best[totals[best] >= max(floor, worst)]
        after, wishes = list[tuple[float, tuple[int, ...], int]](), list[Wish]()
        for rank, at in enumerate(best.tolist()):
            row = int(rows[at])
            (_, tokens, node), edge, own = live[row], at - int(starts[row]), float(totals[at])
            if is_end[at]:
                # The rule of fairseq and transformers; beams that end can't take others' places, as each has one end.
                if rank < num_beams:
                    found.append(Title(own, tokens, node, edge))
            elif len(after) + len(wishes) < num_beams and len(tokens) < longest:
                child = nodes.child(node, edge)
                if child is None:
                    wishes.append(Wish(node, edge))
                else:
                    after.append((own, (*tokens, int(edges[row].tokens[edge])), child))
        if wishes:
            return [], wishes
        live = after
    return sorted(found, key=lambda title: -title.total), []
