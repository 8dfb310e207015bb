"""Which options and inputs a run that goes on must share with its beginning: all that decide its numbers."""

from __future__ import annotations

import dataclasses
import glob
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankdistill.errors import BadDataError
from rankdistill.formats.cache import fingerprint_of
from rankdistill.formats.scores import content_fingerprint
from rankdistill.options.training import TrainingOptions

__all__ = [
    "INPUTS",
    "MAY_DIFFER",
    "check_same_facts",
    "check_same_options",
    "command_name",
    "input_fingerprints",
    "input_paths",
    "plain",
]

MAY_DIFFER = (
    "output_dir",
    "resume",
    "overwrite",
    "num_epochs",
    "max_steps",
    "device",
    "torch_compile",
    "num_workers",
    "logging_steps",
    "save_steps",
    "keep_checkpoints",
)
"""Options that a run may go on with other values of. The steps that epochs make are compared where they decide anything."""

INPUTS = (
    "init",
    "scores",
    "collection",
    "dev_collection",
    "files",
    "corpus",
    "triples",
    "negatives",
    "clusters",
    "cluster_model",
    "in_batch_teacher",
    "tk.embeddings",
)
"""Options that name data or models. Their content is compared, so that they may be moved."""


def plain(options: TrainingOptions) -> dict[str, Any]:
    """Options as JSON has them."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    return values


def _stored(folder: Path) -> dict[str, Any]:
    """What config.json says of the run that began in the folder.

    Raises:
        BadDataError: if it can't be read.
    """
    path = folder / "config.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(stored["options"], dict):
            return dict(stored)
        raise ValueError("options that aren't an object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        expected, remedy = "the options of the run that began here", "train anew in another --output-dir"
        raise BadDataError(expected, f"none ({error})", remedy, str(path)) from None


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def check_same_options(folder: Path, options: TrainingOptions, *, is_finished: bool = False) -> None:
    """Compares the options of the run in a folder with those that it's to go on with.

    Args:
        is_finished: the run isn't to go on, but to be what these options ask for: its length counts, too.

    Raises:
        ValueError: naming every option that differs and may not.
        BadDataError: if the folder's config.json can't be read.
    """
    stored, command = _stored(folder), command_name(options)
    if stored.get("command") != command:
        _refuse(folder, {"command": (stored.get("command"), command)})
    old, new = _flat(stored["options"]), _flat(plain(options))
    ignored = {*MAY_DIFFER, *INPUTS} - ({"num_epochs", "max_steps"} if is_finished else set())
    # "auto" is the dtype that the run began with.
    if new.get("dtype") in ("auto", stored.get("dtype")):
        ignored.add("dtype")
    names = [name for name in dict.fromkeys([*old, *new]) if name not in ignored and old.get(name) != new.get(name)]
    _refuse(folder, {f"--{name.replace('_', '-')}": (old.get(name), new.get(name)) for name in names})


def command_name(options: TrainingOptions) -> str:
    """The command that options are of, as config.json has it."""
    return type(options).__name__.removesuffix("Options")


def _refuse(folder: Path, differing: Mapping[str, tuple[Any, Any]]) -> None:
    if differing:
        may = ", ".join(f"--{name.replace('_', '-')}" for name in MAY_DIFFER if name not in ("resume", "overwrite"))
        said = ", ".join(f"{name} ({old!r} before, {new!r} now)" for name, (old, new) in differing.items())
        raise ValueError(
            f"{folder}: expected what the run began with, found other {said}; give the same again, or train in another "
            f"--output-dir. These may differ: {may}, and where the inputs lie"
        )


def check_same_facts(folder: Path, wanted: Mapping[str, Any], without: Sequence[str] = ()) -> None:
    """Compares what a run depends on beside its options: the content of its inputs, its learning rates, its processes.

    Args:
        without: facts that don't count.

    Raises:
        ValueError: naming all that differs.
    """
    stored = _stored(folder).get("same", {})
    names = [name for name in dict.fromkeys([*stored, *wanted]) if name not in without]
    names = [name for name in names if stored.get(name) != wanted.get(name)]
    _refuse(folder, {name: (stored.get(name), wanted.get(name)) for name in names})


def input_fingerprints(options: TrainingOptions) -> dict[str, str]:
    """Names the content of the files and folders that the options name, by option.

    A hub id or another name that is no path stands for itself. Collections aren't looked at, since what lies beside their texts
    may change; `Collection.fingerprint` names those.
    """
    return {
        f"--{name.replace('_', '-')}": fingerprint_of(*map(_content, values))
        for name, values in _given(options).items()
        if name not in ("collection", "dev_collection", "corpus")
    }


def input_paths(options: TrainingOptions) -> list[Path]:
    """The files and folders that the options name."""
    return [path for values in _given(options).values() for value in values for path in _paths(value)]


def _given(options: TrainingOptions) -> dict[str, list[str]]:
    flat = _flat(plain(options))
    given = {name: flat.get(name) for name in INPUTS}
    return {name: value if isinstance(value, list) else [value] for name, value in given.items() if value}


def _paths(value: str) -> list[Path]:
    """What a value names: a path, a glob or PATH:WEIGHT; nothing for another name."""
    path, weighted = Path(value).expanduser(), Path(value.rpartition(":")[0]).expanduser()
    if path.exists():
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    return matches or [weighted] * weighted.is_file()


def _content(value: str) -> str:
    paths = _paths(value)
    file, _, weight = value.rpartition(":")
    if paths != [Path(file).expanduser()]:
        weight = ""
    return fingerprint_of(weight, *map(_content_of, paths)) if paths else value


def _content_of(path: Path) -> str:
    """Names the content of a file (samples, beyond 64 MiB), or of a folder's files without hidden ones and model cards."""
    if path.is_file():
        return content_fingerprint([path])
    files = [file for file in sorted(path.rglob("[!.]*")) if file.is_file() and file.suffix != ".md"]
    return fingerprint_of(*((file.relative_to(path), content_fingerprint([file])) for file in files))
