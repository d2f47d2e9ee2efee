"""Reads ray_cluster.yaml and the files of cluster/ for the tests."""

import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
FILES = [ROOT / "ray_cluster.yaml", *sorted(path for path in CLUSTER.iterdir() if path.is_file())]
YAML = [path for path in FILES if path.suffix == ".yaml"]
README, DOCKERFILE, SLURM = CLUSTER / "README.md", CLUSTER / "Dockerfile", CLUSTER / "slurm.sh"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a mapping in which a key appears twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice and not getattr(node, "flattened", False):
            raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node):
        super().flatten_mapping(node)
        node.flattened = True


def documents(path):
    return list(yaml.load_all(path.read_text(), UniqueKeys))


def named(name):
    return CLUSTER / name


def by_kind(name):
    return {document["kind"]: document for document in documents(named(name))}


def constraints():
    lines = [line for line in named("constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def walk(value):
    """Every (key, value) of nested mappings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def program(name):
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
