"""Shows samplers that need the same settings in all trials the ones that a trial lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.proposing.study_view import ViewingSampler, show


class CompletingSampler(ViewingSampler):
    """Shows another sampler every finished trial with a value for every setting.

    NSGA-II, NSGA-III and GP learn only of settings that all finished trials have, and draw the
    others at random: they learn nothing of any distiller's settings once trials differ in their
    distiller, nor of what precedes pruning once a trial goes on from another's network.

    Here a trial has the values that it inherits. A setting that it does not use has a value drawn
    by its number, on which its objectives do not depend, so that nothing wrong is learnt from it.
    (The middle of the range for all of them is worse: on the problem of
    `tests/search/test_conditional_settings.py` GP then misses the better distiller with two seeds
    of four.)

    Args:
        sampler: Makes the suggestions.
        distributions: Of all settings that are searched.
        read_settings: Number of a trial -> what its pipeline chooses, inherited values among it;
            empty for a trial that is none of the study's own.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        distributions: Mapping[str, BaseDistribution],
        read_settings: Callable[[int], Mapping[str, Any]],
    ) -> None:
        super().__init__(sampler)
        self._distributions = dict(distributions)
        self._read_settings = read_settings

    def view(self, study: Study) -> Study:
        """See `ViewingSampler`."""
        return show(
            study,
            lambda seen: [self._complete(seen, trial) for trial in seen.get_trials(deepcopy=False)],
        )

    def _complete(self, study: Study, trial: FrozenTrial) -> FrozenTrial:
        missing = self._distributions.keys() - trial.params.keys()
        if trial.state is not TrialState.COMPLETE or not missing:
            return trial
        known, drawing = self._read_settings(trial.number), RandomSampler(seed=trial.number)
        added = {
            name: known[name]
            if name in known
            else drawing.sample_independent(study, trial, name, self._distributions[name])
            for name in sorted(missing)
        }
        shown = copy(trial)
        shown.params = {**trial.params, **added}
        shown.distributions = {**self._distributions, **trial.distributions}
        return shown
