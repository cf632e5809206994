"""Clusters of three nodes whose processes and links can be broken and repaired."""

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
HEAD = 1  # nodes are numbered from 1
HEALTH_CHECK = {  # as in the cluster files
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 2000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}

FaultKind = Literal["worker", "raylet", "preemption", "link", "driver"]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)


class FaultCluster(Protocol):
    """A cluster of `NUM_NODES` nodes with one core each; the driver runs on node 1.

    Attributes:
        name: Name that is shown to the user.
        kinds: Kinds of faults that it supports.
        folder: Folder that all nodes share.
        cache_dir: Folder for decoded images; on real hosts every node has its own.
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
        """Start search/run.py with these flags on the first node; its output goes to a file."""

    def node_of(self, pid: int) -> int | None:
        """Find the node that a process runs on; None if it has ended or runs on no node."""

    def raylet(self, node: int) -> int | None:
        """Find the process id of a node's raylet; None while there is none."""

    def restart(self, node: int) -> None:
        """Bring a node back whose raylet has ended; returns before the node is back."""

    def set_link(self, node: int, *, is_up: bool) -> None:
        """Cut the link between a node and the others, or restore it."""


class LocalCluster:
    """A cluster whose nodes are processes on this machine (`ray.cluster_utils.Cluster`).

    There are no network links: to simulate a cut link, the node's raylet is stopped, so that it
    does not answer.

    Args:
        kinds: Kinds of faults that will be used.
    """

    name = "ray.cluster_utils.Cluster on one machine; a stopped raylet stands for a cut link"

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
        """List Ray's node of every process that has been a worker, by process id."""
        actors = self._cluster.global_state.actor_table(None).values()
        return {actor["Pid"]: actor["Address"]["NodeID"] for actor in actors}

    def raylet(self, node: int) -> int | None:
        """See `FaultCluster`."""
        for entry in self._nodes[node].all_processes.get("raylet", []):
            if entry.process.poll() is None:
                return int(entry.process.pid)
        return None

    def restart(self, node: int) -> None:
        """See `FaultCluster`; a new node takes its place."""
        self._cluster.remove_node(self._nodes[node], allow_graceful=False)
        self._nodes[node] = self._cluster.add_node(num_cpus=1)

    def set_link(self, node: int, *, is_up: bool) -> None:
        """See `FaultCluster`."""
        raylet = self.raylet(node)
        if raylet is not None:
            os.kill(raylet, signal.SIGCONT if is_up else signal.SIGSTOP)


class LinkedHosts:
    """Hosts with network links, set up by `ray up`; the autoscaler restarts Ray on a node.

    Args:
        script: Script that makes the hosts; see `host_cluster`.
    """

    name = "hosts of `ray up` with cluster.local.yaml"
    kinds: tuple[FaultKind, ...] = FAULT_KINDS

    def __init__(self, script: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segfront-")
        self._hosts = HostCluster(
            script=script, folder=Path(self._scratch.name), num_hosts=NUM_NODES, num_cpus=1
        )
        self.folder = self._hosts.folder / "shared"
        self.cache_dir = Path("/tmp/segfront-cache")  # every host has its own /tmp

    def start(self) -> None:
        """See `FaultCluster`."""
        self._hosts.start_hosts()
        if (number := self._hosts.ray_up()) < NUM_NODES:
            raise RuntimeError(f"ray up started {number} of {NUM_NODES} nodes")

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
        """See `FaultCluster`; every host has its own network namespace."""
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
        """See `FaultCluster`; there is nothing to do, because the autoscaler notices after 30 s."""

    def set_link(self, node: int, *, is_up: bool) -> None:
        """See `FaultCluster`."""
        self._hosts.hosts("mend" if is_up else "cut", str(node))


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    """Poll a condition ten times a second; returns whether it became true in time."""
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
