"""Kills this process when its stage makes no progress.

A hanging process cannot end itself. It therefore writes its progress into a page of memory, and a
small separate process, the guard (`watchdog_guard.py`), kills it when the page has not changed for
the time limit. One stage is watched at a time. The guard needs nothing of the process, which may
hang in C code that holds the interpreter lock, wait for a disk, or be stopped. Ray sees a worker
that died.

The tracebacks come from faulthandler. Its timer (`faulthandler.dump_traceback_later`) cannot
replace the guard: it does not kill a stopped process, may kill a process that continues after the
machine was frozen, and waits for ever for a report that cannot be written
(`tests/trainables/test_watchdog.py` has the first and the last).
"""

from __future__ import annotations

import faulthandler
import itertools
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


_watched: _Watched | None = None


@contextmanager
def watched(limit_seconds: float | None, report: Path) -> Iterator[None]:
    """Kill this process if `note_progress` is not called for as long as the limit.

    Args:
        limit_seconds: Longest time without progress, in seconds; None or 0 for no limit.
        report: File to which the guard writes where the process hung, for `read_stall`. A report of
            an earlier attempt is removed.
    """
    global _watched
    report.unlink(missing_ok=True)
    if not limit_seconds:
        yield
        return
    report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE_BYTES)
        file.seek(PAGE_BYTES)  # the traceback is written here
        with mmap.mmap(file.fileno(), PAGE_BYTES) as page:
            mine = _watched = _Watched(page)
            faulthandler.register(DUMP_SIGNAL, file=file, all_threads=True)
            guard = _start_guard(limit_seconds, file.fileno(), report)
            try:
                yield
            finally:
                if _watched is mine:
                    _watched = None
                guard.communicate()
                faulthandler.unregister(DUMP_SIGNAL)


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


def _start_guard(limit_seconds: float, page: int, report: Path) -> subprocess.Popen[bytes]:
    """Start the guard, which ends when its standard input closes or this process ends."""
    numbers = [str(limit_seconds), str(page), str(os.getpid())]
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", str(GUARD), *numbers, str(report.absolute())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(page,),
        start_new_session=True,  # so that Ctrl-C does not reach it
    )
