"""The processes that help a Ray worker with a training: one on each further bundle of its trial.

Tune starts a trial in the first bundle of its placement group. If there are more, the worker leads:
it starts a helper on each, on whatever node Ray has put it, and they train together
(`trainables.learning.distributed`). A helper does what the leader does, in a folder of its own that
is thrown away.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.util
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch.distributed import (  # type: ignore[attr-defined]
    DistBackendError,
    DistNetworkError,
    DistStoreError,
    TCPStore,
)
from torch.distributed.distributed_c10d import Store

from trainables.learning.distributed import joined
from trainables.process.watchdog import waiting
from trainables.ray_internals import set_process_title

START_TIMEOUT = timedelta(minutes=10)  # for a helper's process, once its resources are there
GRACE_SECONDS = 60.0  # for a leader to notice by itself that a helper is gone
_PEERS_GONE = (RuntimeError, DistBackendError, DistNetworkError, DistStoreError)
_READ_ADDRESS = 0x8915  # SIOCGIFADDR of netdevice(7)


class HelperLost(RuntimeError):  # noqa: N818 - says what happened
    """A process that helped with a training died, or its machine was lost."""


@contextmanager
def helped(assist: Callable[[], None], title: str, report: Path) -> Iterator[None]:
    """Share the training in the block with a helper on each further bundle of this trial.

    Args:
        assist: What a helper does once all have joined: the training of the block.
        title: Name of the training, for `ps` and Ray's dashboard.
        report: File for the reason if this process has to end because a helper is gone without
            its connections having been closed.

    Raises:
        HelperLost: A helper died.
        Exception: What ended a helper, if that was its own error.
    """
    group = get_current_placement_group()
    num_processes = 1 if group is None else group.bundle_count
    if num_processes == 1:
        yield
        return
    address = _find_address()
    _speak_through(address)
    listener = socket.create_server((address, 0))  # not on every interface
    port = listener.getsockname()[1]
    store = TCPStore(
        address, port, is_master=True, wait_for_workers=False, timeout=START_TIMEOUT,
        master_listen_fd=listener.detach(),
    )  # fmt: skip
    helpers = [_start_helper(group, rank) for rank in range(1, num_processes)]
    answers = [
        helper.run.remote(assist, title, address, port, rank, num_processes)
        for rank, helper in enumerate(helpers, start=1)
    ]
    is_over = threading.Event()
    watch = threading.Thread(target=_watch, args=(answers, is_over, report), daemon=True)
    watch.start()
    try:
        _wait_for_all(store, answers)
        with joined(store, 0, num_processes):
            yield
    except RuntimeError as error:
        _raise_what_ended_a_helper(answers, error)
        raise
    finally:
        is_over.set()
        for helper in helpers:
            ray.kill(helper)


class _Helper:
    """Actor on one bundle."""

    def run(
        self,
        assist: Callable[[], None],
        title: str,
        address: str,
        port: int,
        rank: int,
        num_processes: int,
    ) -> None:
        """Join the leader at its address and assist."""
        set_process_title(f"ray::{title} helper {rank}")
        _speak_through(_find_address())
        store = TCPStore(address, port, is_master=False, timeout=START_TIMEOUT)
        store.set(_ready(rank), "")
        with joined(store, rank, num_processes):
            assist()


def _find_address() -> str:
    """Address by which Ray knows this node."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _start_helper(group: Any, rank: int) -> Any:
    bundle = group.bundle_specs[rank]
    actor: Any = ray.remote(max_restarts=0)(_Helper)
    return actor.options(
        num_cpus=bundle.get("CPU", 0),
        num_gpus=bundle.get("GPU", 0),
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=rank
        ),
    ).remote()


def _ready(rank: int) -> str:
    return f"ready/{rank}"


def _wait_for_all(store: Store, answers: Sequence[Any]) -> None:
    """Wait until every helper is there; none answers before, unless it has failed."""
    keys = [_ready(rank) for rank in range(1, len(answers) + 1)]
    with waiting():
        while not store.check(keys):
            failed, _ = ray.wait(list(answers), num_returns=1, timeout=0.1)
            if failed:
                raise HelperLost("a helper ended before the training began")


def _watch(answers: Sequence[Any], is_over: threading.Event, report: Path) -> None:
    """End this process if it still waits, long after a helper has died, for an answer from it.

    A machine that is cut off closes no connection, and NCCL does not look at connections.
    """
    ended, _ = ray.wait(list(answers), num_returns=1)
    try:
        ray.get(ended[0])
    except RayError as error:
        if not is_over.wait(GRACE_SECONDS):
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(f"lost a helper: {_in_one_line(error)}\n")
            os.kill(os.getpid(), signal.SIGKILL)


def _raise_what_ended_a_helper(answers: Sequence[Any], error: RuntimeError) -> None:
    """Raise a helper's own error; none is raised if all have only lost their connections."""
    ray.wait(list(answers), num_returns=len(answers), timeout=GRACE_SECONDS)
    for answer in answers:
        try:
            ray.get(answer, timeout=0)
        except RayTaskError as failed:
            if type(failed.cause) not in _PEERS_GONE:
                raise failed.cause from error
        except GetTimeoutError:
            continue
        except RayError as lost:
            raise HelperLost(_in_one_line(lost)) from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _speak_through(address: str) -> None:
    """Let this worker's gloo and NCCL connect by the address that Ray knows its node by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe, _READ_ADDRESS, struct.pack("256s", name.encode()))
            except OSError:
                continue  # it has no address
            if socket.inet_ntoa(found[20:24]) == address:
                os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = name
