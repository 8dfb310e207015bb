"""The best documents of a query by the package's tie rule, also at the cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdistill.records import ranked

__all__ = ["top_k"]


def top_k(doc_ids: Sequence[str], rows: NDArray[Any], scores: NDArray[np.float32], k: int) -> dict[str, float]:
    """doc_id -> score of the k best, in `records.ranked`'s order, which decides about ties at the cut, too.

    Args:
        doc_ids: the id of each row.
        rows: R documents.
        scores: theirs, [R].
        k: how many; fewer if there are fewer.
    """
    if len(rows) > k:
        best = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
        rows, scores = rows[best], scores[best]
    found = zip(rows.tolist(), scores.tolist(), strict=True)
    return dict(ranked({doc_ids[row]: score for row, score in found}, k))
