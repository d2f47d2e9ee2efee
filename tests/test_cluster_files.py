"""ray_cluster.yaml and cluster/: held against the schemas of the programs that read them, and run where they can be.

RMPSWEEP_RAYJOB_CRD may name a copy of KubeRay's helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml; the job is then
held against that too.
"""

import contextlib
import copy
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
FILES = [ROOT / "ray_cluster.yaml", *sorted(path for path in CLUSTER.iterdir() if path.is_file())]
YAML = [path for path in FILES if path.suffix == ".yaml"]
README, DOCKERFILE, SLURM = CLUSTER / "README.md", CLUSTER / "Dockerfile", CLUSTER / "slurm.sh"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class UniqueKeys(yaml.SafeLoader):
    """YAML in which no key stands twice."""

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
        "--dashboard-host=0.0.0.0", "aws_access_key_id: AKIAIOSFODNN7EXAMPLE", "password: hunter2",
        "uri: postgresql://mlflow:hunter2@db/mlflow", "RAY_AUTH_TOKEN: " + 64 * "a",
    ],
)  # fmt: skip
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


# ray_cluster.yaml


@pytest.fixture
def cluster():
    (config,) = documents(ROOT / "ray_cluster.yaml")
    return config


def prepared(config):
    """As `ray up` sees it: checked against its schema, its defaults filled in, checked again."""
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    filled = prepare_config(copy.deepcopy(config))
    validate_config(filled)
    return filled


def test_ray_accepts_the_cluster_and_adds_nothing_of_its_own(cluster):
    filled = prepared(cluster)
    commands = [key for key in filled if key.endswith("_commands")]
    assert {key: filled[key] for key in commands if filled[key]} == {
        key: cluster[key] for key in ("head_start_ray_commands", "worker_start_ray_commands")
    }
    assert filled["available_node_types"].keys() == {"head", "gpu"}


@pytest.mark.parametrize(
    "change",
    [
        {"initial_workers": 1}, {"docker": {"container_name": "rmpsweep", "images": "x"}}, {"head_node_type": "cpu"},
        {"max_workers": -1}, {"available_node_types": {"head": {"resources": {"CPU": 0.5}, "node_config": {}}}},
    ],
)  # fmt: skip
def test_ray_refuses_a_broken_cluster(cluster, change):
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        prepared(cluster | change)


def test_cluster_is_closed_and_its_head_computes_nothing(cluster):
    head, gpu = (cluster["available_node_types"][name] for name in ("head", "gpu"))
    assert head["resources"] == {"CPU": 0}
    assert gpu["min_workers"] == 0
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert cluster["provider"]["cache_stopped_nodes"] is False
    starts = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    assert [re.findall(r"--dashboard-host=(\S+)", line) for line in starts if "--head" in line] == [["127.0.0.1"]]
    assert "--env=RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    (token,) = (option.split("=", 2)[2] for option in cluster["docker"]["run_options"] if "TOKEN_PATH" in option)
    assert cluster["file_mounts"][token].startswith("~/")
    for node in (head, gpu):  # left out, Ray makes a group with SSH from everywhere, and a role that may do anything
        assert node["node_config"]["SecurityGroupIds"]
        assert node["node_config"]["IamInstanceProfile"]
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


def test_ray_starts_the_nodes_on_a_simulated_aws(cluster, monkeypatch):
    moto, boto3 = pytest.importorskip("moto"), pytest.importorskip("boto3")
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_NAME

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    with moto.mock_aws():
        ec2, iam = boto3.resource("ec2"), boto3.client("iam")
        vpc = next(iter(ec2.vpcs.all()))
        group = ec2.create_security_group(GroupName="own", Description="own", VpcId=vpc.id)
        before = {each.id for each in ec2.security_groups.all()}
        image = next(iter(ec2.images.all())).id
        cluster["provider"]["region"] = "us-west-2"
        for node in cluster["available_node_types"].values():
            iam.create_instance_profile(InstanceProfileName=node["node_config"]["IamInstanceProfile"]["Name"])
            node["node_config"] |= {"SecurityGroupIds": [group.id], "ImageId": image, "KeyName": "key"}
        cluster["auth"]["ssh_private_key"] = "key.pem"
        config = AWSNodeProvider.fillout_available_node_types_resources(prepared(cluster))
        config = bootstrap_aws(config)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        started = {}
        for name, node in config["available_node_types"].items():
            (started[name],) = provider.create_node(node["node_config"], {TAG_RAY_NODE_NAME: name}, 1).values()
        assert started["gpu"].instance_lifecycle == "spot"
        assert started["head"].instance_lifecycle is None
        assert all(each.security_groups == [{"GroupId": group.id, "GroupName": "own"}] for each in started.values())
        assert {each.id for each in ec2.security_groups.all()} == before
        assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}
        assert config["available_node_types"]["gpu"]["resources"]["GPU"] == 1
        assert [role.name for role in boto3.resource("iam").roles.all()] == []


