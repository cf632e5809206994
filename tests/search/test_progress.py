from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from search import run as program
from search.config import StudyConfig
from search.progress import Activity, ProgressBoard, ProgressDisplay, format_seconds
from search.study import PipelineStudy
from trainables.context import Progress
from trainables.pipeline import DatasetSummary


@pytest.fixture
def study(config: StudyConfig, tmp_path: Path) -> PipelineStudy:
    study = PipelineStudy(replace(config, num_pipelines=4), tmp_path)
    for _ in range(3):
        study.ask()
    study.tell(0, "complete", metrics={"miou": 0.5, "latency_ms": 50.0, "num_params": 5e5})
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
    study.tell(2, "complete", metrics={"miou": 0.4, "latency_ms": 20.0, "num_params": 1e5})
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


def test_times_are_readable() -> None:
    assert [format_seconds(s) for s in (5, 65, 7265)] == ["0:05", "1:05", "2:01:05"]


def test_all_failing_is_status_1_with_the_reasons(config: StudyConfig, tmp_path: Path) -> None:
    study = PipelineStudy(replace(config, num_pipelines=1), tmp_path)
    study.ask()
    study.tell(0, "failed", reason="TrainingDiverged: [sparse] the loss is nan")
    stream = io.StringIO()
    run = program.Run(
        arguments=program.Arguments(),
        config=study.config,
        folder=tmp_path,
        dataset=DatasetSummary("synthetic", 1, ("road",), (96, 192)),
        study=study,
        console=Console(file=stream, width=200),
        baseline_errors={"teacher": "DataError: no images"},
    )
    assert program.finish(run, interrupted=False) == 1
    assert "trial 0 failed: TrainingDiverged: [sparse] the loss is nan" in stream.getvalue()
    assert "teacher failed: DataError: no images" in stream.getvalue()
    assert (tmp_path / "trials.csv").is_file()
