"""The context of a stage: what may differ between machines without changing the result."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

import torch

from trainables.process.device_lock import DeviceLock

P = ParamSpec("P")
T = TypeVar("T")


class Progress(NamedTuple):
    """Progress of a running stage.

    Attributes:
        stage: Name of the stage.
        step: Number of finished steps.
        num_steps: Total number of steps.
        loss: Loss of the last step, in nats; None before the first.
        miou: Last validation mIoU in 0..1; None before the first.
    """

    stage: str
    step: int
    num_steps: int
    loss: float | None = None
    miou: float | None = None


def ignore_progress(progress: Progress) -> None:
    """Ignore the progress."""


def leave_state(path: Path) -> None:
    """Leave a saved state where it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageContext:
    """Machine and folders of a stage, which are not part of its content key.

    Attributes:
        cache_dir: Folder on this node for decoded data sets.
        device: Torch device of the training.
        num_threads: Number of CPU threads that torch uses in a stage; None leaves torch's setting.
        num_workers: Number of processes that load data; 0 loads in the training process.
        checkpoint_seconds: Time between saved states, and from `began` to the first one: the
            largest loss of work when the process is killed.
        report: Function that is called regularly with the progress.
        keep_state: Function that is called with the file of a training's state each time it was
            saved.
        device_lock: Lock that separates latency measurements from training steps.
        helpers: Function that makes a context manager in which other processes share a training
            (`trainables.process.distributed`); by default no process does.
        began: `time.monotonic` at the start of the work, including the preparation of a training.
    """

    cache_dir: Path
    device: str = "cpu"
    num_threads: int | None = None
    num_workers: int = 0
    checkpoint_seconds: float = 30.0
    report: Callable[[Progress], None] = ignore_progress
    keep_state: Callable[[Path], None] = leave_state
    device_lock: DeviceLock = field(default_factory=lambda: DeviceLock("cpu"))
    helpers: Callable[[], AbstractContextManager[None]] = nullcontext
    began: float = field(default_factory=time.monotonic)

    def alone(self) -> StageContext:
        """Return this context for work that no other process shares."""
        return replace(self, helpers=nullcontext)

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Set torch's threads to `num_threads` in the block, and restore them afterwards."""
        before = torch.get_num_threads()
        torch.set_num_threads(before if self.num_threads is None else self.num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def within_threads(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that has a `StageContext` as its argument `context`.

    The function runs with the threads of that context; those of the process are restored.
    """
    parameters = inspect.signature(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        context: StageContext = parameters.bind(*args, **kwargs).arguments["context"]
        with context.threads():
            return function(*args, **kwargs)

    return run


def detect_device() -> str:
    """Return the device for stages on this machine: "cuda" if there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"
