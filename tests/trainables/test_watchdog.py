"""A process that hangs is killed, one that works or waits is not; each in a process of its own."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainables.process.watchdog import note_progress, read_stall, waiting, watched

LIMIT = 1.0
ROOT = Path(__file__).parents[2]
PREAMBLE = """
import os, re, signal, sys, time
from pathlib import Path
from trainables.process.file_lock import locked
from trainables.process.watchdog import note_progress, waiting, watched

def fake_stage():
    for step in range(1, 4):
        note_progress(f"step {step} of 9")
        time.sleep(0.1)
"""


def start(body: str, report: Path) -> subprocess.Popen[str]:
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    code = f"{PREAMBLE}\nwith watched({LIMIT}, Path(sys.argv[1])):\n{lines}\nprint('ended')"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(report)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("hang", "has_traceback"),
    [
        ("time.sleep(60)", True),
        ("re.match('(a+)+$', 'a' * 60 + 'b')", True),  # in C, holding the interpreter lock
        ("os.kill(os.getpid(), signal.SIGSTOP)", False),  # runs no code at all
    ],
)
def test_stage_that_hangs_is_killed_and_says_where(
    hang: str, has_traceback: bool, tmp_path: Path
) -> None:
    report = tmp_path / "stalls" / "sparse.txt"
    process = start(f"fake_stage()\n{hang}", report)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (-signal.SIGKILL, "", "")
    assert read_stall(report) == "no progress for 1 s at step 3 of 9"
    assert ('File "<string>"' in report.read_text()) == has_traceback
    assert [path.name for path in report.parent.iterdir()] == ["sparse.txt"]


@pytest.mark.parametrize(
    "work",
    [
        "for step in range(25): note_progress('step'); time.sleep(0.1)",
        "for step in range(5): note_progress('the same place'); time.sleep(0.5)",
        "with waiting(): time.sleep(2.5)",
        "pass\ntime.sleep(0.2)",
    ],
)
def test_stage_that_works_or_waits_on_purpose_lives(work: str, tmp_path: Path) -> None:
    process = start(work, tmp_path / "report")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "ended\n", "")
    assert list(tmp_path.iterdir()) == []


def test_machine_that_was_frozen_is_no_hang(tmp_path: Path) -> None:
    process = start("print(os.getpid(), flush=True)\nfake_stage()\ntime.sleep(0.5)", tmp_path / "r")
    assert process.stdout is not None
    process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    frozen = [process.pid, *map(int, children.read_text().split())]
    assert len(frozen) == 2  # the guard too
    for sign, seconds in ((signal.SIGSTOP, 2.5 * LIMIT), (signal.SIGCONT, 0.0)):
        for pid in frozen:
            os.kill(pid, sign)
        time.sleep(seconds)
    assert process.communicate(timeout=60) == ("ended\n", "")


def test_time_after_the_stage_does_not_count(tmp_path: Path) -> None:
    process = start("pass\nprint(end='')", tmp_path / "report")
    output, _ = process.communicate(timeout=60)
    assert output == "ended\n"
    with watched(LIMIT, tmp_path / "report"):
        note_progress("step 1 of 2")
    with waiting():
        note_progress("nobody listens")
    assert read_stall(tmp_path / "report") == ""


def test_who_waits_for_a_lock_outlives_the_hung_holder(tmp_path: Path) -> None:
    take = f"with locked(Path({str(tmp_path / 'lock')!r})):\n"
    holder = start(f"{take}  print('held', flush=True)\n  time.sleep(60)", tmp_path / "holder")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiter = start(f"{take}  print('got it')", tmp_path / "waiter")
    assert waiter.communicate(timeout=60) == ("got it\nended\n", "")
    assert holder.wait(timeout=60) == -signal.SIGKILL
    holder.communicate()
    assert read_stall(tmp_path / "holder") == "no progress for 1 s at its start"


def test_earlier_report_is_removed_and_no_limit_starts_no_guard(tmp_path: Path) -> None:
    report = tmp_path / "report"
    for limit in (None, 0, 5.0):
        report.write_text("no progress for 9 s at step 1 of 2")
        with watched(limit, report):
            assert not report.exists()


def start_with_faulthandler(report: int) -> subprocess.Popen[str]:
    """Start a process that hangs under the standard library's timer instead of our guard."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import faulthandler, time\n"
            f"faulthandler.dump_traceback_later({LIMIT}, exit=True, file={report})\n"
            "print('armed', flush=True)\n"
            "time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(report,),
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "armed\n"
    return process


def test_timer_of_faulthandler_spares_a_stopped_process() -> None:
    process = start_with_faulthandler(2)
    process.send_signal(signal.SIGSTOP)
    time.sleep(2 * LIMIT)
    assert process.poll() is None
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    assert "Timeout" in errors


def test_timer_of_faulthandler_waits_for_a_report_that_cannot_be_written() -> None:
    reader, writer = os.pipe()  # its buffer full, like a disk that does not answer
    os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)))
    process = start_with_faulthandler(writer)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2 * LIMIT)
    finally:
        process.kill()
        process.communicate()
        os.close(reader)
        os.close(writer)


def test_one_guard_watches_all_stages_of_a_process(tmp_path: Path) -> None:
    code = f"""{PREAMBLE}
def count():
    return Path(f"/proc/{{os.getpid()}}/task/{{os.getpid()}}/children").read_text().split()

for number in range(3):
    with watched({LIMIT}, Path(sys.argv[1]) / str(number)):
        fake_stage()
        print(*count())
    time.sleep(1.5 * {LIMIT})  # nothing is watched
os.kill(int(count()[0]), signal.SIGKILL)  # another one takes its place
time.sleep(0.1)
with watched({LIMIT}, Path(sys.argv[1]) / "last"):
    print(*count(), flush=True)
    time.sleep(60)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    guards = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, "")
    assert len(guards) == 4
    assert len(set(guards[:3])) == 1
    assert guards[3] != guards[0]
    assert read_stall(tmp_path / "last") == "no progress for 1 s at its start"
