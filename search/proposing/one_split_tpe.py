"""Optuna's TPE over a front, made faster for trials with many settings and for long studies."""

from __future__ import annotations

import moocore
import numpy as np
import numpy.typing as npt
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.proposing.optuna_internals import (
    Halves,
    SplitTPESampler,
    count_good,
    split_trials,
    violates_limit,
)

SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class OneSplitTPESampler(SplitTPESampler):
    """Splits the trials of several objectives into good and bad ones once per suggested trial.

    Optuna's TPE splits them again for each setting, which takes half of its time. It differs in two
    more points:

    - If the sampler sees only a part of the study (`search.proposing.bounded_history`), it counts
      as many trials as good as if it saw all, but at most half of those that it sees. A tenth of
      what it sees would be too few trials to show where a whole front lies.
    - The trials of the last good rank are thinned: those with the smallest hypervolume contribution
      are removed one by one. Optuna adds the best one by one, which takes 70 ms for 50 of 100.

    It must suggest one trial at a time, as in `search.pipelines.study.PipelineStudy`.
    """

    _halves: Halves | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self._halves = None
        super().before_trial(study, trial)

    def split(self, study: Study, trial: FrozenTrial) -> Halves:
        """See `SplitTPESampler.split`; the split is made once for all settings of a trial."""
        if self._halves is None:
            self._halves = self.halve(study, trial)
        return self._halves

    @staticmethod
    def halve(study: Study, trial: FrozenTrial) -> Halves:
        """Split the trials as described above.

        Args:
            study: Study as the sampler sees it.
            trial: Trial that is being suggested.
        """
        trials = [
            other
            for other in study.get_trials(deepcopy=False, states=SEEN)
            if other.number != trial.number
        ]
        num_finished = sum(other.state is not TrialState.RUNNING for other in trials)
        num_unseen = trial.number - len(trials)  # failed, or left out of the view
        most = max(count_good(num_finished), num_finished // 2)
        num_good = min(count_good(num_finished + num_unseen), most)
        complete = [other for other in trials if other.state is TrialState.COMPLETE]
        ranked = [other for other in complete if not violates_limit(other)]
        if len(ranked) <= num_good:  # some infeasible or incomplete trials count as good too
            return split_trials(study, trials, num_good)
        signs = [-1.0 if d.name == "MAXIMIZE" else 1.0 for d in study.directions]
        losses = np.array([other.values for other in ranked]) * signs
        good = {ranked[row].number for row in choose_best(losses, num_good)}
        return (
            [other for other in trials if other.number in good],
            [other for other in trials if other.number not in good],
        )


def choose_best(losses: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """Choose the lowest non-dominated ranks, and the points that cover the last rank best.

    The last rank is thinned greedily: the point with the smallest hypervolume contribution is
    removed until `count` points are left.

    Args:
        losses: (points, objectives) float, all to be minimised.
        count: Number of points to choose, at most as many as there are.

    Returns:
        (count,) int, rows of the chosen points.
    """
    ranks = moocore.pareto_rank(losses)
    last = np.sort(ranks)[count - 1]
    chosen, tied = np.flatnonzero(ranks < last), np.flatnonzero(ranks == last)
    low, high = losses[tied].min(axis=0), losses[tied].max(axis=0)
    scaled = (losses[tied] - low) / np.where(high > low, high - low, 1.0)
    while len(chosen) + len(tied) > count:
        shares = moocore.hv_contributions(scaled, ref=np.full(losses.shape[1], 1.1))
        least = int(np.argmin(shares))
        tied, scaled = np.delete(tied, least), np.delete(scaled, least, axis=0)
    return np.concatenate([chosen, tied])
