"""Training: one trainer, and one readable file for each method."""

from __future__ import annotations

from rankdistill.errors import MissingDependencyError

try:  # the door: transformers' own message comes late and doesn't know our extras
    import accelerate as _accelerate  # noqa: F401
except ImportError as error:
    raise MissingDependencyError(
        "the package accelerate", "none installed", "pip install 'rankdistill[train]'"
    ) from error
