"""The guard process that `watchdog.py` starts; it needs only the standard library.

Arguments: descriptor of the page, id of the process to watch. Each line of its input is the stage
to watch from then on, as JSON with limit (seconds) and report (path), or null.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import sys
import threading
import time
from pathlib import Path

PAGE_FORMAT = "<?Q247s"  # as in trainables.process.watchdog, which cannot be imported from here
PAGE_BYTES = struct.calcsize(PAGE_FORMAT)
DUMP_SECONDS = 1.0
MAX_DUMP_BYTES = 1_000_000
REPORT_SECONDS = 10.0  # longest wait for a disk that does not respond


class Stage:
    """A stage that is watched.

    Args:
        limit: Longest time without progress, in seconds.
        report: File for the reason why the process was killed.
    """

    def __init__(self, limit: float, report: str) -> None:
        self.limit = limit
        self.report = Path(report)
        self.interval = min(1.0, limit / 20)
        self._seen, self._idle, self._looked = b"", 0.0, time.monotonic()

    def look(self, page: int, process: int) -> None:
        """Kill the process if the page has not changed for as long as the limit."""
        shown = os.pread(page, PAGE_BYTES, 0)
        is_waiting, _, place = struct.unpack(PAGE_FORMAT, shown)
        now = time.monotonic()
        self._idle += min(now - self._looked, 2 * self.interval)  # a freeze stops both processes
        self._looked = now
        if shown != self._seen or is_waiting:
            self._seen, self._idle = shown, 0.0
        elif self._idle > self.limit:
            os.kill(process, signal.SIGUSR2)  # makes it write its tracebacks, if it still can
            time.sleep(DUMP_SECONDS)
            if os.pread(page, PAGE_BYTES, 0) == self._seen:
                where = place.rstrip(b"\0").decode(errors="replace")
                _report(f"no progress for {self.limit:g} s at {where}", page, self.report)
                os.kill(process, signal.SIGKILL)


def main() -> None:
    """Watch the stages of the process until it ends or one of them hangs."""
    page, process = int(sys.argv[1]), int(sys.argv[2])
    stage: Stage | None = None
    text = b""
    while os.getppid() == process:
        if select.select([0], [], [], stage.interval if stage else 1.0)[0]:
            told = os.read(0, 65536)
            if not told:
                return
            *lines, text = (text + told).split(b"\n")
            if lines:
                order = json.loads(lines[-1])
                stage = Stage(**order) if order else None
        elif stage is not None:
            stage.look(page, process)


def _report(reason: str, page: int, path: Path) -> None:
    """Write the reason and the tracebacks, without waiting long for a disk."""
    dump = os.pread(page, MAX_DUMP_BYTES, PAGE_BYTES).decode(errors="replace")
    text = f"{reason}\n\n{dump}"
    writer = threading.Thread(target=_write, args=(path, text), daemon=True)
    writer.start()
    writer.join(REPORT_SECONDS)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    main()
