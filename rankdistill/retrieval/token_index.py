"""Search by MaxSim: exact over all documents, or over a shortlist that the tokens' centroids give.

A centroid stands for the tokens near it. A query's tokens choose their best centroids; the documents that have tokens there
are the candidates; MaxSim of the centroids in place of the tokens orders them, and the best of them are scored exactly.
Only centroids and one number a token are added to the states.

Source: PLAID, Santhanam et al. 2022, arXiv:2205.09707, without its compression.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill.errors import BadStoreError, WrongModelError
from rankdistill.formats.guarded import check_offsets, check_range
from rankdistill.models.maxsim import EMPTY_DOC_SCORE
from rankdistill.records import Run
from rankdistill.retrieval.flat import faiss_module
from rankdistill.retrieval.folders import index_facts, load_arrays, save_arrays
from rankdistill.retrieval.states import TokenStates
from rankdistill.retrieval.topk import top_k

__all__ = ["FORMAT", "Clusters", "TokenIndex"]

Array = NDArray[np.float32]

FORMAT = "rankdistill-token-index/1"
# A million tokens of 128 take 8 GFLOP for a query of 32 tokens, a quarter of a second on two cores: beyond, a shortlist pays.
_EXACT_TOKENS = 1_000_000
# Of the k-means: tokens a centroid, and iterations. More of either cost as much more, and hardly move the centroids.
_SAMPLE, _ITERATIONS = 64, 4
# Similarities that exist at once, in fp32: 64 MB.
_MAX_ELEMENTS = 1 << 24
# Query tokens searched with together.
_QUERY_TOKENS = 2048


class Clusters(NamedTuple):
    """Centroids of tokens, and which documents have tokens near each.

    Attributes:
        centroids: [C, D].
        codes: [T], the nearest centroid of each token.
        postings: rows of documents, those of centroid c at `starts[c]` to `starts[c + 1]`, ascending.
        starts: [C + 1].
    """

    centroids: Array
    codes: NDArray[np.int32]
    postings: NDArray[np.int32]
    starts: NDArray[np.int64]


class TokenIndex:
    """States of all documents' tokens, and centroids of them unless the search is to be exact.

    Attributes:
        doc_ids: the id of each document.
        states: of their tokens.
        dim: width of the states.
        clusters: of the tokens, or None for exact search.
        model: fingerprint of the model whose states they are, if it's known.
    """

    def __init__(
        self,
        states: TokenStates,
        doc_ids: Sequence[str],
        clusters: Clusters | None = None,
        *,
        model: str | None = None,
    ) -> None:
        if len(states) != len(doc_ids):
            raise ValueError(f"expected as many ids as documents, found {len(doc_ids)} and {len(states)}")
        self.states, self.doc_ids, self.clusters, self.model = states, list(doc_ids), clusters, model
        self.dim = int(states.states.shape[1])

    def __len__(self) -> int:
        return len(self.doc_ids)

    @classmethod
    def build(
        cls,
        states: TokenStates,
        doc_ids: Sequence[str],
        num_centroids: int | None = None,
        *,
        seed: int = 42,
        model: str | None = None,
    ) -> TokenIndex:
        """An index over `states`, also memory-mapped.

        Args:
            num_centroids: 0 makes the search exact. None does so up to a million tokens, and takes 16 sqrt(T) beyond, as
                PLAID does.
            seed: of the k-means.
            model: fingerprint of the model that made them.
        """
        num_tokens = len(states.states)
        if num_centroids is None:
            num_centroids = int(16 * num_tokens**0.5) if num_tokens > _EXACT_TOKENS else 0
        if num_centroids < 0:
            raise ValueError(f"expected at least 0 centroids, found {num_centroids}")
        if not num_centroids or not num_tokens:
            return cls(states, doc_ids, model=model)
        return cls(states, doc_ids, _cluster(states, min(num_centroids, num_tokens), seed), model=model)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes states.npy, offsets.npy, ids.txt, index.json and, if there are any, the parts of its clusters."""
        arrays = {"states": self.states.states, "offsets": self.states.offsets}
        if self.clusters is not None:
            arrays |= self.clusters._asdict()
        save_arrays(folder, FORMAT, self.doc_ids, arrays, self.model)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TokenIndex:
        """Reads what `save` wrote, memory-mapped.

        Raises:
            BadStoreError: the folder isn't such an index, or its parts don't belong together.
        """
        doc_ids, arrays = load_arrays(folder, FORMAT)
        path = Path(folder)
        if arrays["states"].ndim != 2:
            raise BadStoreError("states [T, D]", f"shape {arrays['states'].shape}", "build it again", str(path))
        states = TokenStates(arrays["states"], np.asarray(arrays["offsets"]))
        check_offsets(states.offsets, len(states.states), path / "offsets.npy")
        clusters = Clusters(*(arrays[name] for name in Clusters._fields)) if "centroids" in arrays else None
        if clusters is not None:
            if len(clusters.codes) != len(states.states) or clusters.centroids.shape[1:] != states.states.shape[1:]:
                raise BadStoreError("a centroid of each token", "others", "build it again", str(path))
            check_range(clusters.codes, len(clusters.centroids), path / "codes.npy")
            check_range(clusters.postings, len(doc_ids), path / "postings.npy")
            check_offsets(clusters.starts, len(clusters.postings), path / "starts.npy")
            if len(clusters.starts) != len(clusters.centroids) + 1:
                raise BadStoreError("a list of documents of each centroid", "others", "build it again", str(path))
        return cls(states, doc_ids, clusters, model=index_facts(path).get("model"))

    def search(
        self,
        queries: Mapping[str, Array],
        k: int,
        *,
        shortlist: int = 1000,
        num_probes: int = 8,
        progress: bool = False,
    ) -> Run:
        """The k best documents of each query by MaxSim.

        Args:
            queries: query_id -> states [L, D] of the query's tokens.
            k: documents a query.
            shortlist: documents a query that are scored exactly, at least k; exact search scores all.
            num_probes: centroids whose documents each query token makes candidates.

        Returns:
            query_id -> doc_id -> score, in `records.ranked`'s order.

        Raises:
            ValueError: if k isn't positive.
            WrongModelError: if the queries have another width.
        """
        if k < 1:
            raise ValueError(f"expected k of at least 1, found {k}")
        for states_LD in queries.values():
            if states_LD.ndim != 2 or states_LD.shape[1] != self.dim:
                found = f"shape {states_LD.shape}"
                raise WrongModelError(f"states of width {self.dim}", found, "search with the model that was indexed")
        run: Run = {}
        with tqdm(total=len(queries), desc="search", unit="query", disable=not progress) as bar:
            if self.clusters is None:
                everything = np.arange(len(self))
                for block in _blocks(queries):
                    scores_BM = self._exact([queries[query_id] for query_id in block], everything)
                    for query_id, scores in zip(block, scores_BM, strict=True):
                        run[query_id] = top_k(self.doc_ids, everything, scores, k)
                    bar.update(len(block))
                return run
            for query_id, states_LD in queries.items():
                rows = _shortlist(self.clusters, self.states.offsets, states_LD, max(k, shortlist), num_probes)
                run[query_id] = top_k(self.doc_ids, rows, self._exact([states_LD], rows)[0], k)
                bar.update()
        return run

    def _exact(self, queries: Sequence[Array], rows: NDArray[np.int64]) -> Array:
        """Scores [B, len(rows)] of queries with documents."""
        return _maxsim(
            self.states.offsets, rows, queries, lambda tokens, query_TD: self._states_of(tokens) @ query_TD.T
        )

    def _states_of(self, tokens: NDArray[np.int64] | slice) -> Array:
        return np.asarray(self.states.states[tokens], np.float32)


