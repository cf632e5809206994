"""Locks of files between processes and threads."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trainables.process.file_lock import locked

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from trainables.process.file_lock import locked

with locked(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    time.sleep(60)
"""


def try_to_hold(path: Path, *, shared: bool) -> tuple[threading.Thread, threading.Event]:
    taken = threading.Event()

    def hold() -> None:
        with locked(path, shared=shared):
            taken.set()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    return thread, taken


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("other_shared", [False, True])
def test_lock_is_shared_by_those_who_both_say_so_and_free_again_when_its_process_is_killed(
    tmp_path: Path, shared: bool, other_shared: bool
) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), "shared" if shared else "alone"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    if not (shared and other_shared):
        with pytest.raises(BlockingIOError), locked(path, shared=other_shared, wait=False):
            pass
    thread, taken = try_to_hold(path, shared=other_shared)
    assert taken.wait(2.0 if shared and other_shared else 0.2) == (shared and other_shared)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    thread.join(30)
    assert taken.is_set()


def test_lock_file_in_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"), locked(tmp_path / "missing" / "lock"):
        pass
