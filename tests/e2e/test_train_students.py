"""Students that score pairs, trained as a user trains them: the loss falls, what is written loads and re-ranks."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

import rankdistill
from rankdistill.formats.collection import open_collection
from rankdistill.models.tk import TKModel
from rankdistill.options.students import PrettOptions, TKOptions
from rankdistill.options.training import MarginMSEOptions
from rankdistill.training.margin_mse import train_margin_mse
from tests.commandline import command
from tests.e2e.test_train import history

NUM_ROWS = 96


@pytest.fixture(scope="module")
def learnable_scores(tmp_path_factory: pytest.TempPathFactory, conala: Path) -> Path:
    """96 triples of conala whose scores a student can find out: a third of the doc's words, at most 5."""
    collection = open_collection(conala)
    random = np.random.default_rng(4)
    lines = []
    for query_id, judged in list(collection.qrels("train").items())[:NUM_ROWS]:
        docs = [next(iter(judged)), collection.doc_ids[int(random.integers(collection.num_docs))]]
        scores = [min(5, len(text.split()) / 3) for text in collection.doc_texts(docs)]
        lines.append("\t".join([*(f"{score:.4f}" for score in scores), query_id, *docs]) + "\n")
    path = tmp_path_factory.mktemp("scores") / "scores.tsv"
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def untrained_bert_dir(tmp_path_factory: pytest.TempPathFactory, tiny_bert_dir: Path) -> Path:
    """The tiny BERT with weights as small as training wants them at its start."""
    config = AutoConfig.from_pretrained(tiny_bert_dir)
    config.initializer_range = 0.02
    folder = tmp_path_factory.mktemp("untrained_bert")
    torch.manual_seed(7)
    AutoModel.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert_dir).save_pretrained(folder)
    return folder


def options(scores: Path, conala: Path, output_dir: Path, **more: Any) -> MarginMSEOptions:
    settings: dict[str, Any] = {
        "scores": (str(scores),),
        "collection": str(conala),
        "output_dir": output_dir,
        "batch_size": 8,
        "loss": ("margin-mse",),
        "query_max_length": 16,
        "doc_max_length": 40,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "num_epochs": 6,
        "device": "cpu",
        "dtype": "float32",
        "window_batches": 2,
    }
    return MarginMSEOptions(**(settings | more))


