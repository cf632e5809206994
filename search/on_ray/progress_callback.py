"""Tune's callback that keeps the progress board up to date and ends the run when asked to."""

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
from trainables.process.stage_errors import OutOfMemory, SurroundingsError
from trainables.process.watchdog import read_stall
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
    "out of memory: Ray ended the worker before its machine had none left; start a study with a "
    "lower --max-concurrent or smaller batches",
    "memory",
)
LOST = Failure("the worker's machine died or was cut off", "machine")
_KINDS: dict[type[Exception], Fault] = {OutOfMemory: "memory", SurroundingsError: "surroundings"}
_FAULTS = {f"{kind.__module__}.{kind.__name__}": fault for kind, fault in _KINDS.items()}


class BoardCallback(Callback):  # type: ignore[misc,unused-ignore]
    """Watches Tune's trials.

    Args:
        board: Is kept up to date.
        display: Is given the chance to print.
        run_dir: Folder of the run, where killed workers leave their reason.
        should_stop: Asked between Tune's steps; True ends the run with a KeyboardInterrupt there,
            where nothing is half-done.
        on_step: Called between Tune's steps, many times a second.
        read_elsewhere: (a node's address, a file there) -> its text, "" if there is none; None
            where all nodes share the run's folder, so that what they write is seen in it.
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
        self._addresses: dict[str, str] = {}  # of the nodes, by trial
        self._trials: dict[str, Trial] = {}
        self._num_added = 0
        self._clock_saved = time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Note new trials: the process of one may die before the trial starts."""
        self._trials |= {trial.trial_id: trial for trial in trials[self._num_added :]}
        self._num_added = len(trials)

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Show a new trial, or a retried one."""
        self._trials[trial.trial_id] = trial
        if self._read_elsewhere is not None:
            # Of the attempt before; the worker removes only what lies on its own node.
            stall_report(self._stalls_dir, trial.config).unlink(missing_ok=True)
        detail = ""
        if STAGES[trial.config["chain"][-1][0]].can_pause:  # its label has no settings
            detail = describe_settings(flatten_chain(read_chain(trial.config)))
        self._board.activities[trial.trial_id] = Activity(
            label=trial.config["label"], detail=detail
        )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Show the progress that a worker reported, and what it had to say."""
        for remark in str(result.get("remarks", "")).splitlines():
            self._display.note(f"{trial.config['label']}: {remark}")
        self._addresses[trial.trial_id] = str(result.get("node_ip", ""))
        activity = self._board.activities.get(trial.trial_id)
        if activity is not None and "progress" in result:
            activity.progress = Progress(**result["progress"])

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Forget a trial that ended."""
        self._forget(trial)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Say that a stage moves to another machine, as its own has been taken back."""
        self._display.note(f"{trial.config['label']} is run again: its machine was taken away")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Forget a trial whose worker failed for good."""
        self._forget(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Print, keep the clock, and end the run if asked to."""
        self._display.tick()
        self._on_step()
        now = time.monotonic()
        if now - self._clock_saved > CLOCK_SECONDS:
            self._clock_saved = now
            self._board.study.save_clock()
        if self._should_stop():
            raise KeyboardInterrupt

    def explain_error(self, trial_id: str) -> Failure:
        """Say why a trial's worker failed."""
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
        if stall:
            return Failure(f"{stall} ({STALLS_FOLDER}/{report.name} says where it hung)")
        # Tune brings its files to the run's folder only now and then.
        file = Path(trial.error_file or "")
        return describe_failure(file.read_text(errors="replace")) if file.is_file() else NO_RESULT

    def __getstate__(self) -> dict[str, Any]:
        """Give Tune nothing to save: a resumed run starts with a new board."""
        return {}

    def _forget(self, trial: Trial) -> None:
        self._board.activities.pop(trial.trial_id, None)
        self._trials.pop(trial.trial_id, None)
        self._addresses.pop(trial.trial_id, None)


def describe_failure(text: str) -> Failure:
    """Say why a worker failed, from the last entry of Tune's error.txt.

    Args:
        text: "Failure # 1 (occurred at ...)", then the error: of a worker that died "The actor...",
            of one that raised a traceback.
    """
    last = text.rpartition("Failure # ")[2].partition("\n")[2].strip()
    if "running low on memory" in last:
        return EVICTED
    # Ray says "unavailable" of an actor that it cannot reach while its node counts as alive.
    if "its node has died" in last or " is unavailable: " in last:
        return LOST
    if not last or last.startswith("The actor"):
        return DIED
    message: list[str] = []
    for line in reversed(last.splitlines()):
        if line.startswith(" ") and message:
            break  # the traceback above the message
        message.insert(0, line.strip())
    described = " ".join(" ".join(message).split())
    name, _, explanation = described.partition(": ")
    if name in _FAULTS:
        return Failure(explanation[:REASON_LENGTH], _FAULTS[name])
    return Failure(described[:REASON_LENGTH])
