"""The command list, which needs no sweep."""

from pathlib import Path
from typing import Annotated

import typer

from rmpsweep.cli.options import JsonOption
from rmpsweep.errors import SweepError


def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="What to list: sweeps, recipes, networks, sources, transforms, thresholds or presets; default is "
            "everything."
        ),
    ] = "",
    json_: JsonOption = False,
) -> None:
    """List the names that a sweep file can use.

    Usage: rmpsweep list networks
    """
    from rmpsweep.cli.display import Display
    from rmpsweep.data import SOURCES, TRANSFORMS
    from rmpsweep.models.registry import ANY_EXTERNAL, NETWORKS, list_networks
    from rmpsweep.sweep.file import RECIPES, SWEEPS, names
    from rmpsweep.sweep.thresholds import PRESETS
    from rmpsweep.terms import THRESHOLD_METHODS

    catalogue: dict[str, dict[str, str]] = {
        "sweeps": {name: _headline(SWEEPS / f"{name}.yaml") for name in names(SWEEPS)},
        "recipes": {name: _headline(RECIPES / f"{name}.yaml") for name in names(RECIPES)},
        "networks": {name: info.description for name, info in NETWORKS.items()},
        "sources": SOURCES,
        "transforms": {name: str(transform) for name, transform in TRANSFORMS.items()},
        "thresholds": THRESHOLD_METHODS,
        "presets": {name: preset.description for name, preset in PRESETS.items()},
    }
    if what and what not in catalogue:
        raise SweepError(f"list: got {what!r}, expected one of {', '.join(catalogue)}")
    display = Display(json_)
    if what == "networks":
        networks = list_networks()
        columns = ("name", "image", "classes", "parameters", "MACs per image", "source")
        display.table(what, columns, [tuple(row.values()) for row in networks])
        display.line(ANY_EXTERNAL)
        display.document({what: networks})
        return
    chosen = {what: catalogue[what]} if what else catalogue
    for title, entries in chosen.items():
        display.table(title, ("name", "description"), entries.items())
    display.document(chosen)


def _headline(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("#") else ""
