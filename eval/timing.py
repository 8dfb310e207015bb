"""The time that the constraint takes inside of a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from rankdistill.generation import decoding
from rankdistill.generation.states import TrieStates
from rankdistill.generation.trie import TokenTrie


@dataclass
class Clock:
    """Seconds so far."""

    seconds: float = 0.0

    def timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def own(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - start

        return own


@contextmanager
def constraint_seconds() -> Iterator[Clock]:
    """Counts what is spent in the trie while beams are searched: its steps, and making allow-lists."""
    clock = Clock()
    parts = [(TrieStates, name) for name in ("allow", "set", "advance", "entity_ids")]
    parts += [(TokenTrie, "states"), (TokenTrie, "intersection"), (decoding, "joined")]  # type: ignore[list-item]
    patches = [mock.patch.object(owner, name, clock.timed(getattr(owner, name))) for owner, name in parts]
    for patch in patches:
        patch.start()
    try:
        yield clock
    finally:
        for patch in patches:
            patch.stop()
