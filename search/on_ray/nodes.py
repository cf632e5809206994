"""The nodes of a cluster that a study has joined: waited for, checked, described."""

from __future__ import annotations

import logging
import math
import os
import time
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

WORKER_SECONDS = 1200.0  # for a machine to be found, started and set up
ANSWER_SECONDS = 120.0  # for a node to import PyTorch and answer
READ_SECONDS = 30.0  # for a node to read a file
POLL_SECONDS = 2.0


def summon_worker(config: StudyConfig, wait_seconds: float = WORKER_SECONDS) -> None:
    """Have the cluster's autoscaler start a first worker if no node could run a stage.

    More workers follow by themselves once stages wait. Without an autoscaler this only waits.

    Args:
        config: Says what a stage needs.
        wait_seconds: After which to go on with what is there.
    """
    needed = {"CPU": config.cpus_per_trial or 1, "GPU": math.ceil(config.gpus_per_trial or 0)}
    deadline = time.monotonic() + wait_seconds
    if _some_node_has(needed):
        return
    request_resources(bundles=[{name: count for name, count in needed.items() if count}])
    try:
        while not _some_node_has(needed) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    finally:
        request_resources(bundles=[])


def check_cluster(config: StudyConfig, run_dir: Path, storage: str | None = None) -> None:
    """Compare every node's code, versions, folders and GPUs with the driver's.

    Args:
        config: Of the study, with paths settled.
        run_dir: Of the run; need not be shared if it lies in storage.
        storage: URI of the run if it lies in storage.

    Raises:
        ValueError: Names each node that differs, in what, and the remedy.
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
    """Text of a small file on a node's own disk; "" if there is none or the node does not answer.

    Args:
        address: Of the node.
        path: Of the file there.
    """
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_read_text)
    for node in alive_nodes():
        if node["NodeManagerAddress"] == address:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answer = task.options(scheduling_strategy=strategy).remote(path)
            try:
                return str(ray.get(answer, timeout=READ_SECONDS))
            except (RayError, GetTimeoutError) as error:
                logger.warning("%s on %s could not be read: %s", path.name, address, error)
    return ""


def describe_worker() -> dict[str, Any]:
    """Describe a machine with a GPU; the driver's own may have none.

    Raises:
        ValueError: No node answers.
    """
    task: Any = ray.remote(num_cpus=0, num_gpus=1)(describe_hardware)
    try:
        description: dict[str, Any] = ray.get(task.remote("cuda"), timeout=ANSWER_SECONDS)
    except (RayError, GetTimeoutError) as error:
        raise ValueError(f"no node with a free GPU could describe it: {error}") from None
    return description


def alive_nodes() -> list[dict[str, Any]]:
    """What Ray knows of the nodes that it can reach."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _some_node_has(needed: dict[str, int]) -> bool:
    return any(
        all(node["Resources"].get(name, 0) >= count for name, count in needed.items())
        for node in alive_nodes()
    )


def _name(node: dict[str, Any]) -> str:
    """Address and the start of the id, by which the dashboard lists it."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def _ask_nodes(*wanted: Any) -> dict[str, NodeReport]:
    """Reports by node; the arguments are those of `inspect_node`."""
    task: Any = ray.remote(num_cpus=0, max_retries=0)(_inspect)
    answers = {
        _name(node): task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*wanted)
        for node in alive_nodes()
    }
    deadline = time.monotonic() + ANSWER_SECONDS
    reports, problems = {}, []
    for name, answer in answers.items():
        try:
            content = ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
            reports[name] = NodeReport(**content)
        except GetTimeoutError:
            problems.append(
                f"node {name}: no answer within {ANSWER_SECONDS:g} s; look at its logs in the "
                "dashboard, or take it out of the cluster"
            )
        except (RayError, TypeError) as error:
            if name not in map(_name, alive_nodes()):
                # One that has just died counts as alive until Ray notices.
                logger.warning("node %s went away; the study begins without it", name)
                continue
            reason = " ".join(str(error).split()[-30:])
            problems.append(
                f"node {name}: does not run this project's code; install it there as on the "
                f"driver's machine ({type(error).__name__}: {reason})"
            )
    if problems:
        raise ValueError(join_problems(problems))
    return reports


def _read_text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _inspect(*wanted: Any) -> dict[str, Any]:
    # Ray hides the GPUs from a task that asks for none.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    return asdict(inspect_node(*wanted))