# Kubernetes

NAME = {"type": "string", "maxLength": 47, "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}
COUNT = {"type": "integer", "minimum": 0}
SECONDS = {"type": "integer", "minimum": 1}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required, **optional):
    """A mapping with these fields and no others."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


TEMPLATE = {"template": {"type": "object", "required": ["spec"]}}
RAY_CLUSTER = closed(
    {
        "rayVersion": {"type": "string", "pattern": r"^2\.(5[2-9]|[6-9]\d)\.\d+$"},
        "authOptions": closed({"mode": {"const": "token"}}, secretName=NAME),
        "headGroupSpec": closed({"rayStartParams": STRINGS, **TEMPLATE}),
        "workerGroupSpecs": {
            "type": "array",
            "items": closed(
                # without rayStartParams the operator writes into a map that is not there
                {"groupName": NAME, "minReplicas": COUNT, "maxReplicas": COUNT, "rayStartParams": STRINGS, **TEMPLATE},
                replicas=COUNT,
            ),
        },
    },
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=closed({}, version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT),
)
RAYJOB = closed(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": closed({"name": NAME}),
        "spec": closed(
            {"entrypoint": {"type": "string"}, "rayClusterSpec": RAY_CLUSTER},
            shutdownAfterJobFinishes={"type": "boolean"},
            backoffLimit=COUNT,
            activeDeadlineSeconds=SECONDS,
            preRunningDeadlineSeconds=SECONDS,
        ),
    }
)
"""The part of KubeRay's RayJob that is used here: fields and types of its CRD, rules of its validation.go."""


@pytest.fixture
def job():
    return by_kind("rayjob.yaml")["RayJob"]


def groups(job):
    spec = job["spec"]["rayClusterSpec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def test_job_is_a_rayjob(job):
    jsonschema.validate(job, RAYJOB)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("apiVersion",), "ray.io/v1alpha1"), (("spec", "backoffLimits"), 2), (("spec", "activeDeadlineSeconds"), "1d"),
        (("spec", "rayClusterSpec", "rayVersion"), "2.51.0"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "disabled"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replica"), 1),
    ],
)  # fmt: skip
def test_a_broken_rayjob_is_refused(job, where, value):
    inner = job
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAYJOB)


