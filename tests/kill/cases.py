"""The commands that write, on tiny inputs, and what loads their results."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from tests.kill.harness import Case

NOUNS, VERBS = ["cat", "dog", "bird", "house", "tree", "river", "stone"], ["runs", "sleeps", "eats", "sees", "finds"]
WORDS = [*NOUNS, *VERBS, "red", "green", "blue", "old", "young", "big", "small", "quick"]
TITLES = [f"{noun} {verb}" for noun in NOUNS for verb in VERBS]
NUM_DOCS, NUM_QUERIES = 40, 12


def make_collection(folder: Path) -> None:
    """A BEIR folder, triples, score files of every layout, a run, titles and linked texts. No model is needed."""
    draw = random.Random(5)
    text = lambda: " ".join(draw.choices(WORDS, k=8))  # noqa: E731
    collection = folder / "collection"
    (collection / "qrels").mkdir(parents=True)
    lines = {
        "corpus.jsonl": [json.dumps({"_id": f"d{i}", "title": "", "text": text()}) for i in range(NUM_DOCS)],
        "queries.jsonl": [json.dumps({"_id": f"q{i}", "text": text()}) for i in range(NUM_QUERIES)],
        "qrels/train.tsv": ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(NUM_QUERIES))],
    }
    lines["qrels/test.tsv"] = lines["qrels/train.tsv"]
    for name, content in lines.items():
        (collection / name).write_text("\n".join(content) + "\n")
    triples = [
        (f"q{i % NUM_QUERIES}", f"d{i % NUM_QUERIES}", f"d{draw.randrange(NUM_QUERIES, NUM_DOCS)}") for i in range(48)
    ]
    score = lambda: f"{draw.uniform(-5, 5):.3f}"  # noqa: E731
    for name in ("scores", "others"):
        rows = [f"{score()}\t{score()}\t{query}\t{good}\t{bad}\n" for query, good, bad in triples]
        (folder / f"{name}.tsv").write_text("".join(rows))
    (folder / "triples.tsv").write_text("".join("\t".join(triple) + "\n" for triple in triples))
    ranked = [f"q{i} Q0 d{j} {j + 1} {10 - j} x\n" for i in range(NUM_QUERIES) for j in range(6)]
    (folder / "bm25.run").write_text("".join(ranked))
    (folder / "titles.txt").write_text("\n".join(TITLES) + "\n")
    (folder / "fewer.txt").write_text("\n".join(TITLES[::2]) + "\n")
    linked = {
        "id": "1",
        "text": "cat runs by the dog sleeps",
        "mentions": [{"start": 0, "end": 3, "title": "cat runs"}],
    }
    (folder / "linked.jsonl").write_text(json.dumps(linked) + "\n")
    (folder / "texts.txt").write_text("the cat runs\nthe dog sleeps\n")
    mentions = [{"id": f"m{i}", "input": "x", "output": [{"answer": title, "provenance": [{"title": title}]}],
                 "meta": {"left_context": "the", "mention": title.split()[0], "right_context": "there"}}
                for i, title in enumerate(TITLES[:8])]  # fmt: skip
    (folder / "mentions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in mentions))
    (folder / "table.tsv").write_text("".join(f"{title.split()[0]}\t{title}\t2\n" for title in TITLES))
    for number in range(2):
        (folder / f"repositories/r{number}").mkdir(parents=True)
        functions = "\n\n\n".join(f"def f{i}():\n    {text()}" for i in range(12))
        (folder / f"repositories/r{number}/m.py").write_text(functions)


def make_models(folder: Path) -> None:
    """Tiny random models of each kind, and what is made with them."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
        BertModel,
        BertTokenizerFast,
    )

    from rankdistill.cli import app

    torch.manual_seed(3)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "{", "}", "[", "]", "the", "x", "by", "there", *WORDS]
    vocabulary += ["[START_ENT]", "[END_ENT]", "def", "(", ")", ":", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary = list(dict.fromkeys(vocabulary))
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)}, model_max_length=64)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    sizes |= {"vocab_size": len(vocabulary), "max_position_embeddings": 64}
    kinds: dict[str, Any] = {
        "bert": BertModel,
        "other": BertModel,
        "mlm": BertForMaskedLM,
        "cross": BertForSequenceClassification,
    }
    for name, kind in kinds.items():
        kind(BertConfig(**sizes, num_labels=1)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    SentenceTransformer(str(folder / "bert"), device="cpu").save_pretrained(str(folder / "dot"))
    specials = {
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "decoder_start_token_id": 3,
        "forced_eos_token_id": None,
    }
    layers = {f"{side}_{what}": count for side in ("encoder", "decoder")
              for what, count in (("layers", 1), ("ffn_dim", 16), ("attention_heads", 2))}  # fmt: skip
    bart = BartConfig(vocab_size=len(vocabulary), d_model=16, max_position_embeddings=64, **specials, **layers)
    BartForConditionalGeneration(bart).save_pretrained(folder / "bart")
    tokenizer.save_pretrained(folder / "bart")

    def run(words: str) -> None:
        app(words.format(i=folder).split(), result_action="return_value")

    run("trie build {i}/titles.txt --tokenizer {i}/bart -o {i}/titles.rdtrie")
    for student in ("splade", "colbert", "multi-exit"):
        run(
            f"{_STUDENT} --student {student} --output-dir {{i}}/{student}-run --max-steps 1 "
            + ("--multi-exit.exits 1 2" if student == "multi-exit" else "")
        )
        shutil.move(folder / f"{student}-run" / "model", folder / student)
    for model in ("dot", "other", "splade", "colbert"):
        run(f"encode --model {{i}}/{model} --collection {{i}}/collection -o {{i}}/{model}-vectors --device cpu")
    run("index --vectors {i}/dot-vectors -o {i}/dot-index")


_STUDENT = (
    "train margin-mse --init {i}/mlm --scores {i}/scores.tsv --collection {i}/collection --batch-size 8 --device cpu "
    "--dtype float32 --query-max-length 16 --doc-max-length 24"
)
# A rate that doesn't fall to 0, so that one step too many is seen.
_SAVES = " --lr-scheduler constant_with_warmup --max-steps 4 --save-steps 2 --output-dir {o}/run"
_ON_CPU = " --collection {i}/collection --device cpu"


def _model(path: Path) -> object:
    from rankdistill.models.loading import load_model

    return load_model(path, device="cpu")


def _seq2seq(path: Path) -> object:
    from rankdistill.models.seq2seq import Seq2SeqModel

    return Seq2SeqModel.from_pretrained(path, device="cpu")


def _mlm(path: Path) -> object:
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def _index(path: Path) -> object:
    from rankdistill.retrieval.index import load_index

    return load_index(path)


def _vectors(path: Path) -> object:
    from rankdistill.retrieval.index import index_of
    from rankdistill.retrieval.precompute import load_precomputed

    return index_of(load_precomputed(path), device="cpu")


def _store(path: Path) -> object:
    from rankdistill.data.scores import ScoreStore

    return ScoreStore(path).gather([0])


def _scores(path: Path) -> object:
    from rankdistill.formats.scores import read_scores

    return list(read_scores(path))


def _trie(path: Path) -> object:
    from rankdistill.generation.trie import TokenTrie

    TokenTrie.open(path).verify()
    return None


def _run(path: Path) -> object:
    from rankdistill.formats.trec import read_run

    return read_run(path)


def _triples(path: Path) -> object:
    from rankdistill.formats.triples import read_triples

    return read_triples(path)


def _collection(path: Path) -> object:
    from rankdistill.formats.collection import open_collection

    collection = open_collection(path)
    return list(collection.docs()), list(collection.queries()), collection.qrels("train")


def _bytes(path: Path) -> object:
    """Text without a layout of its own: every beginning of it loads."""
    return path.read_bytes()


def _score(teacher: str) -> str:
    return f"score --teacher {teacher} --triples {{i}}/triples.tsv -o {{o}}/x.tsv --chunk-pairs 16" + _ON_CPU


_CONVERT = "scores convert {i}/scores.tsv --to"
_DECODE = "--trie {i}/titles.rdtrie --device cpu --num-beams 2"
# Without a model: these run in the suite.
CHEAP = (
    Case("scores compile", "scores compile {i}/scores.tsv -o {o}/x.rdscores", "x.rdscores", _store,
         "scores compile {i}/others.tsv -o {o}/x.rdscores"),
    Case("scores merge", "scores merge {i}/scores.tsv {i}/others.tsv -o {o}/x.tsv.gz", "x.tsv.gz", _scores,
         "scores merge {i}/others.tsv -o {o}/x.tsv.gz"),
    Case("scores clean", "scores clean {i}/scores.tsv --clip -1 1 -o {o}/x.tsv", "x.tsv", _scores,
         "scores clean {i}/others.tsv --clip -1 1 -o {o}/x.tsv"),
    Case("scores convert, nway", _CONVERT + " nway -o {o}/x.jsonl.zst", "x.jsonl.zst", _scores,
         "scores convert {i}/others.tsv --to nway -o {o}/x.jsonl.zst"),
)  # fmt: skip
CASES = (
    *CHEAP,
    Case("scores convert, hard-negatives", _CONVERT + " hard-negatives -o {o}/x.jsonl", "x.jsonl", _bytes),
    Case("scores convert, pylate", _CONVERT + " pylate --num-docs 3 -o {o}/x.parquet", "x.parquet", _bytes),
    Case("triples", "triples --collection {i}/collection -o {o}/x.tsv.gz --depth 8", "x.tsv.gz", _triples,
         "triples --collection {i}/collection -o {o}/x.tsv.gz --depth 8 --seed 1"),
    Case("join", "join a={i}/collection b={i}/collection -o {o}/x", "x", _collection),
    Case("score, BM25", "score --teacher bm25 --candidates {i}/bm25.run --depth 4 -o {o}/x.jsonl" + _ON_CPU, "x.jsonl", _scores),
    Case("score, bi-encoder", _score("{i}/dot"), "x.tsv", _scores),
    Case("score, cross-encoder", _score("{i}/cross"), "x.tsv", _scores),
    *(Case(f"encode, {name}", f"encode --model {{i}}/{name} -o {{o}}/x --shard-size 16" + _ON_CPU, "x", _vectors)
      for name in ("dot", "splade", "colbert")),
    Case("index, vectors", "index --vectors {i}/dot-vectors -o {o}/x", "x", _index,
         "index --vectors {i}/other-vectors -o {o}/x"),
    Case("index, terms", "index --vectors {i}/splade-vectors -o {o}/x", "x", _index,
         "index --vectors {i}/other-vectors -o {o}/x"),
    Case("index, tokens", "index --vectors {i}/colbert-vectors -o {o}/x --centroids 4", "x", _index,
         "index --vectors {i}/colbert-vectors -o {o}/x --centroids 2"),
    Case("search", "search --model {i}/dot --index {i}/dot-index --k 5 --latency-queries 0 -o {o}/x.run.gz" + _ON_CPU,
         "x.run.gz", _run, "search --model bm25 --collection {i}/collection --k 5 -o {o}/x.run.gz"),
    Case("rerank", "rerank --model {i}/cross --run {i}/bm25.run --depth 4 --latency-queries 0 -o {o}/x.run" + _ON_CPU,
         "x.run", _run, "search --model bm25 --collection {i}/collection --k 5 -o {o}/x.run"),
    Case("truncate", "truncate --model {i}/multi-exit --exit 1 -o {o}/x", "x", _model),
    *(Case(f"train margin-mse, {student}", f"{_STUDENT}{_SAVES} --student {student}", "run/model", _model, more="--resume")
      for student in ("dot", "colbert", "splade", "multi-exit", "cross-encoder")),
    Case("train teacher", "train teacher --init {i}/bert --batch-size 4 --max-length 40 --negative-depth 8 --dtype float32"
         + _ON_CPU + _SAVES, "run/model", _model, more="--resume"),
    Case("train genre", "train genre --init {i}/bart --files {i}/mentions.jsonl --batch-size 4 --device cpu --dtype float32"
         + _SAVES, "run/model", _seq2seq, more="--resume"),
    Case("train pretrain", "train pretrain --init {i}/mlm --corpus {i}/repositories --batch-size 4 --max-length 32 "
         "--min-tokens 4 --device cpu --dtype float32" + _SAVES, "run/model", _mlm, more="--resume"),
    Case("trie build", "trie build {i}/titles.txt --tokenizer {i}/bart -o {o}/x.rdtrie", "x.rdtrie", _trie,
         "trie build {i}/fewer.txt --tokenizer {i}/bart -o {o}/x.rdtrie"),
    Case("entities mentions", "entities mentions {i}/linked.jsonl {i}/table.tsv -o {o}/x.tsv.gz", "x.tsv.gz", _bytes,
         "entities mentions {i}/table.tsv -o {o}/x.tsv.gz"),
    Case("entities disambiguate", "entities disambiguate {i}/bart --files {i}/mentions.jsonl -o {o}/x.jsonl " + _DECODE,
         "x.jsonl", _bytes),
    Case("entities retrieve", "entities retrieve {i}/bart --queries {i}/collection/queries.jsonl -o {o}/x.run " + _DECODE,
         "x.run", _run),
    Case("entities link", "entities link {i}/bart --input {i}/texts.txt -o {o}/x.jsonl " + _DECODE, "x.jsonl", _bytes),
    Case("evaluate", "evaluate --runs {i}/bm25.run --collection {i}/collection --per-query {o}/x.tsv --json {o}/x.json",
         "x.json", _bytes),
)  # fmt: skip
