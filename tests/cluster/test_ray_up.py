"""`ray up` of cluster.local.yaml, a study on all machines and `ray down`, on simulated hosts."""

from __future__ import annotations

import importlib
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def hosts(_benchmarks_importable: None) -> Iterator[Any]:
    """Three machines on which nothing of the project is installed yet."""
    host_cluster = importlib.import_module("host_cluster")
    script = os.environ.get(host_cluster.SCRIPT_VARIABLE)
    if obstacle := host_cluster.find_obstacle(script):
        pytest.skip(obstacle)
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segfront-") as folder:
        # A stage takes all of a machine, so that three at a time are on three machines.
        cluster = host_cluster.HostCluster(
            script=Path(str(script)), folder=Path(folder), num_cpus=1
        )
        try:
            cluster.start_hosts()
            yield cluster
        finally:
            cluster.stop_hosts()


def test_ray_up_brings_three_machines_and_a_study_uses_all(
    hosts: Any,
    tiny_study: list[str],
    read_results: Callable[[Path], list[dict[str, Any]]],
) -> None:
    assert hosts.ray_up() == 3
    runs = hosts.folder / "shared" / "runs"
    study = ["python", "search/run.py", *tiny_study, "--address", "auto", "--output-dir", str(runs)]
    hosts.ray("exec", str(hosts.file), f"cd segfront && {shlex.join(study)}")
    (run_dir,) = runs.iterdir()
    assert {result["node_ip"] for result in read_results(run_dir)} == set(hosts.addresses)
    hosts.ray_down()
