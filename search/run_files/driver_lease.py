"""The sign in a run's remote folder that a driver works on it: one at a time, from any machine."""

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
FRESH_SECONDS = 60.0  # a driver that has not been heard of for so long is gone
SETTLE_SECONDS = 1.0  # for one of two drivers that come at once to see the other


class DriverLease:
    """An object that its owner writes every 10 s and deletes at the end.

    A driver that finds one watches it: if it is written again meanwhile, somebody else works there;
    if it is not for 60 s, that driver has died. No two clocks are compared. A driver that was held
    up for longer (suspended, cut off) may find the lease taken when it is back; it has lost the run
    then and must write nothing any more.

    Args:
        remote: Folder of the run.

    Attributes:
        is_lost: Whether another driver has taken the run over.
    """

    def __init__(self, remote: RemoteFolder) -> None:
        self.is_lost = False
        self._remote = remote
        self._owner = secrets.token_hex(8)
        self._beats = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Take the lease, keep it alive, and give it back.

        Raises:
            ValueError: Another driver has it; names that one.
            StorageError: The storage does not answer.
        """
        self._take()
        try:
            with repeated(self._beat_quietly, BEAT_SECONDS):
                yield
        finally:
            if not self.is_lost:
                with suppress(StorageError):  # it grows old by itself
                    self._remote.with_patience(0).delete(LEASE_FILE)

    def beat(self) -> None:
        """Write the lease anew, unless another driver has taken it.

        Raises:
            StorageError: The storage does not answer at once.
        """
        remote = self._remote.with_patience(0)
        if (found := _read(remote)) and found["owner"] != self._owner:
            self.is_lost = True
            logger.error("this driver was away for too long; %s has taken the run", _name(found))
            return
        self._write(remote)

    def _take(self) -> None:
        seen = _read(self._remote)
        if seen:
            logger.warning(
                "waiting for at most %g s: is %s still there?", FRESH_SECONDS, _name(seen)
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
        with suppress(StorageError):  # the next one may come through
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
    """Call a function now and then in a thread of its own; the exit waits for its last call.

    Args:
        act: Must not raise.
        seconds: Between two calls.
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
    """The lease, None if there is none or nothing can be made of it."""
    try:
        content = json.loads(remote.read(LEASE_FILE))
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(content, dict) and {"owner", "host", "process"} <= set(content)
    return content if known else None


def _name(lease: dict[str, Any]) -> str:
    return f"a driver on {lease['host']} (process {lease['process']})"
