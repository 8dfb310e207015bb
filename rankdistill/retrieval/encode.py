"""Texts to vectors: in memory, or to a folder that an interrupted run can go on with.

Texts of like length go through the model together, so that little of the work is padding; a batch is a number of
tokens, not of texts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rankdistill.data.batches import pad_lists
from rankdistill.errors import BadStoreError
from rankdistill.formats.guarded import read_array, reading
from rankdistill.models.dot import DotModel
from rankdistill.models.foreign import DenseModel, ForeignModel
from rankdistill.models.loading import at_exit
from rankdistill.models.multi_exit import MultiExitEncoder
from rankdistill.models.precision import DTypeName, inference_mode
from rankdistill.models.towers import Kind, Tower
from rankdistill.records import check_texts
from rankdistill.retrieval.folders import VECTORS, fill_folder, open_folder

if TYPE_CHECKING:
    from rankdistill.formats.collection import Collection

__all__ = [
    "at_once",
    "encode_collection",
    "encode_exits",
    "encode_texts",
    "in_batches",
    "length_sorted_batches",
    "load_vectors",
    "pad_batch",
]

# Texts tokenised at a time: enough for the sort by length to bring padding under 2 %, little enough for memory.
_TOKENIZE_CHUNK = 20_000
# More at once gains a CPU nothing: at 8,192 MiniLM is a tenth slower than at 2,048.
_CPU_TOKENS = 2048


def encode_texts(
    model: DenseModel,
    texts: Sequence[str],
    *,
    kind: Kind,
    exit: int | None = None,
    dim: int | None = None,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> NDArray[np.float32]:
    """Vectors of texts, in their order.

    Args:
        model: the encoder; runs where it is.
        texts: any number of texts.
        kind: which of the model's two maximal lengths holds.
        exit: of a model with exits, run this many layers only; the deepest exit by default.
        dim: of a model whose vectors may be cut, this many numbers; all by default.
        batch_tokens: tokens, padding included, that go through the model at once; on a CPU 2,048 at most. A model that
            sentence-transformers runs takes 32 texts at once.
        dtype: what matrix products run in: "auto" and "float32" give SentenceTransformer's vectors; "bfloat16";
            "fast" is bfloat16 on machines where that is measured to be faster.
        progress: show a bar on standard error.

    Returns:
        [len(texts), D].
    """
    if exit is not None or dim is not None:
        view = at_exit(model, exit, dim)
        assert isinstance(view, DotModel)
        model = view
    if isinstance(model, ForeignModel):
        return model.encode(texts, kind=kind, dtype=dtype, progress=progress)
    vectors = np.empty((len(texts), model.dim), dtype=np.float32)

    def encode(rows: NDArray[np.int64], batch: dict[str, Tensor]) -> None:
        vectors[rows] = model.vectors(**batch).float().cpu().numpy()

    in_batches(model, texts, encode, kind=kind, batch_tokens=batch_tokens, dtype=dtype, progress=progress)
    return vectors


def encode_exits(
    model: MultiExitEncoder,
    texts: Sequence[str],
    *,
    kind: Kind,
    dim: int | None = None,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> dict[int, NDArray[np.float32]]:
    """Vectors of texts at every exit, in one pass of all layers.

    Args:
        model: a model with exits; runs where it is.
        dim: as in `encode_texts`; so for the others.

    Returns:
        [len(texts), D] by exit, the shallowest first.
    """
    width = model.at(dim=dim).dim
    vectors_END = np.empty((len(model.exits), len(texts), width), dtype=np.float32)

    def encode(rows: NDArray[np.int64], batch: dict[str, Tensor]) -> None:
        vectors_END[:, rows] = model.exit_vectors(**batch, dim=dim).float().cpu().numpy()

    in_batches(model, texts, encode, kind=kind, batch_tokens=batch_tokens, dtype=dtype, progress=progress)
    return dict(zip(model.exits, vectors_END, strict=True))


def in_batches(
    model: Tower,
    texts: Sequence[str],
    encode: Callable[[NDArray[np.int64], dict[str, Tensor]], None],
    *,
    kind: Kind,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> None:
    """Hands texts to `encode(rows, batch)`, those of like length together; without gradients, in the wanted dtype.

    Args:
        encode: takes which texts they are, and their input_ids and attention_mask [B, L].
        kind: as in `encode_texts`; so for `batch_tokens`, `dtype` and `progress`.

    Raises:
        ValueError: for what is no text.
    """
    check_texts(texts)
    with (
        tqdm(total=len(texts), desc=f"encode {kind}", unit="text", disable=not progress) as bar,
        inference_mode(model, dtype),
    ):
        for start in range(0, len(texts), _TOKENIZE_CHUNK):
            ids = model.tokenize(texts[start : start + _TOKENIZE_CHUNK], kind)
            for rows in length_sorted_batches(ids, at_once(model.device, batch_tokens)):
                batch = pad_batch(model.tokenizer, {"input_ids": [ids[row] for row in rows]}, model.device)
                encode(start + np.array(rows), batch)
                bar.update(len(rows))


def at_once(device: torch.device, batch_tokens: int) -> int:
    """How many of `batch_tokens` go through a model at once: on a CPU, what stays in its caches."""
    return min(batch_tokens, _CPU_TOKENS) if device.type == "cpu" else batch_tokens


def length_sorted_batches(ids: Sequence[Sequence[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Rows grouped so that a batch of its longest row's length stays within `batch_tokens`; longest first.

    Longest first shows at once whether memory suffices. A row longer than `batch_tokens` goes alone.
    """
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, len(ids[order[start]])))
        yield order[start : start + size]
        start += size


