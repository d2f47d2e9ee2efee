"""Find, read, change (--set), check and write sweep files and recipes. No other file reads or writes YAML."""

import os
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from rmpsweep.errors import SweepError
from rmpsweep.models.recipe import Recipe
from rmpsweep.sweep.schema import Grid, Sweep
from rmpsweep.sweep.thresholds import PRESETS
from rmpsweep.tracking import without_password

_HERE = Path(__file__).parents[1]
SWEEPS = _HERE / "sweeps" if (_HERE / "sweeps").is_dir() else _HERE.parent / "sweeps"
RECIPES = SWEEPS / "recipes"


def load_sweep(name_or_path: str | os.PathLike[str], changes: Sequence[str] = ()) -> Sweep:
    """Read, resolve and check a sweep file.

    Args:
        name_or_path: a path, or the name of a sweep that comes with rmpsweep.
        changes: changes "key.path=value" with the value in YAML, as after --set. If the sweep has a list of grids,
            grid.x changes all of them.
    Raises:
        SweepError: the file does not exist or is not valid YAML, a variable of the environment is not set, or the sweep
            is not valid. In the last case, the message has a line for every mistake, with file, key path, the value
            received and what is allowed.
    """
    path = _find(os.fspath(name_or_path), SWEEPS, "sweep")
    content = _read(path)
    recipe = _insert_recipe(content)
    for change in changes:
        _change(content, change)
        recipe = _insert_recipe(content) or recipe
    _apply_presets(content, path)
    content = _expanded(content, str(path), recipe=recipe)
    _find_beside(content, path)
    return cast(Sweep, validated(Sweep, content, path))


def load_recipe(recipe: str, changes: Sequence[str] = ()) -> Recipe:
    """Read, change and check a recipe.

    Args:
        recipe: a path, or the name of a recipe that comes with rmpsweep.
        changes: changes "key=value" with the value in YAML.
    Raises:
        SweepError: the recipe is not valid. The message has a line for every mistake, with file, key, the value
            received and what is allowed.
    """
    path = _find(recipe, RECIPES, "recipe")
    content = _read(path)
    for change in changes:
        _change(content, change)
    return cast(Recipe, validated(Recipe, _expanded(content, str(path)), path))


def parse_sweep(text: str, where: str) -> Sweep:
    """Parse a resolved sweep that `dump_sweep` wrote; `where` is its file, for messages. Raises SweepError."""
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SweepError(f"{where}: not valid YAML: {_reason(error)}") from error
    return cast(Sweep, validated(Sweep, content, Path(where)))


