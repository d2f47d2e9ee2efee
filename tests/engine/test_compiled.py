"""Compiled kernels are kept on disk, and never longer than everything that went into them stays as it is."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import rmpsweep
from rmpsweep.engine import compiled as module

ENGINE = Path(rmpsweep.__file__).parent / "engine"
RUN = """
import json
from rmpsweep.engine.cpu import kernels
found = kernels.last(0)
stats = kernels.last.stats
print(json.dumps([found, sum(stats.cache_hits.values()), stats.cache_path]))
"""
KERNEL = """
from rmpsweep.engine.compiled import compiled
from rmpsweep.engine.kernels import PAD

@compiled
def last(zero):
    return zero + 2 * PAD - 1
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of what kernels need of the package, with one that is compiled in no time in place of the package's."""
    root = tmp_path / "copy" / "rmpsweep"
    shutil.copytree(ENGINE, root / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "terms.py", "errors.py"):
        shutil.copy2(ENGINE.parent / name, root / name)
    (root / "engine" / "cpu" / "kernels.py").write_text(KERNEL)
    return root / "engine"


def run(copy, tmp_path, **environment):
    """What the kernel returns, how often it came from the cache, and where that is."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    path = os.pathsep.join([str(copy.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**inherited, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path / "user"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    last, hits, cache = json.loads(done.stdout)
    return last, hits, cache and Path(cache)


@pytest.mark.slow
def test_a_constant_of_another_file_compiles_anew(copy, tmp_path):
    last, hits, cache = run(copy, tmp_path)
    assert (last, hits) == (31, 0)
    assert cache.is_relative_to(copy / "cpu" / "__pycache__")
    assert run(copy, tmp_path) == (31, 1, cache)
    kernels = copy / "kernels.py"
    content = kernels.read_text()
    assert "\nPAD = 16\n" in content
    kernels.write_text(content.replace("\nPAD = 16\n", "\nPAD = 32\n"))
    assert run(copy, tmp_path)[:2] == (63, 0)
    kernels.write_text(content)
    assert run(copy, tmp_path) == (31, 1, cache)


@pytest.mark.slow
def test_the_cache_lies_where_it_can_be_written_to(copy, tmp_path):
    given = run(copy, tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "given"))
    assert given[2].is_relative_to(tmp_path / "given")
    shutil.rmtree(copy / "cpu" / "__pycache__", ignore_errors=True)  # of Python's own, where it keeps bytecode
    (copy / "cpu" / "__pycache__").write_text("no folder, so nothing can be put into it")
    last, hits, cache = run(copy, tmp_path)
    assert (last, hits) == (31, 0)
    assert cache.is_relative_to(tmp_path / "user" / "numba")
    assert run(copy, tmp_path) == (31, 1, cache)
    (tmp_path / "file").touch()
    assert run(copy, tmp_path, XDG_CACHE_HOME=str(tmp_path / "file")) == (31, 0, None)


def test_the_digest_covers_what_the_compiled_modules_import():
    """A constant or function that one of them takes from another file is in its machine code."""
    sources = {(ENGINE / name).resolve() for name in module.SOURCES}
    for path in (*ENGINE.glob("*.py"), *ENGINE.glob("cpu/*.py")):
        tree = ast.parse(path.read_text())
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
        if "numba" not in {node.module.partition(".")[0] for node in imports}:
            continue
        assert path in sources
        for node in imports:
            if node.module.startswith("rmpsweep."):
                assert ENGINE.parents[1] / (node.module.replace(".", "/") + ".py") in sources, (
                    f"{path} imports {node.module}"
                )


def test_decorating_leaves_numba_as_it_was():
    before = numba.config.CACHE_DIR
    module.compiled(lambda: 0)
    assert before == numba.config.CACHE_DIR
