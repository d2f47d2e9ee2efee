"""docs/architecture.md has a line for every room of the package."""

import re

from tests.helpers.pages import ROOT, read

PAGE = ROOT / "docs" / "architecture.md"


def test_every_room_has_a_line_and_every_line_a_room():
    package = ROOT / "rmpsweep"
    rooms = {path.name + "/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.name for path in package.glob("*.py")}
    named = re.findall(
        r"^\| `([\w/.]+)` \|", read(PAGE).partition("\n## The rooms\n")[2].partition("\n## ")[0], re.MULTILINE
    )
    assert sorted(named) == sorted(rooms | modules)
