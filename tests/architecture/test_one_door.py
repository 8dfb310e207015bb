"""Models of transformers are loaded at one door, which never runs code that they bring."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOOR = REPOSITORY / "rankdistill" / "models" / "backbone.py"
LOADS = ("from_pretrained", "from_config")


def of_transformers(tree: ast.AST) -> set[str]:
    """Names that a module has from transformers."""
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module is not None)
    return {"transformers"} | {
        alias.asname or alias.name
        for node in imports
        if str(node.module).startswith("transformers")
        for alias in node.names
    }


def loads(path: Path) -> list[str]:
    """Where a module lets transformers load something, and doesn't say that no code may be run."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names, found = of_transformers(tree), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in LOADS:
            continue
        trusted = [word.value for word in node.keywords if word.arg == "trust_remote_code"]
        refused = any(isinstance(value, ast.Constant) and value.value is False for value in trusted)
        owner = node.func.value
        while isinstance(owner, ast.Attribute):
            owner = owner.value
        if isinstance(owner, ast.Name) and owner.id in names and not refused:
            found.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    return found


def test_the_check_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    (tmp_path / "a.py").write_text(
        "from transformers import AutoModel as Auto\nimport transformers\n"
        "Auto.from_pretrained('a')\ntransformers.AutoConfig.from_pretrained('a')\n"
        "Auto.from_config(config, trust_remote_code=False)\nAuto.from_pretrained('a', trust_remote_code=True)\n"
        "DotModel.from_pretrained('a')\n"
    )
    assert loads(tmp_path / "a.py") == ["a.py:3", "a.py:4", "a.py:6"]


def test_transformers_loads_at_one_door() -> None:
    modules = [path for folder in ("rankdistill", "scripts", "eval") for path in (REPOSITORY / folder).rglob("*.py")]
    assert not [place for path in modules if path != DOOR for place in loads(path)]
