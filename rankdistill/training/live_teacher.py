"""A second teacher that reads a batch's texts as they come, since its states of a whole collection would fill a disk."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rankdistill.data.tokens import TokenStore, cached_tokens
from rankdistill.errors import WrongModelError
from rankdistill.formats.collection import Collection
from rankdistill.models.loading import Model
from rankdistill.models.towers import Tower

__all__ = ["LiveTeacher"]


class LiveTeacher:
    """Scores all queries of a batch with all its docs, by a model that compares what both become: ColBERT, say.

    Args:
        model: the teacher; runs where it is, in float32, so that a resumed run hears the same.
        queries: the collection's queries in the teacher's tokens.
        docs: its docs.
        scale: multiplies the scores.

    Source:
        The dual supervision of TAS-Balanced, Hofstätter et al. 2021, arXiv:2104.06967.
    """

    def __init__(self, model: Tower, queries: TokenStore, docs: TokenStore, scale: float) -> None:
        self.model, self.queries, self.docs, self.scale = model.eval(), queries, docs, scale

    @classmethod
    def of(cls, model: Model, collection: Collection, scale: float) -> LiveTeacher:
        """With the collection's texts in the teacher's own tokens, cached.

        Raises:
            WrongModelError: for a model that doesn't score whole batches.
        """
        if not isinstance(model, Tower) or not model.scores_in_batch:
            expected, found = (
                "a teacher that scores whole batches (dot, colbert or splade)",
                f"a {model.architecture} model",
            )
            remedy = "let it score triples or candidates first: `rankdistill score`"
            raise WrongModelError(expected, found, remedy)
        read = partial(cached_tokens, collection, tokenizer=model.tokenizer)
        queries = read("queries", max_length=model.query_max_length, prompt=model.query_prompt)
        docs = read("docs", max_length=model.doc_max_length, prompt=model.doc_prompt)
        return cls(model, queries, docs, scale)

    @torch.inference_mode()
    def scores(self, query_rows_B: NDArray[Any], doc_rows_M: NDArray[Any]) -> NDArray[np.float32]:
        """Scores [B, M] of every query with every doc, by their rows of the collection."""
        batch = {"doc_columns": torch.zeros(len(query_rows_B), 1, dtype=torch.long)}
        for side, store, rows in (("query", self.queries, query_rows_B), ("doc", self.docs, doc_rows_M)):
            ids, mask = store.batch(rows, int(self.model.tokenizer.pad_token_id))
            batch[f"{side}_ids"], batch[f"{side}_mask"] = torch.from_numpy(ids), torch.from_numpy(mask)
        on_device = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
        found: NDArray[np.float32] = self.model(on_device).scores.float().cpu().numpy()
        return found * np.float32(self.scale)
