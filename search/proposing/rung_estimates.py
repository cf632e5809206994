"""Shows the sampler estimates of the pipelines that wait at a rung or were stopped by a limit."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.proposing.optuna_internals import violates_limit
from search.proposing.study_view import ViewingSampler, show
from search.proposing.trial_arrays import with_room


class RungEstimates:
    """Estimates the objectives of pipelines from the last rung that they have reached.

    Their costs are known. Their mIoU is estimated as the mIoU at the last rung plus the median
    gains of other pipelines from there to the next rung and on to the end; a median is 0 while no
    pipeline has got that far. The estimate is biased towards the gains of good pipelines, because
    only they continue.

    Args:
        rungs: Shares of the distillation, ascending.
        objectives: Keys of `OBJECTIVES`, in the order of the study's values.
    """

    def __init__(self, rungs: Sequence[float], objectives: Sequence[str]) -> None:
        self._levels = (*(f"miou@{share:g}" for share in rungs), "miou")
        self._objectives = tuple(objectives)
        self._gains: list[list[float]] = [[] for _ in rungs]  # to the next level, sorted
        self._metrics: dict[int, Mapping[str, float]] = {}
        # By trial number: the index of the last level reached (-1 for none), and the values there.
        self._reached = np.full(0, -1)
        self._values = np.full((0, len(self._objectives)), np.nan)
        self._shown: dict[int, tuple[FrozenTrial, FrozenTrial]] = {}  # a trial and what is shown

    def note(self, number: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a pipeline.

        Args:
            number: Trial number of the pipeline.
            metrics: All metrics measured so far.
        """
        before = self._metrics.get(number, {})
        for gains, (level, following) in zip(self._gains, pairwise(self._levels), strict=True):
            if level in metrics and following in metrics and following not in before:
                gain = metrics[following] - metrics[level]
                if math.isfinite(gain):
                    insort(gains, gain)
        self._metrics[number] = dict(metrics)
        reached = [i for i, level in enumerate(self._levels) if level in metrics]
        if reached:
            found = {**metrics, "miou": metrics[self._levels[reached[-1]]]}
            values = [found.get(name, math.nan) for name in self._objectives]
            if all(map(math.isfinite, values)):
                self._reached = with_room(self._reached, number, -1)
                self._values = with_room(self._values, number, np.nan)
                self._reached[number], self._values[number] = reached[-1], values

    def knows(self, number: int) -> bool:
        """Whether a pipeline has reached a rung and can be estimated."""
        return number < len(self._reached) and bool(self._reached[number] >= 0)

    def estimate(self, numbers: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Estimate the final objectives of pipelines.

        Args:
            numbers: (pipelines,) int, trial numbers.

        Returns:
            (pipelines, objectives) float; NaN for pipelines that have not reached a rung.
        """
        values = np.full((len(numbers), len(self._objectives)), np.nan)
        is_known = numbers < len(self._reached)
        known = numbers[is_known]
        values[is_known] = self._values[known]
        if "miou" in self._objectives:
            gains = np.array(self._sum_gains())[self._reached[known]]
            values[is_known, self._objectives.index("miou")] += gains
        return values

    def get_last(self, number: int) -> list[float] | None:
        """Return the objectives at the last level that a pipeline has reached; None if none."""
        values: list[float] | None = self._values[number].tolist() if self.knows(number) else None
        return values

    def show(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Show running trials that can be estimated, and infeasible trials, as complete.

        Args:
            trials: Trials of the study; not modified.

        Returns:
            The trials, with copies of those that are shown as complete; the next call changes the
            values of these copies.
        """
        running: list[int] = []
        found: dict[int, list[float]] = {}
        for i, trial in enumerate(trials):
            if trial.state is TrialState.RUNNING:
                running.append(i)
            elif trial.state is TrialState.PRUNED and violates_limit(trial):
                found[i] = self._value_infeasible(trial.number)
        estimated = self.estimate(np.array([trials[i].number for i in running], dtype=np.intp))
        found |= zip(running, estimated.tolist(), strict=True)
        shown = trials.copy()
        for i, values in found.items():
            if not any(map(math.isnan, values)):
                shown[i] = self._copy_as_complete(trials[i])
                shown[i].values = values
        return shown

    def _copy_as_complete(self, trial: FrozenTrial) -> FrozenTrial:
        """Copy a trial, once while it does not change, because copies take most of the time."""
        known, shown = self._shown.get(trial.number, (None, trial))
        if known is not trial:
            shown = copy(trial)
            shown.state, shown.datetime_complete = TrialState.COMPLETE, trial.datetime_start
            self._shown[trial.number] = trial, shown
        return shown

    def _value_infeasible(self, number: int) -> list[float]:
        """Return the objectives of a network beyond a limit, before any fine-tuning."""
        metrics = self._metrics.get(number, {})
        found = {**metrics, "miou": metrics.get("miou_pruned", math.nan)}
        return self.get_last(number) or [found.get(name, math.nan) for name in self._objectives]

    def _sum_gains(self) -> list[float]:
        """Return the expected further gain of mIoU for each last level reached."""
        middles = [_middle(gains) for gains in self._gains]
        return [sum(middles[level:]) for level in range(len(self._levels))]


def _middle(ascending: Sequence[float]) -> float:
    """Return the median of a sorted sequence; 0 if it is empty."""
    half = len(ascending) // 2
    return (ascending[half] + ascending[-half - 1]) / 2 if ascending else 0.0


class EstimatingSampler(ViewingSampler):
    """Shows another sampler the pipelines that wait at a rung as complete, with estimated values.

    A paused pipeline may still continue, so its trial stays running in the Optuna study until the
    end of the search. In a study with rungs, most pipelines are of this kind. For Optuna a running
    trial has no values: TPE counts it as bad whatever its results and keeps drawing at random until
    enough other trials have finished, a generation of NSGA-II does not end, and GP does not see it.
    Only this view contains the estimates; the journal contains only measured values.

    A network beyond a limit is not fine-tuned, and its trial is pruned. NSGA-II, NSGA-III and GP
    learn only from complete trials, so they would never see a violated constraint. This view shows
    such a trial as complete, with its violation and its accuracy before fine-tuning.

    Args:
        sampler: Sampler that makes the suggestions.
        estimates: Estimates of the pipelines without an outcome.
    """

    def __init__(self, sampler: BaseSampler, estimates: RungEstimates) -> None:
        super().__init__(sampler)
        self._estimates = estimates

    def view(self, study: Study) -> Study:
        """See `ViewingSampler`."""
        return show(study, lambda seen: self._estimates.show(seen.get_trials(deepcopy=False)))
