"""What is not public in Ray is as `trainables/ray_internals.py` needs it."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray
from ray._private import ray_constants, services
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution.tune_controller import TuneController

from trainables import ray_internals as internals


def explain(name: str) -> str:
    return (
        f"Ray {ray.__version__} has changed {name}: adapt trainables/ray_internals.py, which alone "
        "uses it, or keep the older version by the bound in pyproject.toml"
    )


def test_a_process_gets_its_title() -> None:
    command = Path("/proc/self/cmdline")
    before = command.read_bytes()
    internals.set_process_title("ray::sparse-lambda-0.001")
    try:
        assert command.read_bytes().startswith(b"ray::sparse-lambda-0.001"), explain("setproctitle")
    finally:
        internals.set_process_title(before.replace(b"\0", b" ").decode().strip())


def test_loopback_is_what_a_node_alone_listens_on() -> None:
    name = "ray_constants.ENABLE_RAY_CLUSTER"
    assert ray_constants.ENABLE_RAY_CLUSTER is True, explain(name)
    with internals.listening_on_loopback():
        assert services.get_node_ip_address() == "127.0.0.1", explain(name)
    assert ray_constants.ENABLE_RAY_CLUSTER is True


def test_a_failed_task_of_an_actor_is_told_by_the_known_method() -> None:
    name = "RayActorManager._actor_task_failed"
    known = ["self", "tracked_actor_task", "exception"]
    assert list(inspect.signature(RayActorManager._actor_task_failed).parameters) == known, explain(
        name
    )


def test_an_eviction_by_the_memory_monitor_is_the_death_of_one_worker() -> None:
    deaths: list[tuple[str, Exception]] = []
    actor = SimpleNamespace(actor_id=7, _on_error=lambda _, error: deaths.append(("actor", error)))
    task = SimpleNamespace(
        _tracked_actor=actor, _on_error=lambda _, error: deaths.append(("task", error))
    )
    manager = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda **_: None)
    eviction = OutOfMemoryError("the node running low on memory")

    def fail() -> None:
        code: Any = RayActorManager
        code._actor_task_failed(manager, tracked_actor_task=task, exception=eviction)

    with internals.surviving_evictions():
        fail()
    assert [who for who, _ in deaths] == ["actor", "task"]
    for _, error in deaths:
        assert isinstance(error, RayActorError)
        assert "running low on memory" in str(error)
    with pytest.raises(RuntimeError, match="Caught unexpected exception"):
        fail()  # Tune's own way: should it raise no more, `surviving_evictions` can go


@pytest.mark.parametrize(
    ("own", "is_started", "reused"),
    [("new", True, False), ("new", False, True), (None, False, True)],
)
def test_a_worker_that_is_starting_keeps_its_trial(
    own: str | None, is_started: bool, reused: bool
) -> None:
    removed: list[str] = []
    trial = Mock(placement_group_factory="one core")
    cache = SimpleNamespace(has_cached_object=lambda _: True, pop_cached_object=lambda _: "free")
    manager = SimpleNamespace(
        is_actor_started=lambda actor: is_started,
        _live_actors_to_ray_actors_resources={"free": ("process", None)},
    )
    controller: Any = SimpleNamespace(
        _actor_cache=cache,
        _actor_manager=manager,
        _trial_to_actor={} if own is None else {trial: own},
        _actor_to_trial={} if own is None else {own: trial},
        _remove_actor=lambda tracked_actor: removed.append(tracked_actor),
        _resetting_trials=set(),
        _schedule_trial_reset=lambda *_: None,
    )
    code: Any = TuneController
    with internals.keeping_starting_workers():
        assert code._maybe_reuse_cached_actor(controller, trial) is reused
    assert removed == ([own] if own is not None and reused else [])
    if own is not None and is_started:  # Tune's own way: once it keeps the worker too, ours can go
        assert code._maybe_reuse_cached_actor(controller, trial)
        assert removed == [own]
