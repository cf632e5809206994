"""Optuna's TPE, faster where a trial has many settings."""

from __future__ import annotations

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import (
    _split_trials,
    default_gamma,
    default_gamma_multiobjective,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class OneSplitTPESampler(TPESampler):
    """Divides the trials into good and bad ones once per suggested trial.

    Optuna's does so for each setting anew, which is half of its time; the suggestions are the same.
    It is to make one trial at a time, as `search.study.PipelineStudy` has it do.
    """

    _halves: tuple[list[FrozenTrial], list[FrozenTrial]] | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self._halves = None
        super().before_trial(study, trial)

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As Optuna 5 does it, up to the division."""
        if self._halves is None:
            self._halves = self._halve(study, trial)
        good, bad = self._halves
        density = self._build_parzen_estimator(study, search_space, good, handle_below=True)
        other = self._build_parzen_estimator(study, search_space, bad, handle_below=False)
        drawn = density.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(drawn, self._compute_acquisition_func(drawn, density, other))
        return {name: d.to_external_repr(best[name]) for name, d in search_space.items()}

    @staticmethod
    def _halve(study: Study, trial: FrozenTrial) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        trials = [
            other
            for other in study._get_trials(deepcopy=False, states=SEEN)
            if other.number != trial.number
        ]
        num_finished = sum(other.state is not TrialState.RUNNING for other in trials)
        gamma = default_gamma if len(study.directions) == 1 else default_gamma_multiobjective
        return _split_trials(study, trials, gamma(num_finished))
