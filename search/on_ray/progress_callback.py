"""A Tune callback that keeps the progress board up to date and ends the run on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from search.pipelines.retries import Failure, Fault
from search.run_files.progress import Activity, ProgressBoard, ProgressDisplay
from trainables.chain import describe_settings, flatten_chain
from trainables.context import Progress
from trainables.process.machine_errors import OutOfMemory, SurroundingsError
from trainables.process.watchdog import read_stall
from trainables.ray_helpers import HelperLost
from trainables.ray_pipeline import read_chain, stall_report
from trainables.stages import STAGES

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

CLOCK_SECONDS = 60.0
REASON_LENGTH = 400
STALLS_FOLDER = "stalls"
NO_RESULT = Failure("the worker ended without a result")
DIED = Failure("the worker process died: killed, out of memory, or crashed (see ray.log)")
EVICTED = Failure(
    "out of memory: Ray stopped the worker because its machine was running out of memory; start a "
    "study with a lower --max-concurrent or smaller batches",
    "memory",
)
LOST = Failure("the worker's machine died or was cut off", "machine")
HELPER_DIED = Failure(
    "a process that shared the training died: killed, out of memory, or crashed (see ray.log)",
    "machine",  # its machine may be going, which Ray learns later
)
_KINDS: dict[type[Exception], Fault] = {OutOfMemory: "memory", SurroundingsError: "surroundings"}
_FAULTS = {f"{kind.__module__}.{kind.__name__}": fault for kind, fault in _KINDS.items()}


class BoardCallback(Callback):  # type: ignore[misc,unused-ignore]
    """Watches Tune's trials and shows them on the progress board.

    Args:
        board: Progress board to update.
        display: Display that prints between Tune's steps.
        run_dir: Folder of the run; its `stalls/` holds the reports of workers that hung.
        should_stop: Called between Tune's steps. If it returns True, a KeyboardInterrupt ends the
            run at that point, where nothing is half-done.
        on_step: Called between Tune's steps, many times a second.
        read_elsewhere: Function (node's address, path) -> text of a file on that node, "" if it is
            missing. None if all nodes share the run's folder.
    """

    def __init__(
        self,
        board: ProgressBoard,
        display: ProgressDisplay,
        run_dir: Path,
        should_stop: Callable[[], bool],
        on_step: Callable[[], None] = lambda: None,
        read_elsewhere: Callable[[str, Path], str] | None = None,
    ) -> None:
        self._board = board
        self._stalls_dir = run_dir / STALLS_FOLDER
        self._display = display
        self._should_stop = should_stop
        self._on_step = on_step
        self._read_elsewhere = read_elsewhere
        self._addresses: dict[str, str] = {}  # trial id -> address of its node
        self._trials: dict[str, Trial] = {}
        self._num_added = 0
        self._clock_saved = time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Record new trials here, because a process may die before its trial starts."""
        self._trials |= {trial.trial_id: trial for trial in trials[self._num_added :]}
        self._num_added = len(trials)

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Show a new trial, or a retried one."""
        self._trials[trial.trial_id] = trial
        if self._read_elsewhere is not None:
            # Remove the report of the last attempt: a worker removes only files on its own node.
            stall_report(self._stalls_dir, trial.config).unlink(missing_ok=True)
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
        self._addresses[trial.trial_id] = str(result.get("node_ip", ""))
        activity = self._board.activities.get(trial.trial_id)
        if activity is not None and "progress" in result:
            activity.progress = Progress(**result["progress"])

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

    def explain_error(self, trial_id: str) -> Failure:
        """Return why a trial's worker failed."""
        trial = self._trials.get(trial_id)
        if trial is None:
            return NO_RESULT
        report = stall_report(self._stalls_dir, trial.config)
        if self._read_elsewhere is not None and not report.exists():
            text = self._read_elsewhere(self._addresses.get(trial_id, ""), report.absolute())
            if text:
                report.parent.mkdir(parents=True, exist_ok=True)
                report.write_text(text)
        stall = read_stall(report)
        if _tells_of_a_lost_machine(stall):
            return LOST
        if stall:
            return Failure(f"{stall} ({STALLS_FOLDER}/{report.name} shows where it hung)")
        # Tune copies its files to the run's folder only from time to time, so they may be missing.
        file = Path(trial.error_file or "")
        return describe_failure(file.read_text(errors="replace")) if file.is_file() else NO_RESULT

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state for Tune to save: a resumed run starts with a new board."""
        return {}

    def _forget(self, trial: Trial) -> None:
        self._board.activities.pop(trial.trial_id, None)
        self._trials.pop(trial.trial_id, None)
        self._addresses.pop(trial.trial_id, None)


def describe_failure(text: str) -> Failure:
    """Read from the last entry of Tune's error.txt why a worker failed.

    Args:
        text: Content of error.txt. Each entry is "Failure # 1 (occurred at ...)" and the error,
            which is "The actor..." if the worker died and a traceback if it raised.
    """
    last = text.rpartition("Failure # ")[2].partition("\n")[2].strip()
    if "running low on memory" in last:
        return EVICTED
    if _tells_of_a_lost_machine(last):
        return LOST
    if not last or last.startswith("The actor"):
        return DIED
    message: list[str] = []
    for line in reversed(last.splitlines()):
        if line.startswith(" ") and message:
            break  # this line belongs to the traceback above the message
        message.insert(0, line.strip())
    described = " ".join(" ".join(message).split())
    name, _, explanation = described.partition(": ")
    if name == f"{HelperLost.__module__}.{HelperLost.__name__}":
        return HELPER_DIED
    if name in _FAULTS:
        return Failure(explanation[:REASON_LENGTH], _FAULTS[name])
    return Failure(described[:REASON_LENGTH])


def _tells_of_a_lost_machine(text: str) -> bool:
    # Ray calls an actor "unavailable" if it cannot reach it although the node counts as alive.
    return "its node has died" in text or " is unavailable: " in text
