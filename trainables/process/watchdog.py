"""Kills this process when its stage makes no progress.

A hanging process cannot end itself. It therefore writes its progress into a page of memory, and a
small separate process, the guard (`watchdog_guard.py`), kills it when the page has not changed for
the time limit. One stage is watched at a time. The guard needs nothing of the process, which may
hang in C code that holds the interpreter lock, wait for a disk, or be stopped. Ray sees a worker
that died. The guard stays for the process's further stages, because a new one for each took most of
the time of a stage that is found in the store.

The tracebacks come from faulthandler. Its timer (`faulthandler.dump_traceback_later`) cannot
replace the guard: it does not kill a stopped process, may kill a process that continues after the
machine was frozen, and waits for ever for a report that cannot be written
(`tests/trainables/test_watchdog.py` has the first and the last).
"""

from __future__ import annotations

import atexit
import faulthandler
import itertools
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PAGE_FORMAT = "<?Q247s"  # whether the stage waits on purpose, a counter, the place
PAGE_BYTES = struct.calcsize(PAGE_FORMAT)
PLACE_BYTES = 247
DUMP_SIGNAL = signal.SIGUSR2
GUARD = Path(__file__).with_name("watchdog_guard.py")


class _Watched:
    """Page of memory through which a stage shows the guard that it makes progress."""

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page
        self._counter = itertools.count()
        self.show("its start")

    def show(self, place: str = "", *, waiting: bool = False) -> None:
        """Show progress at a place; by default the place shown before."""
        if place:
            self._place = place.encode()[:PLACE_BYTES]
        self._page[:] = struct.pack(PAGE_FORMAT, waiting, next(self._counter), self._place)


class _Guard:
    """The guard of this process, and the file that both of them see."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        self._file.truncate(PAGE_BYTES)
        self._page = mmap.mmap(self._file.fileno(), PAGE_BYTES)
        page, owner = str(self._file.fileno()), str(self._owner)
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", str(GUARD), page, owner],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._file.fileno(),),
            start_new_session=True,  # so that Ctrl-C does not reach it
        )
        atexit.register(self._end)

    @property
    def is_there(self) -> bool:
        """Whether it watches this process, and not the one that this process was forked from."""
        return self._owner == os.getpid() and self._process.poll() is None

    def begin(self, limit_seconds: float, report: Path) -> _Watched:
        """Watch a stage."""
        watched = _Watched(self._page)
        self._file.truncate(PAGE_BYTES)
        self._file.seek(PAGE_BYTES)  # the traceback is written here
        faulthandler.register(DUMP_SIGNAL, file=self._file, all_threads=True)
        self._tell({"limit": limit_seconds, "report": str(report.absolute())})
        return watched

    def finish(self, watched: _Watched) -> None:
        """Let a stage end; a guard that was about to kill the process sees the change."""
        watched.show("its end")
        self._tell(None)
        faulthandler.unregister(DUMP_SIGNAL)

    def _tell(self, stage: dict[str, object] | None) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):  # someone has killed the guard
            self._process.stdin.write(json.dumps(stage).encode() + b"\n")
            self._process.stdin.flush()

    def _end(self) -> None:
        if self._owner == os.getpid():
            with suppress(BrokenPipeError):
                self._process.communicate()


_guard: _Guard | None = None
_watched: _Watched | None = None


@contextmanager
def watched(limit_seconds: float | None, report: Path) -> Iterator[None]:
    """Kill this process if `note_progress` is not called for as long as the limit.

    Args:
        limit_seconds: Longest time without progress, in seconds; None or 0 for no limit.
        report: File to which the guard writes where the process hung, for `read_stall`. A report of
            an earlier attempt is removed.
    """
    global _guard, _watched
    report.unlink(missing_ok=True)
    if not limit_seconds:
        yield
        return
    report.parent.mkdir(parents=True, exist_ok=True)
    if _guard is None or not _guard.is_there:
        _guard = _Guard()
    guard, mine = _guard, _guard.begin(limit_seconds, report)
    _watched = mine
    try:
        yield
    finally:
        if _watched is mine:
            _watched = None
            guard.finish(mine)


def note_progress(place: str) -> None:
    """Tell the watchdog, if there is one, that the stage makes progress.

    Args:
        place: What was just done, worded so that it can follow "no progress for 60 s at".
    """
    if _watched is not None:
        _watched.show(place)


@contextmanager
def waiting() -> Iterator[None]:
    """Suspend the time limit in the block, which waits for another process.

    That process has its own watchdog.
    """
    if _watched is None:
        yield
        return
    _watched.show(waiting=True)
    try:
        yield
    finally:
        _watched.show()


def read_stall(report: Path) -> str:
    """Return in one line why the watchdog killed a process; "" if it did not.

    Args:
        report: File that was given to `watched`.
    """
    try:
        return report.read_text(errors="replace").partition("\n")[0]
    except FileNotFoundError:
        return ""
