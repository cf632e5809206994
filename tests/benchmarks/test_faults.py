import fcntl
import importlib
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from rich.console import Console

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
while sys.stdin.read(1):
    since = time.process_time()
    while time.process_time() < since + 0.3:
        pass
    print("worked", flush=True)
"""
COLUMNS = ("trial", "state", "config/distilled.lr", "miou", "num_params", "macs", "latency_ms")
ROWS = [
    dict(zip(COLUMNS, ("0", "complete", "0.1", "0.5", "10", "20", "3.3"), strict=True)),
    dict(zip(COLUMNS, ("1", "complete", "0.2", "0.6", "11", "21", "3.4"), strict=True)),
]


@pytest.fixture
def faults():
    return importlib.import_module("faults")


@pytest.fixture
def watch(tmp_path):
    (tmp_path / "stages" / ".locks").mkdir(parents=True)
    (tmp_path / ".lock").touch()
    with importlib.import_module("stage_watch").StageWatch(tmp_path) as watch:
        yield watch


@pytest.fixture
def hold():
    """Starts a process that holds a lock; closing its stdin ends it."""
    started = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def work(process):
    """Have it compute for 0.3 s."""
    process.stdin.write(".")
    process.stdin.flush()
    assert process.stdout.readline() == "worked\n"


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def outcome(faults, trials=ROWS, stages=("dense-1", "sparse-1"), **changes):
    given = {"num_damaged": 0, "num_repeated": 0, "num_drivers": 1} | changes
    return faults.Outcome(seconds=9.0, trials=list(trials), stages=list(stages), **given)


def test_watch_sees_who_works_and_what_a_killed_process_loses(tmp_path, watch, hold):
    lock, partial = tmp_path / "stages" / ".locks" / "sparse-1", "sparse-1.partial"
    first = hold(lock)
    wait_until(watch.working)
    (attempt,) = watch.working()
    assert (attempt.stage, attempt.pid, attempt.found) == ("sparse-1", first.pid, False)
    time.sleep(0.5)
    assert attempt.unsaved_seconds < 0.2  # it only waits
    work(first)
    wait_until(lambda: attempt.unsaved_seconds > 0.2)
    (tmp_path / "stages" / partial).mkdir()
    (tmp_path / "stages" / partial / "state.safetensors").touch()
    wait_until(lambda: attempt.saved)
    assert attempt.unsaved_seconds < 0.2

    broken = time.time()
    first.kill()
    first.wait()
    assert watch.taken_up_at(attempt, broken) is None
    second = hold(lock)
    wait_until(lambda: watch.taken_up_at(attempt, broken))
    assert not watch.has_ended_well(attempt)
    (tmp_path / "stages" / partial).rename(tmp_path / "stages" / "sparse-1")
    (tmp_path / "stages" / "sparse-1" / "result.json").touch()
    assert not watch.has_ended_well(attempt)  # by the second process
    assert watch.has_ended_well(watch.attempts[-1])
    assert watch.published() == ["sparse-1"]
    second.kill()
    second.wait()
    hold(lock)
    wait_until(lambda: len(watch.attempts) == 3)
    assert watch.attempts[-1].found  # nothing is left to compute
    assert watch.working() == []


def test_driver_is_the_holder_of_the_run_and_not_who_waits_for_it(tmp_path, watch, hold):
    assert watch.driver() is None
    process = hold(tmp_path / ".lock")
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")], stdin=subprocess.PIPE
    )
    try:
        assert watch.driver() == process.pid
    finally:
        waiting.kill()
        waiting.communicate()
    with (tmp_path / ".lock").open("a") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_equal_results_differ_in_nothing_but_latency(faults):
    again = [row | {"latency_ms": "9.9"} for row in reversed(ROWS)]
    found = faults.compare(outcome(faults), outcome(faults, again))
    assert found.pop("num_complete") == 2
    assert not any(found.values())


@pytest.mark.parametrize(
    ("changed", "name", "value"),
    [
        ({"trials": ROWS[:1]}, "lost", ["1"]),
        ({"trials": [ROWS[0], ROWS[1] | {"state": "failed"}]}, "lost", ["1"]),
        ({"trials": [ROWS[0], ROWS[1] | {"miou": "0.61"}]}, "differing", ["1"]),
        ({"trials": [ROWS[0] | {"config/distilled.lr": "0.3"}, ROWS[1]]}, "differing", ["0"]),
        ({"trials": [*ROWS, ROWS[0] | {"trial": "2"}]}, "added", ["2"]),
        ({"trials": [*ROWS, ROWS[0]]}, "num_duplicates", 1),
        ({"stages": ["dense-1", "sparse-1", "sparse-2"]}, "other_stages", ["sparse-2"]),
        ({"num_damaged": 1}, "num_repeated_stages", 1),
    ],
)
def test_each_difference_is_found_and_misses_a_goal(faults, changed, name, value):
    found = faults.compare(outcome(faults), outcome(faults, **changed))
    assert found[name] == value
    assert not all(faults.judge(faults.Arguments(), found, [], 1).values())


def test_more_than_an_interval_lost_and_no_recovery_miss_their_goals(faults):
    breaker = importlib.import_module("study_breaker")
    fine = breaker.Fault(
        kind="worker",
        node=2,
        at=1.0,
        victims=[breaker.Victim("sparse-1", 2.5), breaker.Victim("sparse-2", 3.0)],
        recovery_seconds=4.0,
    )
    calm = outcome(faults)
    found = faults.compare(calm, calm)
    arguments = faults.Arguments(checkpoint_seconds=3.0)
    assert all(faults.judge(arguments, found, [fine], 1).values())
    lossy = replace(fine, victims=[breaker.Victim("sparse-1", 3.5)])
    assert not all(faults.judge(arguments, found, [fine], 2).values())
    for fault in (lossy, replace(fine, recovery_seconds=None)):
        goals = faults.judge(arguments, found, [fault], 1)
        assert list(goals.values()).count(False) == 1
        console = Console(record=True, width=200)
        faults.report(arguments, calm, calm, [fine, fault], found, goals, console)
        assert "NOT MET" in console.export_text()


def test_a_stage_begun_again_without_a_fault_counts(faults):
    attempt = importlib.import_module("stage_watch").Attempt(
        stage="sparse-1", pid=1, began=0.0, seen=1.0, found=False
    )
    attempts = [attempt, replace(attempt, pid=2), replace(attempt, pid=3, found=True)]
    assert faults.count_repeated(attempts, ["sparse-1"]) == 0
    assert faults.count_repeated(attempts, []) == 1


def test_more_faults_than_pipelines_are_refused(faults):
    with pytest.raises(ValueError, match="at most num_pipelines"):
        faults.Arguments(num_pipelines=3, num_faults=4)
