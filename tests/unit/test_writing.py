"""Files and folders that are written whole or not at all, locks of outputs, and marks of what is ours."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rankdistill.errors import InUseError
from rankdistill.formats import writing
from rankdistill.formats.writing import (
    discard,
    is_marked,
    locked,
    mark,
    replacing,
    replacing_folder,
    save_json,
    save_text,
)
from rankdistill.training.run import _public


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


class Killed(BaseException):
    """Stands for a kill."""


def dying_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the n-th call that changes names end the work, and all later ones too, as in a process that is gone."""
    calls = 0

    def watched(function: object) -> object:
        def wrapper(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls >= call:
                raise Killed
            return function(*arguments, **more)  # type: ignore[operator]

        return wrapper

    for name in ("replace", "rename", "unlink", "mkdir"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    monkeypatch.setattr(writing.shutil, "rmtree", watched(writing.shutil.rmtree))


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "a.txt"
    with replacing(path) as file:
        file.write(b"some")
        assert not path.exists()
        (temporary,) = path.parent.iterdir()
    assert path.read_bytes() == b"some"
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"other", None])  # type: ignore[list-item]
    assert path.read_bytes() == b"some"
    with replacing(path) as file:
        assert temporary.name not in [each.name for each in path.parent.iterdir()], "a name that can be foreseen"
    assert path.read_bytes() == b""


