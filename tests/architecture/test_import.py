"""What importing costs, what the package's names are, and that no option is written twice."""

from __future__ import annotations

import subprocess
import sys

import rankdistill


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_brings_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "numpy", "scipy", "sentence_transformers", "ir_measures", "faiss", "tqdm"}
    assert not heavy & modules_after("import rankdistill")


def test_the_command_line_starts_without_torch() -> None:
    assert not {"torch", "transformers", "scipy", "faiss"} & modules_after("import rankdistill.cli")


def test_every_public_name_is_there() -> None:
    for name in rankdistill.__all__:
        assert getattr(rankdistill, name) is not None
    assert set(rankdistill.__all__) == set(dir(rankdistill))
