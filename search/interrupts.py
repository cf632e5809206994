"""Collects Ctrl-C and SIGTERM, so that a study ends at a point where nothing is half-done."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Collects SIGINT and SIGTERM while its `with` block runs; the second one raises.

    Attributes:
        received: Numbers of the signals received, in order.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._handlers: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        """Whether a signal has been received."""
        return bool(self.received)

    def __enter__(self) -> Interrupts:
        self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if len(self.received) > 1:
            raise KeyboardInterrupt
