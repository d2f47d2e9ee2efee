"""Sweep files and recipes: found, read, changed by --set, checked. The only file that reads or writes YAML."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from rmpsweep.errors import SweepError
from rmpsweep.models.recipe import Recipe
from rmpsweep.schema import Calibration, Data, Grid, Mlflow, Network, Run, Sweep

_HERE = Path(__file__).parent
SWEEPS = _HERE / "sweeps" if (_HERE / "sweeps").is_dir() else _HERE.parent / "sweeps"
RECIPES = SWEEPS / "recipes"


def load_sweep(sweep: str, changes: Sequence[str] = ()) -> Sweep:
    """Read, resolve and check a sweep file.

    Args:
        sweep: a path, or the name of a file in sweeps/ with or without .yaml.
        changes: "key.path=value" with the value in YAML; grid.x applies to every grid of a list.
    Raises:
        SweepError: file, key path, value received and what is allowed, for every mistake found.
    """
    path = _find(sweep, SWEEPS, "sweep")
    content = _read(path)
    _insert_recipe(content)
    for change in changes:
        _change(content, change)
        _insert_recipe(content)
    return cast(Sweep, _validated(TypeAdapter(Sweep), content, path))


def load_recipe(recipe: str) -> Recipe:
    """Read and check a recipe: a path, or the name of a file in sweeps/recipes/. Raises SweepError."""
    path = _find(recipe, RECIPES, "recipe")
    return cast(Recipe, _validated(TypeAdapter(Recipe), _read(path), path))


def parse_sweep(text: str, where: str) -> Sweep:
    """A resolved sweep as `dump_sweep` wrote it. Raises SweepError."""
    return cast(Sweep, _validated(TypeAdapter(Sweep), yaml.safe_load(text), Path(where)))


def dump_sweep(sweep: Sweep) -> str:
    """The resolved sweep as YAML, every default written out."""
    return yaml.safe_dump(sweep.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def names(directory: Path) -> list[str]:
    """Names of the files that come with rmpsweep."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def _insert_recipe(content: dict[str, Any]) -> None:
    """network.train: the name of a recipe -> the recipe."""
    network = content.get("network")
    if isinstance(network, dict) and isinstance(network.get("train"), str):
        network["train"] = _read(_find(network["train"], RECIPES, "recipe"))


def _find(name: str, directory: Path, what: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    packaged = directory / f"{name.removesuffix('.yaml')}.yaml"
    if "/" not in name and packaged.is_file():
        return packaged
    raise SweepError(f"{what} {name!r}: no such file, and none of that name comes with rmpsweep; those that do: "
                     f"{', '.join(names(directory))}")  # fmt: skip


class _Loader(yaml.SafeLoader):
    """Refuses repeated keys, which YAML forbids and PyYAML drops."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key {repeated[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: not valid YAML: {error}") from error
    except OSError as error:
        raise SweepError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise SweepError(f"{path}: got {type(content).__name__}, expected a mapping with keys such as name and network")
    return cast(dict[str, Any], _expanded(content, path))


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
        raise SweepError(f"--set {change!r}: the value is not valid YAML: {error}") from error
    targets: list[Any] = [content]
    for part in parts[:-1]:
        targets = [target.setdefault(part, {}) for target in targets]
        targets = [item for target in targets for item in (target if isinstance(target, list) else [target])]
        if not all(isinstance(target, dict) for target in targets):
            raise SweepError(f"--set {change!r}: {part!r} has no keys of its own")
    for target in targets:
        target[parts[-1]] = value


def _validated(adapter: TypeAdapter[Any], content: Any, path: Path) -> Any:
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        raise SweepError("\n".join(_line(path, detail) for detail in error.errors())) from None


def _line(path: Path, detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"] if part not in _UNION_TAGS)
    got = detail["input"]
    if detail["type"] == "extra_forbidden":
        return f"{path}: {where}: unknown key; expected one of {', '.join(_known_keys(detail['loc']))}"
    if detail["type"] == "missing":
        return f"{path}: {where}: missing"
    if detail["type"] == "too_short":
        return f"{path}: {where}: got {got!r}, expected at least one value"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{path}: {where}: {message}" if message.startswith(tuple(Recipe.__dataclass_fields__)) else (
        f"{path}: {where}: got {got!r}, {message}")  # fmt: skip


_UNION_TAGS = {"float", "literal['auto']", "constrained-float"}


def _known_keys(location: Sequence[str | int]) -> Iterable[str]:
    if "train" in location[:-1] or location[0] in Recipe.__dataclass_fields__:
        return Recipe.__dataclass_fields__
    parts = {"network": Network, "data": Data, "calibration": Calibration, "grid": Grid, "run": Run, "mlflow": Mlflow}
    model = Sweep if len(location) == 1 else parts[str(location[0])]
    return cast(Iterable[str], model.model_fields)
