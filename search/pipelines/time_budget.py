"""The time of a study: what has been spent, what still fits, and who may not start any more."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from search.pipelines.stage_seconds import StageSeconds
from search.pipelines.stage_tree import Task
from trainables.rehearsal import name_kind

MARGIN = 1.1
"""A stage is started if so many times its predicted seconds are left."""

ANSWER_SHARE, ANSWER_SECONDS = 0.05, (30.0, 120.0)
MOST_ANSWER_SHARE = 0.2
"""Share of the limit that is kept for deploying the front and for the report: a twentieth, but at
least and at most so many seconds, and no more than a fifth."""

NEW_SHARE = 0.1
"""A training whose first report lies below this share has not gone on from a checkpoint."""


@dataclass(kw_only=True, slots=True)
class _Running:
    """A stage that was handed out.

    Attributes:
        task: The stage.
        started: On the clock; None while it waits for a machine.
        seen: Share of its work that was done when it said so first, and when that was: a training
            that goes on from a checkpoint has done some before.
        share: Of its work that is done, 0..1.
        moment: On the clock, when it was.
    """

    task: Task
    started: float | None = None
    seen: tuple[float, float] | None = None
    share: float = 0.0
    moment: float = 0.0

    def time_itself(self) -> tuple[float, float]:
        """Share of the work that was watched, and the seconds that it took."""
        if self.seen is None:
            return 0.0, 0.0
        share, moment = self.seen
        return self.share - share, self.moment - moment


class TimeBudget:
    """Watches the stages of a study and says which of those that may run still fit.

    Args:
        seconds: Predicts the seconds of stages.
        limit: Seconds of the whole study; None: there is no limit.
        worked: Says how many of them have passed.
        clock: Seconds on any clock.
        starts_at_once: Whether a stage begins when it is handed out; otherwise `begin` says so.

    Attributes:
        seconds: As given.
        limit: As given.
        num_ended: Stages of pipelines that have ended in this session, by their kind.
    """

    def __init__(
        self,
        seconds: StageSeconds,
        *,
        limit: float | None = None,
        worked: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.monotonic,
        starts_at_once: bool = True,
    ) -> None:
        self.seconds = seconds
        self.limit = limit
        self._worked = worked
        self._clock = clock
        self._starts_at_once = starts_at_once
        self._running: dict[str, _Running] = {}
        self.num_ended: Counter[str] = Counter()

    @property
    def running_seconds(self) -> float:
        """Seconds for which the stages that run now have held their places."""
        return math.fsum(map(self._elapsed, self._running.values()))

    @property
    def left(self) -> float:
        """Seconds left for stages; infinite without a limit."""
        if self.limit is None:
            return math.inf
        least, most = ANSWER_SECONDS
        answer = min(max(ANSWER_SHARE * self.limit, least), most, MOST_ANSWER_SHARE * self.limit)
        return self.limit - answer - self._worked()

    @property
    def is_used_up(self) -> bool:
        """Whether the time for stages is over."""
        return self.left <= 0

    def fits(self, seconds: float) -> bool:
        """Whether work of so many seconds would end in time."""
        return self.left > 0 and MARGIN * seconds <= self.left

    def hand_out(self, task: Task) -> None:
        """Note that a stage was handed out."""
        self._running[task.node] = _Running(task=task)
        if self._starts_at_once:
            self.begin(task.node)

    def begin(self, node: str) -> None:
        """Note that a stage has got its machine."""
        if node in self._running:
            self._running[node].started = self._clock()

    def advance(self, node: str, done: float) -> None:
        """Note how far a stage is.

        Args:
            node: Of a stage that has begun.
            done: Share of all steps of its training, 0..1.
        """
        running = self._running.get(node)
        if running is None or running.started is None or not done:
            return
        begin = self.seconds.find_begin(running.task)
        share = (done - begin) / (running.task.share - begin)
        running.share, running.moment = min(1.0, max(0.0, share)), self._clock()
        if running.seen is None:
            running.seen = running.share, running.moment
        watched, seconds = running.time_itself()
        if watched > 0:
            self.seconds.note(running.task, seconds, watched)

    def end(self, task: Task, *, was_run: bool) -> float:
        """Note that a stage has ended.

        Args:
            task: The stage.
            was_run: Whether all of its work was done now; otherwise it failed, or was found.

        Returns:
            Seconds that it held its place.
        """
        running = self._running.pop(task.node)
        elapsed = self._elapsed(running)
        if not task.baseline:
            self.num_ended[name_kind(task.chain)] += 1
        if not was_run:
            self.seconds.forget(task)
        elif running.seen is None or running.seen[0] < NEW_SHARE:
            self.seconds.note(task, elapsed)
        return elapsed

    def find_remaining(self, tasks: Iterable[Task]) -> float:
        """Predict the seconds of stages one after another, less what the running ones have done.

        Args:
            tasks: Of one pipeline.
        """
        return math.fsum(map(self._remaining, tasks))

    def _remaining(self, task: Task) -> float:
        running = self._running.get(task.node)
        if running is None:
            return self.seconds.predict(task)
        # The further a stage is, the more its own speed says.
        share, predicted = running.share, self.seconds.predict(task)
        watched, seconds = running.time_itself()
        if not watched:
            return max(0.0, predicted - self._elapsed(running))
        return (1 - share) * ((1 - share) * predicted + share * seconds / watched)

    def _elapsed(self, running: _Running) -> float:
        return 0.0 if running.started is None else self._clock() - running.started