def pad_batch(tokenizer: Any, encoded: dict[str, list[list[int]]], device: torch.device) -> dict[str, Tensor]:
    """Tensors [B, L] of token lists, with `attention_mask`; L is the longest row's, padding on the tokenizer's side."""
    left, batch = tokenizer.padding_side == "left", {}
    for name, rows in encoded.items():
        fill = tokenizer.pad_token_id if name == "input_ids" else 0
        padded, mask = pad_lists(rows, fill or 0, left=left)
        batch[name], batch["attention_mask"] = torch.from_numpy(padded).to(device), torch.from_numpy(mask).to(device)
    return batch


def encode_collection(
    model: DenseModel,
    collection: Collection,
    out_dir: str | os.PathLike[str],
    *,
    shard_size: int = 50_000,
    store_dtype: Literal["float32", "float16"] = "float32",
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> Path:
    """Encodes all documents into a folder; started again after an interruption, it does only what is missing.

    The folder holds `vectors.npy` ([num_docs, D], in the collection's order, memory-mapped while it is filled),
    `ids.txt` (one doc_id a line) and `manifest.json` (what the vectors were made from, and which shards are done). A
    shard counts as done only after its vectors are on disk.

    Args:
        model: the encoder.
        collection: the documents.
        out_dir: the folder.
        shard_size: documents between two points from which an interrupted run can go on.
        store_dtype: what the vectors are stored in.
        batch_tokens: as in `encode_texts`; so for `dtype` and `progress`.

    Returns:
        The folder.

    Raises:
        BadStoreError: the folder holds vectors of another model, other documents or another layout.
    """
    folder = Path(out_dir)

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        return encode_texts(model, texts, kind="document", batch_tokens=batch_tokens, dtype=dtype, progress=False)

    writer = _VectorWriter(folder / "vectors.npy", (collection.num_docs, model.dim), store_dtype, encode)
    job = {"format": VECTORS, "model": model.fingerprint(), "dim": model.dim, "dtype": store_dtype}
    job["similarity"] = model.comparison
    fill_folder(folder, job, collection, writer, shard_size=shard_size, progress=progress)
    return folder


class _VectorWriter:
    """Fills an array on disk, memory-mapped."""

    def __init__(
        self, path: Path, shape: tuple[int, int], dtype: str, encode: Callable[[Sequence[str]], NDArray[np.float32]]
    ) -> None:
        self._path, self._shape, self._dtype, self._encode = path, shape, dtype, encode
        self.names = [path.name]

    def begin(self, num_done: int) -> None:
        """Makes the file, or opens it."""
        if num_done:
            with reading(self._path, "an array in a .npy file"):
                self._vectors = np.lib.format.open_memmap(self._path, mode="r+")
        else:
            self._vectors = np.lib.format.open_memmap(self._path, mode="w+", dtype=self._dtype, shape=self._shape)

    def write(self, start: int, texts: Sequence[str]) -> None:
        """Writes the vectors of `texts`."""
        self._vectors[start : start + len(texts)] = self._encode(texts)
        self._vectors.flush()


def load_vectors(out_dir: str | os.PathLike[str]) -> tuple[list[str], NDArray[Any]]:
    """Reads a folder of `encode_collection`.

    Returns:
        The doc_ids, and the vectors [num_docs, D] as a read-only memory map.

    Raises:
        BadStoreError: the folder isn't one, or isn't finished.
    """
    folder = Path(out_dir)
    manifest, doc_ids = open_folder(folder, VECTORS)
    vectors = read_array(folder / "vectors.npy")
    if vectors.shape != (manifest["num_docs"], manifest["dim"]):
        raise BadStoreError("the vectors of the manifest", f"shape {vectors.shape}", "encode again", str(folder))
    return doc_ids, vectors
