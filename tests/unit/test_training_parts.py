"""The small parts of training: loss terms, placing rows, checkpoints, folders, dtype."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rankdistill.errors import MissingIdsError
from rankdistill.formats.collection import collection_from_texts
from rankdistill.formats.triples import Triple
from rankdistill.models.precision import fast_dtype
from rankdistill.options.training import LOSS_TERMS, MarginMSEOptions
from rankdistill.training.margin_mse import dot_objective, parse_loss
from rankdistill.training.rows import MemoryRows, place
from rankdistill.training.run import prepare_folder
from rankdistill.training.teacher import rows_of_triples
from rankdistill.training.trainer import last_checkpoint


def test_loss_terms_are_names_with_weights() -> None:
    assert parse_loss(["margin-mse", "infonce:0.5"]) == {"margin-mse": 1.0, "infonce": 0.5}


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (["mse"], 'loss "mse" does not exist: there are margin-mse, '),
        (["kl", "kl:2"], 'loss "kl" is given twice'),
        (["kl:x"], r'expected a positive weight in "kl:x", as in "kl:0.5"'),
        (["kl:-1"], 'expected a positive weight in "kl:-1"'),
        ([], "expected at least one loss term"),
    ],
)
def test_bad_loss_terms_are_explained(terms: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_loss(terms)


class Table(torch.nn.Module):
    """Vectors by id: an encoder whose output is known."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.vectors[ids]

    def forward(self, ids: None, mask: torch.Tensor, *, inputs_embeds: torch.Tensor) -> torch.Tensor:
        return inputs_embeds[:, 0]


def test_every_loss_term_is_computed_from_the_scores_it_speaks_of() -> None:
    from rankdistill import losses

    model = Table(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    ids = torch.arange(8)[:, None]
    columns = torch.tensor([[0, 2], [1, 0]])
    batch = {
        "query_ids": ids[:2],
        "query_mask": torch.ones_like(ids[:2]),
        "doc_ids": ids[2:5],
        "doc_mask": torch.ones_like(ids[2:5]),
        "doc_columns": columns,
        "teacher_scores": torch.tensor([[3.0, 1.0], [0.5, 2.0]]),
        "negatives": torch.tensor([[True, True, False], [True, True, True]]),
        "in_batch_scores": torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]),
    }
    scores = model.vectors[:2] @ model.vectors[2:5].T
    own = scores.gather(1, columns)
    teacher, whole = batch["teacher_scores"], batch["in_batch_scores"]
    expected = {
        "margin-mse": losses.margin_mse(own, teacher),
        "margin-mse-all-pairs": losses.margin_mse_all_pairs(own, teacher),
        "kl": losses.kl_divergence(own, teacher, student_temperature=2.0),
        "in-batch-margin-mse": losses.margin_mse_all_pairs(scores, whole),
        "in-batch-kl": losses.kl_divergence(scores, whole, student_temperature=2.0),
        "infonce": losses.infonce(scores, columns[:, 0], temperature=2.0, mask_BM=batch["negatives"]),
        "ranknet": losses.ranknet(own),
    }
    assert set(expected) == set(LOSS_TERMS)
    terms = dot_objective(dict.fromkeys(LOSS_TERMS, 0.5), temperature=2.0)(model, batch)
    scaled = dot_objective({"margin-mse": 1.0}, teacher_scale=20.0)(model, batch)["margin-mse"]
    torch.testing.assert_close(scaled, losses.margin_mse(own, 20 * teacher))
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], 0.5 * value, msg=name)


DOCS = {"d1": "one", "d2": "two", "d3": "three"}
TRIPLES = [Triple("q1", "d1", "d2"), Triple("q1", "d1", "gone"), Triple("q2", "d3", "d1")]


def test_rows_find_their_texts_in_the_collection() -> None:
    collection = collection_from_texts(DOCS, {"q2": "b", "q1": "a"})
    placed = place(rows_of_triples([TRIPLES[0], TRIPLES[2]]), collection)
    queries, docs, _ = placed.gather(np.array([0, 1]))
    assert [collection.query_ids[int(row)] for row in queries] == ["q1", "q2"]
    assert [[collection.doc_ids[int(row)] for row in pair] for pair in docs] == [["d1", "d2"], ["d3", "d1"]]


def test_ids_that_the_collection_lacks_are_counted_and_named() -> None:
    collection = collection_from_texts(DOCS, {"q1": "a", "q2": "b"})
    rows = rows_of_triples(TRIPLES)
    with pytest.raises(
        MissingIdsError, match=r'found 1 that are not there \(first: "gone"\); pass --on-missing'
    ) as caught:
        place(rows, collection)
    assert caught.value.missing == ("gone",)
    placed = place(rows, collection, on_missing="skip")
    assert placed.num_rows == 2
    queries, _, _ = placed.gather(np.array([0, 1]))
    assert [collection.query_ids[int(row)] for row in queries] == ["q1", "q2"]
    with pytest.raises(MissingIdsError, match="found none; is this the right collection"):
        place(rows, collection_from_texts({"x": "y"}, {"z": "z"}), on_missing="skip")


def options(folder: Path, **more: bool) -> MarginMSEOptions:
    return MarginMSEOptions(scores=("s.tsv",), collection="c", init="m", output_dir=folder, **more)  # type: ignore[arg-type]


def test_an_earlier_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert prepare_folder(options(run)) is None
    (run / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="found a run; pass --resume or --overwrite"):
        prepare_folder(options(run))
    assert prepare_folder(options(run, overwrite=True)) is None
    assert not any(run.iterdir())
    (run / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="found other files"):
        prepare_folder(options(run, overwrite=True))
    assert (run / "thesis.tex").is_file()


def test_a_torn_checkpoint_is_dropped_and_the_last_whole_one_found(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step, state in ((5, json.dumps({})), (10, json.dumps({})), (15, '{"step'), (20, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]


def test_the_fast_dtype_is_one_that_the_machine_was_asked_for() -> None:
    assert fast_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_scores_are_transformed_wherever_rows_are_gathered() -> None:
    collection = collection_from_texts({"a": "x", "b": "y"}, {"q": "z"})
    rows = MemoryRows(["q"], ["a", "b"], np.zeros(3, np.int64), np.array([[0, 1], [1, 0], [0, 1]]))
    plain, transformed = place(rows, collection), place(rows, collection, transform=lambda scores: scores - 3)
    np.testing.assert_array_equal(plain.gather(np.array([0, 2]))[2] - 3, transformed.gather(np.array([0, 2]))[2])
