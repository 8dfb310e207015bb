"""Where the package keeps what it can make again.

`$RANKDISTILL_CACHE`, else `$XDG_CACHE_HOME/rankdistill`, else `~/.cache/rankdistill`.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cache_folder", "fingerprint_of", "save_array", "save_json"]


def cache_folder(kind: str) -> Path:
    """The folder for one kind of cached thing ("collections", "tokens", "vectors"), made if it isn't there."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("RANKDISTILL_CACHE") or Path(base) / "rankdistill") / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fingerprint_of(*parts: object) -> str:
    """32 hex characters that name these parts; different parts give different ones."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = part if isinstance(part, bytes) else str(part).encode()
        # The length in front keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Writes a .npy file that takes its name when it's whole, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, array)
    os.replace(temporary, path)


def save_json(path: Path, value: object, indent: int | None = None) -> None:
    """Writes a JSON file that takes its name when it's whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")
    os.replace(temporary, path)
