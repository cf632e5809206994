"""Runs a study on a virtual clock: real decisions, stages that last as long as predicted.

So an estimate treats shared stages, chains of networks, rungs and the time limit exactly as the
study will, without a second description of the schedule.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from search.config import StudyConfig
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.stage_seconds import StageSeconds
from search.pipelines.stage_tree import Task
from search.pipelines.study import PipelineStudy
from search.pipelines.time_budget import TimeBudget
from trainables.chain import Chain
from trainables.pipeline import StageResult, build_baselines
from trainables.rehearsal import StageRate, find_width, name_kind
from trainables.stages import STAGES, NetworkStage

MOST_PIPELINES = 200
"""Largest number of pipelines of a dry run; a longer study is extrapolated from that."""

LEAST_IN_USE = 0.1
MOST_POINTS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a study is expected to take.

    Attributes:
        seconds: Seconds until all of its stages have ended.
        spent_seconds: Sum of the seconds of all of its stages, times the GPUs (or processes) that
            each of them holds.
        root_seconds: Seconds until the uncompressed networks are trained and measured. A teacher
            that is trained alone between pipelines counts too.
        by_baseline: Seconds of the stages of each uncompressed network that is trained, by name.
        num_complete: Number of pipelines that are completed.
        num_ended: Number of pipelines that end, complete or stopped at a rung.
        stages: Number of the pipelines' stages and mean seconds of one, by kind.
        in_use: Fraction of the places that are in use while pipelines run, above 0.
        progress: How far the pipelines are: fraction of their work that has ended, and fraction of
            their time that has passed, both ascending from 0 to 1. Work ends late where stages wait
            for each other.
    """

    seconds: float
    spent_seconds: float
    root_seconds: float
    by_baseline: Mapping[str, float] = field(default_factory=dict)
    num_complete: int = 0
    num_ended: int = 0
    stages: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    in_use: float = 1.0
    progress: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))

    def find_time(self, work: float) -> float:
        """Return the fraction of the pipelines' time in which a fraction of their work ends."""
        works, times = zip(*self.progress, strict=True)
        return float(np.interp(work, works, times))


