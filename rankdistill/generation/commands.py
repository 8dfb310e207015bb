"""`rankdistill trie build`, `info` and `query`: options in, a page out."""

from __future__ import annotations

import json
import time
from typing import Any

from rankdistill.formats.titles import read_titles
from rankdistill.generation.trie import TokenTrie
from rankdistill.options.trie import TrieBuildOptions, TrieInfoOptions, TrieQueryOptions

__all__ = ["run_build", "run_info", "run_query"]


def _load_tokenizer(name: str) -> Any:
    from rankdistill.models.backbone import load_tokenizer

    return load_tokenizer(name)


def run_build(options: TrieBuildOptions) -> str:
    """Builds a trie of a file of titles, and says what came of it."""
    titles, ids = read_titles(options.titles)
    tokenizer = _load_tokenizer(options.tokenizer)
    start = time.perf_counter()
    trie = TokenTrie.from_titles(
        titles,
        tokenizer,
        ids=ids,
        vocab_size=options.vocab_size,
        max_length=options.max_length,
        on_duplicate=options.on_duplicate,
        source=str(options.titles),
    )
    trie.save(options.output)
    seconds = time.perf_counter() - start
    shared = trie.num_entities - trie.num_sequences
    return (
        f"{options.output}: {trie.num_entities:,} entities, {trie.num_nodes:,} nodes, at most {trie.max_depth} tokens, "
        f"{options.output.stat().st_size / 1e6:,.1f} MB, in {seconds:.1f} s"
        + (f"; entities that share the tokens of another: {shared:,}" if shared else "")
    )


def run_info(options: TrieInfoOptions) -> str:
    """What a trie holds, as a page or as JSON."""
    trie = TokenTrie.open(options.file, verify=options.verify)
    size = options.file.stat().st_size
    facts = {
        "file": str(options.file),
        "bytes": size,
        "bytes_per_entity": round(size / max(trie.num_entities, 1), 2),
        "num_entities": trie.num_entities,
        "num_sequences": trie.num_sequences,
        "num_nodes": trie.num_nodes,
        "max_depth": trie.max_depth,
        "vocab_size": trie.vocab_size,
        "eos": trie.eos,
        "pad": trie.pad,
        "tokenizer_fingerprint": trie.tokenizer_fingerprint,
        "verified": options.verify,
    }
    if options.json:
        return json.dumps(facts, indent=2)
    return "\n".join(
        f"{name.replace('_', ' '):22} {f'{value:,}' if type(value) is int else value}" for name, value in facts.items()
    )


def run_query(options: TrieQueryOptions) -> str:
    """What may follow a prefix, and the first titles that begin so.

    Raises:
        ValueError: if no title begins so, or the prefix isn't one of token ids and there's no tokenizer.
    """
    tokenizer = None if options.tokenizer is None else _load_tokenizer(options.tokenizer)
    trie = TokenTrie.open(options.file, tokenizer=tokenizer)
    prefix = _tokens_of(options.prefix, tokenizer)
    found = trie.sequences(prefix, options.k)
    if not found:
        raise ValueError(f"expected the beginning of a title, found {options.prefix!r} (tokens {prefix})")
    allowed = trie.allow([prefix] if prefix else [[trie.eos]], start=0 if prefix else 1).ids.tolist()

    def shown(tokens: list[int]) -> str:
        return " ".join(map(str, tokens)) if tokenizer is None else repr(tokenizer.decode(tokens))

    names = [str(token) if tokenizer is None else tokenizer.convert_ids_to_tokens(token) for token in allowed]
    rest = ", ..." if len(names) > options.k else ""
    lines = [f"prefix: {prefix}", f"next tokens: {len(names):,}: {', '.join(names[: options.k])}{rest}"]
    lines += [f"  {', '.join(map(str, ids))}\t{shown(sequence[:-1])}" for sequence, ids in found]
    return "\n".join(lines)


def _tokens_of(prefix: str, tokenizer: Any) -> list[int]:
    if tokenizer is not None:
        return [int(token) for token in tokenizer(prefix, add_special_tokens=False)["input_ids"]]
    if not all(token.isascii() and token.isdigit() for token in prefix.split()):
        raise ValueError(
            f"expected token ids with spaces between, found {prefix!r}; pass --tokenizer MODEL to write text"
        )
    return [int(token) for token in prefix.split()]
