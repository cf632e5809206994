"""A sampler that sees a bounded number of trials, which keeps suggestions cheap in long studies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import moocore
import numpy as np
import numpy.typing as npt
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.proposing.optuna_internals import SettingNumbers, get_trial_id, read_trial
from search.proposing.study_view import ViewingSampler, show
from search.proposing.trial_arrays import with_room

MAX_HISTORY = 400

Indices = npt.NDArray[np.intp]
Values = npt.NDArray[np.float64]


class TrialHistory:
    """States and objectives of a study's trials, in arrays.

    If it is kept for a whole study and every change is noted, a suggestion need not read all of
    Optuna's trials. With 10 000 trials, reading them takes longer than the suggestion itself.

    Args:
        num_objectives: Number of objectives of the study.

    Attributes:
        states: (trials,) int8, Optuna's number of each trial's state; `UNKNOWN` if not noted.
        values: (trials, objectives) float; NaN for trials that are not complete.
        numbers: Settings of the trials.
    """

    UNKNOWN = -1

    def __init__(self, num_objectives: int) -> None:
        self.states: npt.NDArray[np.int8] = np.zeros(0, dtype=np.int8)
        self.values: Values = np.zeros((0, num_objectives))
        self.numbers = SettingNumbers()
        self._ids: dict[int, int] = {}
        self._ended: dict[int, FrozenTrial] = {}

    def note(self, trial: FrozenTrial) -> None:
        """Record a trial, or its new state."""
        self.states = with_room(self.states, trial.number, self.UNKNOWN)
        self.values = with_room(self.values, trial.number, np.nan)
        self.states[trial.number] = trial.state
        if trial.state == TrialState.COMPLETE:
            self.values[trial.number] = trial.values
        self._ids[trial.number] = get_trial_id(trial)
        if trial.state.is_finished():  # it will not change any more
            self._ended[trial.number] = trial

    def note_all(self, study: Study) -> None:
        """Record all trials that a study has now."""
        for trial in study.get_trials(deepcopy=False):
            self.note(trial)

    def read(self, study: Study, numbers: Indices) -> list[FrozenTrial]:
        """Return trials of the study, which the caller must not change."""
        ended = self._ended
        return [
            ended[number] if number in ended else read_trial(study, self._ids[number])
            for number in numbers.tolist()
        ]


class BoundedHistorySampler(ViewingSampler):
    """Shows another sampler the front and an even spread of the other finished trials.

    TPE's suggestion takes 1.4 s after 10 000 trials; most of that is spent on ranking trials that
    no longer change its densities. Up to max_trials finished trials, all of them are shown. With
    400 trials TPE finds the same fronts as with all of 1000
    (`benchmarks/search_scale.py --known-answers`).

    Args:
        sampler: Sampler that makes the suggestions; it must read trials through its study.
        max_trials: Largest number of finished trials that it sees; up to half of them are from the
            front.
        estimate: Function (trial numbers) -> (trials, objectives), NaN where nothing is known. A
            running trial with an estimate counts as finished.
        history: Up-to-date history of the same study; None: read it again for every suggestion.

    Attributes:
        max_trials: The argument `max_trials`.

    Raises:
        ValueError: max_trials is less than 2.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        max_trials: int = MAX_HISTORY,
        estimate: Callable[[Indices], Values] | None = None,
        history: TrialHistory | None = None,
    ) -> None:
        if max_trials < 2:
            raise ValueError(f"max_trials must be at least 2, got {max_trials}")
        super().__init__(sampler)
        self.max_trials = max_trials
        self._estimate = estimate
        self._history = history

    def view(self, study: Study) -> Study:
        """See `ViewingSampler`."""
        return show(study, self._choose)

    def _choose(self, study: Study) -> list[FrozenTrial]:
        history = self._history
        if history is None:
            history = TrialHistory(len(study.directions))
            history.note_all(study)
        states, values = history.states, history.values
        if self._estimate is not None:
            running = np.flatnonzero(states == TrialState.RUNNING)
            values = values.copy()
            values[running] = self._estimate(running)
        is_finished = (states == TrialState.PRUNED) | np.isfinite(values).all(axis=1)
        is_seen = (states == TrialState.RUNNING) & ~is_finished
        finished = np.flatnonzero(is_finished)
        if len(finished) > self.max_trials:
            maximise = [direction.name == "MAXIMIZE" for direction in study.directions]
            finished = finished[select_trials(values[finished], maximise, self.max_trials)]
        is_seen[finished] = True
        return history.read(study, np.flatnonzero(is_seen))


def select_trials(values: Values, maximise: Sequence[bool], max_trials: int) -> Indices:
    """Choose the front, thinned to half of max_trials, and an even spread of the other trials.

    Args:
        values: (trials, objectives) float, oldest first; NaN for trials without values.
        maximise: For each objective, whether larger is better.
        max_trials: Largest number of trials to choose.

    Returns:
        (chosen,) int, rows of the chosen trials.
    """
    complete = np.flatnonzero(np.isfinite(values).all(axis=1))
    front = complete
    if complete.size:
        front = complete[moocore.is_nondominated(values[complete], maximise=list(maximise))]
    is_other = np.ones(len(values), dtype=bool)
    is_other[front] = False
    others = np.flatnonzero(is_other)
    front = front[np.argsort(values[front, 0], kind="stable")]
    chosen = _spread(front, max_trials // 2)
    return np.concatenate([chosen, _spread(others, max_trials - len(chosen))])


def _spread(rows: Indices, count: int) -> Indices:
    """Take `count` rows at even distances, including both ends."""
    if len(rows) <= count:
        return rows
    spread: Indices = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
    return spread
