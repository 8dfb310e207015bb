"""Texts to vectors: in memory, or to a folder that an interrupted run can go on with.

Texts of like length go through the model together, so that little of the work is padding; a batch is a number of
tokens, not of texts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from rankdistill.errors import BadStoreError
from rankdistill.models.dot import DotModel
from rankdistill.models.precision import autocast, fast_dtype

if TYPE_CHECKING:
    from rankdistill.formats.collection import Collection

__all__ = ["encode_collection", "encode_texts", "inference_mode", "length_sorted_batches", "load_vectors", "pad_batch"]

Kind = Literal["query", "document"]
DTypeName = Literal["auto", "float32", "bfloat16", "fast"]

# Texts tokenised at a time: enough for the sort by length to bring padding under 2 %, little enough for memory.
_TOKENIZE_CHUNK = 20_000
_FORMAT = "rankdistill-vectors/1"


def encode_texts(
    model: DotModel,
    texts: Sequence[str],
    *,
    kind: Kind,
    batch_tokens: int = 8192,
    dtype: DTypeName = "auto",
    progress: bool = True,
) -> NDArray[np.float32]:
    """Vectors of texts, in their order.

    Args:
        model: the encoder; runs where it is.
        texts: any number of texts.
        kind: which of the model's two maximal lengths holds.
        batch_tokens: tokens, padding included, that go through the model at once.
        dtype: what matrix products run in: "auto" and "float32" give SentenceTransformer's vectors; "bfloat16";
            "fast" is bfloat16 on machines where that is measured to be faster.
        progress: show a bar on standard error.

    Returns:
        [len(texts), D].
    """
    vectors = np.empty((len(texts), model.dim), dtype=np.float32)
    with (
        tqdm(total=len(texts), desc=f"encode {kind}", unit="text", disable=not progress) as bar,
        inference_mode(model, dtype),
    ):
        for start in range(0, len(texts), _TOKENIZE_CHUNK):
            ids = model.tokenize(texts[start : start + _TOKENIZE_CHUNK], kind)
            for rows in length_sorted_batches(ids, batch_tokens):
                output = model.vectors(
                    **pad_batch(model.tokenizer, {"input_ids": [ids[row] for row in rows]}, model.device)
                )
                vectors[start + np.array(rows)] = output.float().cpu().numpy()
                bar.update(len(rows))
    return vectors


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
    lengths = [len(row) for row in encoded["input_ids"]]
    longest, left = max(lengths), tokenizer.padding_side == "left"
    batch = {}
    for name, rows in {**encoded, "attention_mask": [[1] * length for length in lengths]}.items():
        fill = tokenizer.pad_token_id if name == "input_ids" else 0
        padded = np.full((len(rows), longest), fill or 0, dtype=np.int64)
        for row, values in enumerate(rows):
            padded[row, longest - len(values) if left else 0 : longest if left else len(values)] = values
        batch[name] = torch.from_numpy(padded).to(device)
    return batch


class inference_mode:
    """Evaluation mode, no gradients, the wanted dtype; the model's mode comes back afterwards."""

    def __init__(self, model: torch.nn.Module, dtype: DTypeName) -> None:
        device = next(model.parameters()).device
        stated = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        chosen = fast_dtype(device) if dtype == "fast" else stated
        self._model, self._contexts = model, (torch.inference_mode(), autocast(device, chosen))

    def __enter__(self) -> None:
        self._was_training = self._model.training
        self._model.eval()
        for context in self._contexts:
            context.__enter__()

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self._contexts):
            context.__exit__(*error)
        self._model.train(self._was_training)


