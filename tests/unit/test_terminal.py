"""What is printed steers no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankdistill.cli import main
from rankdistill.formats.terminal import printable

CLEAR = "\x1b[2J"


def test_control_characters_are_written_out() -> None:
    assert printable("a\tb\nc \u00e4\u4e2d\u200d") == "a\tb\nc \u00e4\u4e2d\u200d"
    assert printable(f"{CLEAR}\r\x00\x9b\u202e\udcff") == r"\x1b[2J\r\x00\x9b\u202e\udcff"
    assert printable("\x1b[1mbold\x1b[0m") == r"\x1b[1mbold\x1b[0m"
    assert printable(f"\x1b[1mbold\x1b[0m{CLEAR}", styled=True) == "\x1b[1mbold\x1b[0m" + r"\x1b[2J"


def test_ids_in_errors_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / f"{CLEAR}a.run"
    run.write_text("q Q0 d 1 2.0 t\n")
    (tmp_path / "qrels").write_text("q 0 d 1\n")
    with pytest.raises(SystemExit):
        main(["evaluate", "--runs", str(run), "--qrels", str(tmp_path / "qrels"), "--measures", "nDCG@10"])
    assert r"\x1b[2Ja" in (out := capsys.readouterr().out)
    assert "\x1b" not in out
    run.write_text("q Q0 d 1 much t\n")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--runs", str(run), "--qrels", str(tmp_path / "qrels"), "--measures", "nDCG@10"])
    assert ended.value.code == 1
    assert r"\x1b[2Ja.run:1: expected" in (err := capsys.readouterr().err)
    assert "\x1b" not in err
