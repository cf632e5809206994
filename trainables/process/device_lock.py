"""Shared use of a device by training steps, exclusive use by latency probes (one node)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trainables.process.file_lock import locked


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
        """Hold the device together with other training steps."""
        with ExitStack() as held:
            with locked(self._turnstile, shared=True):
                held.enter_context(locked(self._device, shared=True))
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the device alone."""
        with locked(self._turnstile), locked(self._device):
            yield
