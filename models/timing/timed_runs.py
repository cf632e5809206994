"""Runs of a network, timed until their median is known well enough, alone or in turns.

This file needs NumPy alone, so that it can run on a device that has no PyTorch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

import numpy as np

from models.timing.median_interval import compute_median_interval

TURN_SECONDS = 0.05
MIN_TURNS = 10

Run = Callable[[], float]
"""Does something once and returns a number, mostly the milliseconds that it took."""


@dataclass(frozen=True, slots=True)
class Precision:
    """When a median is known well enough; see `models.latency.measure_latency`.

    Attributes:
        confidence: In (0, 1).
        relative_margin: Above 0.
        min_runs: At least 1.
        max_runs: At least `min_runs`.
        max_seconds: Above 0.
    """

    confidence: float
    relative_margin: float
    min_runs: int
    max_runs: int
    max_seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1 or not self.relative_margin > 0:
            raise ValueError(
                "confidence must be in (0, 1) and relative_margin above 0, got "
                f"{self.confidence!r} and {self.relative_margin!r}"
            )
        if not 1 <= self.min_runs <= self.max_runs or not self.max_seconds > 0:
            raise ValueError(
                "1 <= min_runs <= max_runs and max_seconds > 0 must hold, got "
                f"{self.min_runs!r}, {self.max_runs!r}, {self.max_seconds!r}"
            )


class Turn(NamedTuple):
    """Some runs of a network between runs of the reference.

    Attributes:
        times: Milliseconds of the network's runs.
        reference_ms: Mean of a run of the reference right before and after them.
    """

    times: list[float]
    reference_ms: float

    @property
    def ratio(self) -> float:
        """Time of the network in times of the reference.

        Means and not medians: a tenant of the same core takes whole time slices, of which a long
        run has its share and a short one all or nothing.
        """
        return fmean(self.times) / self.reference_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What timed runs came to; see `models.latency.Latency`.

    Attributes:
        median_ms: Of one run, beside a reference at the speed at which that takes `nominal_ms`.
        p95_ms: 95th percentile, likewise.
        interval_ms: Confidence interval of the median, likewise.
        is_precise: Whether the interval lies within the margin asked for.
        num_runs: Timed runs, without the warm-up.
        raw_ms: Median over the runs as the clock showed them.
        reference_ms: Latency of the reference meanwhile; None without one.
    """

    median_ms: float
    p95_ms: float
    interval_ms: tuple[float, float]
    is_precise: bool
    num_runs: int
    raw_ms: float
    reference_ms: float | None


def time_runs(
    run: Run,
    precision: Precision,
    run_reference: Run | None = None,
    nominal_ms: float | None = None,
) -> Timing:
    """Warm up and time a network, in turns with the reference if there is one.

    Args:
        run: Times the network.
        precision: When to stop.
        run_reference: Times the reference.
        nominal_ms: Latency of the reference at the speed that latencies are stated at.
    """
    if run_reference is None or nominal_ms is None:
        warm_up(run, precision.max_seconds)
        times, is_precise = repeat(run, precision)
        turns, nominal_ms = [Turn([time], 1.0) for time in times], 1.0
    else:
        warm_up(lambda: run_reference() + run(), precision.max_seconds)
        turns, is_precise = take_turns(run, run_reference, precision)
    ratios = [turn.ratio for turn in turns]
    low, high = compute_median_interval(ratios, precision.confidence)
    stated = [nominal_ms * time / turn.reference_ms for turn in turns for time in turn.times]
    reference_ms = float(np.median([turn.reference_ms for turn in turns]))
    return Timing(
        median_ms=nominal_ms * float(np.median(ratios)),
        p95_ms=float(np.percentile(stated, 95)),
        interval_ms=(nominal_ms * low, nominal_ms * high),
        is_precise=is_precise,
        num_runs=len(stated),
        raw_ms=float(np.median([time for turn in turns for time in turn.times])),
        reference_ms=None if run_reference is None else reference_ms,
    )


def repeat(run: Run, precision: Precision) -> tuple[list[float], bool]:
    """Run until the median is known well enough or the budget is spent.

    Returns:
        What the runs returned, and whether their median is known well enough.
    """
    values: list[float] = []
    deadline = time.monotonic() + precision.max_seconds
    next_check = precision.min_runs
    while True:
        values.append(run())
        is_last = len(values) >= precision.max_runs or (
            len(values) >= precision.min_runs and time.monotonic() >= deadline
        )
        if len(values) >= next_check or is_last:
            low, high = compute_median_interval(values, precision.confidence)
            median = float(np.median(values))
            is_precise = max(high - median, median - low) <= precision.relative_margin * median
            if is_precise or is_last:
                return values, is_precise
            next_check = math.ceil(1.1 * len(values))


def take_turns(run: Run, run_reference: Run, precision: Precision) -> tuple[list[Turn], bool]:
    """Run two networks in short turns until the median of their ratio is known well enough.

    The reference is taken before and after each turn of the network, so that what changes evenly
    over a turn cancels; what changes at once spoils a turn or two, which the median leaves out.

    Args:
        run: Times the network.
        run_reference: Times the reference.
        precision: Of the median over the turns; 10 turns are enough, however many `min_runs`.

    Returns:
        The turns, and whether the median of their ratios is known well enough.
    """
    seconds = min(TURN_SECONDS, precision.max_seconds / (2 * MIN_TURNS))
    turns: list[Turn] = []
    before = fmean(_fill(run_reference, seconds))

    def take_turn() -> float:
        nonlocal before
        times = _fill(run, seconds)
        after = fmean(_fill(run_reference, seconds))
        turns.append(Turn(times, (before + after) / 2))
        before = after
        return turns[-1].ratio

    _, is_precise = repeat(
        take_turn, replace(precision, min_runs=min(precision.min_runs, MIN_TURNS))
    )
    return turns, is_precise


def warm_up(run: Run, max_seconds: float, num_runs: int = 10) -> None:
    """Let caches, allocators and autotuning settle: some runs, at least three."""
    deadline = time.monotonic() + max_seconds
    for index in range(num_runs):
        run()
        if index >= 2 and time.monotonic() >= deadline:
            return


def _fill(run: Run, seconds: float) -> list[float]:
    """Run as often as it takes to fill the time, at least once; times in ms."""
    times: list[float] = []
    left = 1e3 * seconds
    while not times or left > 0:
        times.append(run())
        left -= times[-1]
    return times
