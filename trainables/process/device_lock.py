"""A lock per device: training steps share it, a latency measurement holds it alone."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from trainables.process.file_lock import locked


class DeviceLock:
    """Keeps training steps off a device while a latency is measured on it.

    Every training step holds the lock shared for as long as the step takes. A measurement first
    takes a second lock, the turnstile, which keeps new steps out, and then waits until the running
    steps end. The kernel releases the locks of a killed process. The lock covers one machine, and
    only processes that take it.

    Args:
        device: Torch name of the device, such as "cpu" or "cuda:0".
        folder: Folder of the lock files, the same for all processes of the machine; default: one in
            the temporary folder.
    """

    def __init__(self, device: str, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"segfront-locks-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
        stem = _name_on_machine(device).replace(":", "_").replace("/", "_")
        self._folder, self._stem = folder, stem
        self._turnstile = folder / f"{stem}.turnstile"
        self._device = folder / f"{stem}.device"

    @property
    def identity(self) -> int:
        """Number of 56 bits that differs between the locks of devices, and between machines."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = self._folder.stat()
        text = f"{boot}/{place.st_dev}/{place.st_ino}/{self._stem}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")

    @contextmanager
    def shared(self, *, wait: bool = True) -> Iterator[None]:
        """Share the device with other training steps.

        Args:
            wait: Wait while a measurement has it, or is about to.

        Raises:
            BlockingIOError: A measurement does, and `wait` is False.
        """
        with ExitStack() as held:
            with locked(self._turnstile, shared=True, wait=wait):
                held.enter_context(locked(self._device, shared=True, wait=wait))
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the device alone."""
        with locked(self._turnstile), locked(self._device):
            yield


def _name_on_machine(device: str) -> str:
    """Name a GPU by its number on the machine, which all of its processes agree on.

    CUDA_VISIBLE_DEVICES=2 makes GPU 2 the "cuda:0" of a process. A GPU that it names by a UUID
    keeps that name.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = {str(index): name.strip() for index, name in enumerate(visible)}
    return f"cuda-{names.get(number or '0') or number or '0'}"
