"""Waits for the nodes of a cluster that a study has joined, checks and describes them."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.autoscaler.sdk import request_resources
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from models.hardware import describe_hardware
from search.config import StudyConfig
from search.on_ray.node_check import (
    PROBE_PREFIX,
    NodeReport,
    check_nodes,
    inspect_node,
    join_problems,
)
from trainables.pipeline import pack_networks

logger = logging.getLogger(__name__)

WORKER_SECONDS = 1200.0  # a machine must be found, started and set up within this time
ANSWER_SECONDS = 120.0  # a node must import PyTorch and answer within this time
READ_SECONDS = 30.0  # a node must read a file within this time
POLL_SECONDS = 2.0


def summon_worker(config: StudyConfig, wait_seconds: float = WORKER_SECONDS) -> None:
    """Ask the cluster's autoscaler for first workers if the nodes could not run a stage.

    The autoscaler starts further workers once stages wait. Without one, this function only waits.

    Args:
        config: Configuration with the CPUs and GPUs of a stage.
        wait_seconds: Time after which the study continues with the nodes that there are.
    """
    gpus = config.gpus_per_trial or 0
    processes = max(1, int(gpus)) if gpus else config.processes_per_trial
    cpus = max(1, (config.cpus_per_trial or 1) // processes)
    needed = {"CPU": cpus, "GPU": math.ceil(gpus / processes)}
    deadline = time.monotonic() + wait_seconds
    if _count_room(needed) >= processes:
        return
    bundle = {name: count for name, count in needed.items() if count}
    request_resources(bundles=[bundle] * processes)
    try:
        while _count_room(needed) < processes and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    finally:
        request_resources(bundles=[])


def check_cluster(config: StudyConfig, run_dir: Path, storage: str | None = None) -> None:
    """Compare every node's code, versions, folders and GPUs with the driver's.

    Args:
        config: Configuration of the study, with its paths settled.
        run_dir: Folder of the run; it must be shared unless the run is in storage.
        storage: URI of the run if it is in storage.

    Raises:
        ValueError: A node differs; the message names each one, the difference and the remedy.
    """
    run_dir = run_dir.absolute()
    data_root = config.pipeline.data.resolve_root()
    probe = run_dir / f"{PROBE_PREFIX}{uuid4().hex}"
    probe.touch()
    try:
        code = pack_networks(config.pipeline)
        wanted = (data_root, storage or probe, config.store, code, config.cache_dir)
        nodes, driver = _ask_nodes(*wanted), inspect_node(*wanted)
    finally:
        probe.unlink()
    offered = {_name(node): float(node["Resources"].get("GPU", 0)) for node in alive_nodes()}
    check_nodes(driver, nodes, offered, data_root=data_root, run_dir=run_dir)


def read_file(address: str, path: Path) -> str:
    """Read a small file on a node's own disk; "" if it is missing or the node does not answer.

    Args:
        address: Address of the node.
        path: Path of the file on that node.
    """
    for node in alive_nodes():
        if node["NodeManagerAddress"] == address:
            try:
                return str(ray.get(_ask(node, _read_text, path), timeout=READ_SECONDS))
            except (RayError, GetTimeoutError) as error:
                logger.warning("%s on %s could not be read: %s", path.name, address, error)
    return ""


def describe_workers(device: str) -> list[dict[str, Any]]:
    """Describe the hardware of each node that runs stages, which the driver's may not do.

    Busy nodes answer too, because the question takes no core and no GPU.

    Args:
        device: Torch device of the stages.

    Raises:
        ValueError: No node answers.
    """
    kind = "CPU" if device == "cpu" else "GPU"
    workers = [node for node in alive_nodes() if node["Resources"].get(kind, 0) > 0]
    answers = [_ask(node, _describe, device) for node in workers]
    found, problem = [], "there is none"
    deadline = time.monotonic() + ANSWER_SECONDS
    for answer in answers:
        try:
            found.append(ray.get(answer, timeout=max(0.0, deadline - time.monotonic())))
        except (RayError, GetTimeoutError) as error:
            problem = str(error)
    if not found:
        raise ValueError(f"no node with a {kind} could describe its hardware: {problem}")
    return found


def alive_nodes() -> list[dict[str, Any]]:
    """Return Ray's records of the nodes that are alive."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _count_room(needed: dict[str, int]) -> int:
    """Count the processes with these needs for which the nodes have room."""
    wanted = [(name, count) for name, count in needed.items() if count]
    return sum(
        min(int(node["Resources"].get(name, 0)) // count for name, count in wanted)
        for node in alive_nodes()
    )


def _name(node: dict[str, Any]) -> str:
    """Return a node's address and the start of its id, as the dashboard lists it."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def _ask(node: dict[str, Any], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on a node, however busy it is; returns Ray's reference to the answer."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(function)
    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return task.options(scheduling_strategy=strategy).remote(*arguments)


def _ask_nodes(*wanted: Any) -> dict[str, NodeReport]:
    """Return every node's report by its name; the arguments are those of `inspect_node`."""
    answers = {_name(node): _ask(node, _inspect, *wanted) for node in alive_nodes()}
    deadline = time.monotonic() + ANSWER_SECONDS
    reports, problems = {}, []
    for name, answer in answers.items():
        try:
            content = ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
            reports[name] = NodeReport(**content)
        except GetTimeoutError:
            problems.append(
                f"node {name}: no answer within {ANSWER_SECONDS:g} s; look at its logs in the "
                "dashboard, or remove it from the cluster"
            )
        except (RayError, TypeError) as error:
            if name not in map(_name, alive_nodes()):
                # Ray listed the node as alive because it had only just died.
                logger.warning("node %s has died; the study begins without it", name)
                continue
            reason = " ".join(str(error).split()[-30:])
            problems.append(
                f"node {name}: cannot run this project's code; install it there as on the "
                f"driver's machine ({type(error).__name__}: {reason})"
            )
    if problems:
        raise ValueError(join_problems(problems))
    return reports


def _read_text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _inspect(*wanted: Any) -> dict[str, Any]:
    _show_gpus()
    return asdict(inspect_node(*wanted))


def _describe(device: str) -> dict[str, Any]:
    _show_gpus()
    return describe_hardware(device)


def _show_gpus() -> None:
    # Ray hides the GPUs from a task that asks for none.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
