"""MaxSim against its slow twin, and what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rankdistill.models.colbert import Expansion, expand
from rankdistill.models.maxsim import EMPTY_DOC_SCORE, maxsim, maxsim_pairs
from tests.reference import maxsim as twin

sizes = st.integers(1, 4)


def make(seed: int, count: int, length: int, width: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, length, width, generator=generator)
    return states, torch.rand(count, length, generator=generator) < 0.7


def by_hand(query: tuple[Tensor, Tensor], doc: tuple[Tensor, Tensor]) -> Tensor:
    queries, docs = (list(zip(states.tolist(), mask.tolist(), strict=True)) for states, mask in (query, doc))
    return torch.tensor([[twin.maxsim(*left, *right) for right in docs] for left in queries])


@given(st.integers(0, 10_000), sizes, sizes, sizes, sizes, st.sampled_from([1, 7, 40, 10_000]))
def test_it_is_what_the_twin_says_in_parts_of_any_size(
    seed: int, num_queries: int, num_docs: int, query_length: int, doc_length: int, max_elements: int
) -> None:
    query, doc = make(seed, num_queries, query_length), make(seed + 1, num_docs, doc_length)
    expected = by_hand(query, doc)
    torch.testing.assert_close(maxsim(*query, *doc, max_elements=max_elements), expected)
    rows, columns = torch.arange(num_queries).repeat_interleave(num_docs), torch.arange(num_docs).repeat(num_queries)
    pairs = maxsim_pairs(query[0][rows], query[1][rows], doc[0][columns], doc[1][columns])
    torch.testing.assert_close(pairs.view(num_queries, num_docs), expected)


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 3), st.floats(-2, 2))
def test_wider_padding_changes_nothing(seed: int, more_query: int, more_doc: int, fill: float) -> None:
    query, doc = make(seed, 2, 3), make(seed + 1, 3, 4)
    wide = []
    for (states, mask), more in ((query, more_query), (doc, more_doc)):
        padding = torch.full((len(states), more, states.shape[2]), 100 * fill)
        wide.append((torch.cat([states, padding], 1), torch.nn.functional.pad(mask, (0, more))))
    torch.testing.assert_close(maxsim(*wide[0], *wide[1]), maxsim(*query, *doc))


@pytest.mark.parametrize("max_elements", [1, 12, 1 << 20])
def test_its_gradient_is_that_of_the_whole_matrix(max_elements: int) -> None:
    (query, query_mask), (doc, doc_mask) = make(0, 3, 4), make(1, 5, 6)
    doc_mask[2] = False  # an empty document, which has no gradient
    query.requires_grad_()
    doc.requires_grad_()
    weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    sims = torch.einsum("bld,mkd->bmlk", query, doc).masked_fill(~doc_mask[None, :, None], -torch.inf)
    best = torch.where(query_mask[:, None] & doc_mask.any(1)[None, :, None], sims.max(-1).values, 0.0)
    expected = torch.autograd.grad((best.sum(-1) * weights).sum(), [query, doc])
    found = torch.autograd.grad(
        (maxsim(query, query_mask, doc, doc_mask, max_elements=max_elements) * weights).sum(), [query, doc]
    )
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)
    assert not found[1][2].any()


def test_a_padded_token_does_not_win_over_negative_similarities() -> None:
    # Golden: recomputed by hand; PyLate's multiplication by the mask gives 0.0 here.
    query = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]]])
    doc = torch.tensor([[[-1.0, -1.0], [-2.0, -0.5], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert maxsim(query, mask, doc, mask).item() == -2.0
    assert maxsim_pairs(query, mask, doc, mask).item() == -2.0


def test_an_empty_document_is_below_any_other_and_an_empty_query_tells_nothing() -> None:
    query, doc = torch.full((2, 1, 2), -1e6), torch.full((2, 1, 2), 1.0)
    scores = maxsim(query, torch.tensor([[1], [0]]), doc, torch.tensor([[1], [0]]))
    assert scores.tolist() == [[-2e6, EMPTY_DOC_SCORE], [0.0, EMPTY_DOC_SCORE]]


def test_half_precision_states_are_summed_in_fp32() -> None:
    query, doc = make(3, 2, 40, 16), make(4, 3, 30, 16)
    states = query[0].bfloat16(), doc[0].bfloat16()
    expected = maxsim(states[0].float(), query[1], states[1].float(), doc[1])
    with torch.autocast("cpu", torch.bfloat16):
        found = maxsim(states[0], query[1], states[1], doc[1])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from(["fixed", "min", "before-sep", "after-sep"]),
    st.integers(1, 6),
)
def test_masks_go_where_the_twin_puts_them(lengths: list[int], strategy: str, length: int) -> None:
    if strategy == "fixed":
        length = max(length, *lengths, 1)
    rows = [[10 * (row + 1) + at for at in range(size)] for row, size in enumerate(lengths)]
    ids = np.zeros((len(rows), max(lengths)), np.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
    given_ids = torch.from_numpy(ids)
    found, mask = expand(given_ids, (given_ids > 0).long(), Expansion(strategy, length), mask_id=99, pad_id=0)  # type: ignore[arg-type]
    for row, tokens in enumerate(rows):
        expected = twin.expand(tokens, strategy, length, 99)
        assert found[row][mask[row].bool()].tolist() == expected
        assert not found[row][~mask[row].bool()].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("after", 3), 'expected "fixed", "min"'),
        (("min", 0), "expected a positive number of tokens"),
        (("before-sep", 3, False), "before the final .SEP. are attended to"),
    ],
)
def test_expansions_that_make_no_sense(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Expansion(*arguments)  # type: ignore[arg-type]