def encode_collection(
    model: DotModel,
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
    folder.mkdir(parents=True, exist_ok=True)
    doc_ids = list(collection.doc_ids)
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "model": model.fingerprint(),
        "doc_ids": _hash(doc_ids),
        "num_docs": len(doc_ids),
        "dim": model.dim,
        "dtype": store_dtype,
        "shard_size": shard_size,
    }
    shape = (len(doc_ids), model.dim)
    vectors_path, manifest_path = folder / "vectors.npy", folder / "manifest.json"
    if manifest_path.is_file():
        done = _resume(manifest_path, manifest)
        vectors = np.load(vectors_path, mmap_mode="r+")
    else:
        done = {}
        vectors = np.lib.format.open_memmap(vectors_path, mode="w+", dtype=store_dtype, shape=shape)
        (folder / "ids.txt").write_text("".join(f"{doc_id}\n" for doc_id in doc_ids), encoding="utf-8")
        _write_manifest(manifest_path, {**manifest, "shards": done})
    texts = (text for _, text in collection.docs())
    with tqdm(total=len(doc_ids), desc="encode document", unit="text", disable=not progress) as bar:
        for shard, start in enumerate(range(0, len(doc_ids), shard_size)):
            shard_texts = list(islice(texts, shard_size))
            text_hash = _hash(shard_texts)
            known = done.get(str(shard))
            if known is None:
                encoded = encode_texts(
                    model, shard_texts, kind="document", batch_tokens=batch_tokens, dtype=dtype, progress=False
                )
                vectors[start : start + len(shard_texts)] = encoded
                vectors.flush()  # the vectors first, then the word that they are there
                done[str(shard)] = text_hash
                _write_manifest(manifest_path, {**manifest, "shards": done})
            elif known != text_hash:
                expected = f"the texts that shard {shard} was made from"
                raise BadStoreError(expected, "other texts of the same ids", _remedy(folder), str(manifest_path))
            bar.update(len(shard_texts))
    return folder


def load_vectors(out_dir: str | os.PathLike[str]) -> tuple[list[str], NDArray[Any]]:
    """Reads a folder of `encode_collection`.

    Returns:
        The doc_ids, and the vectors [num_docs, D] as a read-only memory map.

    Raises:
        BadStoreError: the folder isn't one, or isn't finished.
    """
    folder = Path(out_dir)
    manifest_path = folder / "manifest.json"
    if not manifest_path.is_file():
        raise BadStoreError(
            "a folder of vectors", "no manifest.json", "make one with `rankdistill encode`", str(folder)
        )
    manifest = _read_manifest(manifest_path)
    num_shards = -(-manifest["num_docs"] // manifest["shard_size"])
    if len(manifest["shards"]) != num_shards:
        found = f"{len(manifest['shards'])} of {num_shards} shards"
        raise BadStoreError("finished vectors", found, "run the same `rankdistill encode` again to go on", str(folder))
    doc_ids = (folder / "ids.txt").read_text(encoding="utf-8").split("\n")[:-1]
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    if vectors.shape != (manifest["num_docs"], manifest["dim"]) or _hash(doc_ids) != manifest["doc_ids"]:
        raise BadStoreError("the vectors and ids of the manifest", "others", _remedy(folder), str(folder))
    return doc_ids, vectors


def _resume(manifest_path: Path, wanted: dict[str, Any]) -> dict[str, str]:
    """The finished shards of an interrupted run; BadStoreError unless it was the same job."""
    manifest = _read_manifest(manifest_path)
    for name, value in wanted.items():
        if manifest.get(name) != value:
            expected, found = f"vectors of {name} {value}", f"{manifest.get(name)}"
            raise BadStoreError(expected, found, _remedy(manifest_path.parent), str(manifest_path))
    shards: dict[str, str] = manifest["shards"]
    return shards


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
    except (ValueError, KeyError, TypeError):
        found = "something else"
    if found != _FORMAT:
        raise BadStoreError(f"a manifest of format {_FORMAT}", found, _remedy(path.parent), str(path))
    return manifest


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _remedy(folder: Path) -> str:
    return f"encode into another folder, or delete {folder} first"


def _hash(texts: Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        # The length keeps ["ab", "c"] and ["a", "bc"] apart.
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