@pytest.mark.parametrize(
    ("student", "more"),
    [
        ("cross-encoder", {"num_layers": 1, "learning_rate": 4e-3}),
        ("prett", {"prett": PrettOptions(join_layer=1, compress_dim=16)}),
        ("tk", {"tk": TKOptions(num_heads=2, num_layers=1, feed_forward=16), "learning_rate": 5e-3}),
        (
            "tk",
            {
                "tk": TKOptions(num_heads=2, num_layers=1, feed_forward=16, aggregation="log+length"),
                "learning_rate": 1e-2,
            },
        ),
    ],
)
def test_a_student_learns_is_validated_and_re_ranks(
    tmp_path: Path, learnable_scores: Path, conala: Path, untrained_bert_dir: Path, student: str, more: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    more |= {"dev_split": "test", "dev_queries": 5, "dev_depth": 5, "dev_mode": "rerank", "eval_steps": 36}
    train_margin_mse(
        options(learnable_scores, conala, run, student=student, init=str(untrained_bert_dir), metric="RR@10", **more)
    )
    losses = [entry["loss"] for entry in history(run)]
    assert len(losses) == 72
    assert np.mean(losses[-12:]) < 0.7 * np.mean(losses[:12])
    metrics = json.loads((run / "metrics.json").read_text())
    assert [entry["step"] for entry in metrics["log"] if "eval_RR@10" in entry] == [36, 72]
    assert metrics["summary"]["best_step"] in (36, 72)
    config = json.loads((run / "config.json").read_text())["options"]
    assert config["student"] == student
    model = rankdistill.load(run / "model", device="cpu")
    assert model.architecture == student
    if "num_layers" in more:
        assert model.config.num_hidden_layers == more["num_layers"]
    collection = open_collection(conala)
    query_id, doc_ids = next(iter(collection.query_ids)), list(collection.doc_ids)[:4]
    found = rankdistill.rerank(model, collection, {query_id: dict.fromkeys(doc_ids, 0.0)}, progress=False)
    assert set(found[query_id]) == set(doc_ids)
    assert len(set(found[query_id].values())) > 1


def test_a_model_card_says_how_each_student_is_loaded(tiny_bert_dir: Path, conala: Path, tmp_path: Path) -> None:
    from rankdistill.training.run import model_card
    from rankdistill.training.students import new_student

    loads = {
        "dot": ("sentence-transformers", "sentence-similarity", "model = SentenceTransformer(PATH)", "dot product"),
        "cross-encoder": ("sentence-transformers", "text-ranking", "model = CrossEncoder(PATH)", "raw logits"),
        "prett": (
            "rankdistill",
            "text-ranking",
            "model = rankdistill.load(PATH)",
            "linear function of the first token",
        ),
        "tk": ("rankdistill", "text-ranking", "model = rankdistill.load(PATH)", "weighted kernel counts"),
    }
    for student, (library, task, load, scores) in loads.items():
        tk = TKOptions(num_heads=2)
        how = options(tmp_path, conala, tmp_path, student=student, init=str(tiny_bert_dir), tk=tk)
        card = model_card(new_student(how), how, {"score_rows": 7})
        assert card.startswith(f"---\nlibrary_name: {library}\npipeline_tag: {task}\n")
        assert f"```python\n{'from' if library != 'rankdistill' else 'import'} " in card
        assert load in card
        assert scores in card
        assert "| score rows | 7 |" in card


@pytest.mark.parametrize("student", ["cross-encoder", "prett", "tk"])
@pytest.mark.parametrize("term", ["infonce", "in-batch-margin-mse", "in-batch-kl"])
def test_in_batch_terms_need_a_student_with_in_batch_scores(
    tmp_path: Path, conala: Path, student: str, term: str
) -> None:
    more = {} if term == "infonce" else {"in_batch_teacher": "unread"}
    how = options(tmp_path, conala, tmp_path / "run", student=student, loss=("margin-mse", term), init="unread", **more)
    message = (
        f"loss {term} needs scores of every query with every doc .* a {student} student scores each row's own docs"
    )
    with pytest.raises(ValueError, match=message):
        train_margin_mse(how)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("student", ["cross-encoder", "prett", "tk"])
def test_students_that_cannot_search_are_validated_by_re_ranking(tmp_path: Path, conala: Path, student: str) -> None:
    how = options(tmp_path, conala, tmp_path / "run", student=student, init="unread", dev_split="test")
    with pytest.raises(ValueError, match=f"a {student} student is validated by --dev-mode rerank"):
        train_margin_mse(how)


def word_table(path: Path, conala: Path, width: int = 16) -> dict[str, list[float]]:
    """Random vectors of the 400 most frequent words of conala, written as GloVe writes them."""
    from rankdistill.models.words import distinct_words

    words = distinct_words(text for _, text in open_collection(conala).docs())[:400]
    vectors = np.random.default_rng(8).normal(size=(len(words), width)).round(4)
    path.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in zip(words, vectors, strict=True)))
    return dict(zip(words, vectors.tolist(), strict=True))


def test_a_killed_run_of_a_tk_student_is_resumed_to_the_last_bit(
    tmp_path: Path, learnable_scores: Path, conala: Path
) -> None:
    table = tmp_path / "table.txt"
    word_table(table, conala)
    how = TKOptions(embeddings=str(table), num_heads=2, num_layers=1, feed_forward=16, embedding_lr_factor=0.5)
    more = {"student": "tk", "tk": how, "num_epochs": 4, "save_steps": 7}
    train_margin_mse(options(learnable_scores, conala, tmp_path / "whole", **more))
    killed = options(learnable_scores, conala, tmp_path / "killed", resume=True, **more)
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = tmp_path / "killed" / "checkpoints" / "checkpoint-14" / "trainer_state.json"
    while process.poll() is None and not state.is_file():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    finished = train_margin_mse(killed)
    whole, resumed = (load_file(path / "model.safetensors") for path in (tmp_path / "whole" / "model", finished))
    assert whole.keys() == resumed.keys()
    for name, weights in whole.items():
        np.testing.assert_array_equal(resumed[name], weights, err_msg=name)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert len(history(tmp_path / "whole")) == 48


def test_embeddings_stay_as_they_are_if_their_factor_is_0(tmp_path: Path, learnable_scores: Path, conala: Path) -> None:
    table = tmp_path / "table.txt"
    vectors = word_table(table, conala)
    how = TKOptions(embeddings=str(table), num_heads=2, num_layers=1, feed_forward=16, embedding_lr_factor=0)
    run = tmp_path / "run"
    folder = train_margin_mse(options(learnable_scores, conala, run, student="tk", tk=how, max_steps=3))
    model = TKModel.from_pretrained(folder, device="cpu")
    ids = model.tokenizer.convert_tokens_to_ids(list(vectors))
    np.testing.assert_array_equal(
        model.body.embeddings.weight.detach().numpy()[ids], np.array(list(vectors.values()), np.float32)
    )
    assert model.body.mix.item() != 0.5
    config = json.loads((run / "config.json").read_text())
    assert config["words_of_the_collection"] - config["words_without_a_vector"] == 400
    assert f"| words without a vector | {config['words_without_a_vector']} |" in (folder / "README.md").read_text()
