"""Clusters of three nodes whose processes and links can be broken, and that mend."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from host_cluster import HostCluster
from stage_watch import read_stat

ROOT = Path(__file__).parents[1]
NUM_NODES = 3
HEAD = 1  # nodes are counted from 1
HEALTH_CHECK = {  # as in the cluster files
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 2000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}

FaultKind = Literal["worker", "raylet", "notice", "link", "driver"]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


class FaultCluster(Protocol):
    """Nodes 1..`NUM_NODES` of one core each; the driver runs on the first.

    Attributes:
        name: For people.
        kinds: What can be broken.
        folder: That all nodes see.
        cache_dir: For decoded images, each node's own where they have one.
    """

    name: str
    kinds: tuple[FaultKind, ...]
    folder: Path
    cache_dir: Path

    def start(self) -> None:
        """Start all nodes."""

    def stop(self) -> None:
        """End everything that was started."""

    def start_driver(self, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start search/run.py with these flags on the first node; what it prints goes to a file."""

    def node_of(self, pid: int) -> int | None:
        """The node that a process runs on; None if it is gone, or on none."""

    def raylet(self, node: int) -> int | None:
        """Process id of a node's raylet; None while there is none."""

    def restart(self, node: int) -> None:
        """See to it that a node whose raylet is gone comes back; returns before it has."""

    def set_link(self, node: int, *, is_up: bool) -> None:
        """Cut a node off from the others, or mend that."""


class LocalCluster:
    """Nodes that are only processes of this machine (`ray.cluster_utils.Cluster`).

    They have no links: to cut one is to stop the node's raylet, so that it does not answer.

    Args:
        kinds: What is to be broken.
    """

    name = "ray.cluster_utils.Cluster on one machine; a raylet that is stopped stands for a cut"

    def __init__(self, kinds: tuple[FaultKind, ...] = FAULT_KINDS) -> None:
        self.kinds = kinds
        self._scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self._scratch.name)
        self.cache_dir = self.folder / "cache"
        self._cluster: Any = None
        self._nodes: dict[int, Any] = {}

    def start(self) -> None:
        """See `FaultCluster`."""
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "_system_config": dict(HEALTH_CHECK)}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes[HEAD] = self._cluster.head_node
        for node in range(HEAD + 1, NUM_NODES + 1):
            self._nodes[node] = self._cluster.add_node(num_cpus=1)

    def stop(self) -> None:
        """See `FaultCluster`."""
        if self._cluster is not None:
            self._cluster.shutdown()
        self._scratch.cleanup()

    def start_driver(self, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """See `FaultCluster`."""
        run = [sys.executable, str(ROOT / "search" / "run.py"), *arguments]
        with log.open("ab") as file:
            return subprocess.Popen(
                [*run, "--address", self._cluster.address],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

    def node_of(self, pid: int) -> int | None:
        """See `FaultCluster`; workers are children of their raylet."""
        raylets = {self.raylet(node): node for node in self._nodes}
        return raylets.get(_parent(pid))

    def places(self) -> dict[int, str]:
        """Ray's node of every process that has been a worker, by process id."""
        actors = self._cluster.global_state.actor_table(None).values()
        return {actor["Pid"]: actor["Address"]["NodeID"] for actor in actors}

    def raylet(self, node: int) -> int | None:
        """See `FaultCluster`."""
        for entry in self._nodes[node].all_processes.get("raylet", []):
            if entry.process.poll() is None:
                return int(entry.process.pid)
        return None

    def restart(self, node: int) -> None:
        """See `FaultCluster`; another node takes the place."""
        self._cluster.remove_node(self._nodes[node], allow_graceful=False)
        self._nodes[node] = self._cluster.add_node(num_cpus=1)

    def set_link(self, node: int, *, is_up: bool) -> None:
        """See `FaultCluster`."""
        raylet = self.raylet(node)
        if raylet is not None:
            os.kill(raylet, signal.SIGCONT if is_up else signal.SIGSTOP)


class LinkedHosts:
    """Hosts with links, set up by `ray up`; the autoscaler brings a node back that has lost Ray.

    Args:
        script: Makes the hosts; see `host_cluster`.
    """

    name = "hosts of `ray up` with cluster.local.yaml"
    kinds: tuple[FaultKind, ...] = FAULT_KINDS

    def __init__(self, script: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segfront-")
        self._hosts = HostCluster(
            script=script, folder=Path(self._scratch.name), num_hosts=NUM_NODES, num_cpus=1
        )
        self.folder = self._hosts.folder / "shared"
        self.cache_dir = Path("/tmp/segfront-cache")  # a host has a /tmp of its own

    def start(self) -> None:
        """See `FaultCluster`."""
        self._hosts.start_hosts()
        if (number := self._hosts.ray_up()) < NUM_NODES:
            raise RuntimeError(f"ray up brought {number} of {NUM_NODES} nodes")

    def stop(self) -> None:
        """See `FaultCluster`."""
        self._hosts.stop_hosts()
        self._scratch.cleanup()

    def start_driver(self, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """See `FaultCluster`."""
        run = ["python", "search/run.py", *arguments, "--address", "auto"]
        command = f"cd ~/segfront && exec {shlex.join(run)}"
        with log.open("ab") as file:
            return subprocess.Popen(
                [str(self._hosts.script), "ssh", str(HEAD), command],
                env=self._hosts.hosts_environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def node_of(self, pid: int) -> int | None:
        """See `FaultCluster`; a host has a network namespace of its own."""
        try:
            network = Path(f"/proc/{pid}/ns/net").stat().st_ino
        except OSError:
            return None
        names = {node: Path(f"/run/netns/h{node}") for node in range(HEAD, NUM_NODES + 1)}
        return next((node for node, at in names.items() if at.stat().st_ino == network), None)

    def raylet(self, node: int) -> int | None:
        """See `FaultCluster`."""
        for path in Path("/proc").glob("[0-9]*/comm"):
            pid = int(path.parent.name)
            if _read(path).strip() == "raylet" and self.node_of(pid) == node:
                return pid
        return None

    def restart(self, node: int) -> None:
        """See `FaultCluster`; nothing to do: the autoscaler notices after 30 s."""

    def set_link(self, node: int, *, is_up: bool) -> None:
        """See `FaultCluster`."""
        self._hosts.hosts("mend" if is_up else "cut", str(node))


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    """Poll ten times a second; returns whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not (is_true := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_true


def _parent(pid: int) -> int | None:
    fields = read_stat(pid)
    return int(fields[1]) if fields else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
