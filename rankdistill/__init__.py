"""rankdistill: distils big rankers into small, fast ones and proves it on real data."""

from __future__ import annotations

from rankdistill._core import __version__

__all__ = ["__version__"]
