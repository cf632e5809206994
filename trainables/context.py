"""Where a stage runs: what may differ between two machines without changing the result."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import torch

from trainables.process.device_lock import DeviceLock

P = ParamSpec("P")
T = TypeVar("T")


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
        num_threads: CPU threads that torch uses in a stage; None leaves torch's setting.
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

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Let torch use `num_threads` in the block, and afterwards as many as before."""
        before = torch.get_num_threads()
        torch.set_num_threads(before if self.num_threads is None else self.num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def within_threads(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that has a `StageContext` as its argument `context`.

    It runs with the threads of that context, and leaves those of the process as they were.
    """
    parameters = inspect.signature(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        context: StageContext = parameters.bind(*args, **kwargs).arguments["context"]
        with context.threads():
            return function(*args, **kwargs)

    return run


def detect_device() -> str:
    """Name the device that a stage should use here: "cuda" if there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