def _shortlist(
    clusters: Clusters, offsets: NDArray[np.int64], states_LD: Array, size: int, num_probes: int
) -> NDArray[np.int64]:
    """Rows of the documents that are best when each token is replaced by its centroid."""
    sims_CL = np.asarray(clusters.centroids @ states_LD.T, np.float32)
    probes = min(num_probes, len(sims_CL))
    nearest = np.unique(np.argpartition(-sims_CL, probes - 1, axis=0)[:probes])
    lists = [clusters.postings[clusters.starts[code] : clusters.starts[code + 1]] for code in nearest]
    rows = np.unique(np.concatenate([np.zeros(0, np.int32), *lists])).astype(np.int64)
    if len(rows) <= size:
        return rows
    approximate = _maxsim(offsets, rows, [states_LD], lambda tokens, _: sims_CL[clusters.codes[tokens]])[0]
    return np.sort(rows[np.argpartition(-approximate, size - 1)[:size]])


def _blocks(queries: Mapping[str, Array]) -> list[list[str]]:
    """Queries in blocks of at most `_QUERY_TOKENS` tokens."""
    blocks: list[list[str]] = []
    size = 0
    for query_id, states_LD in queries.items():
        if not blocks or size + len(states_LD) > _QUERY_TOKENS:
            blocks.append([])
            size = 0
        blocks[-1].append(query_id)
        size += len(states_LD)
    return blocks


