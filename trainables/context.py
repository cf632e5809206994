"""Where a stage runs: what may differ between two machines without changing the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from trainables.process.device_lock import DeviceLock
from trainables.process.memory import keep_freed_memory


class Progress(NamedTuple):
    """A sign of life from a running stage.

    Attributes:
        stage: Name of the stage.
        step: Steps done.
        num_steps: Steps in all.
        loss: Loss of the last step, in nats; None before the first.
        miou: Last validation mIoU in 0..1; None before the first.
    """

    stage: str
    step: int
    num_steps: int
    loss: float | None = None
    miou: float | None = None


def ignore_progress(progress: Progress) -> None:
    """Report to nobody."""


def leave_state(path: Path) -> None:
    """Leave a saved state where it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageContext:
    """Machine and folders of a stage; no part of its content key.

    Attributes:
        cache_dir: Node-local folder for decoded data sets.
        device: Torch device that trains.
        num_threads: CPU threads of a step; None leaves torch's setting.
        num_workers: Processes that load data; 0 loads within the training process.
        checkpoint_seconds: At most this much work is lost when the process is killed: time between
            saved states, and up to the first one from `began` on.
        report: Called now and then with the progress.
        keep_state: Called with the file of a training's state whenever it has been saved.
        device_lock: Keeps latency probes and training steps apart.
        began: `time.monotonic` at which the work began, with what a training needs before its
            first step.
    """

    cache_dir: Path
    device: str = "cpu"
    num_threads: int | None = None
    num_workers: int = 0
    checkpoint_seconds: float = 30.0
    report: Callable[[Progress], None] = ignore_progress
    keep_state: Callable[[Path], None] = leave_state
    device_lock: DeviceLock = field(default_factory=lambda: DeviceLock("cpu"))
    began: float = field(default_factory=time.monotonic)

    def activate(self) -> None:
        """Set this process up: memory and the number of threads."""
        keep_freed_memory()
        if self.num_threads is not None:
            torch.set_num_threads(self.num_threads)


def detect_device() -> str:
    """Name the device that a stage should use here: "cuda" if there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
