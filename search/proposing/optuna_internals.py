"""The only use of Optuna's private names, which a new version may change.

No other file of the project uses a name of Optuna's that begins with an underscore.
`tests/search/test_optuna_internals.py` fails if a new version changes one, and names it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma_multiobjective
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

Halves = tuple[list[FrozenTrial], list[FrozenTrial]]


def get_trial_id(trial: Trial | FrozenTrial) -> int:
    """Return the id of a trial in the storage."""
    return trial._trial_id


def read_trial(study: Study, trial_id: int) -> FrozenTrial:
    """Return a trial from the storage; the caller must not change it."""
    return study._storage.get_trial(trial_id)


def begin_trial(study: Study) -> Trial:
    """Add a trial. Unlike `Study.ask`, it does not search all trials for an enqueued one."""
    return Trial(study, study._storage.create_new_trial(study._study_id))


def end_trial(
    study: Study, trial: Trial, state: TrialState, values: Sequence[float] | None
) -> None:
    """End a trial.

    Unlike `Study.tell`, it takes values for a pruned trial, and it does not inform the study's
    sampler, which none of our samplers needs.
    """
    study._storage.set_trial_state_values(trial._trial_id, state, values)


def count_good(num_finished: int) -> int:
    """Return how many trials of several objectives TPE regards as good."""
    return default_gamma_multiobjective(num_finished)


def split_trials(study: Study, trials: list[FrozenTrial], num_good: int) -> Halves:
    """Split trials into good and other ones, as TPE does."""
    return _split_trials(study, trials, num_good)


def get_first_generation() -> dict[str, int]:
    """Return the system attributes of a trial in the first generation of any genetic sampler."""
    return {sampler._get_generation_key(): 0 for sampler in (NSGAIISampler, NSGAIIISampler)}


class SplitTPESampler(TPESampler):
    """TPE whose split into good and other trials is made by a subclass.

    A split must be a new list when the settings of a trial in it have changed, because those of a
    list are read only once.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._read: list[tuple[list[FrozenTrial], list[dict[str, float]]]] = []

    @abstractmethod
    def split(self, study: Study, trial: FrozenTrial) -> Halves:
        """Split the trials of a study.

        Args:
            study: Study as the sampler sees it.
            trial: Trial that is being suggested.

        Returns:
            The good trials, and the others.
        """

    def _sample(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw from the good trials, as Optuna 5 does once it has split them."""
        good, others = self.split(study, trial)
        density = self._build_parzen_estimator(study, search_space, good, handle_below=True)
        other = self._build_parzen_estimator(study, search_space, others, handle_below=False)
        drawn = density.sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(drawn, self._compute_acquisition_func(drawn, density, other))
        return {name: d.to_external_repr(best[name]) for name, d in search_space.items()}

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, npt.NDArray[Any]]:
        """Read settings as numbers; Optuna 5 converts those of all trials for every setting."""
        names = search_space.keys()
        found = [row for row in self._read_numbers(trials) if names <= row.keys()]
        return {name: np.array([row[name] for row in found]) for name in names}

    def _read_numbers(self, trials: list[FrozenTrial]) -> list[dict[str, float]]:
        for known, rows in self._read:
            if known is trials:
                return rows
        rows = []
        for trial in trials:
            kinds = trial.distributions
            rows.append({n: kinds[n].to_internal_repr(v) for n, v in trial.params.items()})
        self._read = [*self._read[-1:], (trials, rows)]  # of the good and of the other trials
        return rows


class StudyView:
    """A study that shows other trials, which are chosen when they are first read.

    It is here because Optuna's samplers read the trials of a study with a private method.

    Args:
        study: Study that provides everything except the trials.
        choose: Function that returns the trials to show.
    """

    def __init__(self, study: Study, choose: Callable[[Study], list[FrozenTrial]]) -> None:
        self._viewed = study
        self._choose = choose
        self._chosen: list[FrozenTrial] | None = None
        self._selected: dict[tuple[TrialState, ...], list[FrozenTrial]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._viewed, name)

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See `optuna.Study.get_trials`; the trials are never copied."""
        if self._chosen is None:
            self._chosen = self._choose(self._viewed)
        if states is None:
            return list(self._chosen)
        wanted = tuple(state for state in TrialState if state in states)
        if wanted not in self._selected:
            self._selected[wanted] = [trial for trial in self._chosen if trial.state in wanted]
        return list(self._selected[wanted])

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return self.get_trials(deepcopy, states)
