"""Which dtype is fast here: asked of the machine, never assumed."""

from __future__ import annotations

import functools
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

__all__ = ["DTypeName", "autocast", "choose_device", "dtype_named", "fast_dtype", "inference_mode"]

DTypeName = Literal["auto", "float32", "bfloat16", "fast"]
"""What matrix products run in without gradients; "auto" is float32, "fast" is bfloat16 where that's measured to be faster."""


def choose_device(device: str = "auto") -> torch.device:
    """`"auto"` is the first CUDA device, else Apple's MPS, else the CPU; anything else is taken as it is."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@functools.cache
def _cpu_dtype() -> torch.dtype:
    # On CPUs without bf16 instructions a bf16 product is some sixty times slower than fp32, on those with them two or
    # three times faster. A 50 ms probe of the shape that a small encoder multiplies tells which this is.
    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
        best = float("inf")
        for _ in range(4):  # the first also warms up
            start = time.perf_counter()
            torch.mm(left, right)
            best = min(best, time.perf_counter() - start)
        return best

    # bf16 must win clearly, since casting costs time too and fp32 is exact.
    return torch.bfloat16 if seconds(torch.bfloat16) < 0.7 * seconds(torch.float32) else torch.float32


def fast_dtype(device: torch.device) -> torch.dtype:
    """The dtype for autocast on `device`: bfloat16 where it's faster, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return _cpu_dtype() if device.type == "cpu" else torch.float32


def dtype_named(name: DTypeName, device: torch.device) -> torch.dtype:
    """The dtype that is meant on `device`."""
    if name == "fast":
        return fast_dtype(device)
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A context in which matrix products run in `dtype`; does nothing for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


class inference_mode:
    """Evaluation mode, no gradients, the wanted dtype; the model's mode comes back afterwards."""

    def __init__(self, model: nn.Module, dtype: DTypeName) -> None:
        device = next(model.parameters()).device
        self._model, self._contexts = model, (torch.inference_mode(), autocast(device, dtype_named(dtype, device)))

    def __enter__(self) -> None:
        self._was_training = self._model.training
        self._model.eval()
        for context in self._contexts:
            context.__enter__()

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self._contexts):
            context.__exit__(*error)
        self._model.train(self._was_training)
