"""What a worker refuses, and what it reports to Tune."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.engines import EngineError
from models.quantization import QuantizationError
from models.timing.host import HostError
from trainables import ray_pipeline
from trainables.chain import make_chain
from trainables.context import Progress, StageContext
from trainables.pipeline import StageResult
from trainables.pipeline_config import PipelineConfig
from trainables.process.installation import inspect_installation
from trainables.process.machine_errors import SurroundingsError
from trainables.ray_pipeline import (
    LogCollector,
    Reporter,
    WorkerConfig,
    describe_task,
    make_trainable,
)
from trainables.stages.deployed_file import ParityError


def make_worker(folder: Path) -> WorkerConfig:
    return WorkerConfig(
        stages_dir=folder / "stages",
        stalls_dir=folder / "stalls",
        cache_dir=folder / "cache",
        checkpoint_seconds=1.0,
        device="cpu",
        num_threads=1,
        num_threads_root=1,
    )


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_pipeline.tune, "report", given.append)
    return given


def test_reports_come_once_a_second_but_none_of_an_accuracy_is_dropped(
    reports: list[dict[str, Any]],
) -> None:
    report = Reporter(LogCollector())
    report(Progress("dense", 0, 1))  # the driver knows that it has started
    report(Progress("dense", 3, 300, loss=2.0))
    report(Progress("dense", 6, 300, loss=1.5))
    report(Progress("dense", 1, 1, miou=0.25))
    report(Progress("latency", 0, 1))
    # The curves go on from step to step of the training, whatever else is reported.
    assert [entry["timesteps_total"] for entry in reports] == [6, 6]
    assert [entry["progress"]["stage"] for entry in reports] == ["dense", "latency"]
    assert reports[0]["progress"]["miou"] == 0.25
    assert report.step == 6


def test_what_is_logged_for_the_user_is_passed_on_once(reports: list[dict[str, Any]]) -> None:
    with LogCollector() as messages:
        logging.getLogger("trainables.artifacts.store").warning("%s is damaged", "dense-1")
        logging.getLogger("trainables.data.node_cache").info("caching takes 5 MiB")
        logging.getLogger("models.pruning").info("pruned 3 of 9 groups")
        report = Reporter(messages)
        report(Progress("dense", 1, 1, miou=0.2))
        report(Progress("dense", 1, 1, miou=0.25))
    logging.getLogger("trainables.artifacts.store").warning("too late")
    assert [entry["messages"] for entry in reports] == [
        "dense-1 is damaged\ncaching takes 5 MiB",
        "",
    ]
    assert messages.take() == ""


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [
        (ParityError("other classes"), False),
        (QuantizationError("no operator"), False),
        (EngineError("not installed"), False),
        (HostError("connection lost"), True),
    ],
)
def test_what_would_fail_again_is_not_tried_again(
    tmp_path: Path,
    reports: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    is_tried_again: bool,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ray_pipeline, "run_stage", fail)
    run_trial = make_trainable(PipelineConfig(), make_worker(tmp_path))
    with pytest.raises(HostError) if is_tried_again else nullcontext():
        run_trial(describe_task(make_chain(["dense"]), "dense"))
    assert [report["outcome"] for report in reports] == ([] if is_tried_again else ["failed"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source_hash": "0123"},
            r"^node .*: its code \(\w+\) is not the driver's \(0123\); copy",
        ),
        (
            {"versions": {"torch": "1.0"}},
            r"^node .*: torch is .*, but the driver has 1\.0; install",
        ),
    ],
)
def test_worker_of_a_node_with_other_code_computes_nothing(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    worker = replace(make_worker(tmp_path), installation=replace(inspect_installation(), **changes))
    run_trial = make_trainable(PipelineConfig(), worker)
    with pytest.raises(SurroundingsError, match=message):
        run_trial(describe_task(make_chain(["dense"]), "dense"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("uses_threads", "stages", "threads"),
    [(True, ("dense", "sparse"), 6), (False, ("dense", "sparse"), 3), (True, ("dense",), 8)],
)
def test_a_training_has_the_threads_of_its_places(
    tmp_path: Path,
    reports: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    uses_threads: bool,
    stages: tuple[str, ...],
    threads: int,
) -> None:
    given: list[int | None] = []

    def run(config: Any, chain: Any, store: Any, context: StageContext, *_: Any, **__: Any) -> Any:
        given.append(context.num_threads)
        return StageResult()

    monkeypatch.setattr(ray_pipeline, "run_stage", run)
    worker = replace(
        make_worker(tmp_path), num_threads=3, num_threads_root=8, uses_threads=uses_threads
    )
    trial = describe_task(make_chain(stages), stages[-1], places=2)
    make_trainable(PipelineConfig(), worker)(trial)
    assert [report["outcome"] for report in reports] == ["complete"]
    assert given == [threads]
