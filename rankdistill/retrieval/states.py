"""States of texts' tokens, for models whose score of a pair comes from both texts' tokens (ColBERT, PreTT, TK)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rankdistill.models.precision import DTypeName, inference_mode
from rankdistill.models.towers import InteractionModel, Kind
from rankdistill.retrieval.encode import in_batches
from rankdistill.retrieval.folders import STATES, Columns, RaggedWriter, fill_folder, open_folder, read_ragged

if TYPE_CHECKING:
    from rankdistill.formats.collection import Collection

__all__ = ["TokenStates", "encode_collection_states", "encode_states", "load_states", "score_state_pairs"]

# Docs whose states are held at a time: 4,000 of 200 tokens of 128 float32 are 400 MB.
_DOC_CHUNK = 4000


@dataclass(frozen=True)
class TokenStates:
    """States of many texts' tokens, one after the other, in memory or memory-mapped.

    Attributes:
        states: [T, D] of all tokens.
        offsets: [len(texts) + 1]; the tokens of text i are `states[offsets[i]:offsets[i + 1]]`.
    """

    states: NDArray[np.floating]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.floating]:
        """States [L, D] of one text's tokens."""
        return self.states[self.offsets[row] : self.offsets[row + 1]]

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many tokens each of the texts has."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def batch(self, rows: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """States [B, L, D] in fp32 and mask [B, L] of some texts; L is the longest one's."""
        lengths = self.lengths(rows)
        mask = np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None]
        padded = np.zeros((*mask.shape, self.states.shape[1]), np.float32)
        padded[mask] = np.concatenate([self[row] for row in rows])
        return torch.from_numpy(padded).to(device), torch.from_numpy(mask.astype(np.int64)).to(device)


def encode_states(
    model: InteractionModel,
    texts: Sequence[str],
    *,
    kind: Kind,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> TokenStates:
    """States of texts' tokens, in the texts' order.

    Args:
        model: runs where it is.
        texts: any number of texts.
        kind: which side of a pair they are.
        batch_tokens: tokens, padding included, that go through the model at once.
        dtype: as in `encode_texts`.
        progress: show a bar on standard error.
    """
    found: list[NDArray[np.float32]] = [np.zeros((0, model.dim), np.float32)] * len(texts)

    def encode(rows: NDArray[np.int64], batch: dict[str, Tensor]) -> None:
        states_BLD, mask_BL = model.states(batch["input_ids"], batch["attention_mask"], kind)
        masks = mask_BL.bool().cpu().numpy()
        for row, states_LD, mask_L in zip(rows, states_BLD.float().cpu().numpy(), masks, strict=True):
            found[row] = states_LD[mask_L]

    in_batches(model, texts, encode, kind=kind, batch_tokens=batch_tokens, dtype=dtype, progress=progress)
    offsets = np.concatenate([[0], np.cumsum([len(states) for states in found], dtype=np.int64)])
    return TokenStates(np.concatenate(found) if found else np.zeros((0, model.dim), np.float32), offsets)


def encode_collection_states(
    model: InteractionModel,
    collection: Collection,
    out_dir: str | os.PathLike[str],
    *,
    shard_size: int = 50_000,
    store_dtype: Literal["float32", "float16"] = "float32",
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> Path:
    """States of all documents' tokens, in a folder; started again after an interruption, it does only what is missing.

    The folder holds `states.bin` ([T, D], flat), `lengths.bin` (tokens a document, int32), `ids.txt` and `manifest.json`.

    Args:
        model: the encoder.
        collection: the documents.
        out_dir: the folder.
        shard_size: documents between two points from which an interrupted run can go on.
        store_dtype: what the states are stored in.
        batch_tokens: as in `encode_states`; so for `dtype` and `progress`.

    Returns:
        The folder.

    Raises:
        BadStoreError: the folder holds states of another model, other documents or another layout.
    """
    folder = Path(out_dir)

    def encode(texts: Sequence[str]) -> tuple[NDArray[np.int64], dict[str, NDArray[np.floating]]]:
        found = encode_states(model, texts, kind="document", batch_tokens=batch_tokens, dtype=dtype, progress=False)
        return np.diff(found.offsets), {"states": found.states}

    writer = RaggedWriter(folder, _columns(store_dtype, model.dim), encode)
    job = {
        "format": STATES,
        "model": model.fingerprint(),
        "architecture": model.architecture,
        "dim": model.dim,
        "dtype": store_dtype,
    }
    fill_folder(folder, job, collection, writer, shard_size=shard_size, progress=progress)
    return folder


def load_states(out_dir: str | os.PathLike[str]) -> tuple[list[str], TokenStates]:
    """Reads a folder of `encode_collection_states`.

    Returns:
        The doc_ids, and the states, memory-mapped.

    Raises:
        BadStoreError: the folder isn't one, or isn't finished.
    """
    manifest, doc_ids = open_folder(Path(out_dir), STATES)
    columns = _columns(manifest["dtype"], manifest["dim"])
    offsets, found = read_ragged(Path(out_dir), len(doc_ids), columns)
    return doc_ids, TokenStates(found["states"], offsets)


def _columns(dtype: str, dim: int) -> Columns:
    return {"states": (np.dtype(dtype).newbyteorder("<").str, (dim,))}


def score_state_pairs(
    model: InteractionModel,
    queries: Sequence[str],
    docs: Sequence[str],
    query_rows: NDArray[np.int64],
    doc_rows: NDArray[np.int64],
    *,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
    doc_states: TokenStates | None = None,
) -> NDArray[np.float32]:
    """Scores [P] of the pairs (queries[query_rows[p]], docs[doc_rows[p]]); each text is encoded once.

    Args:
        batch_tokens: doc tokens, padding included, that interact at once.
        doc_states: the docs' states, where they have been computed before (`docs` isn't read then).
    """
    query_states = encode_states(
        model, queries, kind="query", batch_tokens=batch_tokens, dtype=dtype, progress=progress
    )
    scores = np.empty(len(query_rows), np.float32)
    num_docs = len(docs) if doc_states is None else len(doc_states)
    by_doc = np.argsort(doc_rows, kind="stable")
    edges = np.searchsorted(doc_rows[by_doc], [*range(0, num_docs, _DOC_CHUNK), num_docs])
    with tqdm(total=len(scores), desc="score", unit="pair", disable=not progress) as bar, inference_mode(model, dtype):
        for chunk, (start, stop) in enumerate(pairwise(edges)):
            first = chunk * _DOC_CHUNK
            states, pairs = doc_states, by_doc[start:stop]
            local = doc_rows[pairs]
            if states is None:
                texts = docs[first : first + _DOC_CHUNK]
                states = encode_states(
                    model, texts, kind="document", batch_tokens=batch_tokens, dtype=dtype, progress=False
                )
                local = local - first
            lengths = states.lengths(local)
            order = np.argsort(lengths, kind="stable")[::-1]
            at = 0
            while at < len(order):
                some = order[at : at + max(1, batch_tokens // max(1, int(lengths[order[at]])))]
                query = query_states.batch(query_rows[pairs[some]], model.device)
                scores[pairs[some]] = model.interact(*query, *states.batch(local[some], model.device)).float().cpu()
                at += len(some)
                bar.update(len(some))
    return scores
