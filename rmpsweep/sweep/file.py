"""Sweep files and recipes: found, read, changed by --set, checked. The only file that reads or writes YAML."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from rmpsweep.data import Transform
from rmpsweep.errors import SweepError
from rmpsweep.models.recipe import Recipe
from rmpsweep.sweep.schema import Calibration, Data, Grid, Mlflow, Network, Run, Search, Sweep
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
    _insert_recipe(content)
    for change in changes:
        _change(content, change)
        _insert_recipe(content)
    _apply_presets(content, path)
    content = _expanded(content, path)
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
    return cast(Recipe, validated(Recipe, _expanded(content, path), path))


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


def _insert_recipe(content: dict[str, Any]) -> None:
    """network.train: the name of a recipe -> the recipe."""
    network = content.get("network")
    if isinstance(network, dict) and isinstance(network.get("train"), str):
        network["train"] = _read(_find(_expanded(network["train"], Path("network.train")), RECIPES, "recipe"))


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
    calibration = dict(content.get("calibration") or {})
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
            if calibration.setdefault(key, value) != value and key not in (content.get("calibration") or {}):
                raise SweepError(f"{path}: presets differ in calibration.{key}; say in the sweep which it is to be")
    if calibration:
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
    """Refuses repeated keys, which YAML forbids and PyYAML drops, and reads 1e-3 as a number."""

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


def _expanded(value: Any, path: Path) -> Any:
    """Environment variables ($NAME, ${NAME}) in every string replaced."""
    if isinstance(value, dict):
        return {key: _expanded(item, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, path) for item in value]
    if not isinstance(value, str):
        return value
    expanded = os.path.expandvars(value)
    if missing := re.search(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?", expanded):
        raise SweepError(f"{path}: {value!r}: the environment variable {missing[1]} is not set")
    return expanded


def _change(content: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise SweepError(f"--set {change!r}: expected key.path=value")
    try:
        value = _expanded(yaml.load(text, _Loader), Path("--set"))
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
    parts = [str(part) for part in detail["loc"] if part not in _UNION_TAGS]
    where = ": ".join([str(path), ".".join(parts)] if parts else [str(path)])
    got = detail["input"]
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown key; expected one of {', '.join(_known_keys(model, detail['loc']))}"
    if detail["type"] == "missing":
        return f"{where}: missing"
    if detail["type"] == "too_short":
        return f"{where}: got {got!r}, expected at least one value"
    message = detail["msg"].removeprefix("Value error, ")
    for pattern, words in _WORDING.items():
        message = re.sub(pattern, words, message)
    names_a_field = message.startswith(tuple(Recipe.__dataclass_fields__))
    return f"{where}: {message}" if names_a_field else f"{where}: got {got!r}, {message}"


_UNION_TAGS = {"float", "literal['auto']", "constrained-float", "mapping"}
_WORDING = {
    "^Input should be": "expected",
    "^Keys should be": "expected keys that are",
    "^String should match pattern": "expected text that matches",
    "a valid tuple": "a list",
    r"a (valid )?dictionary( or (an )?instance of \w+)?": "a mapping",
}


def _known_keys(model: type, location: Sequence[str | int]) -> Iterable[str]:
    if model is Recipe or "train" in location[:-1]:
        return Recipe.__dataclass_fields__
    if "transform" in location[:-1]:
        return Transform.__dataclass_fields__
    parts: dict[str, type[BaseModel]] = {
        "network": Network,
        "data": Data,
        "calibration": Calibration,
        "grid": Grid,
        "search": Search,
        "run": Run,
        "mlflow": Mlflow,
    }
    part = Sweep if len(location) == 1 else parts[str(location[0])]
    return [*part.model_fields, *(["preset"] if part is Grid else [])]
