"""Commands that need no model, killed before some of their writing system calls: the old result, the new one, or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kill.supervisor import is_supported


# `make kill` tries all commands, before all of their calls.
@pytest.mark.skipif(not is_supported(), reason="needs Linux on x86_64, and leave to filter system calls")
def test_a_killed_command_leaves_the_old_result_or_the_new_one() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.kill", "--cheap", "--most", "3"]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("faults: none") == 4
