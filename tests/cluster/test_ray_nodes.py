"""The check of a cluster's nodes, on a cluster of two nodes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from models.hardware import describe_hardware
from search.config import StudyConfig
from search.on_ray.nodes import (
    _ask_nodes,
    alive_nodes,
    check_cluster,
    describe_workers,
    read_file,
    summon_worker,
)
from search.recipes import streets
from trainables.network_config import NetworkConfig
from trainables.process.shipped_code import pack_code

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def with_root(root: Path) -> StudyConfig:
    config = streets()
    data = replace(config.pipeline.data, name="folder", root=root)
    return replace(config, pipeline=replace(config.pipeline, data=data))


def test_equal_nodes_pass_and_leave_nothing(two_nodes: Cluster, tmp_path: Path) -> None:
    assert len(alive_nodes()) == 2
    check_cluster(streets(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_node_without_the_data_is_named(two_nodes: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finds nothing in") as error:
        check_cluster(with_root(tmp_path / "no-data"), tmp_path)
    for node in alive_nodes():
        assert node["NodeID"][:8] in str(error.value)


def test_worker_that_never_comes_is_not_waited_for_beyond_the_limit(two_nodes: Cluster) -> None:
    summon_worker(streets(), wait_seconds=0)
    summon_worker(replace(streets(), gpus_per_trial=1.0), wait_seconds=0.1)


def test_every_node_tries_the_storage(two_nodes: Cluster, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    check_cluster(streets(), tmp_path, storage.as_uri())
    assert list(storage.iterdir()) == []
    with pytest.raises(ValueError, match="cannot use the run's storage") as error:
        check_cluster(streets(), tmp_path, "file:///proc/nowhere")
    for node in alive_nodes():
        assert node["NodeID"][:8] in str(error.value)


def test_hardware_of_every_node_with_cores_is_known_even_if_all_are_busy(
    two_nodes: Cluster,
) -> None:
    @ray.remote(num_cpus=1)
    def wait() -> None:
        time.sleep(60)

    cores = int(sum(node["Resources"].get("CPU", 0) for node in alive_nodes()))
    busy = [wait.remote() for _ in range(cores)]
    with_cores = [node for node in alive_nodes() if node["Resources"].get("CPU", 0)]
    found = describe_workers("cpu")
    assert [entry["cpu"] for entry in found] == [describe_hardware()["cpu"]] * len(with_cores)
    for task in busy:
        ray.cancel(task, force=True)
    with pytest.raises(ValueError, match="no node with a GPU"):
        describe_workers("cuda")


def test_file_of_a_node_is_read_where_it_lies(two_nodes: Cluster, tmp_path: Path) -> None:
    (tmp_path / "stall.txt").write_text("no progress")
    address = alive_nodes()[0]["NodeManagerAddress"]
    assert read_file(address, tmp_path / "stall.txt") == "no progress"
    assert read_file(address, tmp_path / "none.txt") == ""
    assert read_file("192.0.2.1", tmp_path / "stall.txt") == ""


def test_the_users_network_reaches_every_node(
    two_nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, library = tmp_path / "own_net.py", tmp_path / "library"
    net.write_text("from torch import nn\n\nmake = nn.Conv2d\n")
    code = pack_code([f"{net}:make"])
    net.unlink()
    (tmp_path / "probe").touch()
    reports = _ask_nodes(None, tmp_path / "probe", None, code, tmp_path / "cache")
    assert [report.code_problems for report in reports.values()] == [(), ()]
    assert [path.name for path in (tmp_path / "cache" / "code").iterdir()] == [code.key]

    library.mkdir()
    (library / "of_the_driver.py").write_text("")
    monkeypatch.syspath_prepend(library)
    other = tmp_path / "other_net.py"
    other.write_text("import of_the_driver\nfrom torch import nn\n\nmake = nn.Conv2d\n")
    config = streets()
    student = NetworkConfig(name=f"{other}:make")
    config = replace(config, pipeline=replace(config.pipeline, student=student))
    with pytest.raises(ValueError, match="No module named 'of_the_driver'") as error:
        check_cluster(config, tmp_path)
    for node in alive_nodes():
        assert node["NodeID"][:8] in str(error.value)


def test_study_begins_without_a_node_that_has_just_died(
    two_nodes: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = two_nodes.add_node(num_cpus=1)
    assert len(alive_nodes()) == 3
    node.kill_raylet()
    check_cluster(streets(), tmp_path)
    assert len(alive_nodes()) == 2
    assert f"({node.node_id[:8]}) has died" in caplog.text


def run_study(address: str, folder: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Run search/run.py with an address that it must refuse."""
    return subprocess.run(
        [*prefix, sys.executable, "search/run.py", "streets", "--address", address,
         "--output-dir", str(folder), "--cache-dir", str(folder / "cache")],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_gcs_server_request_timeout_seconds": "3"},
    )  # fmt: skip


def test_ray_client_is_refused_with_the_way_that_works(tmp_path: Path) -> None:
    ended = run_study("ray://127.0.0.1:10001", tmp_path)
    assert ended.returncode == 2
    assert "cannot be driven through Ray Client (ray://127.0.0.1:10001)" in ended.stderr
    assert "ray start --address=HOST:6379 --num-cpus=0" in ended.stderr


def test_machine_that_is_no_node_is_told_how_to_become_one(
    two_nodes: Cluster, tmp_path: Path
) -> None:
    elsewhere = ("unshare", "--pid", "--fork", "--mount-proc")  # sees no process of a node
    if subprocess.run([*elsewhere, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces may be made here")
    ended = run_study(two_nodes.address, tmp_path, *elsewhere)
    assert ended.returncode == 2, ended.stderr
    assert f"this machine is not a node of the Ray cluster at {two_nodes.address}" in ended.stderr
