"""The map in the package's docstring names every module."""

import pkgutil
import re

from rmpsweep import engine


def test_the_map_names_every_module_once():
    assert engine.__doc__ is not None
    entries = re.findall(r"^    ((?:\w+, )*\w+)   ", engine.__doc__, re.MULTILINE)
    named = [name for entry in entries for name in entry.split(", ")]
    assert sorted(named) == sorted(module.name for module in pkgutil.iter_modules(engine.__path__))
