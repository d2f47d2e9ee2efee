"""The command line as documented, and quick to start."""

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from rmpsweep.cli import app, launch
from rmpsweep.cli.options import LaunchOptions
from rmpsweep.sweep.file import load_sweep
from tests.helpers.commands import run_here

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(info.name or info.callback.__name__ for info in app.registered_commands if info.callback)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme_and_its_help_shows_a_command_to_paste(command):
    assert f"`rmpsweep {command}" in README
    code, output, _ = run_here([command, "--help"])
    assert code == 0
    assert f"Usage: rmpsweep {command}" in output.replace("\n", " ")


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


def test_every_option_of_launch_reaches_a_job_on_the_cluster():
    """An option is either forwarded, or one of those that sending the job settles."""
    from typer.main import get_command

    settled = {"sweep", "results", "address", "inline", "set_", "submit", "json_"}
    parameters = inspect.signature(launch.launch).parameters
    assert {field.name for field in fields(LaunchOptions)} == set(parameters) - settled
    given = {"limit": 7, "actors": 3, "mlflow": "none", "max_failures": 0, "fail_fast": True}
    command = get_command(app).commands["launch"]
    parsed = command.make_context("launch", ["sweep.yaml", *LaunchOptions(**given).to_argv()]).params
    assert {name: parsed[name] for name in given} == given
    assert LaunchOptions(limit=None, actors=None, mlflow=None, max_failures=None, fail_fast=False).to_argv() == []
