"""What every result says of how it came about."""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import Any

import torch
import transformers

import rankdistill


def facts(started: float) -> dict[str, Any]:
    """The command, versions, threads, the device, the machine's load, and the seconds since `started` (of `time.perf_counter`)."""
    return {
        "command": shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "versions": {
            "rankdistill": rankdistill.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "load_1min": os.getloadavg()[0],
        "seconds": round(time.perf_counter() - started),
    }
