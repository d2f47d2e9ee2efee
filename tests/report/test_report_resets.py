"""The page and the claims about tables with more resets than there are today."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rmpsweep

RUN = """
import json
import pyarrow as pa
from rmpsweep.claims.response import RESETS
from rmpsweep.claims.steps import steps_claim
from rmpsweep.report import no_pictures, render
from tests.helpers.report_tables import INFO, tables

summary, activity, predictions = tables()
third = {f"{number:016x}": f"{number + 99:016x}" for number in range(0, 8, 2)}  # of hard reset's trials

def with_third(table):
    rows = table.to_pylist()
    copies = [row | {"trial_id": third[row["trial_id"]]} for row in rows if row["trial_id"] in third]
    copies = [row | {"reset": "leaky"} if "reset" in row else row for row in copies]
    return pa.Table.from_pylist(rows + copies, schema=table.schema)

more = [with_third(table) for table in (summary, activity, predictions)]
claim, before = steps_claim(more[0], more[2]), steps_claim(summary, predictions)
page = render(*more, INFO, no_pictures)
print(json.dumps([RESETS, page, claim.findings == before.findings, claim.statistics == before.statistics]))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that knows one word more; nothing else of it is changed."""
    source = Path(rmpsweep.__file__).parent
    shutil.copytree(source, tmp_path / "rmpsweep", ignore=shutil.ignore_patterns("__pycache__"))
    terms = tmp_path / "rmpsweep" / "terms.py"
    words = 'Reset = Literal["soft", "hard"]'
    assert words in terms.read_text()
    terms.write_text(terms.read_text().replace(words, 'Reset = Literal["soft", "hard", "leaky"]'))
    return tmp_path


@pytest.mark.slow
def test_a_third_reset_is_drawn_and_compared_without_a_change(package):
    path = os.pathsep.join([str(package), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=package, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    resets, page, same_findings, same_statistics = json.loads(done.stdout)
    assert resets == ["soft", "hard", "leaky"]
    assert "Soft against hard reset" in page
    assert "Soft against leaky reset" in page
    assert "soft minus leaky is" in page
    assert 'id="paired-chart-1"' in page
    assert same_findings  # the claim is about soft and hard
    assert same_statistics
