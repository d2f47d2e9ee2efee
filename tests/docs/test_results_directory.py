"""docs/results-directory.md names every file, every column of every table and every exit code."""

import re

import pytest

from rmpsweep import errors
from rmpsweep.results import ACTIVITY_SCHEMA, PREDICTIONS_SCHEMA, SUMMARY_SCHEMA, Layout
from rmpsweep.results.tables import CALIBRATION_SCHEMA
from tests.helpers.pages import ROOT, read, table_rows

PAGE = ROOT / "docs" / "results-directory.md"


def test_every_file_is_on_the_page(tmp_path):
    layout = Layout(tmp_path)
    names = [getattr(layout, name).name for name, each in vars(Layout).items() if isinstance(each, property)]
    assert len(names) > 10
    first = {row[0] for row in table_rows(PAGE)}
    assert [name for name in names if not any(cell.startswith(f"`{name}") for cell in first)] == []


@pytest.mark.parametrize(
    ("title", "schema"),
    [
        ("predictions.parquet", PREDICTIONS_SCHEMA),
        ("summary.parquet", SUMMARY_SCHEMA),
        ("activity.parquet", ACTIVITY_SCHEMA),
        ("calibration/*.parquet", CALIBRATION_SCHEMA),
    ],
)
def test_every_column_is_on_the_page_with_its_type(title, schema):
    section = read(PAGE).partition(f"\n### `{title}`\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", section, re.MULTILINE)
    assert rows == [(field.name, str(field.type)) for field in schema]


def test_every_exit_code_is_on_the_page():
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.RmpsweepError)
    ]
    section = read(PAGE).partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    assert {0, 130} | {kind.exit_code for kind in kinds} == {
        int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)
    }
