"""ray_cluster.yaml: as `ray up` reads it, and the nodes it starts on a simulated AWS."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest

from tests.helpers.manifests import ROOT, documents


@pytest.fixture
def manifest():
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


def test_ray_accepts_the_cluster_and_adds_nothing_of_its_own(manifest):
    filled = prepared(manifest)
    commands = [key for key in filled if key.endswith("_commands")]
    assert {key: filled[key] for key in commands if filled[key]} == {
        key: manifest[key] for key in ("head_start_ray_commands", "worker_start_ray_commands")
    }
    assert filled["available_node_types"].keys() == {"head", "gpu"}


@pytest.mark.parametrize(
    "change",
    [
        {"initial_workers": 1},
        {"docker": {"container_name": "rmpsweep", "images": "x"}},
        {"head_node_type": "cpu"},
        {"max_workers": -1},
        {"available_node_types": {"head": {"resources": {"CPU": 0.5}, "node_config": {}}}},
    ],
)
def test_ray_refuses_a_broken_cluster(manifest, change):
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        prepared(manifest | change)


def test_cluster_is_closed_and_its_head_computes_nothing(manifest):
    head, gpu = (manifest["available_node_types"][name] for name in ("head", "gpu"))
    assert head["resources"] == {"CPU": 0}
    assert gpu["min_workers"] == 0
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert manifest["provider"]["cache_stopped_nodes"] is False
    starts = [*manifest["head_start_ray_commands"], *manifest["worker_start_ray_commands"]]
    assert [re.findall(r"--dashboard-host=(\S+)", line) for line in starts if "--head" in line] == [["127.0.0.1"]]
    assert "--env=RAY_AUTH_MODE=token" in manifest["docker"]["run_options"]
    (token,) = (option.split("=", 2)[2] for option in manifest["docker"]["run_options"] if "TOKEN_PATH" in option)
    assert manifest["file_mounts"][token].startswith("~/")
    for node in (head, gpu):  # left out, Ray makes a group with SSH from everywhere, and a role that may do anything
        assert node["node_config"]["SecurityGroupIds"]
        assert node["node_config"]["IamInstanceProfile"]
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


@pytest.mark.slow
def test_ray_starts_the_nodes_on_a_simulated_aws(manifest, monkeypatch):
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
        manifest["provider"]["region"] = "us-west-2"
        for node in manifest["available_node_types"].values():
            iam.create_instance_profile(InstanceProfileName=node["node_config"]["IamInstanceProfile"]["Name"])
            node["node_config"] |= {"SecurityGroupIds": [group.id], "ImageId": image, "KeyName": "key"}
        manifest["auth"]["ssh_private_key"] = "key.pem"
        config = AWSNodeProvider.fillout_available_node_types_resources(prepared(manifest))
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
