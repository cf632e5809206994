"""Why a trial failed, from what its worker and Tune left behind."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError, RayTaskError
from rich.console import Console

from search.config import StudyConfig
from search.on_ray.failures import (
    DIED,
    EVICTED,
    HELPER_DIED,
    LOST,
    NO_RESULT,
    WorkerFailures,
    describe_failure,
)
from search.on_ray.progress_callback import BoardCallback
from search.pipelines.retries import Failure
from search.pipelines.study import PipelineStudy
from search.run_files.progress import ProgressBoard, ProgressDisplay
from trainables.process.machine_errors import OutOfMemory, SurroundingsError

ERRORS = "trainables.process.machine_errors"
TRACEBACK = """ray::ImplicitFunc.train() (pid=1, ip=127.0.0.1)
  File "trainables/learning/training.py", line 1, in train
    loss.backward()
RuntimeError: CUDA error: an illegal
memory access"""
HELPERS = "trainables.ray_helpers"
LOW = "Task was killed due to the node running low on memory.\nMemory on the node was 15 / 16 GB."


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([RayActorError()], DIED),
        ([RayActorError(error_msg="The actor died because its node has died. Node Id: 1")], LOST),
        ([ActorUnavailableError("keepalive watchdog timeout", b"0" * 16)], LOST),
        ([RayTaskError("train", TRACEBACK, RuntimeError())],
         Failure("RuntimeError: CUDA error: an illegal memory access")),
        ([RayTaskError("train", TRACEBACK.replace("RuntimeError", f"{ERRORS}.OutOfMemory"),
                       OutOfMemory())], Failure("CUDA error: an illegal memory access", "memory")),
        ([RayTaskError("train", f"{ERRORS}.SurroundingsError: the disk is full",
                       SurroundingsError())], Failure("the disk is full", "surroundings")),
        ([OutOfMemoryError(LOW)], EVICTED),
        ([RayTaskError("train", TRACEBACK, RuntimeError()), RayActorError()], DIED),
        ([RayTaskError("train", f"{HELPERS}.HelperLost: The actor died", RuntimeError())],
         HELPER_DIED),
        ([RayTaskError("train", f"{HELPERS}.HelperLost: its node has died", RuntimeError())], LOST),
        ([ValueError("short")], Failure("short")),
        ([ValueError("")], DIED),
    ],
)  # fmt: skip
def test_last_failure_is_described_in_a_line(errors: list[Exception], reason: Failure) -> None:
    entries = (f"Failure # {i + 1} (occurred at now)\n{e}\n" for i, e in enumerate(errors))
    assert describe_failure("".join(entries)) == reason


def test_hang_is_told_from_a_death(config: StudyConfig, tmp_path: Path) -> None:
    output = io.StringIO()
    board = ProgressBoard(PipelineStudy(config, tmp_path))
    display = ProgressDisplay(board, Console(file=output))
    failures = WorkerFailures(tmp_path)
    callback = BoardCallback(board, display, failures, lambda: False)
    trial: Any = SimpleNamespace(
        trial_id="a",
        config={"chain": [["sparse", {}]], "label": "sparse lambda 0.1"},
        error_file=None,
    )
    assert failures.explain("a") == NO_RESULT
    callback.on_trial_start(1, [trial], trial)
    assert failures.explain("a") == NO_RESULT
    trial.error_file = str(tmp_path / "error.txt")
    (tmp_path / "error.txt").write_text(f"Failure # 1 (occurred at now)\n{RayActorError()}\n")
    assert failures.explain("a") == DIED
    (tmp_path / "stalls").mkdir()
    (tmp_path / "stalls" / "sparse-lambda-0.1.txt").write_text("no progress for 9 s at step 3\n\n")
    (tmp_path / "stalls" / "sparse-lambda-0.1.txt").write_text("lost a helper: its node has died\n")
    assert failures.explain("a") == LOST
    (tmp_path / "stalls" / "sparse-lambda-0.1.txt").write_text("no progress for 9 s at step 3\n\n")
    callback.on_trial_recover(1, [trial], trial)
    where = "stalls/sparse-lambda-0.1.txt shows where it hung"
    assert failures.explain("a") == Failure(f"no progress for 9 s at step 3 ({where})")
    expected = "sparse lambda 0.1 is run again: its machine was taken away"
    assert output.getvalue() == f"{expected}\n"


def test_a_worker_that_dies_before_its_trial_starts_is_explained(
    config: StudyConfig, tmp_path: Path
) -> None:
    board = ProgressBoard(PipelineStudy(config, tmp_path))
    display = ProgressDisplay(board, Console(file=io.StringIO()))
    failures = WorkerFailures(tmp_path)
    callback = BoardCallback(board, display, failures, lambda: False)
    error_file = tmp_path / "error.txt"
    error_file.write_text(f"Failure # 1 (occurred at now)\n{OutOfMemoryError(LOW)}\n")
    trials: list[Any] = []
    for trial_id in "ab":
        config_of_trial = {"stage": "sparse", "label": f"sparse {trial_id}"}
        trials.append(
            SimpleNamespace(trial_id=trial_id, config=config_of_trial, error_file=str(error_file))
        )
        callback.on_step_begin(1, trials)
        assert failures.explain(trial_id) == EVICTED
        callback.on_trial_error(1, trials, trials[-1])
        callback.on_step_begin(2, trials)
        assert failures.explain(trial_id) == NO_RESULT  # forgotten, and stays so


def test_hang_on_another_node_is_told_without_a_shared_folder(
    config: StudyConfig, tmp_path: Path
) -> None:
    board = ProgressBoard(PipelineStudy(config, tmp_path))
    display = ProgressDisplay(board, Console(file=io.StringIO()))
    there = {"10.0.0.2": "no progress for 9 s at step 3\n\nFile a"}
    failures = WorkerFailures(tmp_path, lambda address, path: there.get(address, ""))
    callback = BoardCallback(board, display, failures, lambda: False)
    trial: Any = SimpleNamespace(
        trial_id="a", config={"chain": [["sparse", {}]], "label": "sparse 1"}, error_file=None
    )
    callback.on_trial_start(1, [trial], trial)
    callback.on_trial_result(1, [trial], trial, {"node_ip": "10.0.0.2"})
    stall = "no progress for 9 s at step 3 (stalls/sparse-1.txt shows where it hung)"
    assert failures.explain("a").reason == stall
    assert (tmp_path / "stalls" / "sparse-1.txt").read_text() == there["10.0.0.2"]
    callback.on_trial_start(2, [trial], trial)  # the next attempt, which dies elsewhere
    callback.on_trial_result(2, [trial], trial, {"node_ip": "10.0.0.3"})
    assert failures.explain("a") == NO_RESULT


def test_metrics_have_their_turn_before_a_run_ends(config: StudyConfig, tmp_path: Path) -> None:
    board = ProgressBoard(PipelineStudy(config, tmp_path))
    display = ProgressDisplay(board, Console(file=io.StringIO()))
    turns: list[int] = []
    callback = BoardCallback(
        board,
        display,
        WorkerFailures(tmp_path),
        lambda: len(turns) == 2,
        lambda: turns.append(1),
    )
    callback.on_step_end(1, [])
    with pytest.raises(KeyboardInterrupt):
        callback.on_step_end(2, [])
    assert turns == [1, 1]
