"""docs/commands.md is what Typer's own generator makes of the command line."""

import subprocess
import sys

import pytest

from rmpsweep.cli import app
from tests.helpers.commands import run_here
from tests.helpers.pages import ROOT, read

PAGE = ROOT / "docs" / "commands.md"
GENERATE = "typer rmpsweep.cli utils docs --name rmpsweep --title Commands --output"
COMMANDS = sorted(info.name or info.callback.__name__ for info in app.registered_commands if info.callback)


@pytest.mark.slow
def test_the_page_is_current_and_contributing_says_how_to_make_it_so(tmp_path):
    made = tmp_path / "commands.md"
    subprocess.run([sys.executable, "-m", *GENERATE.split(), str(made)], check=True, capture_output=True, cwd=ROOT)
    assert read(PAGE) == made.read_text(encoding="utf-8"), f"make it again: .venv/bin/{GENERATE} docs/commands.md"
    assert f".venv/bin/{GENERATE} docs/commands.md\n" in read(ROOT / "CONTRIBUTING.md")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_on_the_page_and_its_help_shows_a_command_to_paste(command):
    assert f"\n## `rmpsweep {command}`\n" in read(PAGE)
    code, output, _ = run_here([command, "--help"])
    assert code == 0
    assert f"Usage: rmpsweep {command}" in output.replace("\n", " ")
