"""Mutants of good text files are read, or refused by an error of ours that names the file. `make fuzz` tries many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import TARGETS, try_target


@pytest.mark.parametrize("name", ["qrels", "qrels of BEIR", "runs, gzip", "linked texts, gzip"])
def test_mutants_are_read_or_refused(name: str, tmp_path: Path) -> None:
    assert try_target(TARGETS[name], tmp_path, inputs=200, seed=1) == {}
