"""Target transforms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdistill.data.transforms import EPSILON, logit, score_transform
from rankdistill.errors import BadDataError


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=8))
def test_undoes_a_sigmoid(raw: list[float]) -> None:
    probabilities = 1 / (1 + np.exp(-np.array(raw)))
    np.testing.assert_allclose(logit(probabilities), raw, atol=1e-5)
    # A score file holds float32, whose steps near 1 are 6e-8: at a logit of 9 that is 5e-4.
    np.testing.assert_allclose(logit(probabilities.astype(np.float32)), raw, atol=1e-3)


def test_keeps_the_shape_and_stays_finite() -> None:
    found = logit(np.array([[0.0, 1.0], [0.5, 1e-30]], np.float32))
    assert (found.dtype, found.shape) == (np.float32, (2, 2))
    edge = np.log((1 - EPSILON) / EPSILON)
    np.testing.assert_allclose(found, [[-edge, edge], [0, -edge]], rtol=1e-6)
    assert edge == pytest.approx(16.118, abs=1e-3)


@pytest.mark.parametrize("score", [-0.01, 1.5, float("nan")])
def test_what_no_sigmoid_gives(score: float) -> None:
    with pytest.raises(
        BadDataError, match=rf"expected scores in \[0, 1\], which are sigmoid outputs, found {score:g}; these are"
    ):
        logit(np.array([0.5, score]))


def test_by_name() -> None:
    assert score_transform("none", "margin") is None
    assert score_transform("logit", "ids") is logit
    with pytest.raises(ValueError, match='expected pair scores for the transform "logit", found a file of margins'):
        score_transform("logit", "margin")
    with pytest.raises(ValueError, match='expected a transform of none, logit, found "tanh"'):
        score_transform("tanh", "ids")  # type: ignore[arg-type]
