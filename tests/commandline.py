"""Options as the words of a command line."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from rankdistill.options.training import MarginMSEOptions


def command(of: MarginMSEOptions) -> list[str]:
    """`rankdistill train margin-mse` with these options."""
    words = [sys.executable, "-m", "rankdistill", "train", "margin-mse"]

    def flags(fields: dict[str, Any], prefix: str) -> None:
        for name, value in fields.items():
            flag = prefix + name.replace("_", "-")
            if isinstance(value, dict):
                flags(value, f"{flag}.")
            elif value is True:
                words.append(flag)
            elif value is not None and value is not False and value != "":
                words.extend([flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])])

    flags(dataclasses.asdict(of), "--")
    return words
