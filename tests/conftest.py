"""Fixtures that every kind of test shares: the shipped collection, the shared ones, and tiny models made on the spot.

No test reaches a network, so models are random and small; the hub is switched off before anything can import it.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rankdistill.formats.collection import Collection
from hypothesis import settings

# The first example pays for imports and just-in-time work; a deadline would only measure the machine.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models gain nothing from threads, and on a busy machine threads that wait for each other cost 8 ms an operation.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parents[1]
SHARED_RETRIEVAL = REPOSITORY.parent / "shared" / "data" / "retrieval"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the shared collections are skipped where there are none (a clone has none)."""
    if not SHARED_RETRIEVAL.is_dir():
        for item in items:
            if item.get_closest_marker("shared_data"):
                item.add_marker(pytest.mark.skip(reason=f"{SHARED_RETRIEVAL} isn't there"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the GPU are skipped where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def conala() -> Path:
    """The shipped BEIR folder: 2,810 snippets, questions with the splits `train` and `test`."""
    return REPOSITORY / "tests" / "data" / "conala"


@pytest.fixture(scope="session")
def shared_retrieval() -> Path:
    """The folder of the shared collections; only for tests marked `shared_data`."""
    return SHARED_RETRIEVAL


@pytest.fixture(scope="session")
def conala_texts(conala: Path) -> dict[str, dict[str, str]]:
    """`{"docs": {id: text}, "queries": {id: text}}`, read by the plainest means."""
    texts = {}
    for kind, name in (("docs", "corpus"), ("queries", "queries")):
        with gzip.open(conala / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            texts[kind] = {row["_id"]: row["text"] for row in map(json.loads, file)}
    return texts


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory, conala_texts: dict[str, dict[str, str]]) -> Path:
    """A WordPiece tokenizer: every character of conala, and its 1,500 most frequent words."""
    from transformers import BertTokenizerFast

    words: Counter[str] = Counter()
    for texts in conala_texts.values():
        for text in texts.values():
            words.update(re.findall(r"\w+|[^\w\s]", text.lower()))
    characters = sorted({character for word in words for character in word})
    frequent = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0])) if len(word) > 1]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    vocabulary += frequent[:1500]
    folder = tmp_path_factory.mktemp("tiny_tokenizer")
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)}, model_max_length=64)
    tokenizer.save_pretrained(folder)
    return folder


def _save_tiny_bert(folder: Path, tokenizer_dir: Path, cross_encoder: bool = False, num_layers: int = 2) -> Path:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        # The default of .02 gives nearly the same vector for every text.
        initializer_range=0.5,
        num_labels=1 if cross_encoder else 2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = BertForSequenceClassification(config) if cross_encoder else BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A random BERT of 2 layers and width 32, in the plain Hugging Face layout, with its tokenizer."""
    return _save_tiny_bert(tmp_path_factory.mktemp("tiny_bert"), tiny_tokenizer_dir)


@pytest.fixture(scope="session")
def tiny_mlm_dir(tmp_path_factory: pytest.TempPathFactory, tiny_bert_dir: Path) -> Path:
    """The tiny BERT with a random masked-language-model head."""
    import torch
    from transformers import AutoTokenizer, BertForMaskedLM

    folder = tmp_path_factory.mktemp("tiny_mlm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        BertForMaskedLM.from_pretrained(tiny_bert_dir).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert_dir).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_cross_encoder_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A random BertForSequenceClassification with one label, in the plain Hugging Face layout."""
    return _save_tiny_bert(tmp_path_factory.mktemp("tiny_cross_encoder"), tiny_tokenizer_dir, cross_encoder=True)


@pytest.fixture(scope="session")
def tiny_sentence_transformer_dir(tmp_path_factory: pytest.TempPathFactory, tiny_bert_dir: Path) -> Path:
    """The tiny BERT with mean pooling, as sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("tiny_sentence_transformer")
    SentenceTransformer(str(tiny_bert_dir), device="cpu").save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def small_collection(conala: Path, conala_texts: dict[str, dict[str, str]]) -> Collection:
    """200 docs of conala with the 60 test questions whose answers are among them; in memory."""
    from rankdistill.formats.collection import collection_from_texts
    from rankdistill.formats.trec import read_qrels

    qrels = dict(list(read_qrels(conala / "qrels" / "test.tsv").items())[:60])
    relevant = dict.fromkeys(doc_id for judged in qrels.values() for doc_id in judged)
    doc_ids = list(dict.fromkeys([*relevant, *conala_texts["docs"]]))[:200]
    docs = {doc_id: conala_texts["docs"][doc_id] for doc_id in doc_ids}
    queries = {query_id: conala_texts["queries"][query_id] for query_id in qrels}
    return collection_from_texts(docs, queries, qrels)
