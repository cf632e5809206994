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
from optuna.samplers._tpe import _truncnorm
from optuna.samplers._tpe.sampler import _split_trials, default_gamma_multiobjective
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from scipy import special  # type: ignore[import-untyped]

from search.proposing.trial_arrays import with_room

# Optuna computes these functions in Python, without SciPy, which takes a third of a suggestion.
_truncnorm._ndtr = special.ndtr
_truncnorm._log_ndtr = special.log_ndtr
_truncnorm._ndtri_exp = special.ndtri_exp

Halves = tuple[list[FrozenTrial], list[FrozenTrial]]
Rows = npt.NDArray[np.intp]


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


def violates_limit(trial: FrozenTrial) -> bool:
    """Whether a trial violates a constraint; quick for one without any, as most are."""
    return bool(trial._system_attrs) and any(value > 0 for value in trial.constraints.values())


def count_good(num_finished: int) -> int:
    """Return how many trials of several objectives TPE regards as good."""
    return default_gamma_multiobjective(num_finished)


def split_trials(study: Study, trials: list[FrozenTrial], num_good: int) -> Halves:
    """Split trials into good and other ones, as TPE does."""
    return _split_trials(study, trials, num_good)


def get_first_generation() -> dict[str, int]:
    """Return the system attributes of a trial in the first generation of any genetic sampler."""
    return {sampler._get_generation_key(): 0 for sampler in (NSGAIISampler, NSGAIIISampler)}


class SettingNumbers:
    """The settings of a study's trials as Optuna's samplers see them: numbers, in one table.

    Optuna 5 converts the settings of all trials anew for every setting that it suggests, which
    takes most of the time of a suggestion.
    """

    def __init__(self) -> None:
        self._columns: dict[str, int] = {}
        self._rows: npt.NDArray[np.float64] = np.zeros((0, 0))
        self._counts: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)  # of a row's settings

    def locate(self, trials: list[FrozenTrial]) -> Rows:
        """Return the rows of some trials, which are added to the table if they are new.

        Args:
            trials: Trials whose settings do not change any more, though some may be missing yet.
        """
        rows = np.array([trial.number for trial in trials], dtype=np.intp)
        if rows.size:
            self._counts = with_room(self._counts, int(rows.max()), 0)
            self._rows = with_room(self._rows, int(rows.max()), np.nan)
            present = np.array([len(trial.params) for trial in trials], dtype=np.intp)
            for index in np.flatnonzero(self._counts[rows] != present).tolist():
                self._note(trials[index])
        return rows

    def read(self, rows: Rows, names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """Read some settings of those trials that have all of them.

        Args:
            rows: (trials,) int, rows of the trials.
            names: Names of the settings.

        Returns:
            Numbers by name, each (trials,) float.
        """
        if not all(name in self._columns for name in names):
            return {name: np.zeros(0) for name in names}
        columns = np.array([self._columns[name] for name in names], dtype=np.intp)
        found = self._rows[np.ix_(rows, columns)]
        found = found[~np.isnan(found).any(axis=1)]
        return dict(zip(names, found.T, strict=True))

    def _note(self, trial: FrozenTrial) -> None:
        for name, value in trial.params.items():
            if name not in self._columns:
                self._columns[name] = len(self._columns)
                added = np.full((len(self._rows), 1), np.nan)
                self._rows = np.hstack([self._rows, added])
            number = trial.distributions[name].to_internal_repr(value)
            self._rows[trial.number, self._columns[name]] = number
        self._counts[trial.number] = len(trial.params)


class SplitTPESampler(TPESampler):
    """TPE whose split into good and other trials is made by a subclass.

    A split must be a new list when the settings of a trial in it have changed, because those of a
    list are read only once.

    Attributes:
        numbers: Settings of the study's trials; may be shared by all samplers of a study.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.numbers = SettingNumbers()
        self._located: list[tuple[list[FrozenTrial], Rows]] = []

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
        """Read settings as numbers."""
        rows = next((rows for known, rows in self._located if known is trials), None)
        if rows is None:
            rows = self.numbers.locate(trials)
            self._located = [*self._located[-1:], (trials, rows)]  # of good and of other trials
        return self.numbers.read(rows, list(search_space))


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
