"""A Tune callback that keeps the progress board up to date and ends the run on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from search.on_ray.failures import WorkerFailures
from search.run_files.progress import Activity, ProgressBoard, ProgressDisplay
from trainables.chain import describe_settings, flatten_chain
from trainables.context import Progress
from trainables.ray_pipeline import read_chain
from trainables.stages import STAGES

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

CLOCK_SECONDS = 60.0


class BoardCallback(Callback):  # type: ignore[misc,unused-ignore]
    """Watches Tune's trials and shows them on the progress board.

    Args:
        board: Progress board to update.
        display: Display that prints between Tune's steps.
        failures: Explains why workers fail; learns from here which trials run, and where.
        should_stop: Called between Tune's steps. If it returns True, a KeyboardInterrupt ends the
            run at that point, where nothing is half-done.
        on_step: Called between Tune's steps, many times a second.
        on_start: Function that is called with the id of a trial when its machine is there.
        on_progress: Function that is called with the id of a trial and its last report.
    """

    def __init__(
        self,
        board: ProgressBoard,
        display: ProgressDisplay,
        failures: WorkerFailures,
        should_stop: Callable[[], bool],
        on_step: Callable[[], None] = lambda: None,
        on_start: Callable[[str], None] = lambda trial_id: None,
        on_progress: Callable[[str, Progress], None] = lambda trial_id, progress: None,
    ) -> None:
        self._board = board
        self._failures = failures
        self._display = display
        self._should_stop = should_stop
        self._on_step = on_step
        self._on_start = on_start
        self._on_progress = on_progress
        self._num_added = 0
        self._clock_saved = time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Record new trials here, because a process may die before its trial starts."""
        for trial in trials[self._num_added :]:
            self._failures.note_trial(trial)
        self._num_added = len(trials)

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Show a new trial, or a retried one."""
        self._failures.note_start(trial)
        self._on_start(trial.trial_id)
        detail = ""
        if STAGES[trial.config["chain"][-1][0]].can_pause:  # its label does not show the settings
            detail = describe_settings(flatten_chain(read_chain(trial.config)))
        self._board.activities[trial.trial_id] = Activity(
            label=trial.config["label"], detail=detail
        )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Show the progress and the log lines that a worker reported."""
        for line in str(result.get("messages", "")).splitlines():
            self._display.note(f"{trial.config['label']}: {line}")
        self._failures.note_node(trial, str(result.get("node_ip", "")))
        activity = self._board.activities.get(trial.trial_id)
        if activity is not None and "progress" in result:
            activity.progress = Progress(**result["progress"])
            self._on_progress(trial.trial_id, activity.progress)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Remove a finished trial from the board."""
        self._forget(trial)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Report that a stage moves to another machine because its own was taken away."""
        self._display.note(f"{trial.config['label']} is run again: its machine was taken away")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Remove a failed trial from the board."""
        self._forget(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Print progress, save the study's clock, and end the run if requested."""
        self._display.tick()
        self._on_step()
        now = time.monotonic()
        if now - self._clock_saved > CLOCK_SECONDS:
            self._clock_saved = now
            self._board.study.save_clock()
        if self._should_stop():
            raise KeyboardInterrupt

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state for Tune to save: a resumed run starts with a new board."""
        return {}

    def _forget(self, trial: Trial) -> None:
        self._board.activities.pop(trial.trial_id, None)
        self._failures.forget(trial)
