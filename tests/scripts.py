"""Scripts of the repository as modules."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    """`eval/study`, say, which finds its neighbours as it does when it's run."""
    path = REPOSITORY / name
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        return importlib.import_module(path.name)
