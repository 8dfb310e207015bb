"""Plans and batches on small, worked examples; what holds in general is in tests/property."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankdistill.data.batches import BatchPlan, length_grouped, padding_share
from rankdistill.data.tokens import cached_tokens
from rankdistill.formats.collection import open_collection


def test_a_window_is_cut_by_length_and_its_rest_kept_last() -> None:
    rows = np.arange(10, 19)
    lengths = np.array([5, 1, 4, 2, 3, 9, 7, 8, 6])
    batches = length_grouped(rows, lengths, 4, seed=3, epoch=0, window=0)
    assert sorted(batch.tolist() for batch in batches[:2]) == [[10, 16, 17, 15], [11, 13, 14, 12]]
    assert batches[2].tolist() == [18]


def test_the_order_of_batches_in_a_window_changes_with_seed_epoch_and_window() -> None:
    rows = np.arange(64)

    def order(**key: int) -> list[int]:
        return [
            int(batch[0]) for batch in length_grouped(rows, rows, 2, **({"seed": 0, "epoch": 0, "window": 0} | key))
        ]

    assert order() == order()
    assert sorted(order()) == list(range(0, 64, 2))
    assert len({tuple(order(**key)) for key in ({}, {"seed": 1}, {"epoch": 1}, {"window": 1})}) == 4


def test_the_last_batch() -> None:
    def sizes(**options: Any) -> tuple[list[list[int]], int]:
        plans = [BatchPlan(num_rows=23, batch_size=3, world_size=3, rank=rank, **options) for rank in range(3)]
        dropped = {plan.num_dropped_rows for plan in plans}
        return [[len(rows) for rows in plan.steps(0)] for plan in plans], dropped.pop()

    assert sizes() == ([[3, 3, 2], [3, 3, 2], [3, 3, 1]], 0)
    assert sizes(drop_last=True) == ([[3, 3], [3, 3], [3, 3]], 5)
    # Two rows can't be shared by three ranks.
    plan = BatchPlan(num_rows=20, batch_size=3, world_size=3)
    assert (plan.num_steps, plan.num_dropped_rows) == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "expected batch_size of 1 or more, found 0"),
        ({"num_rows": 0}, "expected num_rows of 1 or more, found 0"),
        ({"window_batches": 0}, "expected window_batches of 1 or more"),
        ({"rank": 1}, "expected a rank from 0 to 0, found 1"),
        ({"seed": -1}, "expected a seed of 0 or more, found -1"),
        ({"num_rows": 3, "drop_last": True}, "lower batch_size or leave drop_last off"),
        (
            {"num_rows": 3, "world_size": 4},
            "expected 4 rows or more for a step of 4 processes, found 3; start fewer processes",
        ),
    ],
)
def test_impossible_plans(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchPlan(**({"num_rows": 10, "batch_size": 4} | options))


def test_a_step_beyond_the_epoch_is_an_error() -> None:
    plan = BatchPlan(num_rows=10, batch_size=4)
    for step in (-1, 3):
        with pytest.raises(IndexError, match=f"expected a step from 0 to 2, found {step}"):
            plan.rows(0, step)


def test_a_plan_travels_to_workers() -> None:
    plan = BatchPlan(num_rows=100, batch_size=4, window_batches=5, seed=3)
    plan.rows(0, 7)
    again = pickle.loads(pickle.dumps(plan))
    assert again == plan
    np.testing.assert_array_equal(again.rows(2, 9), plan.rows(2, 9))


def test_grouping_by_length_saves_padding_on_real_text(tmp_path: Path, conala: Path, tiny_tokenizer_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    collection = open_collection(conala)
    store = cached_tokens(collection, "docs", tokenizer, 64, tmp_path, progress=False)
    shares = {}
    for window in (1, 16):
        plan = BatchPlan(num_rows=len(store), batch_size=32, window_batches=window, lengths=store.lengths)
        masks = [store.batch(rows, 0)[1] for rows in plan.steps(0)]
        shares[window] = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)
    assert shares[16] < 0.5 * shares[1]


def test_padding_share() -> None:
    assert padding_share(np.array([[1, 1, 1, 0], [1, 0, 0, 0]])) == 0.5
    assert padding_share(np.zeros((0, 4))) == 0.0
