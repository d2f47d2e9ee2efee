"""The command line, called from tests, and a sweep that is small enough for them."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

TINY = """
name: tiny
network: {{name: vgg-small, weights: {weights}}}
data: {{source: digits, shard_size: {shard_size}}}
calibration: {{images: 32, time_steps: 8}}
grid:
  - {{reset: [soft, hard], alpha: [0.5, 1.0], threshold: [vin_max]}}
  - {{encoding: poisson, seed: [1], threshold: [activation_p99.9], granularity: channel, alpha: [0.7]}}
time_steps: [4, 12]
run: {{batch_size: 32}}
"""


def rmpsweep(*arguments: object, expected: int = 0) -> dict[str, Any]:
    """Run a command with --json and return its document. A launch with Ray runs in a process of its own."""
    command = [*map(str, arguments), "--json"]
    if "--inline" in command or command[0] != "launch":
        code, output, errors = run_here(command)
    else:
        done = subprocess.run([sys.executable, "-m", "rmpsweep", *command], capture_output=True, text=True, timeout=240)
        code, output, errors = done.returncode, done.stdout, done.stderr
    assert code == expected, f"exit {code}\n{output}\n{errors}"
    return json.loads(output) if output.strip() else {}


def run_here(command: list[str]) -> tuple[int, str, str]:
    """Run a command in this process, and return exit code, standard output and standard error."""
    from rmpsweep.cli import main

    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["rmpsweep", *command])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
    return code, output.getvalue(), errors.getvalue()
