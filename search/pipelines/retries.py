"""Decides when a stage whose worker failed runs again, and how often."""

from __future__ import annotations

import time
from collections import Counter
from typing import Literal, NamedTuple

Fault = Literal["worker", "machine", "memory", "surroundings"]

RETRY_SECONDS: dict[Fault, tuple[float, ...]] = {
    "worker": (1.0, 5.0),
    # A stage may lose many spot machines. The limit stops one that itself brings machines down.
    "machine": (1.0, 5.0, *[15.0] * 18),
    "memory": (5.0,),  # another process may have used it; a stage's own need does not shrink
    "surroundings": (5.0, 30.0),  # the disk may be emptied, the storage may come back
}
"""Seconds to wait before each further attempt, by fault; their number limits the attempts."""


class ObstacleError(Exception):
    """Raised when it is useless to continue until the user has solved the named problem."""


class Failure(NamedTuple):
    """The failure of a worker.

    Attributes:
        reason: Reason in one line.
        fault: Kind of the failure. worker: the worker died, hung or raised. machine: its machine
            was lost. memory: memory ran out. surroundings: disk, storage or data could not be used,
            whatever the settings of the pipeline.
    """

    reason: str
    fault: Fault = "worker"


class Retries:
    """Counts the failures of every stage and decides when it may run again.

    A stage that waits holds no machine; another process runs it when its time has come.
    """

    def __init__(self) -> None:
        # Lost machines are counted separately, so that they use up no attempts of the stage itself.
        self._failures: Counter[tuple[str, bool]] = Counter()
        self._due: dict[str, float] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether a stage waits for its next attempt."""
        return bool(self._due)

    def count(self, node: str) -> int:
        """Return the number of failed attempts of a stage."""
        return self._failures[node, False] + self._failures[node, True]

    def postpone(self, node: str, fault: Fault) -> float | None:
        """Record a failed attempt.

        Args:
            node: Node of the stage.
            fault: Kind of the failure.

        Returns:
            Seconds until the next attempt; None if there is none.
        """
        waits = RETRY_SECONDS[fault]
        kind = (node, fault == "machine")
        self._failures[kind] += 1
        if self._failures[kind] > len(waits):
            return None
        seconds = waits[self._failures[kind] - 1]
        self._due[node] = time.monotonic() + seconds
        return seconds

    def take_due(self) -> list[str]:
        """Return the stages that may run again now; each is returned once."""
        now = time.monotonic()
        due = [node for node, moment in self._due.items() if moment <= now]
        for node in due:
            del self._due[node]
        return due