def _maxsim(offsets: NDArray[np.int64], rows: NDArray[np.int64], queries: Sequence[Array], similarities: Any) -> Array:
    """Scores [B, len(rows)], from `similarities(tokens, query_TD)`, which gives those of some documents' tokens [T', T].

    Args:
        offsets: where each document's tokens are.
        rows: documents, ascending.
        queries: states of B queries' tokens.
    """
    query_TD = np.concatenate(queries) if queries else np.zeros((0, 1), np.float32)
    query_lengths = np.array([len(query) for query in queries])
    with_tokens = np.flatnonzero(query_lengths)
    query_starts = np.cumsum(query_lengths)[with_tokens] - query_lengths[with_tokens]
    scores = np.full((len(queries), len(rows)), EMPTY_DOC_SCORE, np.float32)
    lengths = offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(lengths)
    budget = max(1, _MAX_ELEMENTS // max(1, len(query_TD)))
    start = 0
    while start < len(rows):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
        held = np.arange(start, stop)[lengths[start:stop] > 0]  # reduceat can't do with empty ones
        start = stop
        scores[:, held] = 0.0
        if not len(held) or not len(query_TD):
            continue
        first, last = rows[held[0]], rows[held[-1]]
        if offsets[last + 1] - offsets[first] == lengths[held].sum():
            tokens: Any = slice(offsets[first], offsets[last + 1])
        else:
            tokens = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows[held]])
        at = np.concatenate([[0], np.cumsum(lengths[held])[:-1]])
        best_MT = np.maximum.reduceat(similarities(tokens, query_TD), at, axis=0)
        scores[np.ix_(with_tokens, held)] = np.add.reduceat(best_MT, query_starts, axis=1).T
    return scores


def _cluster(states: TokenStates, num_centroids: int, seed: int) -> Clusters:
    """Centroids by k-means on a sample, and the nearest one of every token."""
    tokens = states.states
    sample = tokens
    if len(tokens) > _SAMPLE * num_centroids:
        chosen = np.random.default_rng(seed).choice(len(tokens), _SAMPLE * num_centroids, replace=False)
        sample = tokens[np.sort(chosen)]
    kmeans = faiss_module().Kmeans(
        tokens.shape[1], num_centroids, niter=_ITERATIONS, seed=seed, min_points_per_centroid=1
    )
    kmeans.train(np.ascontiguousarray(sample, np.float32))
    codes = np.empty(len(tokens), np.int32)
    for start in range(0, len(tokens), 1 << 16):
        part = np.ascontiguousarray(tokens[start : start + (1 << 16)], np.float32)
        codes[start : start + len(part)] = kmeans.index.search(part, 1)[1][:, 0]
    num_docs = len(states)
    doc_of_token = np.repeat(np.arange(num_docs), np.diff(states.offsets))
    pairs = np.unique(codes.astype(np.int64) * num_docs + doc_of_token)
    starts = np.searchsorted(pairs, np.arange(num_centroids + 1) * num_docs)
    centroids = np.asarray(kmeans.centroids, np.float32).reshape(num_centroids, -1)
    return Clusters(centroids, codes, (pairs % num_docs).astype(np.int32), starts)
