"""Ctrl-C and SIGTERM, collected so that a study ends where nothing is half-done."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Collects the signals that ask for an end while its `with` block runs; a second one raises.

    Attributes:
        received: Numbers of the signals, in order.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._handlers: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        """Whether somebody has asked for the end."""
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
