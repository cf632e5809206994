from __future__ import annotations

import csv
import io
import json
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from search import run as program
from search.config import StudyConfig
from search.interrupts import Interrupts
from search.pipelines.confirmation import Confirmation
from search.pipelines.retries import ObstacleError
from search.pipelines.study import PipelineStudy
from search.run_files.progress import Activity, ProgressBoard, ProgressDisplay
from search.run_files.results_writer import ResultsWriter
from search.run_files.run_folder import create_run_folder
from trainables.context import Progress
from trainables.pipeline import Baseline, DatasetSummary, StageResult


@pytest.fixture
def study(config: StudyConfig, tmp_path: Path) -> PipelineStudy:
    study = PipelineStudy(replace(config, num_pipelines=4), tmp_path)
    for _ in range(3):
        study.ask()
    metrics = {"miou": 0.5, "latency_ms": 50.0, "num_params": 5e5, "macs": 5e6}
    study.tell(0, "complete", result=StageResult(metrics=metrics))
    study.tell(1, "failed", reason="TrainingDiverged: dense: the loss is nan at step 3 of 9")
    return study


def test_the_board_counts(study: PipelineStudy) -> None:
    board = ProgressBoard(study)
    assert board.counts() == "1 complete, 1 running, 1 waiting, 1 failed"
    board.reference = {"miou": 0.0, "latency_ms": 100.0, "num_params": 1e6}
    study.ask()
    board.activities["x"] = Activity(label="distilled 3", progress=Progress("sparse", 1, 4, 0.5))
    board.refresh()
    assert board.counts() == "1 complete, 2 running, 0 waiting, 1 failed"
    assert "best mIoU 0.500 | front 1 | hypervolume 0.125" in board.numbers()
    assert "left -" in board.numbers()
    assert board.line().endswith("distilled 3 25%")
    study.tell(
        2,
        "complete",
        result=StageResult(metrics={"miou": 0.4, "latency_ms": 20.0, "num_params": 1e5}),
    )
    board.refresh()
    assert board.front_size == 2
    assert board.seconds_left is not None


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_shows_the_board(study: PipelineStudy, terminal: bool) -> None:
    stream = io.StringIO()
    board = ProgressBoard(study)
    board.activities["x"] = Activity(label="pipeline 2", progress=Progress("sparse", 1, 4, 0.5))
    console = Console(file=stream, force_terminal=terminal, width=120)
    with ProgressDisplay(board, console) as display:
        display.tick()
        display.tick()
    assert "pipeline 2" in stream.getvalue()
    assert "best mIoU 0.500" in stream.getvalue()
    if not terminal:
        assert stream.getvalue().count("\n") == 2  # one tick and the end


def make_run(study: PipelineStudy, folder: Path, stream: io.StringIO) -> program.Run:
    return program.Run(
        arguments=program.Arguments(),
        folder=folder,
        study=study,
        confirmation=Confirmation(study, folder),
        results=ResultsWriter(study, folder, DatasetSummary("synthetic", 1, ("road",), (96, 192))),
        console=Console(file=stream, width=200),
    )


def end(study: PipelineStudy, folder: Path) -> tuple[int, str]:
    """Exit status and output of a run whose search is over."""
    stream = io.StringIO()
    run = make_run(study, folder, stream)
    return program.search(run), stream.getvalue()


