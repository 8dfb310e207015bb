"""The README's Python runs as it stands there; only the model's path is replaced by a tiny model's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_the_ten_lines_work(tiny_bert_dir: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(code.splitlines()) <= 10
    code = code.replace("runs/quickstart/student/model", str(tiny_bert_dir))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ranking, measures = done.stdout.splitlines()
    assert set(eval(ranking)) == {"q1", "q2"}
    assert 0 <= eval(measures)["RR@10"] <= 1


def test_the_page_of_exits_works(tiny_bert_dir: Path, tmp_path: Path) -> None:
    page = (README.parent / "docs" / "multi_exit.md").read_text(encoding="utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    code = code.replace('"MODEL"', repr(str(tiny_bert_dir))).replace('"OUTPUT"', repr(str(tmp_path / "truncated")))
    code += "print([each.shape for each in everywhere.values()], shallow.shape, list(run), stopped)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[(2, 32), (2, 32)] (2, 16) ['q1'] {'q1': 2}"
    assert (tmp_path / "truncated" / "modules.json").is_file()


def commands() -> list[list[str]]:
    """Every `rankdistill …` line of the README, and of the page of exits."""
    pages = (README, README.parent / "docs" / "multi_exit.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    return [line.split() for line in re.findall(r"^    (rankdistill .*)$", text, flags=re.MULTILINE)]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_readmes_command_lines_parse(words: list[str]) -> None:
    """Each names a command and options that exist; it's parsed, not run."""
    from rankdistill.cli import app

    _, bound, *_ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    assert bound.arguments


def test_the_readmes_config_file_parses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cyclopts.config import Toml

    from rankdistill.cli import app

    (text,) = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "stages.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(app, "config", (Toml(tmp_path / "stages.toml", must_exist=True),))
    _, bound, *_ = app.parse_args(["train", "margin-mse"], exit_on_error=False, print_error=False)
    assert [stage.num_top for stage in bound.arguments["stages"]] == [20, 30]