def crd_schema():
    path = os.environ.get("RMPSWEEP_RAYJOB_CRD")
    if not path:
        pytest.skip("RMPSWEEP_RAYJOB_CRD does not name KubeRay's ray.io_rayjobs.yaml")
    versions = yaml.load(Path(path).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    (schema,) = (each["schema"]["openAPIV3Schema"] for each in versions if each["name"] == "v1" and each["served"])

    def strict(node):
        """As the API server reads it with strict field validation: unknown fields are errors."""
        if not isinstance(node, dict):
            return node
        closed = {key: strict(value) for key, value in node.items() if key not in ("properties", "items")}
        if "items" in node:
            closed["items"] = strict(node["items"])
        if "properties" in node:
            closed["properties"] = {key: strict(value) for key, value in node["properties"].items()}
            if "additionalProperties" not in node and not node.get("x-kubernetes-preserve-unknown-fields"):
                closed["additionalProperties"] = False
        if node.get("x-kubernetes-int-or-string"):
            return {"type": ["integer", "string"]}
        return closed

    schema = strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def test_job_is_valid_against_the_real_crd(job):
    schema = crd_schema()
    jsonschema.validate(job, schema)
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["toleration"] = []
    with pytest.raises(jsonschema.ValidationError, match="toleration"):
        jsonschema.validate(job, schema)


def test_kubernetes_accepts_the_pods_and_the_rest(job):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    pods = [{"apiVersion": "v1", "kind": "Pod", **group["template"]} for group in groups(job)]
    rest = [*by_kind("volume.yaml").values(), by_kind("rayjob.yaml")["NetworkPolicy"]]
    for document in pods + rest:
        kubernetes_validate.validate(document, "1.33", strict=True)
    pods[1]["spec"]["toleration"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pods[1], "1.33", strict=True)


def test_job_ends_and_its_head_computes_nothing(job):
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"]
    head, *workers = groups(job)
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert "restartPolicy" not in str(spec)  # autoscaler v2 sets it, and takes no other
    for worker in workers:
        assert worker["minReplicas"] == 0
        assert worker["maxReplicas"] >= worker["replicas"]
        (container,) = worker["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert f"--actors {worker['maxReplicas']}" in spec["entrypoint"]
    assert "run.gpus_per_actor=1" in spec["entrypoint"]


def test_pods_are_confined_and_share_one_volume(job):
    volume = by_kind("volume.yaml")
    claim = volume["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in (volume["Pod"]["spec"], *(group["template"]["spec"] for group in groups(job))):
        assert (
            pod["securityContext"] | {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000}
            == (pod["securityContext"])
        )
        assert [each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"]] == [claim["metadata"]["name"]]
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"]["memory"]
    assert volume.keys() == {"PersistentVolumeClaim", "Pod"}  # what must not be deleted with a job


def test_only_the_cluster_reaches_its_ports(job):
    policy = by_kind("rayjob.yaml")["NetworkPolicy"]["spec"]
    selected = policy["podSelector"]["matchLabels"]
    assert all(group["template"]["metadata"]["labels"] == selected for group in groups(job))
    (rule,) = policy["ingress"]
    assert [each["podSelector"]["matchLabels"] for each in rule["from"]] == [
        selected,
        {"ray.io/originated-from-cr-name": job["metadata"]["name"]},
        {"app.kubernetes.io/name": "kuberay-operator"},
    ]
    assert not [key for key, _ in walk(job) if key in ("enableIngress", "serviceType", "hostNetwork", "hostPort")]


def test_secrets_are_references(job):
    for key, value in walk([job, *by_kind("volume.yaml").values()]):
        if key == "env":
            secret = [each for each in value if re.search("(?i)pass|secret|token|key", each["name"])]
            assert all(each.keys() == {"name", "valueFrom"} for each in secret)


# The MLflow server


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


# The image


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


# Shell


def program(name):
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


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


# slurm.sh, with programs of our own in place of SLURM's

FAKES = {
    "srun": """#!/bin/bash
        while [[ $1 == --* ]]; do echo "srun $1" >>"$RECORD"; shift; done
        for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do SLURM_NODEID=$node setsid "$@" & nodes+=($!); done
        trap 'kill -TERM -- "${nodes[@]/#/-}"' TERM
        while wait "${nodes[@]}"; [[ $(jobs -r) ]]; do :; done
        """,
    "scontrol": """#!/bin/bash
        echo "scontrol $*" >>"$RECORD"
        """,
}
FAKE_RAY = {
    "python": """#!/bin/bash
        echo 127.0.0.1
        """,
    "ray": f"""#!{sys.executable}
import os, socket, sys, time
token = os.environ["RAY_AUTH_TOKEN_PATH"]
modes = [oct(os.stat(path).st_mode & 0o777) for path in (os.path.dirname(token), token)]
with open(os.environ["RECORD"], "a") as record:
    print("ray", *sys.argv[1:], file=record)
    print(os.environ["RAY_AUTH_MODE"], *modes, os.stat(token).st_size, file=record)
if "--head" in sys.argv:
    (port,) = (int(each.split("=")[1]) for each in sys.argv if each.startswith("--port="))
    server = socket.create_server(("127.0.0.1", port))
time.sleep(60)
""",
    "rmpsweep": f"""#!{sys.executable}
import os, signal, sys, time
def drain(*_):
    time.sleep(0.5)
    sys.exit(130)
signal.signal(signal.SIGTERM, drain)
with open(os.environ["RECORD"], "a") as record:
    print("rmpsweep", *sys.argv[1:], file=record)
if (code := int(os.environ["CODE"])) >= 0:
    sys.exit(code)
time.sleep(60)
""",
}


@pytest.fixture
def slurm(tmp_path):
    """Starts cluster/slurm.sh as job `id` on so many nodes; what its programs were told is in `record`."""
    folder, home, record = tmp_path / "bin", tmp_path / "home", tmp_path / "record"
    folder.mkdir()
    home.mkdir()
    number = 10**6 + os.getpid()
    processes = []

    def start(*arguments, programs, nodes=1, **environment):
        for name, text in programs.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        path = f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(home), "RECORD": str(record)}
        job = {"SLURM_JOB_ID": str(number), "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_CPUS_PER_TASK": "1"}
        processes.append(
            subprocess.Popen(["bash", SLURM, *arguments], env=os.environ | own | job | environment, cwd=tmp_path)
        )
        return processes[-1]

    start.id, start.record = number, record
    yield start
    for process in processes:
        process.kill()
        process.wait()
    assert list(home.iterdir()) == []  # the token is gone
    assert list(Path("/tmp").glob(f"rmpsweep-{number}-*")) == []
    assert f"rmpsweep-{number}-" not in command_lines()


def command_lines():
    """Those of all processes."""
    text = ""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text += path.read_text(errors="replace")
    return text


def until(true, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("code", [0, 3])
def test_slurm_passes_arguments_on_and_the_exit_code_back(slurm, code):
    arguments = ("my sweep.yaml", "--results", "r", "--set", "grid.alpha=[0.5, 1.0]")
    job = slurm(*arguments, programs=FAKES | FAKE_RAY, nodes=2, CODE=str(code))
    assert job.wait(60) == code
    lines = slurm.record.read_text().splitlines()
    port = 20000 + slurm.id % 5000 * 2
    assert " ".join(["rmpsweep launch", *arguments, "--address", f"127.0.0.1:{port}"]) in lines
    head, worker = sorted((line for line in lines if line.startswith("ray ")), key=lambda line: "--head" not in line)
    assert f"--port={port} --ray-client-server-port={port + 1} --include-dashboard=false" in head
    assert f"--address=127.0.0.1:{port}" in worker
    assert lines.count("token 0o700 0o600 64") == 2
    assert not [line for line in lines if line.startswith("scontrol")]


@pytest.mark.parametrize(("signum", "restarts", "requeued"), [("USR1", 0, 1), ("USR1", 20, 0), ("TERM", 0, 0)])
def test_slurm_drains_before_the_time_limit_and_goes_on_later(slurm, signum, restarts, requeued):
    job = slurm("s.yaml", programs=FAKES | FAKE_RAY, CODE="-1", SLURM_RESTART_COUNT=str(restarts))
    until(lambda: slurm.record.exists() and "rmpsweep launch" in slurm.record.read_text())
    job.send_signal(getattr(signal, f"SIG{signum}"))
    assert job.wait(30) == 130
    assert slurm.record.read_text().splitlines().count(f"scontrol requeue {slurm.id}") == requeued


def test_slurm_does_not_wait_for_a_ray_that_has_ended(slurm):
    job = slurm("s.yaml", programs=FAKES | FAKE_RAY | {"ray": "#!/bin/bash\nexit 1\n"}, CODE="4")
    assert job.wait(30) == 4


PATIENT = f"""#!{sys.executable}
import os, sys, time
import ray
ray.init(address=sys.argv[-1], log_to_driver=False, configure_logging=False)
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.1)
ray.shutdown()
os.execv({str(Path(sys.executable).with_name("rmpsweep"))!r}, sys.argv)
"""
"""rmpsweep, once there are two nodes: a sweep this small would be done before."""


@pytest.mark.soak
def test_slurm_runs_a_sweep_on_two_nodes(slurm, write_sweep, tmp_path):
    options = ("--results", tmp_path / "results", "--mlflow", "none", "--limit", "40", "--actors", "2")
    programs = FAKES | {"rmpsweep": PATIENT}
    job = slurm(write_sweep(), *options, programs=programs, nodes=2, RMPSWEEP_CACHE=str(tmp_path / "cache"))
    assert job.wait(240) == 0
    assert (tmp_path / "results" / "report.html").is_file()