def dump_sweep(sweep: Sweep) -> str:
    """Write the resolved sweep as YAML, with every default written out."""
    return yaml.safe_dump(sweep.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def without_secret(sweep: Sweep) -> Sweep:
    """Return the sweep without its tracking URI if that has a password, which must not be written to disk or shown."""
    uri = sweep.mlflow.tracking_uri
    if uri is None or without_password(uri) == uri:
        return sweep
    return sweep.model_copy(update={"mlflow": sweep.mlflow.model_copy(update={"tracking_uri": None})})


def names(directory: Path) -> list[str]:
    """Return the names of the sweeps, or recipes, that come with rmpsweep in this directory."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def _insert_recipe(content: dict[str, Any]) -> Path | None:
    """Replace the name of a recipe in network.train by its contents. Return its file; None if no recipe is named."""
    network = content.get("network")
    if not isinstance(network, dict) or not isinstance(network.get("train"), str):
        return None
    path = _find(_expanded(network["train"], "network.train"), RECIPES, "recipe")
    network["train"] = _read(path)
    return path


def _find_beside(content: dict[str, Any], path: Path) -> None:
    """Change network.weights to the file of this name beside the sweep file, if only that one exists."""
    network = content.get("network")
    weights = network.get("weights") if isinstance(network, dict) else None
    found = isinstance(weights, str) and not Path(weights).exists() and (path.parent / weights).is_file()
    if isinstance(network, dict) and found:
        network["weights"] = str(path.parent / str(weights))


def _apply_presets(content: dict[str, Any], path: Path) -> None:
    """Replace grid.preset by the settings of the preset. What the grid and the calibration state themselves stays."""
    grids = content.get("grid")
    given = content.get("calibration") or {}
    calibration = dict(given) if isinstance(given, dict) else {}
    for grid in grids if isinstance(grids, list) else [grids]:
        if not isinstance(grid, dict) or "preset" not in grid:
            continue
        name = grid.pop("preset")
        if not isinstance(name, str) or name not in PRESETS:
            raise SweepError(f"{path}: grid.preset: got {name!r}, expected one of {', '.join(PRESETS)}")
        preset = PRESETS[name]
        if missing := [key for key in preset.needs if key not in grid]:
            raise SweepError(f"{path}: grid: preset {name!r} needs {', '.join(missing)}")
        for key, value in preset.grid.items():
            grid.setdefault(key, value)
        for key, value in preset.calibration.items():
            if calibration.setdefault(key, value) != value and key not in given:
                raise SweepError(f"{path}: presets differ in calibration.{key}; set it in the sweep file")
    if calibration and isinstance(given, dict):
        content["calibration"] = calibration


def _find(name: str, directory: Path, what: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    packaged = directory / f"{name.removesuffix('.yaml')}.yaml"
    if "/" not in name and packaged.is_file():
        return packaged
    missing = "no such file (it is a directory)" if Path(name).is_dir() else "no such file"
    raise SweepError(
        f"{what} {name!r}: {missing}, and none of that name comes with rmpsweep; those that do: "
        f"{', '.join(names(directory))}"
    )


class _Loader(yaml.SafeLoader):
    """A loader that refuses repeated keys, which YAML forbids and PyYAML accepts, and reads 1e-3 as a number.

    We keep PyYAML although it follows YAML 1.1. ruamel.yaml follows 1.2, but writes long paths and small numbers
    differently, so sweep.yaml would get other bytes and the next launch would publish everything again.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # such as the 13th month
            raise yaml.constructor.ConstructorError(None, None, f"{node.value}: {error}", node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                first, again = (node.value[k][0].start_mark for k in (keys.index(key), i))
                message = f"key {key!r} is given twice, first in line {first.line + 1}"
                raise yaml.constructor.ConstructorError(None, None, message, again)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(  # 1e-3, which PyYAML takes for text: it follows YAML 1.1
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: not valid YAML: {_reason(error)}") from error
    except OSError as error:
        raise SweepError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise SweepError(f"{path}: got {type(content).__name__}, expected a mapping with keys such as name and network")
    return content


def _reason(error: Exception) -> str:
    """Return where and why YAML cannot be read, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error).partition("\n")[0]


def _expanded(value: Any, where: str, key: tuple[str, ...] = (), recipe: Path | None = None) -> Any:
    """Replace the environment variables ($NAME, ${NAME}) in every string of a value.

    Args:
        where: the file or option that the value comes from, for messages.
        key: the path of the value in this file, for messages.
        recipe: the file that network.train was read from, for messages.
    Raises:
        SweepError: a variable is not set; the message names the key that uses it.
    """
    if isinstance(value, dict):
        return {name: _expanded(item, where, (*key, str(name)), recipe) for name, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, where, (*key, str(i)), recipe) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    expanded = os.path.expandvars(value)
    if missing := re.search(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?", expanded):
        source = f" (recipe {recipe.name})" if recipe and key[:2] == ("network", "train") else ""
        place = f"{where}: {'.'.join(key)}{source}" if key else where
        raise SweepError(f"{place}: {value!r}: the environment variable {missing[1]} is not set")
    return expanded


def _change(content: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise SweepError(f"--set {change!r}: expected key.path=value")
    try:
        value = _expanded(yaml.load(text, _Loader), f"--set {change!r}")
    except yaml.YAMLError as error:
        raise SweepError(f"--set {change!r}: the value is not valid YAML: {_reason(error)}") from error
    targets: list[Any] = [content]
    for part in parts[:-1]:
        targets = [target.setdefault(part, {}) for target in targets]
        targets = [item for target in targets for item in (target if isinstance(target, list) else [target])]
        if not all(isinstance(target, dict) for target in targets):
            raise SweepError(f"--set {change!r}: {part!r} has no keys of its own")
    for target in targets:
        target[parts[-1]] = value


def validated(model: type, content: Any, path: Path) -> Any:
    """Check content against a model, and return the content as this model.

    Args:
        path: the file, or the command, that the content comes from, for messages.
    Raises:
        SweepError: the content is not valid. The message has a line for every mistake, with key, the value received
            and what is allowed.
    """
    try:
        return TypeAdapter(model).validate_python(content)
    except ValidationError as error:
        lines = [_line(model, path, detail) for detail in error.errors() if not _follows(detail)]
        raise SweepError("\n".join(lines)) from None


def _follows(detail: Any) -> bool:
    """Return whether a mistake follows from others: a list is too short only because some items are not valid."""
    return detail["type"] == "too_short" and len(detail["input"]) > 0


def _line(model: type, path: Path, detail: Any) -> str:
    """Describe one mistake in one line. The words follow from its type, since pydantic's own may change any time."""
    parts = [str(part) for part in detail["loc"] if part not in _UNION_TAGS]
    where = ": ".join([str(path), ".".join(parts)] if parts else [str(path)])
    kind, context, got = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown key; expected one of {', '.join(_known_keys(model, detail['loc'][:-1]))}"
    if kind == "missing":
        return f"{where}: missing"
    if kind == "value_error":  # raised by our own validators, which name a key or say what they expect
        message = str(context["error"])
        return f"{where}: {message}" if re.match(r"[\w.]+: ", message) else f"{where}: got {got!r}, {message}"
    expected = _EXPECTED[kind].format(**context) if kind in _EXPECTED else f"something else: {detail['msg']}"
    return f"{where}: got {got!r}, expected {expected}"


_UNION_TAGS = {"float", "literal['auto']", "constrained-float", "mapping"}
_EXPECTED = {
    "bool_parsing": "a valid boolean",
    "bool_type": "a valid boolean",
    "dataclass_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a valid number",
    "float_type": "a valid number",
    "greater_than": "greater than {gt:.12g}",
    "greater_than_equal": "greater than or equal to {ge:.12g}",
    "int_from_float": "a valid integer",
    "int_parsing": "a valid integer",
    "int_type": "a valid integer",
    "invalid_key": "keys that are strings",
    "less_than": "less than {lt:.12g}",
    "less_than_equal": "less than or equal to {le:.12g}",
    "literal_error": "{expected}",
    "model_type": "a mapping",
    "path_type": "a path",
    "string_pattern_mismatch": "text that matches '{pattern}'",
    "string_type": "a valid string",
    "too_short": "at least one value",
    "tuple_type": "a list",
}
"""Type of a mistake in pydantic -> what is expected; the values in braces come from the context of the mistake."""


def _known_keys(model: type, location: Sequence[str | int]) -> list[str]:
    """Return the keys that the mapping at a location in a model may have."""
    for part in location:
        if part in (types := get_type_hints(model)):
            model = _mapping_in(types[str(part)]) or model
    fields = model.model_fields if issubclass(model, BaseModel) else cast(Any, model).__dataclass_fields__
    return [*fields, *(["preset"] if model is Grid else [])]


def _mapping_in(annotation: Any) -> type | None:
    """Find the model or dataclass in an annotation such as `tuple[Grid, ...]` or `Recipe | None`."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return annotation
    return next((found for each in get_args(annotation) if (found := _mapping_in(each))), None)
