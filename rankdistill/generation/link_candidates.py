"""Which titles each mention may have, and which surfaces may be mentions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from rankdistill.errors import BadDataError
from rankdistill.formats.tokenizers import backend_of
from rankdistill.generation.titles import tokenize_titles
from rankdistill.generation.trie import TokenTrie

__all__ = ["CandidateSets", "Candidates", "Surfaces"]

Candidates: TypeAlias = Mapping[str, Sequence[str]] | Callable[[str], Sequence[str]]
"""The titles that a mention may have, by its text as it stands there; none where it has no candidates."""


class Surfaces:
    """The only texts that may be mentions, compared by their characters, as the tokenizer normalizes them.

    Not by their tokens, which differ with what stands before a mention: a bracket, a quotation mark, another word of a script
    without spaces. An uncased tokenizer takes surfaces uncased; runs of white space are one space.

    Args:
        surfaces: any texts.
    """

    def __init__(self, surfaces: Iterable[str], tokenizer: Any) -> None:
        self._normalizer = backend_of(tokenizer).normalizer
        self._known = set(map(self._plain, surfaces))

    def __contains__(self, text: str) -> bool:
        return self._plain(text) in self._known

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text if self._normalizer is None else str(self._normalizer.normalize_str(text)).strip()


class CandidateSets:
    """Tries of candidates, one for each distinct mention, made when it's met for the first time.

    Args:
        candidates: titles of a mention, as they were when the trie of titles was built.
        on_unknown: a candidate that isn't in the trie is an error, or left out.
    """

    def __init__(
        self, candidates: Candidates, trie: TokenTrie, tokenizer: Any, on_unknown: Literal["error", "skip"] = "error"
    ) -> None:
        if on_unknown not in ("error", "skip"):
            raise ValueError(f"expected on_unknown of error or skip, found {on_unknown!r}")
        self._find = candidates if callable(candidates) else lambda mention: candidates.get(mention, ())
        self._trie, self._tokenizer, self._skip = trie, tokenizer, on_unknown == "skip"
        self._places: dict[str, int | None] = {}
        self._titles: dict[str, tuple[int, ...] | None] = {}
        self._names: list[dict[tuple[int, ...], str]] = []
        self.tries: list[TokenTrie] = []

    def places(self, mentions: Sequence[str]) -> list[int | None]:
        """Where in `tries` each mention's candidates are; None for one without.

        Raises:
            BadDataError: for a candidate that isn't in the trie, unless such are left out.
        """
        new = {
            mention: list(dict.fromkeys(self._find(mention)))
            for mention in dict.fromkeys(mentions)
            if mention not in self._places
        }
        self._read(new)
        for mention, titles in new.items():
            known = {title: own for title in titles if (own := self._titles[title]) is not None}
            self._places[mention] = self._build(known) if known else None
        return [self._places[mention] for mention in mentions]

    def name(self, place: int, sequence: tuple[int, ...]) -> str:
        """The title of these tokens among the candidates of a place."""
        return self._names[place][sequence]

    def _read(self, new: Mapping[str, Sequence[str]]) -> None:
        """Tokens of titles that weren't met before; None of those that the trie hasn't."""
        titles = {title: mention for mention, own in new.items() for title in own if title not in self._titles}
        tokens, lengths = tokenize_titles(titles, self._tokenizer, eos=self._trie.eos, progress=False)
        for (title, mention), own in zip(
            titles.items(), np.split(tokens, np.cumsum(lengths, dtype=np.int64)[:-1]), strict=False
        ):
            is_known = own.tolist() in self._trie
            if not is_known and not self._skip:
                remedy = 'add it to the trie, or pass on_unknown="skip" to leave such candidates out'
                raise BadDataError(
                    "candidates that are titles of the trie", f'"{title}" for the mention "{mention}"', remedy
                )
            self._titles[title] = tuple(own.tolist()) if is_known else None

    def _build(self, titles: Mapping[str, tuple[int, ...]]) -> int:
        self.tries.append(self._trie.intersection(titles.values()))
        # Of titles that are the same tokens, the first.
        self._names.append({sequence: title for title, sequence in reversed(list(titles.items()))})
        return len(self.tries) - 1
