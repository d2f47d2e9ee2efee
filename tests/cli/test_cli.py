"""The command line as documented, and quick to start."""

import contextlib
import inspect
import os
import pty
import re
import subprocess
import sys
import termios
from dataclasses import fields
from pathlib import Path

import pytest

from rmpsweep.cli import app, launch
from rmpsweep.cli.options import LaunchOptions
from rmpsweep.sweep.file import load_sweep
from tests.helpers.commands import rmpsweep, run_here

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_readmes_sweep_file_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_DIR", "somewhere")
    text = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "readme.yaml"
    path.write_text(text[1], encoding="utf-8")
    assert len(load_sweep(str(path)).settings()) == 3 * 2 * 7


@pytest.mark.slow
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


def test_help_loads_nothing_that_only_commands_need():
    script = (
        "import sys, rmpsweep.cli\nsys.argv = ['rmpsweep', '--help']\n"
        "try:\n    rmpsweep.cli.main()\nexcept SystemExit:\n    pass\n"
        "print({'numpy', 'pandas', 'pyarrow', 'pydantic', 'rich', 'torch', 'yaml'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stderr, "launch" in done.stdout) == ("set()\n", True)


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_a_launch_with_nothing_to_do_loads_no_pandas_and_its_driver_no_library_of_pages(write_sweep, tmp_path):
    script = (
        "import sys\nimport rmpsweep\n"
        f"launch = lambda: rmpsweep.launch({str(write_sweep())!r}, {str(tmp_path / 'r')!r}, limit=8, inline=True)\n"
        "launch()\nprint({'altair', 'mlflow'} & set(sys.modules))"
    )
    again = script.replace("{'altair', 'mlflow'}", "{'altair', 'mlflow', 'pandas', 'torch'}")
    for each in (script, again):
        done = subprocess.run([sys.executable, "-c", each], capture_output=True, text=True, timeout=240)
        assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.slow
def test_ids_of_trials_stay_whole_in_a_terminal_of_80_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))
    options = ["--results", str(tmp_path / "r"), "--limit", "4", "--set", "time_steps=[4]", "--inline"]
    launched = rmpsweep("launch", "quickstart", *options, "--mlflow", "none")
    ids = {row["trial_id"] for row in launched["summary"]}
    assert len(ids) == 20
    for command in (["plan", "quickstart", *options], ["status", str(tmp_path / "r")]):
        rows = {line.split()[0]: line for line in in_terminal(command, 80) if line.split()[:1]}
        assert ids <= rows.keys()
        assert max(len(rows[each]) for each in ids) <= 80


def in_terminal(command: list[str], columns: int) -> list[str]:
    """The lines that a command shows in a terminal that is so many columns wide, without their colours."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "rmpsweep", *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a terminal so
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, shown
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()


def test_every_table_of_list_says_what_its_columns_are():
    code, shown, _ = run_here(["list"])
    assert code == 0
    heads = [line.split() for line in shown.splitlines() if line.split()[:1] == ["name"]]
    assert heads == [["name", "description"]] * 7


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