def test_all_failing_is_status_1_with_the_reasons(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = PipelineStudy(replace(config, num_pipelines=4), tmp_path)
    reasons = ("the worker died; tried 3 times", "the loss is [nan]")
    for number, index in enumerate((1, 0, 1, 1)):
        study.ask()
        study.tell(number, "failed", reason=f"sparse: {reasons[index]}")
    errors = {"teacher": "DataError: no images"}
    monkeypatch.setattr(program, "tune_pipelines", lambda run, interrupts: errors)
    status, output = end(study, tmp_path)
    assert status == 1
    first, second, third = output.splitlines()[1:4]
    assert first == "num_errors: 4 of 4 pipelines failed"
    assert second == "3 x failed: sparse: the loss is [nan] (trial 0, 2, 3)"
    assert third == "1 x failed: sparse: the worker died; tried 3 times (trial 1)"
    assert "teacher failed: DataError: no images" in output
    assert (tmp_path / "trials.csv").is_file()


def test_one_that_is_complete_is_status_0_whatever_failed(
    study: PipelineStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "tune_pipelines", lambda run, interrupts: {})
    monkeypatch.setattr(program, "write_report", lambda folder: None)
    status, output = end(study, tmp_path)
    assert status == 0
    assert "num_errors: 1 of 4 pipelines failed" in output


def stop(interrupts: Interrupts) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.received == [signal.SIGTERM]
    raise KeyboardInterrupt


def meet_obstacle(interrupts: Interrupts) -> None:
    raise ObstacleError("dense: the disk is full: /run on [host]; make room there")


@pytest.mark.parametrize(
    ("happens", "status", "text"),
    [(stop, 143, "interrupted; all results so far are saved"), (meet_obstacle, 3, "")],
)
def test_a_run_that_is_ended_keeps_what_is_known_and_says_so(
    happens: Callable[[Interrupts], None],
    status: int,
    text: str,
    study: PipelineStudy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def tune_pipelines(run: program.Run, interrupts: Interrupts) -> None:
        with interrupts:
            happens(interrupts)

    monkeypatch.setattr(program, "tune_pipelines", tune_pipelines)
    monkeypatch.setattr(program, "write_report", lambda folder: None)
    before = signal.getsignal(signal.SIGTERM)
    ended, output = end(study, tmp_path)
    assert ended == status
    assert signal.getsignal(signal.SIGTERM) == before
    assert text in output
    assert ("the disk is full: /run on [host]" in capsys.readouterr().err) == (status == 3)
    assert f"--resume {tmp_path}" in output
    with (tmp_path / "trials.csv").open() as file:
        states = [row["state"] for row in csv.DictReader(file)]
    assert states == ["complete", "failed", "running"]


@pytest.mark.parametrize("processor", ["the old one", "another"])
def test_a_study_goes_on_only_on_the_hardware_of_its_latencies(
    processor: str, study: PipelineStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = {"latency": {"device": "cpu"}, "hardware": {"cpu": "the old one"}}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    monkeypatch.setattr(program, "ray_session", lambda address, dashboard: nullcontext(""))
    monkeypatch.setattr(program, "count_devices", lambda: (2, 0.0, 2, 1, 0.0))
    monkeypatch.setattr(program, "describe_hardware", lambda device: {"cpu": processor})
    monkeypatch.setattr(program, "plan", lambda *given: None)
    monkeypatch.setattr(program, "run_stages", lambda *given: {})
    run = make_run(study, tmp_path, io.StringIO())
    if processor == "the old one":
        assert program.tune_pipelines(run, Interrupts()) == {}
        return
    with pytest.raises(ValueError, match=r"cpu \(the old one\) there, on cpu \(another\) here"):
        program.tune_pipelines(run, Interrupts())
    study.tell(2, "failed", reason="no")
    study.ask()
    study.tell(3, "failed", reason="no")
    run.results.baselines = [
        Baseline(name, "enet", 0.5, 1, 1, "x-1") for name in ("teacher", "dense")
    ]
    assert program.tune_pipelines(run, Interrupts()) == {}  # it measures nothing more


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_start_that_is_refused_leaves_no_run(
    has_begun: bool,
    config: StudyConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = create_run_folder(tmp_path, config)
    dataset = DatasetSummary("synthetic", 1, ("road",), (96, 192))
    monkeypatch.setattr(program, "prepare", lambda *given: (folder, None, config, dataset))

    def refuse(run: program.Run, interrupts: Interrupts) -> None:
        if has_begun:
            (run.folder / "tune").mkdir()
        raise ValueError("gpus_per_trial must be at most 1 here, got 2")

    monkeypatch.setattr(program, "tune_pipelines", refuse)
    assert program.main([]) == program.EXIT_BAD_INPUT
    assert "gpus_per_trial must be at most 1" in capsys.readouterr().err
    assert folder.exists() == has_begun
