"""The command line as documented, and quick to start."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rmpsweep.sweep.file import load_sweep
from tests.helpers.commands import run_here

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_readmes_sweep_file_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_DIR", "somewhere")
    text = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "readme.yaml"
    path.write_text(text[1], encoding="utf-8")
    assert len(load_sweep(str(path)).settings()) == 3 * 2 * 7


@pytest.mark.parametrize("command", ["--help", "plan quickstart --json", "list sweeps", "status {results}"])
def test_planning_and_looking_load_neither_torch_nor_ray_nor_mlflow(command, write_sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))
    if "{results}" in command:
        results = tmp_path / "results"
        code, *_ = run_here(
            ["launch", str(write_sweep()), "--results", str(results), "--inline", "--limit", "8", "--mlflow", "none"]
        )
        assert code == 0
        command = command.format(results=results)
    script = (
        "import sys, rmpsweep.cli\n"
        f"sys.argv = ['rmpsweep', *{command.split()!r}]\n"
        "try:\n    rmpsweep.cli.main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'torchvision', 'altair', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
