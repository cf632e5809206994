"""The private parts of Ray that this project uses.

No other file uses names of Ray that begin with an underscore.
`tests/trainables/test_ray_internals.py` fails when a new version changes one of them, and says
which.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import ray_constants
from ray._raylet import setproctitle  # type: ignore[attr-defined]
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.execution.tune_controller import TuneController


def set_process_title(title: str) -> None:
    """Name this worker's process, for `ps` and Ray's dashboard."""
    setproctitle(title)


@contextmanager
def listening_on_loopback() -> Iterator[None]:
    """Make a Ray that starts in the block listen only on 127.0.0.1, not on every interface.

    By default Ray does so only on macOS.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def surviving_evictions() -> Iterator[None]:
    """Make Tune treat a worker that Ray's memory monitor killed like any worker that died.

    Ray then raises its own OutOfMemoryError, which is not a RayActorError. Tune 2.60 treats that as
    an internal error and ends all trials.
    """
    take_failure: Any = RayActorManager._actor_task_failed

    def take_any_failure(
        manager: RayActorManager, tracked_actor_task: Any, exception: Exception
    ) -> None:
        known = RayActorError | RayTaskError
        if isinstance(exception, RayError) and not isinstance(exception, known):
            exception = RayActorError(error_msg=str(exception))
        take_failure(manager, tracked_actor_task, exception)

    tune_code: Any = RayActorManager
    tune_code._actor_task_failed = take_any_failure
    try:
        yield
    finally:
        tune_code._actor_task_failed = take_failure


@contextmanager
def keeping_starting_workers() -> Iterator[None]:
    """Make Tune keep a worker that is starting, although another one becomes free for its trial.

    Tune 2.60 gives the trial the free worker and ends the new one. If stages take less time than
    the start of a process, all of them then run in one process, one after another. The free worker
    takes the next trial instead. A worker that still waits for its machine is dropped as before.
    """
    reuse: Any = TuneController._maybe_reuse_cached_actor

    def reuse_unless_starting(controller: Any, trial: Any) -> bool:
        own = controller._trial_to_actor.get(trial)
        has_worker = own is not None and controller._actor_manager.is_actor_started(own)
        if has_worker and trial not in controller._resetting_trials:
            return False
        return bool(reuse(controller, trial))

    tune_code: Any = TuneController
    tune_code._maybe_reuse_cached_actor = reuse_unless_starting
    try:
        yield
    finally:
        tune_code._maybe_reuse_cached_actor = reuse
