"""Linked paragraphs as files to train and test `train genre` on, and pages to find by what their text says.

Paragraphs of a page all go to one side: 90 % of the pages train, 5 % are for choosing, 5 % for testing (by a hash of the page's
title, so that every machine cuts alike). A mention is read in its paragraph. Names are as the links have them.

    python eval/linked_text.py [--data FOLDER] [--pages 8000] [--out runs/entities]

Writes mentions-{train,dev,test}.jsonl.gz, a KILT record for each mention; linked-{train,dev,test}.jsonl.gz, the paragraphs with all
their links (those of MAX_WORDS words or less); and pages-train.jsonl.gz: beginnings of Wikipedia pages without their own title,
which is to be written.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from entity_sets import SHARED, mentions_of

from rankdistill.formats.kilt import KiltOutput, KiltPage, KiltRecord, write_kilt
from rankdistill.formats.linked_texts import LinkedText, read_linked_texts, write_linked_texts

SPLITS = ("train", "dev", "test")
MAX_WORDS = 40
PAGE_WORDS = 32  # of a page's beginning: about as long as a question with its context


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="holds wtq_wikipedia_links/ and ottqa_pages/")
    parser.add_argument("--pages", type=int, default=8000, help="beginnings of pages to train on")
    parser.add_argument("--out", type=Path, default=Path("runs/entities"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    records: dict[str, list[KiltRecord]] = {split: [] for split in SPLITS}
    linked: dict[str, list[LinkedText]] = {split: [] for split in SPLITS}
    pages: dict[str, set[str]] = {split: set() for split in SPLITS}
    for paragraph in read_linked_texts(arguments.data / "wtq_wikipedia_links" / "paragraphs.jsonl.gz"):
        page = paragraph.more["page"]
        split = split_of(page)
        pages[split].add(page)
        if len(paragraph.text.split()) <= MAX_WORDS:
            linked[split].append(paragraph)
        records[split] += [
            replace(own, meta={**own.meta, "page": page}) for own in mentions_of(paragraph, paragraph.id)
        ]
    for split in SPLITS:
        write_kilt(arguments.out / f"mentions-{split}.jsonl.gz", records[split])
        write_linked_texts(arguments.out / f"linked-{split}.jsonl.gz", linked[split])
        titles = Counter(record.output[0].provenance[0].title for record in records[split])
        print(f"{split}: {len(pages[split]):,} pages, {len(records[split]):,} mentions of {len(titles):,} titles")
        print(
            f"{split}: {len(linked[split]):,} whole paragraphs, {sum(len(own.mentions) for own in linked[split]):,} links"
        )
    found = [record for page in lines(arguments.data / "ottqa_pages" / "pages.jsonl.gz") if (record := beginning(page))]
    chosen = random.Random(0).sample(found, min(arguments.pages, len(found)))
    write_kilt(arguments.out / "pages-train.jsonl.gz", chosen)
    print(f"pages: {len(chosen):,} of {len(found):,}")


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a gzipped JSON lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def split_of(page: str) -> str:
    """Of a page's title."""
    hundredth = int.from_bytes(hashlib.sha256(page.encode()).digest()[:8], "big") % 100
    return "train" if hundredth < 90 else "dev" if hundredth < 95 else "test"


def beginning(page: dict[str, Any]) -> KiltRecord | None:
    """A page's first words but for its title's own; None where hardly any are left."""
    title = page["title"].replace("_", " ")
    own = set(re.findall(r"\w+", title.lower()))
    words = [word for word in page["text"].split() if word.lower() not in own][:PAGE_WORDS]
    if len(words) < PAGE_WORDS // 2:
        return None
    output = (KiltOutput(answer=title, provenance=(KiltPage(title=title),)),)
    return KiltRecord(id=f"page-{title}", input=" ".join(words), output=output)


if __name__ == "__main__":
    main()
