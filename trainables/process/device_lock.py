"""Shared use of a device by training steps, exclusive use by latency probes (one node)."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.process.file_lock import lock


class DeviceLock:
    """Lets latency be measured while nothing else of segfront runs on the device.

    Every training step holds the lock shared, for as long as the step takes; a probe first takes a
    turnstile, which keeps new steps out, and then waits for the running ones. The kernel releases
    the locks of a killed process. Locks bind only those who ask.

    Args:
        device: Name of the device, such as "cpu" or "cuda:0".
        folder: Where the lock files lie; the same for all processes of the node.
    """

    def __init__(self, device: str, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"segfront-locks-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
        # On a GPU the processes of one node see different ordinals for one card.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if device.startswith("cuda") else ""
        stem = f"{device}-{visible}".replace(":", "_").replace(",", "_").replace("/", "_")
        self._turnstile = folder / f"{stem}.turnstile"
        self._device = folder / f"{stem}.device"

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the device together with other trainers."""
        with _held(self._turnstile, fcntl.LOCK_SH):
            lock = _acquire(self._device, fcntl.LOCK_SH)
        try:
            yield
        finally:
            os.close(lock)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the device alone."""
        with _held(self._turnstile, fcntl.LOCK_EX), _held(self._device, fcntl.LOCK_EX):
            yield


def _acquire(path: Path, mode: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    lock(descriptor, mode)
    return descriptor


@contextmanager
def _held(path: Path, mode: int) -> Iterator[None]:
    descriptor = _acquire(path, mode)
    try:
        yield
    finally:
        os.close(descriptor)
