"""Where the package keeps what it can make again.

`$RANKDISTILL_CACHE`, else `$XDG_CACHE_HOME/rankdistill`, else `~/.cache/rankdistill`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["cache_folder", "fingerprint_of"]


def cache_folder(kind: str) -> Path:
    """The folder for one kind of cached thing ("collections", "tokens", "vectors"), made if it isn't there."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("RANKDISTILL_CACHE") or Path(base) / "rankdistill")
    # What is made of private files is for nobody else; a folder that somebody made to be shared stays as it is.
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = root / kind
    folder.mkdir(exist_ok=True)
    return folder


def fingerprint_of(*parts: object) -> str:
    """32 hex characters that name these parts; different parts give different ones."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = part if isinstance(part, bytes) else str(part).encode()
        # The length in front keeps ("ab", "c") and ("a", "bc") apart.
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()
