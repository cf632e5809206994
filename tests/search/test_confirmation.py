"""The retrainings of the front: which, once each, over sessions, and apart from the study."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from search import run as program
from search.config import StudyConfig
from search.interrupts import Interrupts
from search.pipelines.confirmation import Confirmation
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.retrainings import CONFIRMATION_FILE
from search.pipelines.retries import RETRY_SECONDS, Failure
from search.pipelines.stage_tree import Task
from search.pipelines.study import JOURNAL_FILE, PipelineStudy
from search.run_files.progress import ProgressBoard
from search.run_files.results import now, write_metadata
from search.run_files.results_writer import ResultsWriter
from search.run_files.summary import print_confirmation, print_next_steps, print_summary
from trainables.chain import flatten_chain, make_settings
from trainables.pipeline import Baseline, DatasetSummary, StageResult

# Trials 0 and 2 are on the front, 1 is dominated.
POINTS = tuple(make_settings(lr=2e-3, temperature=t) for t in (1.0, 2.0, 3.0))
METRICS: tuple[Mapping[str, float], ...] = (
    {"miou": 0.6, "latency_ms": 9.0, "num_params": 900.0, "macs": 9.0},
    {"miou": 0.5, "latency_ms": 9.0, "num_params": 900.0, "macs": 9.0},
    {"miou": 0.4, "latency_ms": 4.0, "num_params": 400.0, "macs": 4.0},
)
BASELINE = {
    "name": "dense", "model": "dual_branch", "miou": 0.9, "latency_ms": 9.0, "latency_p95_ms": 9.5,
    "num_params": 1000, "macs": 5000, "stage": "dense-1",
}  # fmt: skip


@pytest.fixture
def asked(config: StudyConfig) -> StudyConfig:
    pipeline = replace(config.pipeline, seed=7)
    return replace(config, num_pipelines=3, first_points=POINTS, confirm=2, pipeline=pipeline)


def search(config: StudyConfig, folder: Path, number: int = 3) -> PipelineStudy:
    study = PipelineStudy(config, folder)
    for _ in range(number):
        proposal = study.ask()
        assert proposal is not None
        study.tell(
            proposal.number, "complete", result=StageResult(metrics=METRICS[proposal.number])
        )
    return study


def take(confirmation: Confirmation) -> Task:
    task = confirmation.take()
    assert task is not None
    return task


def finish(confirmation: Confirmation, task: Task, miou: float) -> None:
    result = StageResult(
        metrics={"miou": miou, "iou/road": 0.1},
        network=f"distilled-{task.fine_tuning_seed}",
        seconds={"distilled": 2.5},
    )
    confirmation.finish(task.node, result)


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / CONFIRMATION_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_member_is_retrained_with_every_seed(asked: StudyConfig, tmp_path: Path) -> None:
    study = search(asked, tmp_path)
    confirmation = Confirmation(study, tmp_path)
    assert confirmation.members == (0, 2)
    assert (confirmation.num_wanted, confirmation.num_left) == (4, 4)
    tasks = [take(confirmation) for _ in range(4)]
    assert confirmation.take() is None
    labels = ["confirm 0 seed 8", "confirm 2 seed 8", "confirm 0 seed 9", "confirm 2 seed 9"]
    assert [task.label for task in tasks] == labels
    assert [task.fine_tuning_seed for task in tasks] == [8, 8, 9, 9]
    assert {(task.stage, task.share) for task in tasks} == {("distilled", 1.0)}
    chosen = [flatten_chain(task.chain) for task in tasks]
    assert chosen == [POINTS[0], POINTS[2]] * 2
    assert confirmation.seconds_left is None
    for task in tasks[::-1]:
        finish(confirmation, task, 0.5)
    assert confirmation.num_left == 0
    assert confirmation.seconds_left == 0
    rows = read_rows(tmp_path)
    assert [(row["trial"], row["seed"]) for row in rows] == [
        ("0", "8"), ("0", "9"), ("2", "8"), ("2", "9"),
    ]  # fmt: skip
    assert rows[0] == {
        "trial": "0", "seed": "8", "state": "complete", "reason": "", "miou": "0.5",
        "network": "distilled-8", "seconds": "2.5",
    }  # fmt: skip
    assert len(optuna.load_study(study_name="segfront", storage=journal(tmp_path)).trials) == 3


def journal(folder: Path) -> Any:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL_FILE))
    return optuna.storages.JournalStorage(backend)


def test_nothing_is_retrained_before_the_search_is_over(asked: StudyConfig, tmp_path: Path) -> None:
    study = search(asked, tmp_path, number=2)
    confirmation = Confirmation(study, tmp_path)
    assert confirmation.take() is None
    assert (confirmation.num_wanted, confirmation.num_left) == (0, 0)
    assert not (tmp_path / CONFIRMATION_FILE).exists()


def test_unasked_nothing_is_retrained(asked: StudyConfig, tmp_path: Path) -> None:
    confirmation = Confirmation(search(replace(asked, confirm=0), tmp_path), tmp_path)
    assert confirmation.take() is None
    assert confirmation.num_left == 0


def test_the_next_session_goes_on_where_it_ended(asked: StudyConfig, tmp_path: Path) -> None:
    confirmation = Confirmation(search(asked, tmp_path), tmp_path)
    done, failed, _ = (take(confirmation) for _ in range(3))
    finish(confirmation, done, 0.123456789012)
    confirmation.fail(failed.node, 'TrainingDiverged: "loss", nan')

    resumed = Confirmation(PipelineStudy(asked, tmp_path), tmp_path)
    assert resumed.retrainings == confirmation.retrainings
    assert resumed.num_left == 2
    assert [take(resumed).label for _ in range(2)] == ["confirm 0 seed 9", "confirm 2 seed 9"]
    assert resumed.take() is None

    more = Confirmation(PipelineStudy(replace(asked, confirm=3), tmp_path), tmp_path)
    assert more.num_left == 4
    fewer = Confirmation(PipelineStudy(replace(asked, confirm=0), tmp_path), tmp_path)
    assert fewer.num_left == 0
    assert fewer.retrainings == confirmation.retrainings


def test_a_retraining_without_a_number_has_failed(asked: StudyConfig, tmp_path: Path) -> None:
    confirmation = Confirmation(search(asked, tmp_path), tmp_path)
    finish(confirmation, take(confirmation), float("nan"))
    (row,) = read_rows(tmp_path)
    assert (row["state"], row["reason"]) == ("failed", "miou is nan, not a finite number")
    assert (row["miou"], row["network"]) == ("", "")


@pytest.mark.parametrize("text", ["trial\n3\n", "trial,seed,state\n1,2,perhaps\n"])
def test_a_damaged_table_is_named(asked: StudyConfig, tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIRMATION_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"confirmation\.csv, line 2: "):
        Confirmation(PipelineStudy(asked, tmp_path), tmp_path)


def take_from(dispatcher: Dispatcher) -> Task:
    task = dispatcher.take()
    assert task is not None
    return task


COSTS = {"latency_ms": 5.0, "latency_p95_ms": 5.0, "num_params": 500.0, "macs": 9.0}


def train(dispatcher: Dispatcher, *names: str) -> None:
    """Bring uncompressed networks through."""
    tasks = {task.baseline: task for task in (take_from(dispatcher) for _ in names)}
    for name in names:
        result = StageResult(metrics={**COSTS, "miou": 0.7}, network=f"{name}-1")
        dispatcher.finish(tasks[name], result)
        examined = ("latency", "sensitivity") if name == "dense" else ("latency",)
        for stage in examined:
            task = take_from(dispatcher)
            assert (task.baseline, task.stage) == (name, stage)
            dispatcher.finish(task, StageResult(metrics=COSTS if stage == "latency" else {}))


def test_the_front_of_a_finished_study_is_retrained(
    asked: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RETRY_SECONDS, "worker", (0.0,))
    study = search(asked, tmp_path)
    confirmation = Confirmation(study, tmp_path)
    dispatcher = Dispatcher(study, Places(count=2), confirmation=confirmation)
    teacher = take_from(dispatcher)
    dense = take_from(dispatcher)
    for task in (dense, teacher):
        assert dispatcher.take() is None  # the retrainings need both
        dispatcher.finish(task, StageResult(metrics={**COSTS, "miou": 0.7}))
        dispatcher.finish(take_from(dispatcher), StageResult(metrics=COSTS))
        if task is dense:
            dispatcher.finish(take_from(dispatcher), StageResult())  # its sensitivity
    first, second = take_from(dispatcher), take_from(dispatcher)
    assert (first.label, second.label) == ("confirm 0 seed 8", "confirm 2 seed 8")
    assert (first.stage, first.share, first.fine_tuning_seed) == ("distilled", 1.0, 8)
    assert flatten_chain(first.chain) == POINTS[0]
    assert dispatcher.take() is None  # both places are taken
    done = StageResult(metrics={"miou": 0.55}, network="d-1", seconds={"distilled": 3})
    dispatcher.finish(first, done)
    for _ in range(2):
        dispatcher.retry(second, Failure("it died"))
        second = take_from(dispatcher)
    assert second.label == "confirm 0 seed 9"
    dispatcher.fail(second, "DataError: no")
    dispatcher.fail(take_from(dispatcher), "DataError: no")
    assert dispatcher.take() is None
    assert dispatcher.is_over
    outcomes = [(r.state, r.reason, r.miou) for r in confirmation.retrainings.values()]
    assert outcomes == [
        ("complete", "", 0.55), ("failed", "it died; tried 2 times", None),
        ("failed", "DataError: no", None), ("failed", "DataError: no", None),
    ]  # fmt: skip
    assert [record.metrics for record in study.records.values()] == list(METRICS)
    assert study.num_unfinished == 0


def test_retrainings_come_once_the_last_pipeline_has_ended(
    asked: StudyConfig, tmp_path: Path
) -> None:
    config = replace(
        asked, num_pipelines=2, rungs=(0.5,), reduction_factor=2.0, stop_hopeless=False
    )
    study = PipelineStudy(config, tmp_path)
    confirmation = Confirmation(study, tmp_path)
    dispatcher = Dispatcher(study, Places(count=2), confirmation=confirmation)
    order: list[tuple[str, float]] = []
    while (task := dispatcher.take()) is not None:  # one at a time, so that there is always one
        order.append((task.label, task.share))
        is_hotter = flatten_chain(task.chain).get("distilled.dkd.temperature") == 2.0
        miou = {"miou" if task.share == 1 else "miou@0.5": 0.6 - 0.1 * is_hotter}
        metrics = {"distilled": miou}.get(task.stage, {**COSTS, "miou": 0.7})
        seconds = {task.stage: 1.0}
        dispatcher.finish(task, StageResult(metrics=metrics, network="n", seconds=seconds))
    assert dispatcher.is_over
    # The second pipeline waits at its rung for ever and is stopped before the retrainings begin.
    assert order[-2:] == [("confirm 0 seed 8", 1.0), ("confirm 0 seed 9", 1.0)]
    assert [study.records[number].state for number in range(2)] == ["complete", "stopped"]
    assert confirmation.members == (0,)


def test_without_a_baseline_nothing_is_retrained(asked: StudyConfig, tmp_path: Path) -> None:
    confirmation = Confirmation(search(asked, tmp_path), tmp_path)
    dispatcher = Dispatcher(confirmation._study, Places(count=2), confirmation=confirmation)
    dispatcher.fail(take_from(dispatcher), "DataError: gone")
    assert dispatcher.take() is None
    assert dispatcher.is_over
    assert confirmation.num_left == 4


def test_the_board_counts_retrainings_apart(asked: StudyConfig, tmp_path: Path) -> None:
    study = search(asked, tmp_path)
    confirmation = Confirmation(study, tmp_path)
    board = ProgressBoard(study, confirmation)
    assert board.counts() == "3 complete, 0 running, 0 waiting, 0 of 4 retrained"
    assert board.seconds_left is None
    finish(confirmation, take(confirmation), 0.5)
    board.refresh()
    assert board.counts() == "3 complete, 0 running, 0 waiting, 1 of 4 retrained"
    assert board.best_miou == 0.6
    assert board.seconds_left is not None


def test_a_network_that_is_kept_out_is_not_retrained(asked: StudyConfig, tmp_path: Path) -> None:
    study = search(asked, tmp_path)
    confirmation = Confirmation(study, tmp_path, {0: "its file errs"})
    assert confirmation.members == (1, 2)  # trial 1 takes its place
    board = ProgressBoard(study, confirmation, {0: "its file errs"})
    assert (board.front_size, board.best_miou) == (2, 0.5)
    stream = io.StringIO()
    print_summary(study, [], Console(file=stream, width=200), {0: "its file errs"})
    assert "Pareto front: 2 of 3 complete" in stream.getvalue()
    assert "1 x kept out of the front: its file errs (trial 0)" in stream.getvalue()


def show(*arguments: Any, print_it: Any) -> str:
    stream = io.StringIO()
    print_it(*arguments, Console(file=stream, width=200))
    return stream.getvalue()


def test_the_summary_prints_what_the_report_says(asked: StudyConfig, tmp_path: Path) -> None:
    confirmation = Confirmation(search(asked, tmp_path), tmp_path)
    confirmation.fail(take(confirmation).node, "TrainingDiverged: [nan]")
    (tmp_path / "front.csv").write_text(
        "trial,miou,num_retrainings,retrained_miou_mean,retrained_miou_std,"
        "probability_non_dominated\n0,0.6,2,0.51,0.0141,0.0528\n2,0.4,,,,\n"
    )
    text = show(confirmation, tmp_path / "index.html", print_it=print_confirmation)
    assert "retraining of trial 0 with seed 8 failed: TrainingDiverged: [nan]" in text
    (line,) = [line.split() for line in text.splitlines() if "0.510" in line]
    assert [cell for cell in line if cell != "│"] == ["0", "0.600", "2", "0.510", "0.014", "0.05"]
    (tmp_path / "front.csv").write_text("trial,miou,num_retrainings,retrained_miou_mean\n0,1,1,1\n")
    assert "-" in show(confirmation, tmp_path / "index.html", print_it=print_confirmation)
    (tmp_path / "front.csv").write_text("trial,miou\n0,1\n")
    silent = Confirmation(search(asked, tmp_path, number=0), tmp_path / "elsewhere")
    assert show(silent, tmp_path / "index.html", print_it=print_confirmation) == ""
    assert show(silent, None, print_it=print_confirmation) == ""


def test_next_steps_know_what_is_left(asked: StudyConfig, tmp_path: Path) -> None:
    study = search(asked, tmp_path)
    confirmation = Confirmation(study, tmp_path)
    text = show(study, confirmation, tmp_path, None, print_it=print_next_steps)
    assert f"continue: python search/run.py --resume {tmp_path}\n" in text
    study = PipelineStudy(replace(asked, confirm=0), tmp_path)
    confirmation = Confirmation(study, tmp_path)
    text = show(study, confirmation, tmp_path, None, print_it=print_next_steps)
    assert "continue:" not in text
    assert f"confirm the front: python search/run.py --resume {tmp_path} --confirm 3\n" in text
    limited = PipelineStudy(replace(asked, confirm=0, time_limit="1h"), tmp_path)
    text = show(limited, confirmation, tmp_path, None, print_it=print_next_steps)
    assert f"--resume {tmp_path} --confirm 3 --time-limit none\n" in text
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    print_next_steps(study, confirmation, tmp_path, None, console, missing=["teacher"])
    assert f"continue: python search/run.py --resume {tmp_path}\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("confirm", "names", "sessions"),
    [
        (2, ("teacher", "dense"), 1),
        (0, ("teacher", "dense"), 0),
        (0, ("dense",), 1),  # the session before ended before the teacher was measured
    ],
)
def test_a_finished_run_starts_ray_for_what_is_left_alone(
    confirm: int,
    names: tuple[str, ...],
    sessions: int,
    asked: StudyConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = search(replace(asked, confirm=confirm), tmp_path)
    baselines = [{**BASELINE, "name": name} for name in names]
    (tmp_path / "metadata.json").write_text(json.dumps({"baselines": baselines}))
    run = make_run(study, tmp_path)
    seen: list[list[Baseline]] = []

    def tune(run: program.Run, interrupts: Interrupts) -> dict[str, str]:
        seen.append(run.results.baselines)
        return {}

    monkeypatch.setattr(program, "tune_pipelines", tune)
    monkeypatch.setattr(program, "finish", lambda run, errors, was_cut_off: True)
    assert program.search(run) == 0
    # Measured beside the pipelines, not in this session, which may be on another machine.
    assert run.results.baselines == [Baseline(**entry) for entry in baselines]
    assert seen == [run.results.baselines] * sessions


def make_run(study: PipelineStudy, folder: Path, stream: io.StringIO | None = None) -> program.Run:
    dataset = DatasetSummary("synthetic", 1, ("road",), (96, 192))
    return program.Run(
        arguments=program.Arguments(),
        folder=folder,
        study=study,
        confirmation=Confirmation(study, folder),
        results=ResultsWriter(study, folder, dataset),
        console=Console(file=stream or io.StringIO(), width=200),
    )


def test_who_takes_the_place_of_a_network_that_is_kept_out_is_left_to_retrain(
    asked: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baselines = [{**BASELINE, "name": name} for name in ("teacher", "dense")]
    (tmp_path / "metadata.json").write_text(json.dumps({"baselines": baselines}))
    stream = io.StringIO()
    run = make_run(search(asked, tmp_path), tmp_path, stream)
    while (task := run.confirmation.take()) is not None:
        finish(run.confirmation, task, 0.5)

    def keep_out(run: program.Run) -> None:
        (run.folder / "deploy").mkdir()
        (run.folder / "deploy" / "kept_out.json").write_text('{"0": "its file errs"}')

    monkeypatch.setattr(program, "write_answer", keep_out)
    monkeypatch.setattr(program, "write_report", lambda folder: None)
    assert program.search(run) == program.EXIT_OK
    assert f"continue: python search/run.py --resume {tmp_path}\n" in stream.getvalue()


def retrain(run: program.Run, number: int) -> None:
    """Do as a session would, for so many retrainings."""
    dispatcher = Dispatcher(run.study, Places(count=2), confirmation=run.confirmation)
    train(dispatcher, "teacher", "dense")
    for _ in range(number):
        task = take_from(dispatcher)
        name, seed = task.label.split()[1], task.fine_tuning_seed or 0
        metrics = {"miou": 0.1 * int(name) + 0.01 * seed}
        network = f"distilled-{name}-{seed}"
        result = StageResult(metrics=metrics, network=network, seconds={"distilled": 3.0})
        dispatcher.finish(task, result)


def test_ctrl_c_keeps_and_shows_what_is_retrained(
    asked: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = DatasetSummary("synthetic", 1, ("road",), (96, 192))
    search(asked, tmp_path)
    roles = ("teacher", "dense")
    baselines = [Baseline(**{**BASELINE, "name": role}) for role in roles]
    path = tmp_path / "metadata.json"
    write_metadata(path, asked, dataset, baselines, device="cpu", created_at=now())

    def begin() -> tuple[program.Run, io.StringIO]:
        stream = io.StringIO()
        return make_run(PipelineStudy(asked, tmp_path), tmp_path, stream), stream

    def interrupt(run: program.Run, interrupts: Interrupts) -> dict[str, str]:
        retrain(run, number=3)
        assert run.confirmation.take() is not None  # is being retrained when the user has enough
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "tune_pipelines", interrupt)
    run, stream = begin()
    assert program.search(run) == program.EXIT_SIGNAL + signal.SIGINT
    kept = read_rows(tmp_path)
    assert [(row["trial"], row["seed"]) for row in kept] == [("0", "8"), ("0", "9"), ("2", "8")]
    text = stream.getvalue()
    assert program.EPILOGUE in text
    assert f"continue: python search/run.py --resume {tmp_path}\n" in text
    (shown,) = [line.replace("│", " ").split() for line in text.splitlines() if "0.085" in line]
    assert shown[:5] == ["0", "0.600", "2", "0.085", "0.007"]  # the mean of seeds 8 and 9
    assert "The front retrained (3 of 4 so far)" in text

    def go_on(run: program.Run, interrupts: Interrupts) -> dict[str, str]:
        retrain(run, number=1)
        return {}

    monkeypatch.setattr(program, "tune_pipelines", go_on)
    run, stream = begin()
    assert program.search(run) == program.EXIT_OK
    rows = read_rows(tmp_path)
    assert [row for row in rows if row in kept] == kept
    assert (rows[-1]["trial"], rows[-1]["seed"], float(rows[-1]["miou"])) == ("2", "9", 0.2 + 0.09)
    assert "continue:" not in stream.getvalue()
    assert len(PipelineStudy(asked, tmp_path).records) == 3
