"""Exact scores of given titles: all of a text's candidates in one pass of the decoder, beginnings that they share computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rankdistill.generation.tree import PackedTree, PrefixTree

__all__ = ["candidate_groups", "score_sequences"]

# Tokens of one text's tree: their mask is 16 MB a text in float32.
_MAX_NODES = 2048


def candidate_groups(sequences: Sequence[Sequence[int]], max_nodes: int = _MAX_NODES) -> list[list[int]]:
    """Places of sequences whose tree has at most so many tokens, those that begin alike together; one alone may have more."""
    groups, size, before = list[list[int]](), 0, tuple[int, ...]()
    for place in sorted(range(len(sequences)), key=lambda place: tuple(sequences[place])):
        sequence = tuple(sequences[place])
        shared = next((i for i, pair in enumerate(zip(before, sequence, strict=False)) if pair[0] != pair[1]), None)
        new = len(sequence) - (min(len(before), len(sequence)) if shared is None else shared)
        if not groups or size + new > max_nodes:
            groups.append([])
            size, new = 0, len(sequence)
        groups[-1].append(place)
        size, before = size + new, sequence
    return groups


def score_sequences(
    tree: PackedTree | PrefixTree, sequences: Sequence[Sequence[Sequence[int]]], prefix: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Log-probabilities of whole sequences, the end token included.

    Args:
        tree: an empty tree of the texts.
        sequences: those of each text; none, equal ones and such that begin others are welcome.
        prefix: tokens that the decoder begins with.

    Returns:
        For each text, the log-probability of each of its sequences.
    """
    # Tokens of all texts' trees, and what is wanted after them: (node, token), each once.
    texts, parents, tokens = list[int](), list[int](), list[int]()
    entries = dict[tuple[int, int], int]()
    paths = list[list[list[int]]]()
    for text, own in enumerate(sequences):
        for place, token in enumerate(prefix):
            texts.append(text)
            parents.append(len(parents) - 1 if place else -1)
            tokens.append(token)
        root, children = len(parents) - 1, dict[tuple[int, int], int]()
        paths.append([])
        for sequence in own:
            node, path = root, list[int]()
            for place, token in enumerate(sequence):
                path.append(entries.setdefault((node, token), len(entries)))
                if place == len(sequence) - 1:
                    break
                if (node, token) not in children:
                    children[node, token] = len(parents)
                    texts.append(text)
                    parents.append(node)
                    tokens.append(token)
                node = children[node, token]
            paths[-1].append(path)
    wanted = np.array(list(entries), np.int64).reshape(-1, 2)
    if not len(wanted):
        return [np.zeros(len(own), np.float64) for own in sequences]
    hidden = tree.extend(*(np.array(part, np.int64) for part in (texts, parents, tokens)))
    order = np.argsort(wanted[:, 0], kind="stable")
    log_probs = np.empty(len(wanted), np.float64)
    log_probs[order] = tree.log_probs(hidden, wanted[order, 0], wanted[order, 1], renormalise=False)
    return [np.array([log_probs[path].sum() for path in own], np.float64) for own in paths]
