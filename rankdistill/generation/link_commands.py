"""`rankdistill entities link`: options in, linked texts out."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import IO, Any

from rankdistill.errors import NothingDoneError
from rankdistill.formats.gz import after_mark, opened, text_lines
from rankdistill.formats.json_lines import BadField, id_of, json_lines
from rankdistill.formats.linked_texts import LinkedText, TextMention, as_row, marked_text
from rankdistill.formats.mentions import MentionTable
from rankdistill.formats.terminal import printable
from rankdistill.formats.titles import names_of, read_titles
from rankdistill.formats.writing import replacing
from rankdistill.generation.link_candidates import Surfaces
from rankdistill.generation.linking import LinkedMention, link_entities
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.seq2seq import load_writer
from rankdistill.options.linking import EntitiesLinkOptions

__all__ = ["run_link"]

# Texts at once: enough to fill batches with windows of like length, few enough that a stream flows.
_TEXTS = 64
# A mention in bold, its title in blue.
_AT_A_TERMINAL = "\033[1m{text}\033[0m \033[34m[{title}]\033[0m"


def run_link(options: EntitiesLinkOptions) -> str:
    """Links the input's texts, writes them, and says what was found (nothing, where they went to standard output)."""
    writer = load_writer(options.model, options.device, options.dtype)
    tokenizer = writer.tokenizer
    trie = TokenTrie.open(options.trie, tokenizer=tokenizer)
    surfaces = None
    if options.mentions is not None:
        surfaces = Surfaces(read_titles(options.mentions).titles, tokenizer)
    names = names_of(options.titles)
    table = None if options.candidates is None else MentionTable.read(options.candidates)

    def candidates(mention: str) -> list[str]:
        assert table is not None
        return table.titles_of(mention, options.num_candidates)

    rest, num_texts, num_mentions = _texts(options), 0, 0
    is_seen = options.output is None and sys.stdout.isatty()
    with ExitStack() as stack:
        out: IO[bytes] = sys.stdout.buffer if options.output is None else stack.enter_context(replacing(options.output))
        at_once = 1 if str(options.input) == "-" and sys.stdin.isatty() else _TEXTS
        while block := list(itertools.islice(rest, at_once)):
            found = link_entities(
                writer.model,
                tokenizer,
                trie,
                [text.text for text in block],
                mentions=surfaces,
                candidates=None if table is None else candidates,
                on_unknown="skip",
                titles=names,
                num_beams=options.num_beams,
                max_gap=options.max_gap,
                bonus=options.bonus,
                max_mention_length=options.max_mention_length,
                window=options.window,
                overlap=options.overlap,
                batch_size=options.batch_size,
                progress=options.output is not None,
            )
            for text, mentions in zip(block, found, strict=True):
                kept = [own for own in mentions if options.min_score is None or own.score >= options.min_score]
                out.write(f"{_shown(text, kept, is_seen)}\n".encode())
                num_mentions += len(kept)
            out.flush()
            num_texts += len(block)
        # Inside, so that no empty output takes its place.
        NothingDoneError.check(num_texts, "text to link", options.input, "check that the input isn't empty")
    return "" if options.output is None else f"{options.output}: {num_mentions:,} mentions in {num_texts:,} texts"


def _shown(text: LinkedText, mentions: Sequence[LinkedMention], is_seen: bool) -> str:
    if is_seen:
        return printable(marked_text(text.text, mentions, _AT_A_TERMINAL), styled=True)
    own = tuple(
        TextMention(each.start, each.end, each.title, {"entity_id": each.entity_id, "score": round(each.score, 4)})
        for each in mentions
    )
    return json.dumps(as_row(LinkedText(text.id, text.text, own, text.more)), ensure_ascii=False)


def _texts(options: EntitiesLinkOptions) -> Iterator[LinkedText]:
    """The input's texts; those without an id are numbered from 0."""
    is_stdin = str(options.input) == "-"
    name = options.input.name.removesuffix(".gz")
    is_jsonl = options.format == "jsonl" or (options.format == "auto" and name.endswith((".jsonl", ".json")))
    if is_jsonl:
        numbers = itertools.count()
        path = "/dev/stdin" if is_stdin else str(options.input)
        yield from json_lines(path, lambda row: _row(row, next(numbers)))
    elif is_stdin:
        yield from _lines(after_mark(sys.stdin.buffer), "standard input")
    else:
        with opened(options.input) as file:
            yield from _lines(file, str(options.input))


def _lines(lines: Iterable[bytes], path: str) -> Iterator[LinkedText]:
    return (LinkedText(str(number - 1), text) for number, text in text_lines(lines, path))


def _row(row: Any, number: int) -> LinkedText:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise BadField('an object with a "text", a string', row)
    more = {key: value for key, value in row.items() if key not in ("id", "text", "mentions")}
    return LinkedText(id_of(row) if "id" in row else str(number), row["text"], (), more)
