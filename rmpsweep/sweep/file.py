"""Sweep files and recipes: found, read, changed by --set, checked. The only file that reads or writes YAML."""

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
        changes: "key.path=value" with the value in YAML, as after --set; grid.x applies to every grid of a list.
    Raises:
        SweepError: file, key path, value received and what is allowed, for every mistake found.
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
    """Read, change ("key=value") and check a recipe: a path, or the name of a file in sweeps/recipes/.

    Raises:
        SweepError: file, key, value received and what is allowed, for every mistake found.
    """
    path = _find(recipe, RECIPES, "recipe")
    content = _read(path)
    for change in changes:
        _change(content, change)
    return cast(Recipe, validated(Recipe, _expanded(content, str(path)), path))


def parse_sweep(text: str, where: str) -> Sweep:
    """A resolved sweep as `dump_sweep` wrote it. Raises SweepError."""
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SweepError(f"{where}: not valid YAML: {_reason(error)}") from error
    return cast(Sweep, validated(Sweep, content, Path(where)))


def dump_sweep(sweep: Sweep) -> str:
    """The resolved sweep as YAML, every default written out."""
    return yaml.safe_dump(sweep.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def without_secret(sweep: Sweep) -> Sweep:
    """The sweep without a tracking URI that holds a password, which must be neither written to disk nor shown."""
    uri = sweep.mlflow.tracking_uri
    if uri is None or without_password(uri) == uri:
        return sweep
    return sweep.model_copy(update={"mlflow": sweep.mlflow.model_copy(update={"tracking_uri": None})})


def names(directory: Path) -> list[str]:
    """Names of the files that come with rmpsweep."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def _insert_recipe(content: dict[str, Any]) -> Path | None:
    """Put a recipe in place of its name in network.train; the recipe's file, None where no recipe is named."""
    network = content.get("network")
    if not isinstance(network, dict) or not isinstance(network.get("train"), str):
        return None
    path = _find(_expanded(network["train"], "network.train"), RECIPES, "recipe")
    network["train"] = _read(path)
    return path


def _find_beside(content: dict[str, Any], path: Path) -> None:
    """network.weights, where there is no such file here but one beside the sweep file: that one."""
    network = content.get("network")
    weights = network.get("weights") if isinstance(network, dict) else None
    found = isinstance(weights, str) and not Path(weights).exists() and (path.parent / weights).is_file()
    if isinstance(network, dict) and found:
        network["weights"] = str(path.parent / str(weights))


def _apply_presets(content: dict[str, Any], path: Path) -> None:
    """grid.preset: a name -> its settings, where the grid and the calibration do not say otherwise."""
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
                raise SweepError(f"{path}: presets differ in calibration.{key}; say in the sweep which it is to be")
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
    """Refuses repeated keys, which YAML forbids and PyYAML drops, and reads 1e-3 as a number.

    PyYAML stays although it follows YAML 1.1. ruamel.yaml, which follows 1.2, writes long paths and small numbers
    differently, and a launch publishes again whatever was published for a sweep.yaml of other bytes.
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
    """Where YAML cannot be read and why, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error).partition("\n")[0]


def _expanded(value: Any, where: str, key: tuple[str, ...] = (), recipe: Path | None = None) -> Any:
    """Environment variables ($NAME, ${NAME}) in every string replaced.

    Args:
        where: the file or option that the value comes from, for messages.
        key: of the value in it.
        recipe: the file that network.train was read from.
    Raises:
        SweepError: a variable that is not set, with the key that asks for it.
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
    """Content as one of the models of `schema`; path: of the file, or the command, it comes from.

    Raises:
        SweepError: key, value received and what is allowed, for every mistake found.
    """
    try:
        return TypeAdapter(model).validate_python(content)
    except ValidationError as error:
        lines = [_line(model, path, detail) for detail in error.errors() if not _follows(detail)]
        raise SweepError("\n".join(lines)) from None


def _follows(detail: Any) -> bool:
    """A list that is only short because of items that have a line of their own."""
    return detail["type"] == "too_short" and len(detail["input"]) > 0


def _line(model: type, path: Path, detail: Any) -> str:
    """One mistake in one line, in words chosen by its type: pydantic's own may change with any release."""
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
"""Type of a mistake in pydantic -> what is expected, with the values of its context."""


def _known_keys(model: type, location: Sequence[str | int]) -> list[str]:
    """The keys that the mapping at a place in a model may have."""
    for part in location:
        if part in (types := get_type_hints(model)):
            model = _mapping_in(types[str(part)]) or model
    fields = model.model_fields if issubclass(model, BaseModel) else cast(Any, model).__dataclass_fields__
    return [*fields, *(["preset"] if model is Grid else [])]


def _mapping_in(annotation: Any) -> type | None:
    """The model or dataclass that an annotation such as `tuple[Grid, ...]` or `Recipe | None` names."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return annotation
    return next((found for each in get_args(annotation) if (found := _mapping_in(each))), None)
