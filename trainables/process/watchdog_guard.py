"""The guard process that `watchdog.py` starts; it needs only the standard library.

Arguments: limit in seconds, descriptor of the page, id of the process to watch, path of the report.
"""

from __future__ import annotations

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


def main() -> None:
    """Watch the process until it ends, its stage ends, or it hangs and is killed."""
    limit, page, process = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    interval = min(1.0, limit / 20)
    seen, idle, looked = b"", 0.0, time.monotonic()
    while not _has_ended(process, interval):
        shown = os.pread(page, PAGE_BYTES, 0)
        is_waiting, _, place = struct.unpack(PAGE_FORMAT, shown)
        now = time.monotonic()
        idle += min(now - looked, 2 * interval)  # a freeze of the machine stops both
        looked = now
        if shown != seen or is_waiting:
            seen, idle = shown, 0.0
        elif idle > limit:
            os.kill(process, signal.SIGUSR2)  # makes it write its tracebacks, if it still can
            time.sleep(DUMP_SECONDS)
            if os.pread(page, PAGE_BYTES, 0) == seen:
                where = place.rstrip(b"\0").decode(errors="replace")
                _report(f"no progress for {limit:g} s at {where}", page, Path(sys.argv[4]))
                os.kill(process, signal.SIGKILL)
                return


def _report(reason: str, page: int, path: Path) -> None:
    """Write the reason and the tracebacks, without waiting long for a disk."""
    dump = os.pread(page, MAX_DUMP_BYTES, PAGE_BYTES).decode(errors="replace")
    text = f"{reason}\n\n{dump}"
    writer = threading.Thread(target=_write, args=(path, text), daemon=True)
    writer.start()
    writer.join(REPORT_SECONDS)


def _has_ended(process: int, seconds: float) -> bool:
    """Wait a while; return whether the input has closed, which means that the stage has ended."""
    return bool(select.select([0], [], [], seconds)[0]) or os.getppid() != process


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    main()
