"""What errors advise can be done: flags exist, and arguments are those of the function that names them."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rankdistill.options

_PACKAGE = Path(rankdistill.options.__file__).parents[1]
_FILES = sorted(_PACKAGE.rglob("*.py"))
_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9.-]*[a-z0-9])")
# Of cyclopts, and of others' commands.
_OTHERS = {"help", "version", "config"}


def _options() -> set[str]:
    """Names of all fields of all commands' options, as flags."""
    names = set(_OTHERS)
    for module in pkgutil.iter_modules(rankdistill.options.__path__, "rankdistill.options."):
        for value in vars(importlib.import_module(module.name)).values():
            if dataclasses.is_dataclass(value):
                names.update(field.name.replace("_", "-") for field in dataclasses.fields(value))
    for path in (_PACKAGE / "options").glob("*.py"):
        names.update(re.findall(r'"--([a-z-]+)"', path.read_text(encoding="utf-8")))
    return names


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Strings that aren't docstrings, with their lines."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(_PACKAGE)))
def test_flags_in_messages_exist(path: Path) -> None:
    known = _options()
    for line, text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
        for flag in _FLAG.findall(text):
            unknown = [part for part in flag.split(".") if part not in known]
            assert not unknown, f"{path.name}:{line}: --{flag}"


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(_PACKAGE)))
def test_arguments_in_messages_are_those_of_the_function(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        arguments = {argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]}
        for line, text in _texts(function):
            if "on_missing=" in text:
                assert "on_missing" in arguments, f"{path.name}:{line}: {text}"
