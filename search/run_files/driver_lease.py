"""A lease in a run's remote folder that allows one driver at a time, from any machine."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from trainables.artifacts.remote_folder import RemoteFolder, StorageError

logger = logging.getLogger(__name__)

LEASE_FILE = "driver.json"
BEAT_SECONDS = 10.0
FRESH_SECONDS = 60.0  # a driver whose lease has not changed for this long is dead
SETTLE_SECONDS = 1.0  # two drivers that start at the same time see each other within this time


class DriverLease:
    """An object in storage that its owner rewrites every 10 s and deletes at the end.

    A driver that finds a lease watches it. If the lease changes, another driver is working there.
    If it does not change for 60 s, that driver has died. Clocks of two machines are never compared.
    A driver that was suspended or disconnected for longer may find its lease taken by another. It
    has then lost the run and must not write to it any more.

    Args:
        remote: Folder of the run.

    Attributes:
        is_lost: Whether another driver has taken over the run.
    """

    def __init__(self, remote: RemoteFolder) -> None:
        self.is_lost = False
        self._remote = remote
        self._owner = secrets.token_hex(8)
        self._beats = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Take the lease, renew it until the exit, and delete it.

        Raises:
            ValueError: Another driver has the lease; the message names it.
            StorageError: The storage does not answer.
        """
        self._take()
        try:
            with repeated(self._beat_quietly, BEAT_SECONDS):
                yield
        finally:
            with suppress(StorageError):  # a lease that is left expires by itself
                self._release()

    def beat(self) -> None:
        """Renew the lease, unless another driver has taken it.

        Raises:
            StorageError: The storage does not answer at once.
        """
        remote = self._remote.with_patience(0)
        if (found := _read(remote)) and found["owner"] != self._owner:
            logger.error(
                "this driver was away for too long; %s has taken over the run", _name(found)
            )
            self.is_lost = True
            return
        self._write(remote)

    def _release(self) -> None:
        """Delete the lease if it is still this driver's."""
        remote = self._remote.with_patience(0)
        if (found := _read(remote)) and found["owner"] == self._owner:
            remote.delete(LEASE_FILE)

    def _take(self) -> None:
        seen = _read(self._remote)
        if seen:
            logger.warning(
                "waiting for up to %g s to see whether %s is alive", FRESH_SECONDS, _name(seen)
            )
        deadline = time.monotonic() + FRESH_SECONDS
        while seen and time.monotonic() < deadline:
            time.sleep(min(1.0, BEAT_SECONDS / 4))
            found = _read(self._remote)
            if found and found != seen:
                raise self._refusal(found)
            seen = found
        self._write(self._remote)
        time.sleep(SETTLE_SECONDS)
        found = _read(self._remote)
        if not found or found["owner"] != self._owner:
            raise self._refusal(found)

    def _refusal(self, found: dict[str, Any] | None) -> ValueError:
        who = _name(found) if found else "another driver"
        return ValueError(f"{self._remote.uri} is in use by {who}; end that one first")

    def _beat_quietly(self) -> None:
        with suppress(StorageError):  # the next renewal may succeed
            if not self.is_lost:
                self.beat()

    def _write(self, remote: RemoteFolder) -> None:
        self._beats += 1
        content = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "beat": self._beats,
        }
        remote.write(LEASE_FILE, json.dumps(content).encode())


@contextmanager
def repeated(act: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call a function periodically in a separate thread; the exit waits for its last call.

    Args:
        act: Function to call; it must not raise.
        seconds: Interval between two calls, in seconds.
    """
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(seconds):
            act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _read(remote: RemoteFolder) -> dict[str, Any] | None:
    """Read the lease; None if there is none or it is damaged."""
    try:
        content = json.loads(remote.read(LEASE_FILE))
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(content, dict) and {"owner", "host", "process"} <= set(content)
    return content if known else None


def _name(lease: dict[str, Any]) -> str:
    return f"a driver on {lease['host']} (process {lease['process']})"
