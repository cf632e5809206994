"""A Ray Tune scheduler that does successive halving over a front, for any trainable."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.result import DONE
from ray.tune.schedulers import TrialScheduler

from search.pipelines.successive_halving import Direction, SuccessiveHalving

logger = logging.getLogger(__name__)


class FrontHalvingScheduler(TrialScheduler):  # type: ignore[misc,unused-ignore]
    """Pauses trials at rungs and promotes the best 1/reduction_factor of each rung.

    Tune's own schedulers compare trials by one metric. This one compares them by several metrics,
    with the rule that a study uses for its pipelines (`SuccessiveHalving`). A paused trial frees
    its resources. It continues from its checkpoint once enough other trials have reached its rung,
    so the trainable must save a checkpoint. Trials that still wait when there are no more trials to
    run are stopped; Tune's `OptunaSearch` then reports them to its study as pruned.

    Limit the number of trials at a time by their resources. `max_concurrent_trials` also counts
    waiting trials: if they are all that it allows, the worst of them is stopped.

    After `Tuner.restore` the rungs start empty, and trials that waited run to their next result.

    Args:
        objectives: "maximize" or "minimize" by name of the metric; every result must have all of
            them.
        rungs: Values of `time_attr` at which trials pause, ascending.
        time_attr: Name of the result that measures how far a trial is.
        reduction_factor: Promote the best 1/reduction_factor of the trials at each rung (must be
            > 1).

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        objectives: Mapping[str, Direction],
        *,
        rungs: Sequence[float],
        time_attr: str = "training_iteration",
        reduction_factor: float = 1.5,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        if list(rungs) != sorted(set(rungs)):
            raise ValueError(f"rungs must ascend, got {list(rungs)}")
        self._halving: SuccessiveHalving[str] = SuccessiveHalving(
            len(rungs), reduction_factor=reduction_factor, directions=objectives
        )
        self._objectives = tuple(objectives)
        self._rungs = tuple(rungs)
        self._time_attr = time_attr
        self._passed: dict[str, int] = {}  # trial id -> number of rungs that it has reached
        self._waiting: dict[str, Trial] = {}
        self._due: list[Trial] = []

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """See `TrialScheduler`."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pause a trial that has reached a rung, unless it is promoted at once.

        Raises:
            ValueError: The result lacks a metric.
        """
        passed = sum(self._read(trial, result, self._time_attr) >= rung for rung in self._rungs)
        before = self._passed.get(trial.trial_id, 0)
        if passed <= before or result.get(DONE):
            return str(self.CONTINUE)
        metrics = {name: self._read(trial, result, name) for name in self._objectives}
        if not all(map(math.isfinite, metrics.values())):
            logger.warning("trial %s is stopped: not finite: %s", trial.trial_id, metrics)
            return str(self.STOP)
        self._passed[trial.trial_id] = passed
        for rung in range(before, passed):
            self._halving.report(trial.trial_id, rung, metrics)
            if rung < passed - 1:
                self._halving.note_promoted(trial.trial_id, rung)
        self._waiting[trial.trial_id] = trial
        self._promote()
        if trial not in self._due:
            return str(self.PAUSE)
        self._due.remove(trial)
        return str(self.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """See `TrialScheduler`."""

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """See `TrialScheduler`; the trial may be waiting at a rung."""
        self.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """See `TrialScheduler`."""
        self._waiting.pop(trial.trial_id, None)
        if trial in self._due:
            self._due.remove(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Choose a promoted trial to continue; Tune starts new trials by itself."""
        for trial in self._due:
            if trial.status == Trial.PAUSED:  # a trial that is still being saved must wait
                self._due.remove(trial)
                return trial
        live = tune_controller.get_live_trials()
        if live and all(trial.status == Trial.PAUSED for trial in live):
            is_over = tune_controller.search_alg.is_finished()
            last = self._waiting[self._halving.find_last(self._waiting)]
            for trial in list(live) if is_over else [last]:
                tune_controller.stop_trial(trial)
        return None

    def debug_string(self) -> str:
        """Return one line that says how many trials wait."""
        rungs = ", ".join(f"{rung:g}" for rung in self._rungs)
        return f"{type(self).__name__}: {len(self._waiting)} trials wait at rungs {rungs}"

    def _promote(self) -> None:
        while (trial_id := self._halving.promote()) is not None:
            trial = self._waiting.pop(trial_id, None)  # None if the trial has ended
            if trial is not None:
                self._due.append(trial)

    def _read(self, trial: Trial, result: Mapping[str, Any], name: str) -> float:
        if name not in result:
            raise ValueError(f"trial {trial.trial_id} reports no {name}, but {sorted(result)}")
        return float(result[name])
