"""Token stores: texts are tokenised once; after that a batch is rows -> padded arrays in one call of the Rust core.

Cost: building runs the Hugging Face tokenizer over every text, in parallel; the file takes 2 bytes a token (4 where the
vocabulary is larger than 65,536) and 8 bytes a text.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rankdistill._core import TokenStore, TokenWriter
from rankdistill.errors import BadStoreError
from rankdistill.formats.cache import cache_folder, fingerprint_of
from rankdistill.formats.collection import Collection
from rankdistill.formats.texts import Texts
from rankdistill.formats.tokenizers import backend_of, plain_copy
from rankdistill.formats.writing import locked

__all__ = [
    "TokenStore",
    "build_tokens",
    "cached_tokens",
    "num_special",
    "open_tokens",
    "pair_batch",
    "pair_shape",
    "titles_fingerprint",
    "tokenizer_fingerprint",
]

# Large enough to keep all cores busy, small enough that a killed build loses a second of work.
_CHUNK = 4096


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """32 hex characters that change when vocabulary, normalisation, splitting or special tokens do.

    Raises:
        ValueError: if the tokenizer isn't a fast one.
    """
    settings = json.loads(backend_of(tokenizer).to_str())
    return fingerprint_of(json.dumps(settings | {"truncation": None, "padding": None}, sort_keys=True))


def titles_fingerprint(tokenizer: Any) -> str:
    """As `tokenizer_fingerprint`, of what decides the tokens of a text alone, without special tokens around it.

    So it's the same for mBART with another `src_lang`, and with another `add_bos_token` or `add_eos_token`.

    Raises:
        ValueError: if the tokenizer isn't a fast one.
    """
    settings = json.loads(backend_of(tokenizer).to_str())
    no_part = dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
    return fingerprint_of(json.dumps(settings | no_part, sort_keys=True))


def num_special(tokenizer: Any) -> tuple[int, int]:
    """How many special tokens stand before and after a text."""
    backend = plain_copy(tokenizer)
    own = backend.encode("a b", add_special_tokens=False).ids
    whole = backend.encode("a b").ids
    before = next(at for at in range(len(whole) - len(own) + 1) if whole[at : at + len(own)] == own)
    return before, len(whole) - len(own) - before


def build_tokens(
    texts: Texts | Iterable[tuple[str, str]],
    tokenizer: Any,
    max_length: int,
    path: str | Path,
    *,
    prompt: str = "",
    fingerprint: str | None = None,
    progress: bool = True,
    chunk: int = _CHUNK,
) -> TokenStore:
    """Tokenises texts into a store. A build that was killed goes on where it was; the file is the same as uninterrupted.

    Args:
        texts: (id, text) in the order of the rows; only `Texts` skip what is done without reading it.
        tokenizer: a fast tokenizer of transformers (or a `tokenizers.Tokenizer`).
        max_length: longer texts are truncated as the tokenizer does, on its side; special tokens count.
        path: the store. While it grows it's `PATH.partial`, with `PATH.journal` beside it.
        prompt: put in front of every text ("query: " for E5).
        fingerprint: what names the texts; needed where `texts` isn't a `Texts`.
        chunk: texts between two points from which a killed build can go on.

    Raises:
        ValueError: if the tokenizer isn't a fast one, `max_length` doesn't hold its special tokens, or `fingerprint` is
            needed.
        BadStoreError: if an iterable of texts ends before the point that a former build had reached.
        InUseError: if another process builds it.
    """
    path, backend, side = Path(path), plain_copy(tokenizer), _truncation_side(tokenizer)
    if fingerprint is None:
        if not isinstance(texts, Texts):
            raise ValueError("expected a fingerprint that names the texts, found none; pass fingerprint=")
        fingerprint = texts.fingerprint
    num_prefix, num_suffix = num_special(backend)
    path.parent.mkdir(parents=True, exist_ok=True)
    backend.enable_truncation(max_length, direction=side)
    with locked(path):
        writer = TokenWriter(
            path,
            tokenizer_fingerprint=tokenizer_fingerprint(backend),
            source_fingerprint=_source(fingerprint, prompt, side),
            max_length=max_length,
            num_prefix=num_prefix,
            num_suffix=num_suffix,
            width=2 if max(backend.get_vocab().values()) < 1 << 16 else 4,
            sources=[texts.name] if isinstance(texts, Texts) else (),
        )
        done = len(writer)
        if isinstance(texts, Texts):
            total, rest = len(texts), texts.pairs(done)
        else:
            total, rest = None, iter(texts)
            skipped = sum(1 for _ in itertools.islice(rest, done))
            if skipped < done:
                expected, found = f"at least the {done:,} texts that were tokenised before", f"{skipped:,}"
                raise BadStoreError(expected, found, "remove its .partial and .journal", str(path))
        with tqdm(
            total=total, initial=done, desc=f"tokenise {path.name.split('-')[0]}", unit="text", disable=not progress
        ) as bar:
            while block := [prompt + text for _, text in itertools.islice(rest, chunk)]:
                ids = [encoding.ids for encoding in backend.encode_batch_fast(block)]
                lengths = np.fromiter(map(len, ids), np.uint32, len(ids))
                writer.push(np.fromiter(itertools.chain.from_iterable(ids), np.uint32, int(lengths.sum())), lengths)
                bar.update(len(block))
        writer.finish()
    return TokenStore(path, verify=False)


def _truncation_side(tokenizer: Any) -> str:
    """ "left" or "right": where the tokenizer cuts texts that are too long."""
    return str(getattr(tokenizer, "truncation_side", "right"))


def _source(fingerprint: str, prompt: str, side: str) -> str:
    return fingerprint_of(fingerprint, prompt, *([side] if side == "left" else []))


def open_tokens(
    path: str | Path,
    tokenizer: Any = None,
    max_length: int | None = None,
    texts: Texts | str | None = None,
    *,
    prompt: str = "",
    verify: bool = True,
) -> TokenStore:
    """Opens a store, and checks that it was built by this tokenizer, with this length, from these texts, where given.

    Args:
        texts: the texts, or the fingerprint that names them.
        verify: read the file once and compare its checksum.

    Raises:
        FileNotFoundError: if there's no such file.
        BadStoreError: if the store is torn or was built from something else.
    """
    store = TokenStore(path, verify=verify)
    pairs: list[tuple[str, object, object]] = []
    if tokenizer is not None:
        pairs.append(("tokenizer", tokenizer_fingerprint(tokenizer), store.tokenizer_fingerprint))
    if max_length is not None:
        pairs.append(("max_length", max_length, store.max_length))
    if texts is not None:
        fingerprint = texts.fingerprint if isinstance(texts, Texts) else texts
        source = _source(fingerprint, prompt, _truncation_side(tokenizer))
        pairs.append(("texts (and prompt)", source, store.source_fingerprint))
    for what, wanted, found in pairs:
        if wanted != found:
            remedy = "rebuild it: remove the file, or build_tokens to another path"
            raise BadStoreError(f"a store built with {what} {wanted}", str(found), remedy, str(path))
    return store


def cached_tokens(
    collection: Collection | Texts,
    side: Literal["docs", "queries"],
    tokenizer: Any,
    max_length: int,
    cache_dir: str | Path | None = None,
    *,
    prompt: str = "",
    progress: bool = True,
) -> TokenStore:
    """The token store of one side of a collection; built on first use, with a progress bar, and found again afterwards.

    Processes that ask at once wait for the one that builds. A store that turns out to be torn is built again.
    """
    texts = collection.side(side) if isinstance(collection, Collection) else collection
    source = _source(texts.fingerprint, prompt, _truncation_side(tokenizer))
    name = f"{side}-{max_length}-{tokenizer_fingerprint(tokenizer)[:12]}-{source[:12]}.rdtokens"
    path = Path(cache_dir or cache_folder("tokens")) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, wait=True):
        try:
            return open_tokens(path, tokenizer, max_length, texts, prompt=prompt)
        except (FileNotFoundError, BadStoreError):
            return build_tokens(texts, tokenizer, max_length, path, prompt=prompt, progress=progress)


def pair_shape(tokenizer: Any) -> tuple[list[int], int]:
    """How a tokenizer joins two texts: the special tokens between them, and the token type of the second.

    `([102], 1)` for BERT, `([2, 2], 0)` for RoBERTa.
    """
    backend = plain_copy(tokenizer)
    before, after = num_special(backend)
    left, right = (backend.encode(text, add_special_tokens=False).ids for text in ("a b", "c d"))
    pair = backend.encode("a b", "c d")
    joiner = pair.ids[before + len(left) : len(pair.ids) - after - len(right)]
    return joiner, pair.type_ids[before + len(left) + len(joiner)]


def pair_batch(
    queries: TokenStore,
    query_rows: NDArray[np.int64],
    docs: TokenStore,
    doc_rows: NDArray[np.int64],
    max_length: int,
    pad_id: int,
    *,
    joiner: Sequence[int],
    second_type: int = 1,
    pad_to_multiple_of: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Query and doc in one sequence, as the tokenizer joins and truncates pairs (`longest_first`), for cross-encoders.

    Equal to the tokenizer's own result where the stores hold at least `max_length` tokens of a text; shorter ones cut
    first.

    Args:
        query_rows: B rows of `queries`.
        doc_rows: B rows of `docs`.
        joiner: special tokens between the two, from `pair_shape`.
        second_type: token type of the doc, from `pair_shape`.

    Returns:
        `input_ids`, `attention_mask` and `token_type_ids`, each B x L.

    Raises:
        ValueError: for unknown rows, unequal numbers of them, stores of two tokenizers, or a `max_length` that doesn't
            hold the special tokens.
    """
    return queries.pair_batch(
        query_rows,
        docs,
        doc_rows,
        joiner=list(joiner),
        second_type=second_type,
        max_length=max_length,
        pad_id=pad_id,
        pad_to_multiple_of=pad_to_multiple_of,
    )


def _reopen(path: str) -> TokenStore:
    """What a pickled store becomes; its checksum was compared before."""
    return TokenStore(path, verify=False)
