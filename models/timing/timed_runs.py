"""Times runs of a network until their median is precise enough, with or without a reference.

This file needs only NumPy, so that it also runs on a device without PyTorch.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

import numpy as np

from models.engines.engine import Run
from models.timing.median_interval import compute_median_interval

TURN_SECONDS = 0.05
MIN_TURNS = 10


@dataclass(frozen=True, slots=True)
class Precision:
    """When to stop measuring; see `models.latency.measure_latency`.

    Attributes:
        confidence: Confidence level of the interval, in (0, 1).
        relative_margin: Largest half-width of the interval relative to the median, above 0.
        min_runs: Smallest number of runs, at least 1.
        max_runs: Largest number of runs, at least `min_runs`.
        max_seconds: Time limit, above 0.
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
    """One round: some runs of a network between runs of the reference.

    Attributes:
        times: Times of the network's runs in milliseconds.
        reference_ms: Mean time of the reference's runs right before and after them.
    """

    times: list[float]
    reference_ms: float

    @property
    def ratio(self) -> float:
        """Mean time of the network divided by that of the reference.

        Means are used instead of medians: another process on the same core takes whole time slices,
        which a long run shares in proportion, but a short run gets all or nothing.
        """
        return fmean(self.times) / self.reference_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """The result of timed runs; see `models.latency.Latency`.

    Attributes:
        median_ms: Median of one run. With a reference: at the speed at which that takes
            `nominal_ms`.
        p95_ms: 95th percentile, likewise.
        interval_ms: Confidence interval of the median, likewise.
        is_precise: Whether the interval is within the requested margin.
        num_runs: Number of timed runs, without the warm-up.
        raw_ms: Median over the runs by the clock, without conversion.
        reference_ms: Median latency of the reference over the same rounds; None without a
            reference.
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
    """Warm up and time a network, alternating with the reference if there is one.

    Args:
        run: Function that times one run of the network.
        precision: When to stop.
        run_reference: Function that times one run of the reference.
        nominal_ms: Latency of the reference at the speed that latencies are converted to.
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
    """Run until the median is precise enough or the budget is used up.

    Returns:
        The results of the runs, and whether their median is precise enough.
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
    """Alternate runs of two networks until the median of their ratio is precise enough.

    The reference runs before and after each turn of the network, so that a steady change of speed
    cancels. A sudden change spoils one or two turns, which the median ignores.

    Args:
        run: Function that times one run of the network.
        run_reference: Function that times one run of the reference.
        precision: When to stop, over turns instead of runs; at most 10 turns are required.

    Returns:
        The turns, and whether the median of their ratios is precise enough.
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
    """Run several times, at least three, so that caches, allocators and autotuning settle."""
    deadline = time.monotonic() + max_seconds
    for index in range(num_runs):
        run()
        if index >= 2 and time.monotonic() >= deadline:
            return


def _fill(run: Run, seconds: float) -> list[float]:
    """Run until the time is used up, at least once, and return the times in ms.

    A run may take longer than it states: trtexec takes a second to find a median of 2 ms.
    """
    times: list[float] = []
    left = 1e3 * seconds
    while not times or left > 0:
        start = time.perf_counter_ns()
        times.append(run())
        left -= max(times[-1], (time.perf_counter_ns() - start) / 1e6)
    return times
