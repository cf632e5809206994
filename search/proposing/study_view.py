"""A view of an Optuna study for a sampler: some trials are hidden or shown with other values."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.proposing.optuna_internals import StudyView


class ViewingSampler(BaseSampler):
    """Lets another sampler make the suggestions from a view of the study.

    The view is made once per suggested trial, so its cost does not grow with the number of
    settings.

    Args:
        sampler: Sampler that reads trials through the study that it is given, as all of Optuna's
            do.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler
        self._view: Study | None = None

    @abstractmethod
    def view(self, study: Study) -> Study:
        """Return the study as the sampler will see it."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self._view = None
        self._sampler.before_trial(self._get_view(study), trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See `optuna.samplers.BaseSampler`."""
        return self._sampler.infer_relative_search_space(self._get_view(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `optuna.samplers.BaseSampler`."""
        return self._sampler.sample_relative(self._get_view(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See `optuna.samplers.BaseSampler`."""
        view = self._get_view(study)
        return self._sampler.sample_independent(view, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """See `optuna.samplers.BaseSampler`."""
        self._sampler.after_trial(study, trial, state, values)

    def _get_view(self, study: Study) -> Study:
        if self._view is None:
            self._view = self.view(study)
        return self._view


def show(study: Study, choose: Callable[[Study], list[FrozenTrial]]) -> Study:
    """Make a view of a study that shows other trials; everything else is the study's own.

    Args:
        study: Study, or a view of one.
        choose: Function that returns the trials to show, ordered by number. It must not modify the
            study's own trials.
    """
    return cast("Study", StudyView(study, choose))
