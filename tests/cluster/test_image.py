"""cluster/Dockerfile, and the MLflow server of cluster/mlflow.yaml."""

import re
import subprocess
import tomllib

from packaging.requirements import Requirement

from tests.helpers.manifests import CLUSTER, DOCKERFILE, PROJECT, ROOT, documents, named, program


def test_image_is_pinned_and_not_root():
    lines = re.sub(r"\\\n", "", DOCKERFILE.read_text()).splitlines()
    instructions = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", dict(instructions)["FROM"])
    assert [rest for name, rest in instructions if name == "USER"] == ["1000"]
    assert "RAY_AUTH_MODE=token" in dict(instructions)["ENV"]
    (pip,) = (rest for name, rest in instructions if "pip install" in rest)
    assert "--constraint /source/cluster/constraints.txt '/source[cluster]'" in pip
    assert any(Requirement(each).extras == {"default"} for each in PROJECT["optional-dependencies"]["cluster"])


def test_image_gets_what_the_package_is_made_of_and_nothing_else():
    allowed = re.findall("^!(.+)$", (CLUSTER / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    roots = {path.split("/")[0] for path in setuptools["package-dir"].values()}
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "cluster/constraints.txt", *roots}
    assert set(allowed) == needed


def test_dockerfile_passes_hadolint():
    subprocess.run([program("hadolint"), DOCKERFILE], check=True)


def test_mlflow_listens_on_the_loopback_address_and_takes_secrets_from_files():
    (compose,) = documents(named("mlflow.yaml"))
    database, server = compose["services"]["database"], compose["services"]["server"]
    assert database["network_mode"] == "none"
    assert "ports" not in database
    assert server["ports"] == ["127.0.0.1:5000:5000"]
    assert "--app-name basic-auth" in server["command"][2]
    assert '--host "$$(hostname -i)"' in server["command"][2]
    for service in (database, server):
        assert set(service["secrets"]) <= compose["secrets"].keys()
        assert not [key for key in service["environment"] if "PASSWORD" in key and not key.endswith("_FILE")]
    assert all(each["file"].startswith("${HOME}/") for each in compose["secrets"].values())
    named_volumes = {mount.split(":")[0] for each in (database, server) for mount in each["volumes"]}
    assert named_volumes == compose["volumes"].keys()
