"""Why a worker failed, from what it and Tune left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from search.pipelines.retries import Failure, Fault
from trainables.process.machine_errors import OutOfMemory, SurroundingsError
from trainables.process.watchdog import read_stall
from trainables.ray_helpers import HelperLost
from trainables.ray_pipeline import stall_report

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

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


class WorkerFailures:
    """Knows the trials that run, and explains why the worker of one failed.

    Args:
        run_dir: Folder of the run; its `stalls/` holds the reports of workers that hung.
        read_elsewhere: Function (node's address, path) -> text of a file on that node, "" if it is
            missing. None if all nodes share the run's folder.
    """

    def __init__(
        self, run_dir: Path, read_elsewhere: Callable[[str, Path], str] | None = None
    ) -> None:
        self._stalls_dir = run_dir / STALLS_FOLDER
        self._read_elsewhere = read_elsewhere
        self._addresses: dict[str, str] = {}  # trial id -> address of its node
        self._trials: dict[str, Trial] = {}

    def note_trial(self, trial: Trial) -> None:
        """Remember a trial, because its process may die before the trial starts."""
        self._trials[trial.trial_id] = trial

    def note_start(self, trial: Trial) -> None:
        """Remember a trial that starts, for the first time or again."""
        self.note_trial(trial)
        if self._read_elsewhere is not None:
            # Remove the report of the last attempt: a worker removes only files on its own node.
            stall_report(self._stalls_dir, trial.config).unlink(missing_ok=True)

    def note_node(self, trial: Trial, address: str) -> None:
        """Remember on which node a trial runs."""
        self._addresses[trial.trial_id] = address

    def forget(self, trial: Trial) -> None:
        """Forget a trial that is over."""
        self._trials.pop(trial.trial_id, None)
        self._addresses.pop(trial.trial_id, None)

    def explain(self, trial_id: str) -> Failure:
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
