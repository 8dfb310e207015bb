"""Kills a command before its n-th writing call, for each n, and judges what is left and what running it again makes of that."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rankdistill.errors import RankDistillError
from tests.kill.supervisor import forked, supervised

_REFUSED, _BROKEN = 3, 4
FAULTS = ("mixture", "traceback", "lost", "no way on", "other bytes")
"""What a kill must not lead to.

- mixture: the result loads, and is neither the old nor the new one.
- traceback: it is refused, but not by an error of ours.
- lost: the old result is gone, and there is no new one.
- no way on: running again fails.
- other bytes: running again makes another result than an undisturbed run.
"""


@dataclass(frozen=True)
class Case:
    """A command and its result. In words, {i} is the folder of inputs, {o} that of outputs."""

    name: str
    words: str
    result: str
    """The file or folder that counts, below {o}."""

    load: Callable[[Path], object]
    """Loads the result, as a user's next command would."""

    old: str = ""
    """A command that leaves an older result there first."""

    more: str = ""
    """What running again is told besides, such as --resume."""


@dataclass
class Verdict:
    """What became of a command."""

    num_calls: int
    num_kills: int = 0
    states: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)
    """Of each kind of fault, the calls before which the kill led to it."""
    left_over: set[str] = field(default_factory=set)
    """Files that lie around after running again, which an undisturbed run doesn't leave."""


Files = dict[str, str]


def _digests(path: Path, *, temporary: bool = False) -> Files:
    """The content of a file, or of all files of a folder; `temporary` ones, which nothing reads, only if they're asked for."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digests = {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {name: digest for name, digest in digests.items() if temporary or not _is_temporary(Path(name))}


def _is_temporary(name: Path) -> bool:
    return any(part.startswith(".") and part.endswith(".tmp") for part in name.parts)


def _command(words: str, folders: dict[str, Path]) -> Callable[[], int]:
    def run() -> int:
        from rankdistill.cli import main

        try:
            main(words.format(**folders).split())
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(bool(end.code))
        return 0

    return run


def _loading(case: Case, result: Path) -> Callable[[], int]:
    def load() -> int:
        try:
            case.load(result)
        except (RankDistillError, FileNotFoundError) as error:
            print(error)
            return _REFUSED
        except ValueError as error:
            print(repr(error))
            return _REFUSED if "expected" in str(error) else _BROKEN
        except Exception as error:
            print(repr(error))
            return _BROKEN
        return 0

    return load


def try_case(case: Case, inputs: Path, work: Path, most: int | None) -> Verdict:
    """Runs a case with `most` kills, evenly spread over its writing calls (`None`: before each of them)."""
    outputs, before, log = work / "outputs", work / "before", work / "log.txt"
    folders = {"i": inputs, "o": outputs}
    result = outputs / case.result

    def fresh() -> None:
        shutil.rmtree(outputs, ignore_errors=True)
        shutil.copytree(before, outputs)

    before.mkdir(parents=True)
    fresh()
    if case.old:
        if code := forked(_command(case.old, folders), log):
            raise RuntimeError(f"{case.name}: the older command ended with {code}:\n{log.read_text()}")
        shutil.rmtree(before)
        shutil.copytree(outputs, before)
    old = _digests(result)
    undisturbed, names = [], []
    for _ in range(2):  # what differs between two undisturbed runs, such as seconds, isn't compared
        fresh()
        outcome = supervised(_command(case.words, folders), outputs, None, log)
        if outcome.code:
            raise RuntimeError(f"{case.name}: the command ended with {outcome.code}:\n{log.read_text()}")
        undisturbed.append(_digests(result))
        names.append(set(_digests(outputs, temporary=True)))
    new = dict(undisturbed[0].items() & undisturbed[1].items())
    old_stable = {name: digest for name, digest in old.items() if name in new or name not in undisturbed[0]}
    verdict = Verdict(len(outcome.calls))
    total = verdict.num_calls
    points = range(1, total + 1)
    if most is not None and most < total:
        points = sorted({1 + round(at * (total - 1) / (most - 1)) for at in range(most)})  # type: ignore[assignment]
    for point in points:
        fresh()
        outcome = supervised(_command(case.words, folders), outputs, point, log)
        if outcome.code is not None:  # it made fewer calls this time
            continue
        verdict.num_kills += 1

        def fault(kind: str, call: str = outcome.calls[-1], why: str = "") -> None:
            said = why.strip()[-200:].replace(str(work), "")
            verdict.faults.setdefault(kind, []).append(f"{call} {said}".strip())

        there = _digests(result) if result.exists() else {}
        stable = {name: digest for name, digest in there.items() if name in new or name not in undisturbed[0]}
        if stable == new:
            state = "new"
        elif old and stable == old_stable:
            state = "old"
        elif not there:
            state = "lost" if old else "absent"
        else:
            log.unlink()
            code = forked(_loading(case, result), log)
            state = {0: "mixture", _REFUSED: "refused"}.get(code, "traceback")
        verdict.states[state] += 1
        if state in FAULTS:
            fault(state, why=log.read_text() if state == "traceback" else "")
        log.unlink(missing_ok=True)
        if forked(_command(f"{case.words} {case.more}", folders), log):
            fault("no way on", why=log.read_text())
            continue
        again = _digests(result)
        if any(again.get(name) != digest for name, digest in new.items()) or any(
            not Path(name).name.startswith(".") for name in again.keys() - undisturbed[0].keys()
        ):
            fault("other bytes")
        verdict.left_over |= set(_digests(outputs, temporary=True)) - names[0] - names[1]
    return verdict
