"""Our encoding and re-ranking against sentence-transformers', same models, same texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rankdistill.formats.collection import Collection
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.retrieval.encode import encode_texts
from rankdistill.retrieval.rerank import score_pairs


def test_encode_gives_their_vectors(tiny_sentence_transformer_dir: Path, small_collection: Collection) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [text for _, text in small_collection.docs()]
    theirs = SentenceTransformer(str(tiny_sentence_transformer_dir), device="cpu").encode(texts)
    ours = encode_texts(
        DotModel.from_pretrained(tiny_sentence_transformer_dir, device="cpu"), texts, kind="document", progress=False
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_score_pairs_gives_their_logits(tiny_cross_encoder_dir: Path, small_collection: Collection) -> None:
    import torch
    from sentence_transformers import CrossEncoder

    queries = [text for _, text in small_collection.queries()][:40]
    docs = [text for _, text in small_collection.docs()][:40]
    teacher = CrossEncoder(str(tiny_cross_encoder_dir), device="cpu")
    theirs = teacher.predict(list(zip(queries, docs, strict=True)), activation_fn=torch.nn.Identity())
    ours = score_pairs(
        CrossEncoderModel.from_pretrained(tiny_cross_encoder_dir, device="cpu"), queries, docs, progress=False
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
