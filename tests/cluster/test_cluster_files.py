"""What holds for ray_cluster.yaml and all files of cluster/: versions, secrets, addresses, commands that exist."""

import re
import shlex
import subprocess

import pytest
import typer
import yaml
from packaging.requirements import Requirement

from tests.helpers.manifests import (
    CLUSTER,
    FILES,
    PROJECT,
    README,
    ROOT,
    SLURM,
    YAML,
    by_kind,
    constraints,
    documents,
    named,
    program,
)


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_has_no_key_twice(path):
    assert all(isinstance(document, dict) for document in documents(path))


def test_a_key_that_stands_twice_is_found(tmp_path):
    (tmp_path / "twice.yaml").write_text("a: {b: 1, c: 2, b: 3}")
    with pytest.raises(yaml.constructor.ConstructorError, match="twice"):
        documents(tmp_path / "twice.yaml")


# What must be in no file


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_open_address_and_no_credential(path):
    text = path.read_text()
    forbidden = {
        "an address of every interface": r"\b0\.0\.0\.0\b|(?<![\w:])::(?:/0)?(?![\w:])|host[= ]['\"]?\*",
        "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        "a private key": r"-----BEGIN",
        "a token": r"\b(?:ghp|gho|github_pat|hf|xox[abp]|sk)[-_][A-Za-z0-9]{16,}|\beyJ[A-Za-z0-9_-]{16,}",
        "a long random string": r"\b[0-9a-f]{32,}\b",
        "credentials in an address": r"://[^/\s:@]+:[^/\s@]+@",
        "a password": r"(?i)(?:password|passwd|secret_key|auth_token)['\"]?\s*[:=]\s*['\"]?(?!file\b)\w",
    }
    found = {what: match[0] for what, pattern in forbidden.items() if (match := re.search(pattern, text))}
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "--dashboard-host=0.0.0.0",
        "aws_access_key_id: AKIAIOSFODNN7EXAMPLE",
        "password: hunter2",
        "uri: postgresql://mlflow:hunter2@db/mlflow",
        "RAY_AUTH_TOKEN: " + 64 * "a",
    ],
)
def test_an_open_address_or_a_credential_is_found(line, tmp_path):
    (tmp_path / "bad.yaml").write_text(line)
    with pytest.raises(AssertionError):
        test_no_open_address_and_no_credential(tmp_path / "bad.yaml")


def test_versions_agree():
    pinned = constraints()
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement
    assert by_kind("rayjob.yaml")["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == pinned["ray"]
    texts = {path: path.read_text() for path in FILES}
    assert {v for t in texts.values() for v in re.findall(r"'mlflow\[auth]==([\d.]+)'", t)} == {pinned["mlflow"]}
    assert {v for t in texts.values() for v in re.findall(r"/rmpsweep:([\w.]+)", t)} == {PROJECT["version"]}
    images = {v for t in texts.values() for v in re.findall(r"FROM python:(\S+)", t)}
    assert len(images) == 1
    assert f"Python {images.pop().split('-')[0]}, Ray {pinned['ray']}, torch {pinned['torch']}" in texts[README]


# Shell


def code_blocks():
    return re.findall(r"^```bash\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def shell_snippets():
    (cluster,) = documents(ROOT / "ray_cluster.yaml")
    (compose,) = documents(named("mlflow.yaml"))
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    yield "slurm.sh", SLURM.read_text()
    yield "README.md", "\n".join(code_blocks())
    yield "ray_cluster.yaml", "\n".join(starts)
    yield "mlflow.yaml", compose["services"]["server"]["command"][2].replace("$$", "$")
    yield "rayjob.yaml", by_kind("rayjob.yaml")["RayJob"]["spec"]["entrypoint"]


@pytest.mark.parametrize(("where", "script"), list(shell_snippets()), ids=lambda value: value.split("\n")[0][:20])
def test_shell_is_valid(where, script):
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    # SC2086 $RAY_HEAD_IP, SC2148 no shebang in snippets, SC2154 variables that others set
    checked = [program("shellcheck"), "--shell=bash", "--exclude=SC2086,SC2148,SC2154", "-"]
    found = subprocess.run(checked, input=script, text=True, capture_output=True)
    assert found.returncode == 0, found.stdout


def test_readme_names_files_that_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text())
    assert links
    assert all((CLUSTER / link).is_file() for link in links)


def rmpsweep_commands():
    texts = [SLURM.read_text(), by_kind("rayjob.yaml")["RayJob"]["spec"]["entrypoint"], *code_blocks()]
    prose = re.findall(r"`([^`\n]*\brmpsweep [a-z][^`\n]*)`", README.read_text())
    joined = "\n".join([*texts, *prose]).replace("\\\n", " ")
    found = re.findall(r"(?:^|\s)rmpsweep ((?:[a-z]+)(?: [^\n#&|`]*)?)", joined)
    return sorted({each.strip() for each in found if each.split()[0] != "on"})


@pytest.mark.parametrize("line", rmpsweep_commands())
def test_rmpsweep_knows_the_command_and_its_options(line):
    from rmpsweep.cli import app

    name, *arguments = shlex.split(line)
    commands = typer.main.get_command(app).commands
    assert name in commands
    known = {option for parameter in commands[name].params for option in parameter.opts}
    assert {each.split("=")[0] for each in arguments if each.startswith("--")} <= known
