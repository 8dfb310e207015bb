"""One dataclass for each command: the only place where an option is named, typed, defaulted and explained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

__all__ = ["Output"]

Output: TypeAlias = Annotated[Path, Parameter(alias="-o")]
"""What a command writes; `--output` or `-o`."""
