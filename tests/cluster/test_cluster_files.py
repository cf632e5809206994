"""The cluster files are read by machines that cost money: here they are checked without any."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.loaders
import jsonschema
import pytest
import ray
import yaml
from botocore.model import ListShape, ServiceModel, Shape, StringShape, StructureShape
from botocore.validate import ParamValidator
from click import ClickException, Command
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from search.command_line import parse_arguments

ROOT = Path(__file__).parents[2]
AWS, LOCAL, KUBERAY = "cluster.yaml", "cluster.local.yaml", "kuberay.yaml"
FILES = (AWS, LOCAL, KUBERAY)
RAY_UP_FILES = (AWS, LOCAL)
TOKEN = "~/.ray/auth_token"
NOTICE_MS = 15_000

# Ray's schema leaves these open.
PROVIDER_KEYS = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"},
    "local": {"type", "head_ip", "worker_ips"},
}
NODE_RESOURCES = {"CPU", "GPU", "memory", "object_store_memory"}
# Ray fills these in when it launches a node.
LAUNCH = {"MinCount": 1, "MaxCount": 1}

Config = dict[str, Any]


def load(name: str) -> Config:
    config: Config = yaml.safe_load((ROOT / name).read_text())
    return config


def commands(config: Config) -> list[str]:
    """Every shell command that a node runs."""
    return [
        command
        for key, value in config.items()
        if key.endswith("_commands")
        for command in value
    ]  # fmt: skip


def environment(name: str, config: Config) -> dict[str, str]:
    """RAY_... variables of the head's own processes."""
    if name == KUBERAY:
        head = config["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
        return {entry["name"]: entry["value"] for entry in head["containers"][0]["env"]}
    text = "\n".join(config["head_start_ray_commands"] + config["setup_commands"])
    return dict(re.findall(r"\b(RAY_\w+)=(\w+)", text))


# --- what is checked


def check_ray_schema(config: Config) -> None:
    assert "cluster_name" in config  # else Ray takes a name that others may have too
    validate_config(prepare_config(copy.deepcopy(config)))
    unknown = set(config["provider"]) - PROVIDER_KEYS[config["provider"]["type"]]
    assert not unknown, f"provider: unknown {unknown}"
    for node_type in config.get("available_node_types", {}).values():
        assert set(node_type["resources"]) <= NODE_RESOURCES


@cache
def run_instances() -> Shape:
    description = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    shape = ServiceModel(description).operation_model("RunInstances").input_shape
    assert shape is not None
    return shape


def wrong_choices(value: Any, shape: Shape, place: str) -> Iterator[str]:
    """Values outside an enumeration, which botocore leaves to the service."""
    if isinstance(shape, StructureShape):
        for key, inner in value.items():
            yield from wrong_choices(inner, shape.members[key], f"{place}.{key}")
    elif isinstance(shape, ListShape):
        for inner in value:
            yield from wrong_choices(inner, shape.member, place)
    elif isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
        yield f"{place}: {value!r}"


def check_launches(config: Config) -> None:
    for name, node_type in config["available_node_types"].items():
        request = node_type["node_config"] | LAUNCH
        report = ParamValidator().validate(request, run_instances())
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        wrong = list(wrong_choices(request, run_instances(), name))
        assert not wrong, wrong
        assert re.fullmatch(r"ami-[0-9a-f]{17}", node_type["node_config"]["ImageId"])


def check_shell(config: Config) -> None:
    for command in commands(config):
        ended = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert ended.returncode == 0, f"{command}: {ended.stderr}"


def check_flags(command: Command, words: list[str]) -> None:
    command.make_context(command.name, words)


def check_ray_start(config: Config) -> None:
    for key, needed in (
        ("head_start_ray_commands", "--head"),
        ("worker_start_ray_commands", "--address"),
    ):
        first, last, *_ = config[key]
        assert first == "ray stop"
        words = shlex.split(last.rpartition(";")[2])
        assert words[:2] == ["ray", "start"]
        assert any(word.startswith(needed) for word in words)
        check_flags(start, words[2:])
        assert ". ~/segfront.env" in last


def check_mounts(config: Config) -> None:
    mounts = config["file_mounts"]
    missing = [path for path in mounts.values() if path != TOKEN and not (ROOT / path).exists()]
    assert not missing, f"file_mounts: no {missing} here"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [name[:-1] for name in project["tool"]["setuptools"]["packages"]["find"]["include"]]
    for name in (*packages, "pyproject.toml", project["project"]["readme"], "LICENSE"):
        assert mounts.get(f"~/segfront/{name}") == name


def check_rayjob(config: Config) -> None:
    schema = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(config, schema)
    cluster = config["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["resources"]["requests"].keys() == (
                container["resources"]["limits"].keys()
            )
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        flags = [f"--{flag}={value}" for flag, value in group["rayStartParams"].items()]
        check_flags(start, flags)
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    words = shlex.split(config["spec"]["entrypoint"])
    assert words[:2] == ["python", "search/run.py"]
    parse_arguments(words[2:])


def check_health(name: str, config: Config) -> None:
    given = environment(name, config)
    known = Path(ray._raylet.__file__).read_bytes()
    for variable in given:
        option = variable.removeprefix("RAY_")
        if option.islower():
            assert option.encode() in known, f"Ray does not know {variable}"
    period, timeout, threshold, delay = (
        int(given[f"RAY_health_check_{option}"])
        for option in ("period_ms", "timeout_ms", "failure_threshold", "initial_delay_ms")
    )
    assert threshold * (period + timeout) <= NOTICE_MS
    assert delay <= NOTICE_MS


def check_token(name: str, config: Config) -> None:
    if name == KUBERAY:
        assert config["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
        return
    assert config["file_mounts"][TOKEN] == TOKEN
    assert environment(name, config)["RAY_AUTH_MODE"] == "token"
    assert any(f"chmod 600 {TOKEN}" in command for command in config["setup_commands"])


def check_version(name: str, config: Config) -> None:
    text = yaml.safe_dump(config)
    versions = re.findall(r"ray\[default,tune\]==([\d.]+)|rayVersion: ([\d.]+)", text)
    assert versions
    assert {first or second for first, second in versions} == {"2.60.0"}


def check(name: str, config: Config) -> None:
    """All that must hold of a file.

    Raises:
        Exception: Says what does not.
    """
    if name == KUBERAY:
        check_rayjob(config)
    else:
        check_ray_schema(config)
        check_mounts(config)
        check_ray_start(config)
        check_shell(config)
    if name == AWS:
        check_launches(config)
    check_health(name, config)
    check_token(name, config)
    check_version(name, config)


# --- the files


@pytest.mark.parametrize("name", FILES)
def test_file_is_valid(name: str) -> None:
    check(name, load(name))


@pytest.mark.parametrize("name", FILES)
def test_five_values_are_to_be_edited(name: str) -> None:
    marks = re.findall(r"# EDIT (\d)", (ROOT / name).read_text())
    assert sorted(marks) == list("12345")


def test_aws_keeps_the_head_and_lets_workers_go() -> None:
    config = load(AWS)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}
    for worker in types.values():
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
        assert worker["min_workers"] == 0
    assert 0 < config["idle_timeout_minutes"] <= 30


@pytest.mark.parametrize("name", RAY_UP_FILES)
def test_dashboard_is_on_loopback_and_the_client_server_nowhere(name: str) -> None:
    _, start, end_client_server = load(name)["head_start_ray_commands"]
    assert "--head" in start
    assert "--dashboard-host=127.0.0.1" in start
    command = [sys.executable, "-c", "input()", "-m", "ray.util.client.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        found = subprocess.run(
            ["bash", "-c", f"{end_client_server.replace('pkill', 'pgrep')}; exit $?"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        process.kill()
    assert str(process.pid) in found.stdout.split()
    others = set(found.stdout.split()) - {str(process.pid)}
    assert not any(Path(f"/proc/{pid}").exists() for pid in others)  # its own shell is not found


def test_rayjob_workers_run_on_spot_with_a_gpu_and_scale_from_none() -> None:
    cluster = load(KUBERAY)["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert "tolerations" not in cluster["headGroupSpec"]["template"]["spec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == 0 < workers["maxReplicas"]
    pod = workers["template"]["spec"]
    assert any("spot" in toleration["key"] for toleration in pod["tolerations"])
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


# --- typos: each must make the check fail

FOUND = (
    AssertionError,
    ClickException,
    KeyError,
    TypeError,
    ValueError,
    jsonschema.ValidationError,
)
DELETE = object()
Place = tuple[str | int, ...]
CONTAINER = ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0)
POD = CONTAINER[:-2]
HEAD_CONFIG = ("available_node_types", "head", "node_config")
WORKER = ("available_node_types", "gpu_worker")


def change(config: Config, path: Place, value: object) -> None:
    """Set what lies at the path, or delete it."""
    place: Any = config
    for key in path[:-1]:
        place = place[key]
    if value is DELETE:
        del place[path[-1]]
    else:
        place[path[-1]] = value


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        (AWS, ("max_worker",), 4),
        (AWS, ("max_workers",), "4"),
        (AWS, ("max_workers",), -1),
        (AWS, ("idle_timeout_minute",), 5),
        (AWS, ("idle_timeout_minutes",), "ten"),
        (AWS, ("cluster_name",), DELETE),
        (AWS, ("head_node_type",), "haed"),
        (AWS, ("provider", "reigon"), "us-east-1"),
        (AWS, ("provider", "availability_zone"), ["us-east-1a"]),
        (AWS, ("provider", "cache_stopped_nodes"), "yes"),
        (AWS, ("auth", "ssh_usr"), "ubuntu"),
        (AWS, ("setup_command",), ["true"]),
        (AWS, ("setup_commands",), "true"),
        (AWS, ("file_mount",), {}),
        (AWS, ("file_mounts", "~/segfront/serach"), "serach"),
        (AWS, ("file_mounts", "~/segfront/models"), DELETE),
        (AWS, ("file_mounts", TOKEN), DELETE),
        (AWS, (*WORKER, "min_worker"), 0),
        (AWS, (*WORKER, "min_workers"), 9),
        (AWS, (*WORKER, "resources"), {"GPUS": 1}),
        (AWS, (*WORKER, "node_config"), DELETE),
        (AWS, (*WORKER, "node_config", "InstanceType"), "g5.2xlarg"),
        (AWS, (*WORKER, "node_config", "InstanceMarketOption"), {"MarketType": "spot"}),
        (AWS, (*WORKER, "node_config", "InstanceMarketOptions", "MarketType"), "sport"),
        (AWS, (*WORKER, "node_config", "InstanceMarketOptions", "SpotOptions", "MaxPrize"), "1"),
        (AWS, (*HEAD_CONFIG, "ImageId"), "ami-my-image"),
        (AWS, (*HEAD_CONFIG, "BlockDeviceMappings", 0, "Ebs", "VolumeSize"), "300"),
        (AWS, (*HEAD_CONFIG, "BlockDeviceMappings", 0, "Ebs", "VolumeTipe"), "gp3"),
        (AWS, (*HEAD_CONFIG, "BlockDeviceMappings", 0, "Ebs", "VolumeType"), "gp33"),
        (AWS, (*HEAD_CONFIG, "MetadataOptions", "HttpTokens"), "need"),
        (AWS, ("setup_commands", 0), "echo 'unclosed"),
        (LOCAL, ("worker_ips",), []),
        (LOCAL, ("provider", "worker_ip"), ["192.0.2.11"]),
        (LOCAL, ("provider", "worker_ips"), "192.0.2.11"),
        (LOCAL, ("provider", "head_ip"), DELETE),
        (LOCAL, ("auth", "ssh_port"), 22),
        (LOCAL, ("available_node_types",), {"head": {"resources": {}, "node_config": {}}}),
        (LOCAL, ("setup_commands", 1), "export RAY_AUTH_MODE=disabled"),
        (KUBERAY, ("kind",), "RayJobs"),
        (KUBERAY, ("apiVersion",), "ray.io/v1alpha1"),
        (KUBERAY, ("metadata", "name"), "Seg_Front"),
        (KUBERAY, ("spec", "entryPoint"), "python search/run.py"),
        (KUBERAY, ("spec", "entrypoint"), "python search/run.py cityscape"),
        (KUBERAY, ("spec", "backoffLimit"), "0"),
        (KUBERAY, ("spec", "submissionMode"), "K8JobMode"),
        (KUBERAY, ("spec", "rayClusterSpec", "rayVersion"), 2.6),
        (KUBERAY, ("spec", "rayClusterSpec", "rayVersion"), "2.59.0"),
        (KUBERAY, ("spec", "rayClusterSpec", "authOption"), {"mode": "token"}),
        (KUBERAY, ("spec", "rayClusterSpec", "authOptions", "mode"), "disabled"),
        (KUBERAY, ("spec", "rayClusterSpec", "autoscalerOptions", "idleTimeoutSecond"), 60),
        (KUBERAY, ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpu"), "0"),
        (KUBERAY, ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (KUBERAY, ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas"), -1),
        (KUBERAY, ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplicas"), 5),
        (KUBERAY, (*POD, "toleration"), []),
        (KUBERAY, (*POD, "tolerations", 0, "effect"), "NoShedule"),
        (KUBERAY, (*POD, "tolerations", 0, "keys"), "spot"),
        (KUBERAY, (*CONTAINER, "img"), "segfront"),
        (KUBERAY, (*CONTAINER, "resources", "limits", "nvidia.com/gpus"), "1"),
        (KUBERAY, (*CONTAINER, "resources", "limits", "nvidia.com/gpu"), 1),
        (KUBERAY, (*CONTAINER, "resources", "limits", "memory"), "28GB"),
        (KUBERAY, (*CONTAINER, "resources", "limit"), {}),
        (KUBERAY, (*CONTAINER, "env", 0, "value"), 0),
        (KUBERAY, (*CONTAINER, "volumeMounts", 0, "name"), "share"),
        (KUBERAY, (*POD, "volumes", 0, "persistentVolumeClaim", "claim"), "segfront"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_typo_is_found(name: str, path: Place, value: object) -> None:
    config = copy.deepcopy(load(name))
    change(config, path, value)
    with pytest.raises(FOUND):
        check(name, config)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--dashboard-host=", "--dashbord-host="),
        ("--num-cpus=0", "--num-cpus=none"),
        ("RAY_health_check_period_ms=2000", "RAY_health_check_period_ms=5000"),
        ("RAY_health_check_period_ms", "RAY_health_check_periods_ms"),
        ("--head", "--haed"),
        ("ray start", "ray strat"),
    ],
)
def test_typo_in_the_start_command_is_found(old: str, new: str) -> None:
    config = load(AWS)
    commands = config["head_start_ray_commands"]
    assert old in commands[1]
    commands[1] = commands[1].replace(old, new)
    with pytest.raises(FOUND):
        check(AWS, config)