@dataclass(kw_only=True, slots=True)
class _Clock:
    """Seconds since the study began."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class _Machines:
    """Places, and the stages that hold them or wait for them."""

    def __init__(self, places: Places, clock: _Clock, budget: TimeBudget) -> None:
        self._places = places
        self._free = places.count
        self._clock = clock
        self._budget = budget
        self._waiting: list[tuple[Task, float]] = []
        self._running: list[tuple[float, int, Task, float]] = []
        self._num_started = 0

    def add(self, task: Task, seconds: float) -> None:
        """Queue a stage."""
        self._waiting.append((task, seconds))
        self._start()

    def pop(self) -> tuple[Task, float] | None:
        """Go to where the next stage ends; the stage and its seconds, None if nothing runs."""
        if not self._running:
            return None
        self._clock.now, _, task, seconds = heappop(self._running)
        self._free += self._size(task)
        self._start()
        return task, seconds

    def _start(self) -> None:
        while self._waiting and self._size(self._waiting[0][0]) <= self._free:
            task, seconds = self._waiting.pop(0)
            self._free -= self._size(task)
            self._num_started += 1
            self._budget.begin(task.node)
            end = self._clock.now + seconds
            heappush(self._running, (end, self._num_started, task, seconds))

    def _size(self, task: Task) -> int:
        return min(task.places, self._places.count)


def dry_run(
    config: StudyConfig,
    rates: Mapping[str, StageRate],
    places: Places,
    limit: float | None = None,
    is_done: Callable[[Chain], bool] = lambda chain: False,
) -> Forecast:
    """Run a study on a virtual clock.

    Pipelines stop early only at rungs, and the front is not retrained. So the study may take less
    time if it stops hopeless pipelines, and takes more with --confirm.

    Args:
        config: Configuration of the study.
        rates: Rates by kind of stage.
        places: Places of the machines.
        limit: Time limit in seconds; None: no limit.
        is_done: Function that says whether the last stage of a chain is finished already.
    """
    shortened = replace(
        config,
        num_pipelines=min(config.num_pipelines, MOST_PIPELINES),
        sampler="random",
        stop_hopeless=False,
        max_latency_ms=None,
        max_num_params=None,
        max_macs=None,
        warm_start=(),
        confirm=0,
    )
    clock, seconds = _Clock(), StageSeconds(shortened, rates, is_done)
    budget = TimeBudget(seconds, limit=limit, worked=clock, clock=clock, starts_at_once=False)
    machines = _Machines(places, clock, budget)
    by_baseline: dict[str, float] = {}
    by_kind: dict[str, list[float]] = {}
    root_seconds = root_spent = late_seconds = spent = busy = 0.0
    progress: list[tuple[float, float]] = []
    with TemporaryDirectory() as folder:
        study = PipelineStudy(shortened, Path(folder))
        dispatcher = Dispatcher(study, places, budget=budget)
        while True:
            while (task := dispatcher.take()) is not None:
                machines.add(task, 0.0 if is_done(task.chain) else seconds.expect(task))
            ended = machines.pop()
            if ended is None:
                break
            task, duration = ended
            dispatcher.finish(task, _invent_result(task, duration))
            spent += duration * places.weigh(task)
            if task.baseline:
                root_spent += duration * places.weigh(task)
                if not progress or clock.now - duration <= progress[0][1]:
                    root_seconds = clock.now
                elif places.count == 1 or places.is_filled_by(task):
                    late_seconds += duration  # a teacher that was needed late
                by_baseline[task.baseline] = by_baseline.get(task.baseline, 0.0) + duration
            else:
                busy += duration
                progress.append((busy, clock.now - late_seconds))
                by_kind.setdefault(name_kind(task.chain), []).append(duration)
        states = [record.state for record in study.records.values()]
        complete = states.count("complete")
        num_ended = len(states) - states.count("running")
    searching = clock.now - late_seconds - root_seconds
    progress_made = _scale(progress, busy, root_seconds, searching)
    root_seconds += late_seconds
    scale = config.num_pipelines / shortened.num_pipelines
    if dispatcher.is_out_of_time:
        scale = 1.0  # no further pipeline fits
    elif limit is not None and searching:
        scale = max(1.0, min(scale, (limit - root_seconds) / searching))
    room = searching * places.count
    return Forecast(
        seconds=root_seconds + scale * searching,
        spent_seconds=root_spent + scale * (spent - root_spent),
        root_seconds=root_seconds,
        by_baseline={
            n: by_baseline[n] for n in build_baselines(config.pipeline) if n in by_baseline
        },
        num_complete=round(scale * complete),
        num_ended=round(scale * num_ended),
        stages={kind: (scale * len(s), statistics.mean(s)) for kind, s in by_kind.items()},
        in_use=min(1.0, max(LEAST_IN_USE, busy / room)) if room else 1.0,
        progress=progress_made,
    )


def _scale(
    progress: Sequence[tuple[float, float]], work: float, start: float, seconds: float
) -> tuple[tuple[float, float], ...]:
    """Convert the moments at which work has ended to fractions, and thin them out."""
    if not (work > 0 and seconds > 0):
        return ((0.0, 0.0), (1.0, 1.0))
    chosen = progress[:: max(1, len(progress) // MOST_POINTS)]
    points = [(done / work, max(0.0, now - start) / seconds) for done, now in chosen]
    return ((0.0, 0.0), *points, (1.0, 1.0))


def _invent_result(task: Task, seconds: float) -> StageResult:
    """What a stage might bring, by which no network is better than another.

    The fewer channels are left, the smaller, the faster and the less accurate it is.
    """
    width, stage = find_width(task.chain), STAGES[task.stage]
    if task.share < 1:
        return StageResult(metrics={f"miou@{task.share:g}": width})
    revealed = {metric: width for metric in stage.reveals if not metric.endswith("/")}
    name = f"{task.stage}-{abs(hash(task.node)):x}"
    return StageResult(
        metrics=revealed,
        stages={task.stage: name},
        seconds={task.stage: seconds},
        network=name if issubclass(stage, NetworkStage) else "",
    )
