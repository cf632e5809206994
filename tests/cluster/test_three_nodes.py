"""A study that joins a cluster of three nodes, all of them on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def three_nodes() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def test_stages_run_on_every_node(
    three_nodes: Cluster,
    tiny_study: list[str],
    read_results: Callable[[Path], list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "search" / "run.py"), *tiny_study, "--address",
         three_nodes.address, "--output-dir", str(tmp_path), "--cache-dir",
         str(tmp_path / "cache")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=840,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (run_dir,) = tmp_path.glob("quickstart-*")
    # Nodes of one machine have one address, so Ray says where each process was.
    actors = three_nodes.global_state.actor_table(None).values()
    places = {actor["Pid"]: actor["Address"]["NodeID"] for actor in actors}
    used = {places[result["pid"]] for result in read_results(run_dir)}
    assert used == {node["NodeID"] for node in three_nodes.global_state.node_table()}
