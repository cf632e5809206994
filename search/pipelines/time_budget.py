"""The time of a study: the stages that run, the time that is left, and what still fits into it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from search.pipelines.stage_seconds import StageSeconds
from search.pipelines.stage_tree import Task
from trainables.chain import Chain
from trainables.rehearsal import name_kind

MARGIN = 1.1
"""Factor by which the time that is left must exceed the predicted seconds of a stage."""

ANSWER_SHARE, ANSWER_SECONDS = 0.05, (30.0, 120.0)
MOST_ANSWER_SHARE = 0.2
"""Time that is kept for deploying the front and for the report: 5 % of the limit, but at least 30 s
and at most 120 s, and never more than a fifth of the limit."""

NEW_SHARE = 0.1
"""A training whose first report is below this fraction of its steps began at its first step."""


@dataclass(kw_only=True, slots=True)
class _Running:
    """A stage that was handed out.

    Attributes:
        task: The stage.
        started: Time of its start; None while it waits for a machine.
        seen: Fraction of its work that was done at its first report, and the time of that report. A
            training that continues from a checkpoint has done part of its work before.
        share: Fraction of its work that is done, in 0..1.
        moment: Time of its last report.
    """

    task: Task
    started: float | None = None
    seen: tuple[float, float] | None = None
    share: float = 0.0
    moment: float = 0.0

    def time_itself(self) -> tuple[float, float]:
        """Return the fraction of the work between first and last report, and its seconds."""
        if self.seen is None:
            return 0.0, 0.0
        share, moment = self.seen
        return self.share - share, self.moment - moment


class TimeBudget:
    """Follows the running stages of a study and decides which further stages fit into its time.

    Args:
        seconds: Predictions of the stages' seconds.
        limit: Time limit of the whole study in seconds; None: no limit.
        worked: Function that returns the seconds that the study has worked so far.
        clock: Function that returns the time in seconds, from any origin.
        starts_at_once: Whether a stage starts when it is handed out; otherwise `begin` is called.
        weigh: Function that returns the number of GPUs (on CPUs: of processes) that a stage holds.
        has_begun: Function that says whether an earlier session has begun the last stage of a
            chain. Such a stage continues from its saved state, so it may start without the time
            for all of it.

    Attributes:
        seconds: The argument `seconds`.
        limit: The argument `limit`.
        has_begun: The argument `has_begun`.
        num_ended: Number of the pipelines' stages that have ended in this session, by kind.
    """

    def __init__(
        self,
        seconds: StageSeconds,
        *,
        limit: float | None = None,
        worked: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.monotonic,
        starts_at_once: bool = True,
        weigh: Callable[[Task], float] = lambda task: 1.0,
        has_begun: Callable[[Chain], bool] = lambda chain: False,
    ) -> None:
        self.seconds = seconds
        self.limit = limit
        self.has_begun = has_begun
        self._worked = worked
        self._clock = clock
        self._starts_at_once = starts_at_once
        self._weigh = weigh
        self._running: dict[str, _Running] = {}
        self.num_ended: Counter[str] = Counter()

    @property
    def running_seconds(self) -> float:
        """Sum of the seconds since the start of each running stage, times what it holds."""
        running = self._running.values()
        return math.fsum(self._elapsed(entry) * self._weigh(entry.task) for entry in running)

    @property
    def left(self) -> float:
        """Seconds that are left for stages; infinite without a limit."""
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
        """Record that a stage was handed out."""
        self._running[task.node] = _Running(task=task)
        if self._starts_at_once:
            self.begin(task.node)

    def begin(self, node: str) -> None:
        """Record that a stage has started on a machine."""
        if node in self._running:
            self._running[node].started = self._clock()

    def advance(self, node: str, done: float) -> None:
        """Record the progress of a running stage.

        Args:
            node: Node of the stage.
            done: Fraction of all steps of its training that are done, in 0..1.
        """
        running = self._running.get(node)
        if running is None or running.started is None or not done:
            return
        begin = running.task.begin
        share = (done - begin) / (running.task.share - begin)
        running.share, running.moment = min(1.0, max(0.0, share)), self._clock()
        if running.seen is None:
            running.seen = running.share, running.moment
        watched, seconds = running.time_itself()
        if watched > 0:
            self.seconds.note(running.task, seconds, watched)

    def end(self, task: Task, *, was_run: bool, elapsed: float = 0.0) -> float:
        """Record that a stage has ended.

        Args:
            task: The stage.
            was_run: Whether it was computed; False if it failed or was found in the store.
            elapsed: Seconds of the stage without the start-up of its processes, from which the
                predictions learn; 0 if not known (they then learn from the time since its start).

        Returns:
            Seconds since its start, times the GPUs (or processes) that it held.
        """
        running = self._running.pop(task.node)
        held = self._elapsed(running) * self._weigh(task)
        if task.is_ahead:
            return held
        if not task.baseline:
            self.num_ended[name_kind(task.chain)] += 1
        if not was_run:
            self.seconds.forget(task)
        elif running.seen is None or running.seen[0] < NEW_SHARE:
            self.seconds.note(task, elapsed or self._elapsed(running))
        return held

    def find_remaining(self, tasks: Iterable[Task]) -> float:
        """Predict the seconds left of some stages, run one after another.

        Args:
            tasks: Stages, usually those of one pipeline.
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
