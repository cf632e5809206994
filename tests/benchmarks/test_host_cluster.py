import importlib
from pathlib import Path

import pytest
import yaml

TEXT = (Path(__file__).parents[2] / "cluster.local.yaml").read_text()


@pytest.fixture
def host_cluster():
    return importlib.import_module("host_cluster")


def edit(host_cluster, text):
    return host_cluster.edit_cluster_file(
        text,
        addresses=["10.0.0.1", "10.0.0.2", "10.0.0.3"],
        user="root",
        key=Path("/keys/one"),
        shared=Path("/shared"),
    )


def test_five_values_of_the_file_are_filled_in_and_nothing_else(host_cluster):
    before, after = yaml.safe_load(TEXT), yaml.safe_load(edit(host_cluster, TEXT))
    assert after["provider"] == {
        "type": "local",
        "head_ip": "10.0.0.1",
        "worker_ips": ["10.0.0.2", "10.0.0.3"],
    }
    assert after["auth"] == {"ssh_user": "root", "ssh_private_key": "/keys/one"}
    assert "SEGFRONT_SHARED=/shared'" in after["setup_commands"][0]
    assert after["setup_commands"][1:] == before["setup_commands"][1:]
    others = before.keys() - {"provider", "auth", "setup_commands"}
    assert {name: after[name] for name in others} == {name: before[name] for name in others}


def test_a_value_that_the_file_lacks_is_named(host_cluster):
    with pytest.raises(ValueError, match="ssh_user: ubuntu"):
        edit(host_cluster, TEXT.replace("ssh_user: ubuntu", "ssh_user: debian"))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "SEGFRONT_HOSTS_SCRIPT"),
        ("/nowhere/hosts", "/nowhere/hosts, which is not executable"),
    ],
)
def test_obstacle_is_said(host_cluster, script, reason):
    assert reason in host_cluster.find_obstacle(script)
