"""T1's scores with something changed, to see what of them a student learns by: files, and the scales that they are learnt at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from study import Study

from rankdistill.data.scores_merge import merge_scores


def spread_evenly(study: Study) -> tuple[Path, float]:
    """In their order at equal distances from 0 to 1, over all rows; scaled to the spread of T1's margins."""

    def make(path: Path) -> None:
        lists = [json.loads(line) for line in study.scores.read_text(encoding="utf-8").splitlines()]
        scores = np.array([score for _, *docs in lists for _, score in docs])
        values, place = np.unique(scores, return_inverse=True)
        even = iter((place / (len(values) - 1)).tolist())
        moved = ([query_id, *([doc_id, next(even)] for doc_id, _ in docs)] for query_id, *docs in lists)
        path.write_text("".join(json.dumps(row) + "\n" for row in moved), encoding="utf-8")

    path = _kept(study, "scores-evenly", make)
    return path, study.scale_like(study.scores, path)


def ranks(study: Study) -> tuple[Path, float]:
    """The ranks of each row's docs; scaled to the spread of T1's margins."""

    def make(path: Path) -> None:
        merge_scores([str(study.scores)], path, normalize="rank", progress=False)

    path = _kept(study, "scores-ranks", make)
    return path, study.scale_like(study.scores, path)


def where_right(study: Study) -> tuple[Path, float]:
    """Of the rows whose relevant doc T1 likes best, as they are."""

    def make(path: Path) -> None:
        lines = study.scores.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if _is_right(json.loads(line)[1:])), encoding="utf-8")

    return _kept(study, "scores-right", make), study.teacher_scale


def _kept(study: Study, name: str, make: Callable[[Path], None]) -> Path:
    path = study.score_path(study.by_whom(name))
    if not path.is_file():
        make(path)
    return path


def _is_right(docs: Sequence[tuple[str, float]]) -> bool:
    return docs[0][1] > max(score for _, score in docs[1:])
