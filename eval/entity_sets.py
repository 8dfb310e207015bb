"""Published sets of mentions and of questions, as files that `entities disambiguate` and `entities retrieve` read.

    python eval/entity_sets.py [--data FOLDER] [--out runs/entities]

Writes wned-wiki.jsonl.gz and conel.jsonl.gz (mentions in their contexts), ottqa.jsonl.gz (questions with the pages that answer
them), hover-{train,test}.jsonl.gz (claims with the pages that together prove or refute them; no page is in both), hover-titles/ (a
BEIR folder of all titles and the claims of hover-train, to train a dense retriever on), and dbpedia-entity.tsv with
dbpedia-entity.qrels (queries with graded pages).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rankdistill.formats.kilt import KiltOutput, KiltPage, KiltRecord, mention_text, write_kilt
from rankdistill.formats.linked_texts import LinkedText, read_linked_texts
from rankdistill.formats.titles import read_titles
from rankdistill.formats.trec import write_qrels
from rankdistill.generation.pages import page_id
from rankdistill.records import Qrels

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "entities"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=SHARED,
        help="holds wned_wiki/, conel2021/, ottqa_pages/, hover/, titles_union/, dbpedia_entity_v2/",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/entities"))
    arguments = parser.parse_args()
    data, out = arguments.data, arguments.out
    claims, claims_aside = split_by_page(list(hover(data / "hover" / "hover_dev_release_v1.1.json")))
    sets = {
        "wned-wiki": linked_mentions(data / "wned_wiki" / "wned_wiki.el.jsonl.gz"),
        "conel": conel(data / "conel2021" / "ConEL_CNE.json"),
        "ottqa": ottqa(data / "ottqa_pages" / "dev_questions.jsonl"),
        "hover-train": claims,
        "hover-test": claims_aside,
    }
    for name, records in sets.items():
        own = list(records)
        write_kilt(out / f"{name}.jsonl.gz", own)
        print(f"{name}: {len(own):,} records")
    titles = read_titles(data / "titles_union" / "wikipedia_titles.txt.gz").titles
    write_beir(out / "hover-titles", {page_id(title): title for title in titles}, claims)
    queries, qrels = dbpedia_entity(data / "dbpedia_entity_v2")
    lines = "".join(f"{query_id}\t{text}\n" for query_id, text in queries.items())
    (out / "dbpedia-entity.tsv").write_text(lines, encoding="utf-8")
    write_qrels(out / "dbpedia-entity.qrels", qrels)
    print(f"dbpedia-entity: {len(queries):,} queries, {sum(map(len, qrels.values())):,} judgements")


def mention_record(id_: str, left: str, mention: str, right: str, title: str) -> KiltRecord:
    """A mention in its context with the title that it means."""
    meta = {"left_context": left, "mention": mention, "right_context": right}
    return KiltRecord(id_, mention_text(left, mention, right), (KiltOutput(title, (KiltPage(title),)),), meta)


def linked_mentions(path: Path) -> Iterator[KiltRecord]:
    """Every link of a file of linked texts (WNED-WIKI), in its whole text."""
    # WNED-WIKI has a document twice.
    for document, linked in enumerate(read_linked_texts(path)):
        yield from mentions_of(linked, f"{linked.id}-{document}")


def mentions_of(linked: LinkedText, id_: str) -> Iterator[KiltRecord]:
    """A record for each link of a text, in its whole text."""
    for number, link in enumerate(linked.mentions):
        text = linked.text
        parts = text[: link.start], text[link.start : link.end], text[link.end :]
        yield mention_record(f"{id_}-{number}", *parts, link.title)


def conel(path: Path) -> Iterator[KiltRecord]:
    """The annotated mentions of a dialogue's users, where they first stand in their turn; what was said before is to their left."""
    for dialogue in json.loads(path.read_text(encoding="utf-8")):
        before = ""
        for turn in dialogue["turns"]:
            # The system's turns of some dialogues aren't in the file.
            text: str = turn.get("utterance", "")
            for number, own in enumerate(turn.get("el_annotations") or ()):
                start = text.find(own["mention"])
                if start < 0:
                    raise ValueError(f"{path}: expected {own['mention']!r} in its turn, found {text!r}")
                end, title = start + len(own["mention"]), unquote(own["entity"]).replace("_", " ")
                id_ = f"{dialogue['dataset_name']}-{dialogue['dialogue_id']}-{turn['turn_number']}-{number}"
                yield mention_record(id_, f"{before} {text[:start]}", text[start:end], text[end:], title)
            before = f"{before} {text}".strip()


def ottqa(path: Path) -> Iterator[KiltRecord]:
    """OTT-QA's questions; each passage that has the answer supports it alone. (Its table's page isn't asked for.)"""
    for line in path.read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        pages = [title.replace("_", " ") for title in row["gold_passage_titles"]]
        outputs = tuple(KiltOutput(row["answer"], (KiltPage(title),)) for title in dict.fromkeys(pages))
        if outputs:
            yield KiltRecord(row["id"], row["question"], outputs)


def hover(path: Path) -> Iterator[KiltRecord]:
    """HoVer's claims; all pages of a claim are one set."""
    for row in json.loads(path.read_text(encoding="utf-8")):
        titles = dict.fromkeys(title for title, _ in row["supporting_facts"])
        yield KiltRecord(row["uid"], row["claim"], (KiltOutput(row["label"], tuple(map(KiltPage, titles))),))


def split_by_page(claims: list[KiltRecord]) -> tuple[list[KiltRecord], list[KiltRecord]]:
    """Three quarters of the claims, and those of the others that share no page with them (claims come in variants)."""
    aside = [hashlib.sha256(claim.id.encode()).digest()[0] % 4 == 0 for claim in claims]
    train = [claim for claim, is_aside in zip(claims, aside, strict=True) if not is_aside]
    seen = {page.title for claim in train for page in claim.output[0].provenance}
    rest = (claim for claim, is_aside in zip(claims, aside, strict=True) if is_aside)
    return train, [claim for claim in rest if not seen & {page.title for page in claim.output[0].provenance}]


def write_beir(folder: Path, docs: Mapping[str, str], records: list[KiltRecord]) -> None:
    """A BEIR folder of these docs, with the records as queries of its train split: pages that are docs are relevant."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    qrels, queries = ["query-id\tcorpus-id\tscore\n"], list[dict[str, str]]()
    for record in records:
        pages = [page_id(page.title) for page in record.output[0].provenance if page.title]
        qrels += [f"{record.id}\t{page}\t1\n" for page in pages if page in docs]
        queries.append({"_id": record.id, "text": record.input})
    (folder / "qrels" / "train.tsv").write_text("".join(qrels), encoding="utf-8")
    corpus = [{"_id": doc_id, "text": text} for doc_id, text in docs.items()]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def dbpedia_entity(folder: Path) -> tuple[dict[str, str], Qrels]:
    """DBpedia-Entity's queries that have judgements, and those, by page (`page_id`)."""
    qrels: Qrels = {}
    for line in (folder / "qrels-v2.txt").read_text(encoding="utf-8").splitlines():
        query_id, _, entity, relevance = line.split("\t")
        page = page_id(unquote(entity.removeprefix("<dbpedia:").removesuffix(">")))
        qrels.setdefault(query_id, {})[page] = int(relevance)
    lines = (folder / "queries-v2.txt").read_text(encoding="utf-8").splitlines()
    queries = dict(line.split("\t", 1) for line in lines)
    return {query_id: queries[query_id] for query_id in qrels}, qrels


if __name__ == "__main__":
    main()
