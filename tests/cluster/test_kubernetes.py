"""cluster/rayjob.yaml and volume.yaml, held against the schemas of the programs that read them.

RMPSWEEP_RAYJOB_CRD may name a copy of KubeRay's helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml; the job is then
held against that too.
"""

import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.helpers.manifests import by_kind, walk

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
        (("apiVersion",), "ray.io/v1alpha1"),
        (("spec", "backoffLimits"), 2),
        (("spec", "activeDeadlineSeconds"), "1d"),
        (("spec", "rayClusterSpec", "rayVersion"), "2.51.0"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "disabled"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replica"), 1),
    ],
)
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
