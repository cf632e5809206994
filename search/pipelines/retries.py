"""Stages whose worker failed: run again after a while, a limited number of times."""

from __future__ import annotations

import time
from collections import Counter
from typing import Literal, NamedTuple

Fault = Literal["worker", "machine", "memory", "surroundings"]

RETRY_SECONDS: dict[Fault, tuple[float, ...]] = {
    "worker": (1.0, 5.0),
    # Spot machines are taken away again and again; a stage that takes machines down has an end.
    "machine": (1.0, 5.0, *[15.0] * 18),
    "memory": (5.0,),  # may have been another's; what a stage itself needs will not shrink
    "surroundings": (5.0, 30.0),  # a disk is emptied, a storage comes back
}
"""Seconds to wait before each further attempt, by what was at fault; the length is the limit."""


class ObstacleError(Exception):
    """It is useless to go on until somebody has removed what the message names."""


class Failure(NamedTuple):
    """Why a worker failed.

    Attributes:
        reason: In one line.
        fault: worker: it died, hung or raised; machine: its own was lost; memory: its stage found
            too little; surroundings: disk, storage or data could not be used, which no setting of a
            pipeline can change.
    """

    reason: str
    fault: Fault = "worker"


class Retries:
    """Counts the failures of every stage and says when it may run again.

    A stage that waits holds no machine, and is run by another process when its time has come.
    """

    def __init__(self) -> None:
        # Lost machines are counted apart: a stage that has lost some may still fail by itself.
        self._failures: Counter[tuple[str, bool]] = Counter()
        self._due: dict[str, float] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether a stage waits for its next attempt."""
        return bool(self._due)

    def count(self, node: str) -> int:
        """Attempts of a stage that have failed."""
        return self._failures[node, False] + self._failures[node, True]

    def postpone(self, node: str, fault: Fault) -> float | None:
        """Note a failed attempt.

        Args:
            node: Of the stage.
            fault: What was to blame.

        Returns:
            Seconds until the next attempt; None if there is to be none.
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
        """Stages whose time has come; each is returned once."""
        now = time.monotonic()
        due = [node for node, moment in self._due.items() if moment <= now]
        for node in due:
            del self._due[node]
        return due
