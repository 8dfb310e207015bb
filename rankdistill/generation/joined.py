"""Tries of several texts as one, so that one call a step serves all their beams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rankdistill.generation.trie import TokenTrie

__all__ = ["Joined", "joined"]


class Joined(NamedTuple):
    """The trie of several texts.

    Attributes:
        trie: with each text's titles behind a token of their own.
        behind: that token of each text, beyond the vocabulary; None where all texts have the same trie, as it is.
    """

    trie: TokenTrie
    behind: list[int] | None


def joined(tries: Sequence[TokenTrie]) -> Joined:
    """The tries of texts as one. Cost: all their titles, but those of a trie that several texts share once.

    Raises:
        ValueError: for tries of different vocabularies or end tokens.
    """
    distinct = list({id(trie): trie for trie in tries}.values())
    if len(distinct) == 1:
        return Joined(distinct[0], None)
    labels = {(trie.vocab_size, trie.eos, trie.pad, trie.tokenizer_fingerprint) for trie in distinct}
    if len(labels) != 1:
        raise ValueError(f"expected allow-lists made of one trie, by its subset(), found {sorted(labels)}")
    ((vocab_size, eos, pad, fingerprint),) = labels
    token = {id(trie): vocab_size + place for place, trie in enumerate(distinct)}
    sequences, ids = list[list[int]](), list[int]()
    for trie in distinct:
        for sequence, own in trie.sequences():
            sequences += [[token[id(trie)], *sequence]] * len(own)
            ids += own
    whole = TokenTrie.build(
        sequences, ids=ids, vocab_size=vocab_size + len(distinct), eos=eos, pad=pad, fingerprint=fingerprint
    )
    return Joined(whole, [token[id(trie)] for trie in tries])
