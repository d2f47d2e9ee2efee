"""docs/sweep-file.md has every key that a sweep file may have, and no other, with its default."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from rmpsweep.data import SOURCES, TRANSFORMS
from rmpsweep.sweep.file import load_sweep
from rmpsweep.sweep.schema import Sweep
from rmpsweep.sweep.thresholds import PRESETS
from rmpsweep.terms import THRESHOLD_METHODS
from tests.helpers.pages import ROOT, read, table_rows

PAGE = ROOT / "docs" / "sweep-file.md"
ROWS = {row[0].strip("`"): row for row in table_rows(PAGE) if len(row) == 5 and row[0].startswith("`")}
NOT_IN_THE_SCHEMA = {"grid.preset"}
"""Replaced by the settings it stands for before the schema is asked."""
REQUIRED = "required"


def parts(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema itself, and whatever a value may be instead or contain as an item."""
    yield schema
    if "$ref" in schema:
        yield from parts(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for part in [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *([schema["items"]] if "items" in schema else [])]:
        if isinstance(part, dict):
            yield from parts(part, definitions)


def keys(schema: dict[str, Any], definitions: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any, set[str]]]:
    """Every key with its path, its default, and the words it may be (empty where it is no closed set)."""
    for name, each in schema.get("properties", {}).items():
        own = list(parts(each, definitions))
        words = {
            word for part in own for word in (*part.get("enum", ()), *([part["const"]] if "const" in part else ()))
        }
        default = each.get("default", REQUIRED if name in schema.get("required", ()) else None)
        yield before + name, default, words
        for part in own:
            yield from keys(part, definitions, f"{before}{name}.")


SCHEMA = Sweep.model_json_schema()
KEYS = {path: (default, words) for path, default, words in keys(SCHEMA, SCHEMA["$defs"])}
MAPPINGS = {path.rpartition(".")[0] for path in KEYS}


def test_the_page_and_the_schema_have_the_same_keys():
    assert set(ROWS) - NOT_IN_THE_SCHEMA == set(KEYS)
    assert {"grid.v_init", "grid.max_pool", "network.train.epochs", "data.transform.crop"} < set(KEYS)


@pytest.mark.parametrize("path", sorted(set(KEYS) - MAPPINGS))
def test_the_default_is_true_and_every_word_is_named(path):
    default, words = KEYS[path]
    cells = ROWS[path]
    said = yaml.safe_load(cells[2].replace("`", ""))
    if path.startswith("grid.") and isinstance(default, list):
        (default,) = default
    assert said == ("none" if default is None else default)
    assert words <= set(re.findall(r"`([^`]+)`", " ".join(cells[1:])))


def test_the_page_names_every_source_transform_rule_and_preset():
    text = read(PAGE)
    for name in (*SOURCES, *TRANSFORMS, *PRESETS, *THRESHOLD_METHODS):
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", read(PAGE), re.DOTALL))
def test_every_sweep_file_on_the_page_loads(block, tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_DIR", "somewhere")
    path = tmp_path / "page.yaml"
    path.write_text(block, encoding="utf-8")
    assert load_sweep(str(path)).settings()
