"""Observe from outside which process works on which stage of a run, by the kernel's file locks.

A process that computes a stage holds a lock in `stages/.locks`, and the driver holds `.lock`. The
kernel (Linux) lists both with the process id in /proc/locks, whatever namespace the process is in.
"""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

LOOK_SECONDS = 0.1
STATE_FILE = "state.safetensors"
_LOCK = re.compile(r"^\d+: FLOCK +ADVISORY +WRITE (\d+) [0-9a-f]+:[0-9a-f]+:(\d+) ", re.MULTILINE)


@dataclass(kw_only=True, slots=True)
class Attempt:
    """An attempt of a process at a stage.

    Attributes:
        stage: Folder of the stage in the store.
        pid: Id of the process.
        began: `time.time` when the process was first seen at the stage.
        seen: `time.time` when the process was last seen at the stage.
        saved: `time.time` of its last checkpoint; 0 if it has written none.
        worked: CPU seconds of the process when it was last seen at the stage.
        worked_before: CPU seconds of the process before it started the stage, or before its last
            checkpoint.
        found: Whether the stage was already finished, so that the process only read it.
    """

    stage: str
    pid: int
    began: float
    seen: float
    saved: float = 0.0
    worked: float = 0.0
    worked_before: float = 0.0
    found: bool

    @property
    def unsaved_seconds(self) -> float:
        """The work since its start or its last checkpoint, when it was last seen.

        It is counted in CPU seconds, because a process that waits, for example for a driver that it
        cannot reach, does not work.
        """
        return self.worked - self.worked_before


@dataclass(slots=True)
class StageWatch:
    """A watch that looks at a run ten times a second, within its `with` block.

    Attributes:
        run_dir: Folder of the run.
        attempts: All attempts that were seen so far.
    """

    run_dir: Path
    attempts: list[Attempt] = field(default_factory=list)
    _current: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> StageWatch:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()

    def working(self) -> list[Attempt]:
        """List the attempts that compute a stage now."""
        return [attempt for attempt in list(self._current.values()) if not attempt.found]

    def driver(self) -> int | None:
        """Find the process that holds the lock of the run; None if there is none."""
        return find_holders([self.run_dir / ".lock"]).get(self.run_dir / ".lock")

    def is_published(self, stage: str) -> bool:
        """Whether a stage is finished."""
        return (self.run_dir / "stages" / stage).is_dir()

    def published(self) -> list[str]:
        """List the folders of all finished stages."""
        folders = [path.parent.name for path in self.run_dir.glob("stages/*/result.json")]
        return sorted(name for name in folders if "." not in name)  # not *.partial, *.damaged-...

    def has_ended_well(self, attempt: Attempt) -> bool:
        """Whether a stage is finished and no process computed it after this attempt."""
        return self.is_published(attempt.stage) and not any(
            other.stage == attempt.stage and other.began > attempt.began and not other.found
            for other in list(self.attempts)
        )

    def taken_up_at(self, attempt: Attempt, since: float) -> float | None:
        """Find when a stage resumed after a fault; None if it has not resumed yet.

        Args:
            attempt: Attempt that was running.
            since: `time.time` of the fault.

        Returns:
            `time.time` when the next process started the stage, or when the attempt was last seen
            if the stage was finished without another process.
        """
        later = [
            other.began
            for other in list(self.attempts)
            if other.stage == attempt.stage and other.pid != attempt.pid and other.began > since
        ]
        if later:
            return min(later)
        return attempt.seen if self.is_published(attempt.stage) else None

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look(time.time())

    def _look(self, now: float) -> None:
        locks = sorted((self.run_dir / "stages" / ".locks").glob("*"))
        held = {(path.name, pid) for path, pid in find_holders(locks).items()}
        for key in held - self._current.keys():
            stage, pid = key
            attempt = Attempt(
                stage=stage, pid=pid, began=now, seen=now, worked_before=read_cpu_seconds(pid),
                found=self.is_published(stage),
            )  # fmt: skip
            self._current[key] = attempt
            self.attempts.append(attempt)
        for key, attempt in self._current.items():
            if key in held:
                attempt.seen = now
                attempt.worked = max(attempt.worked, read_cpu_seconds(attempt.pid))
            saved = self._saved_at(attempt.stage)  # this may be the last thing that a process did
            if saved > max(attempt.saved, attempt.began):
                attempt.saved, attempt.worked_before = saved, attempt.worked
        self._current = {key: self._current[key] for key in held}

    def _saved_at(self, stage: str) -> float:
        try:
            return (self.run_dir / "stages" / f"{stage}.partial" / STATE_FILE).stat().st_mtime
        except FileNotFoundError:
            return 0.0


def read_cpu_seconds(pid: int) -> float:
    """Read the CPU time of all threads of a process; 0 if the process has ended."""
    fields = read_stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def read_stat(pid: int) -> list[str]:
    """Read the kernel's fields of a process after its name; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def find_holders(paths: list[Path]) -> dict[Path, int]:
    """Find the processes that hold (not wait for) an exclusive lock (flock) on one of the files.

    Args:
        paths: Files; missing files are omitted.
    """
    by_inode = {path.stat().st_ino: path for path in paths if path.exists()}
    found = _LOCK.findall(Path("/proc/locks").read_text())
    return {by_inode[int(inode)]: int(pid) for pid, inode in found if int(inode) in by_inode}
