"""Helpers: processes that share the training of a Ray worker.

Tune starts a trial in the first bundle of its placement group. If there are more bundles, the
worker is the leader: it starts a helper in each of them, on whatever node Ray has placed it, and
they train together (`trainables.process.distributed`). A helper runs the same stage as the
leader, in a temporary folder.
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

from trainables.process.distributed import joined
from trainables.process.watchdog import waiting
from trainables.ray_internals import set_process_title

START_TIMEOUT = timedelta(minutes=10)  # of a helper
GRACE_SECONDS = 60.0  # in which a leader should notice that a helper is gone
_PEERS_GONE = (RuntimeError, DistBackendError, DistNetworkError, DistStoreError)
_READ_ADDRESS = 0x8915  # SIOCGIFADDR of netdevice(7)


class HelperLost(RuntimeError):  # noqa: N818 - says what happened
    """A helper died, or its machine was lost."""


@contextmanager
def helped(assist: Callable[[], None], title: str, report: Path) -> Iterator[None]:
    """Share the training in the block with a helper in every further bundle of this trial.

    Args:
        assist: Function that a helper runs once all have joined, for the training in the block.
        title: Name of the training, for `ps` and Ray's dashboard.
        report: File to which the reason is written if this process must kill itself (`_watch`).

    Raises:
        HelperLost: A helper died.
        Exception: The error of a helper, if an error of its own ended it.
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
        ray.wait(list(answers), num_returns=len(answers), timeout=GRACE_SECONDS)  # they clean up
    except RuntimeError as error:
        is_over.set()
        _raise_what_ended_a_helper(answers, error)
        raise
    finally:
        is_over.set()
        for helper in helpers:
            ray.kill(helper)


class _Helper:
    """Actor in one bundle."""

    def run(
        self,
        assist: Callable[[], None],
        title: str,
        address: str,
        port: int,
        rank: int,
        num_processes: int,
    ) -> None:
        """Join the leader and assist it."""
        set_process_title(f"ray::{title} helper {rank}")
        _speak_through(_find_address())
        store = TCPStore(address, port, is_master=False, timeout=START_TIMEOUT)
        store.set(_ready(rank), "")
        with joined(store, rank, num_processes):
            assist()


def _find_address() -> str:
    """Return the address of this node in Ray."""
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
    """Wait until every helper has joined; a helper that ends before has failed."""
    keys = [_ready(rank) for rank in range(1, len(answers) + 1)]
    with waiting():
        while not store.check(keys):
            failed, _ = ray.wait(list(answers), num_returns=1, timeout=0.1)
            if failed:
                raise HelperLost("a helper ended before the training began")


def _watch(answers: Sequence[Any], is_over: threading.Event, report: Path) -> None:
    """Kill this process if a helper has died and the training does not notice it.

    A machine that is cut off closes no connection, and NCCL does not watch its connections. The
    training would then wait for the helper.
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
    """Raise the error of a helper, unless the helpers have only lost their connections."""
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
    """Let gloo and NCCL use the network interface of this address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe, _READ_ADDRESS, struct.pack("256s", name.encode()))
            except OSError:
                continue  # it has no address
            if socket.inet_ntoa(found[20:24]) == address:
                os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = name