def test_gzip_by_the_name_without_time(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        with replacing(tmp_path / name) as file:
            file.write(b"same")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"same"


def test_no_planted_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    tokens = iter(["00", "00", "01", "02"])
    monkeypatch.setattr(writing.secrets, "token_hex", lambda _: next(tokens))
    (tmp_path / ".a.txt.00.tmp").symlink_to(victim)
    (tmp_path / ".a.txt.01.tmp").write_text("a user's own")
    save_text(tmp_path / "a.txt", "new")
    assert victim.read_text() == "precious"
    assert (tmp_path / ".a.txt.00.tmp").is_symlink()
    assert (tmp_path / ".a.txt.01.tmp").read_text() == "a user's own"
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_file_is_as_private_as_its_sources_and_as_what_it_replaces(tmp_path: Path) -> None:
    sources = [tmp_path / "open.tsv", tmp_path / "group.tsv", tmp_path / "private.tsv", Path("-")]
    for source, mode in zip(sources, (0o644, 0o640, 0o400), strict=False):
        source.touch()
        source.chmod(mode)
    old = os.umask(0o022)
    try:
        for like, wanted in ((sources[:1], 0o644), (sources[:2], 0o640), (sources, 0o600), ((), 0o644)):
            path = tmp_path / f"out{len(like)}"
            with replacing(path, like=like) as file:
                (temporary,) = tmp_path.glob(".out*")
                assert mode_of(temporary) == wanted, "never more readable than at the end"
                file.write(b"x")
            assert mode_of(path) == wanted
        kept = tmp_path / "out1"
        kept.chmod(0o600)
        save_text(kept, "again")
        assert mode_of(kept) == 0o600
        os.umask(0o077)
        save_text(tmp_path / "more", "x")
        assert mode_of(tmp_path / "more") == 0o600
    finally:
        os.umask(old)


def test_devices_and_pipes_are_written_to_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    save_text(pipe, "through")
    reader.join()
    assert read == [b"through"]
    assert pipe.is_fifo()
    save_text("/dev/null", "gone")
    assert not Path("/dev/null").is_file()
    with pytest.raises(IsADirectoryError, match="expected the name of a file, found a folder"):
        save_text(tmp_path, "x")


def fill(folder: Path, text: str, names: tuple[str, ...] = ("a", "index.json", "part/b")) -> None:
    with replacing_folder(folder, last="index.json") as aside:
        for name in names:
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(text)


def test_a_folder_is_renamed_as_a_whole_and_keeps_what_a_user_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "x" / "index"
    with pytest.raises(FileExistsError), replacing_folder(folder, last="index.json") as aside:
        aside.mkdir()
    assert list(folder.parent.iterdir()) == []
    fill(folder, "1")
    (folder / "notes.txt").write_text("a user's")
    (folder / "part" / "own.txt").write_text("a user's")
    fill(folder, "2")
    assert {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()} == {
        "a": "2",
        "index.json": "2",
        "part/b": "2",
        "notes.txt": "a user's",
        "part/own.txt": "a user's",
    }
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_kill_between_any_two_names_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    endings = set()
    for call in range(1, 30):
        folder = tmp_path / f"index{call}"
        if is_there:
            fill(folder, "1")
        with monkeypatch.context() as patch:
            dying_at(call, patch)
            try:
                fill(folder, "2")
                done = True
            except Killed:
                done = False
        texts = {path.read_text() for name in ("a", "part/b", "index.json") if (path := folder / name).is_file()}
        assert len(texts) <= 1, "old and new files side by side"
        if (folder / "index.json").is_file():
            assert all((folder / name).is_file() for name in ("a", "part/b"))
        endings.add(next(iter(texts), ""))
        fill(folder, "3")
        assert (folder / "index.json").read_text() == (folder / "a").read_text() == "3"
        if done:
            break
    assert done
    assert endings == ({"1", "2", ""} if is_there else {"", "2"})


def test_marks_and_what_is_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert not is_marked(folder, "run")
    (folder / writing.MARK).write_text("[1]")
    assert not is_marked(folder, "run")
    mark(folder, "run")
    assert is_marked(folder, "run")
    assert not is_marked(folder, "index")
    (folder / "file").touch()
    discard(folder)
    assert list(tmp_path.iterdir()) == []
    assert not is_marked(folder, "run")


HOLD = """
import sys, time
from rankdistill.formats.writing import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_and_a_dead_one_makes_room(tmp_path: Path) -> None:
    output = tmp_path / "scores.tsv"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        found = f"scores.tsv: expected no other writer, found process {holder.pid} on"
        with pytest.raises(InUseError, match=found), locked(output):
            pass
        with pytest.raises(InUseError, match=r"since 20\d\d-.* \(-c .*scores.tsv\)"), locked(tmp_path / "./scores.tsv"):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert (tmp_path / ".scores.tsv.lock").exists()
    with locked(output), locked(output), locked(tmp_path / "another"), locked(tmp_path / "another" / "inner"):
        assert not (tmp_path / "another").exists()
    assert list(tmp_path.iterdir()) == []


def test_threads_exclude_each_other_or_wait(tmp_path: Path) -> None:
    output, seen = tmp_path / "folder", list[str]()

    def other(wait: bool) -> None:
        try:
            with locked(output, wait=wait):
                seen.append("in")
        except InUseError as error:
            seen.append(f"refused, {os.getpid()}" if str(os.getpid()) in error.found else "refused")

    with locked(output):
        refused = threading.Thread(target=other, args=(False,))
        refused.start()
        refused.join()
        waits = threading.Thread(target=other, args=(True,))
        waits.start()
        seen.append("out")
    waits.join()
    assert seen == [f"refused, {os.getpid()}", "out", "in"]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_overwrites_no_file_behind_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".a.lock").symlink_to(victim)
    with pytest.raises(OSError, match="lock"), locked(tmp_path / "a"):
        pass
    assert victim.read_text() == "precious"


def test_a_json_file_is_one_line_or_indented(tmp_path: Path) -> None:
    save_json(tmp_path / "a.json", {"a": "ä"})
    assert (tmp_path / "a.json").read_bytes() == b'{"a": "\\u00e4"}\n'
    save_json(tmp_path / "a.json", {"a": "ä"}, indent=1, ensure_ascii=False)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n "a": "ä"\n}\n'


def test_a_model_card_names_no_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {
        "scores": [tmp_path / "data" / "a.tsv", Path("b.tsv"), "/home/somebody/c.tsv"],
        "init": "/home/somebody/models/minilm",
        "hub": "org/model",
        "epochs": 3,
    }
    expected = {"scores": ["data/a.tsv", "b.tsv", "c.tsv"], "init": "minilm", "hub": "org/model", "epochs": 3}
    assert _public(values) == expected
