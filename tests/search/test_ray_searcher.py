"""The searcher without a running Ray: what Tune would ask and tell."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from search.config import StudyConfig
from search.on_ray.searcher import PipelineSearcher
from search.on_ray.session import allot
from search.pipelines.retries import Failure, Fault, ObstacleError
from search.pipelines.study import PipelineStudy
from trainables.pipeline_config import PipelineSettings

BASELINE = {
    "name": "dense",
    "model": "dual_branch",
    "miou": 0.6,
    "latency_ms": 9.0,
    "latency_p95_ms": 10.0,
    "num_params": 1000,
    "macs": 5000,
    "stage": "dense-1",
}


@dataclass
class Clock:
    """What `time.monotonic` says."""

    now: float = 0.0


COST = {"miou_pruned": 0.1, "latency_ms": 5.0, "num_params": 500.0, "macs": 9.0}


@pytest.fixture
def searcher(config: StudyConfig, tmp_path: Path) -> PipelineSearcher:
    first = PipelineSettings(lr=2e-3)
    points = (first, replace(first, temperature=2.0), replace(first, sparsity_lambda=1e-3))
    study = PipelineStudy(replace(config, num_pipelines=3, first_points=points), tmp_path)
    return PipelineSearcher(
        study, max_concurrent=2, explain_error=lambda trial_id: Failure("the worker died")
    )


def train_baselines(searcher: PipelineSearcher) -> None:
    for role in ("teacher", "dense"):
        suggestion: Any = searcher.suggest(role)
        assert suggestion == {
            "stage": role, "label": role, "settings": {}, "share": 1.0, "fine_tuning_seed": None,
        }  # fmt: skip
    assert searcher.suggest("too early") is None
    for role in ("teacher", "dense"):
        baseline = {**BASELINE, "name": role}
        searcher.on_trial_complete(role, {"outcome": "complete", "baseline": baseline})


def finish(searcher: PipelineSearcher, trial_id: str, stage: str) -> None:
    metrics = {"pruned": COST, "distilled": {"miou": 0.5, "iou/road": 0.9}}.get(stage, {})
    parts = {"metrics": metrics, "stages": {stage: f"{stage}-1"}, "seconds": {stage: 2.0}}
    searcher.on_trial_complete(trial_id, {"outcome": "complete", **parts})


def start(searcher: PipelineSearcher, trial_id: str) -> str:
    suggestion: Any = searcher.suggest(trial_id)
    return str(suggestion["label"])


def test_every_stage_runs_once_and_every_pipeline_is_told(searcher: PipelineSearcher) -> None:
    train_baselines(searcher)
    assert searcher.baselines["dense"].num_params == 1000
    assert start(searcher, "a") == "sparse lambda 1e-05"
    assert start(searcher, "b") == "sparse lambda 0.001"  # the second pipeline waits for the first
    assert searcher.suggest("c") is None
    finish(searcher, "a", "sparse")
    assert start(searcher, "c") == "pruned lambda 1e-05 p 0.5 local"
    on_their_way = [result.stages.get("sparse") for result in searcher.open_results]
    assert on_their_way == ["sparse-1", "sparse-1", None]
    finish(searcher, "c", "pruned")
    assert start(searcher, "d") == "distilled 0"
    finish(searcher, "d", "distilled")
    record = searcher.study.records[0]
    assert record.state == "complete"
    assert record.metrics == {**COST, "miou": 0.5, "iou/road": 0.9}
    assert record.stages == {
        "teacher": "dense-1", "dense": "dense-1", "sparse": "sparse-1", "pruned": "pruned-1",
        "distilled": "distilled-1",
    }  # fmt: skip
    paid = {"teacher": 0.0, "dense": 0.0, "sparse": 2.0, "pruned": 2.0, "distilled": 2.0}
    assert record.seconds == paid
    assert start(searcher, "e") == "distilled 1"
    finish(searcher, "b", "sparse")
    assert start(searcher, "f") == "pruned lambda 0.001 p 0.5 local"
    finish(searcher, "e", "distilled")
    assert searcher.study.records[1].seconds == {**dict.fromkeys(paid, 0.0), "distilled": 2.0}
    assert searcher.suggest("g") is None
    searcher.on_trial_complete("f", {"outcome": "failed", "reason": "PruningError: no"})
    assert searcher.study.records[2].state == "failed"
    assert searcher.study.records[2].reason == "pruned: PruningError: no"
    assert searcher.suggest("g") == searcher.FINISHED
    assert searcher.study.num_unfinished == 0


def test_a_network_beyond_its_limit_is_not_distilled(config: StudyConfig, tmp_path: Path) -> None:
    first = PipelineSettings(lr=2e-3)
    points = (first, replace(first, temperature=2.0))
    config = replace(config, num_pipelines=2, first_points=points, max_latency_ms=4.0)
    study = PipelineStudy(config, tmp_path)
    searcher = PipelineSearcher(study, max_concurrent=1, explain_error=Failure)
    train_baselines(searcher)
    start(searcher, "a")
    finish(searcher, "a", "sparse")
    start(searcher, "b")
    finish(searcher, "b", "pruned")
    # The second shares the pruned network: it is stopped as soon as it is added.
    assert searcher.suggest("c") == searcher.FINISHED
    for record in study.records.values():
        assert (record.state, record.metrics) == ("stopped", COST)
        assert record.reason == "latency_ms 5 is above its limit 4"
    assert searcher.suggest("c") == searcher.FINISHED


@pytest.mark.parametrize("rungs", [(), (0.25,)])
def test_one_that_becomes_hopeless_while_it_waits_is_not_distilled_any_further(
    rungs: tuple[float, ...], config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = tuple(PipelineSettings(lr=2e-3, temperature=t) for t in (1.0, 2.0, 3.0))
    config = replace(
        config, num_pipelines=3, first_points=points, rungs=rungs, reduction_factor=1.01
    )
    study = PipelineStudy(config, tmp_path)
    searcher = PipelineSearcher(study, max_concurrent=2, explain_error=Failure)
    train_baselines(searcher)
    for stage in ("sparse", "pruned"):
        start(searcher, stage)
        finish(searcher, stage, stage)
    waiting = start(searcher, "a"), start(searcher, "b")
    assert waiting == ("distilled 0", "distilled 1")
    obstacle = "even with mIoU 0.3 trial 0 would dominate it"
    monkeypatch.setattr(PipelineStudy, "find_obstacle", lambda *given: obstacle)
    name = "miou@0.25" if rungs else "miou"
    for trial in "ab":
        parts = {"metrics": {name: 0.5}, "seconds": {"distilled": 1.0}}
        searcher.on_trial_complete(trial, {"outcome": "complete", **parts})
    assert searcher.suggest("c") == searcher.FINISHED
    states = [record.state for record in study.records.values()]
    assert states == (["stopped"] * 3 if rungs else ["complete", "complete", "stopped"])
    assert study.records[2].reason == obstacle


def test_only_the_best_of_a_rung_go_on(config: StudyConfig, tmp_path: Path) -> None:
    first = PipelineSettings(lr=2e-3)
    points = tuple(replace(first, temperature=t) for t in (1.0, 2.0, 3.0, 4.0))
    config = replace(
        config,
        num_pipelines=4,
        first_points=points,
        rungs=(0.25,),
        reduction_factor=2.0,
        stop_hopeless=False,
    )
    study = PipelineStudy(config, tmp_path)
    searcher = PipelineSearcher(study, max_concurrent=1, explain_error=Failure)
    train_baselines(searcher)
    for stage in ("sparse", "pruned"):
        start(searcher, stage)
        finish(searcher, stage, stage)
    order, trial = [], 0
    while (suggestion := searcher.suggest(str(trial))) != searcher.FINISHED:
        assert isinstance(suggestion, dict)
        number, share = int(suggestion["label"].split()[1]), suggestion["share"]
        order.append((number, share))
        miou = (0.3, 0.5, 0.4, 0.1)[number] + share / 10
        name = "miou" if share == 1 else "miou@0.25"
        parts = {"metrics": {name: miou}, "seconds": {"distilled": 10 * share}}
        searcher.on_trial_complete(str(trial), {"outcome": "complete", **parts})
        trial += 1
    states = [study.records[number].state for number in range(4)]
    assert states == ["stopped", "complete", "complete", "stopped"]
    assert order == [(0, 0.25), (1, 0.25), (1, 1.0), (2, 0.25), (3, 0.25), (2, 1.0)]
    assert study.records[1].seconds["distilled"] == 10
    assert study.records[0].reason == "behind the front at 25% of its distillation"
    # Another session knows who had reached the rung and who went on.
    again = PipelineSearcher(
        PipelineStudy(config, tmp_path), max_concurrent=1, explain_error=Failure
    )
    assert again._rungs.promote() is None
    assert again._rungs.paused == {}


def test_all_that_wait_in_vain_are_stopped_in_one_write(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = PipelineSettings(lr=2e-3)
    points = tuple(replace(first, temperature=t) for t in (1.0, 2.0, 3.0))
    config = replace(
        config, num_pipelines=3, first_points=points, rungs=(0.5,), reduction_factor=4.0,
        stop_hopeless=False,
    )  # fmt: skip
    study = PipelineStudy(config, tmp_path)
    searcher = PipelineSearcher(study, max_concurrent=1, explain_error=str)
    train_baselines(searcher)
    for stage in ("sparse", "pruned"):
        start(searcher, stage)
        finish(searcher, stage, stage)
    for trial in "abc":
        start(searcher, trial)
        parts = {"metrics": {"miou@0.5": 0.5}, "seconds": {"distilled": 1.0}}
        searcher.on_trial_complete(trial, {"outcome": "complete", **parts})
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(file) or sync(file))
    assert searcher.suggest("d") == searcher.FINISHED
    assert [record.state for record in study.records.values()] == ["stopped"] * 3
    assert len(synced) == 1
    assert PipelineStudy(config, tmp_path).records == study.records


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("search.pipelines.retries.time.monotonic", lambda: clock.now)
    return clock


def test_a_dead_worker_is_followed_by_others_that_wait_longer_and_then_its_pipelines_fail(
    searcher: PipelineSearcher, clock: Clock
) -> None:
    train_baselines(searcher)
    for trial_id in ("a", "b"):
        start(searcher, trial_id)
    for trial_id, seconds in (("a", 1.0), ("a2", 5.0)):
        searcher.on_trial_complete(trial_id, None, error=True)
        clock.now += seconds - 0.1
        assert searcher.suggest("too early") is None
        clock.now += 0.2
        assert start(searcher, f"{trial_id[0]}{2 if seconds == 1 else 3}") == "sparse lambda 1e-05"
    searcher.on_trial_complete("a3", None, error=True)
    assert [searcher.study.records[n].state for n in range(3)] == ["failed", "failed", "running"]
    assert searcher.study.records[1].reason == "sparse: the worker died; tried 3 times"
    # The study goes on with what does not need it.
    finish(searcher, "b", "sparse")
    assert start(searcher, "c") == "pruned lambda 0.001 p 0.5 local"


def test_a_stage_that_waits_for_its_next_attempt_holds_no_place(
    searcher: PipelineSearcher, clock: Clock
) -> None:
    train_baselines(searcher)
    for trial_id in ("a", "b"):
        start(searcher, trial_id)
    searcher.on_trial_complete("a", None, error=True)
    finish(searcher, "b", "sparse")
    assert start(searcher, "c") == "pruned lambda 0.001 p 0.5 local"
    finish(searcher, "c", "pruned")
    assert start(searcher, "d") == "distilled 2"
    finish(searcher, "d", "distilled")
    assert searcher.suggest("e") is None  # not FINISHED: a pipeline waits for the stage
    clock.now += 1.1
    assert start(searcher, "e") == "sparse lambda 1e-05"


def test_memory_is_tried_once_more_and_then_named(
    searcher: PipelineSearcher, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure("sparse needs more memory", "memory")
    monkeypatch.setattr(searcher, "_explain_error", lambda trial_id: failure)
    train_baselines(searcher)
    for trial_id in ("a", "a2"):
        assert start(searcher, trial_id) == "sparse lambda 1e-05"
        searcher.on_trial_complete(trial_id, None, error=True)
        clock.now += 60
    assert searcher.study.records[0].reason == "sparse: sparse needs more memory; tried 2 times"


@pytest.mark.parametrize(
    "faults", [["machine"] * 5 + ["worker"] * 3, ["machine"] * 21], ids=["worker", "machine"]
)
def test_lost_machines_take_no_attempt_from_a_stage_but_have_an_end(
    faults: list[Fault],
    searcher: PipelineSearcher,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train_baselines(searcher)
    for number, fault in enumerate(faults):
        failure = Failure(f"a {fault} was lost", fault)
        monkeypatch.setattr(searcher, "_explain_error", lambda trial_id, failure=failure: failure)
        assert start(searcher, f"a{number}") == "sparse lambda 1e-05"
        searcher.on_trial_complete(f"a{number}", None, error=True)
        clock.now += 60
    expected = f"sparse: a {faults[-1]} was lost; tried {len(faults)} times"
    assert searcher.study.records[0].reason == expected


@pytest.mark.parametrize("fault", ["surroundings", "own"])
def test_an_obstacle_ends_the_search_and_leaves_the_pipelines_to_the_next_session(
    fault: Fault | str,
    searcher: PipelineSearcher,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train_baselines(searcher)
    start(searcher, "a")
    if fault == "own":  # of the driver
        error = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(searcher, "_on_change", Mock(side_effect=error))
        finish(searcher, "a", "sparse")
        assert searcher.problem is error
    else:
        failure = Failure("the disk is full", "surroundings")
        monkeypatch.setattr(searcher, "_explain_error", lambda trial_id: failure)
        for trial_id in ("a", "a2", "a3"):
            assert searcher.problem is None
            searcher.on_trial_complete(trial_id, None, error=True)
            clock.now += 60
            if trial_id != "a3":
                assert start(searcher, f"a{int(trial_id[1:] or 1) + 1}") == "sparse lambda 1e-05"
        assert isinstance(searcher.problem, ObstacleError)
        assert str(searcher.problem) == "sparse lambda 1e-05: the disk is full"
    assert searcher.suggest("b") == searcher.FINISHED
    states = [
        record.state for record in PipelineStudy(searcher.study.config, tmp_path).records.values()
    ]
    assert states == ["running"]


def test_a_worker_that_ends_without_an_outcome_has_failed(
    searcher: PipelineSearcher, clock: Clock
) -> None:
    train_baselines(searcher)
    for trial_id in ("a", "a2", "a3"):
        searcher.suggest(trial_id)
        searcher.on_trial_complete(trial_id, {"progress": {"stage": "sparse"}})
        clock.now += 60
    assert searcher.study.records[0].state == "failed"
    assert searcher.study.records[0].reason == "sparse: the worker died; tried 3 times"


def test_without_a_baseline_nothing_is_tried(searcher: PipelineSearcher) -> None:
    for role in ("teacher", "dense"):
        searcher.suggest(role)
    searcher.on_trial_complete("teacher", {"outcome": "failed", "reason": "TrainingDiverged: nan"})
    assert searcher.suggest("a") == searcher.FINISHED
    assert searcher.baseline_errors == {"teacher": "TrainingDiverged: nan"}
    assert searcher.study.records == {}


def test_cores_are_divided_among_the_pipelines(config: StudyConfig) -> None:
    two = allot(config, num_cpus=2, num_gpus=0, node_cpus=2)
    assert (two.device, two.num_cpus, two.num_gpus, two.max_concurrent) == ("cpu", 1, 0, 2)
    many = allot(config, num_cpus=32, num_gpus=0, node_cpus=32)  # 8 pipelines
    assert (many.num_cpus, many.max_concurrent) == (4, 8)
    cluster = allot(config, num_cpus=64, num_gpus=0, node_cpus=4)
    assert (cluster.num_cpus, cluster.max_concurrent) == (4, 16)
    assert allot(replace(config, max_concurrent=1), 2, 0, 2).max_concurrent == 1


def test_a_growing_cluster_is_given_what_is_asked_for(config: StudyConfig) -> None:
    asked = replace(config, gpus_per_trial=1.0, max_concurrent=4)
    assert allot(asked, 8, 1, 8).max_concurrent == 1
    grown = allot(asked, 8, 1, 8, can_grow=True)
    assert (grown.num_cpus, grown.num_gpus, grown.max_concurrent) == (8, 1, 4)
    assert allot(replace(config, gpus_per_trial=1.0), 8, 1, 8, can_grow=True).max_concurrent == 1


def test_cluster_without_workers_is_refused(config: StudyConfig) -> None:
    with pytest.raises(ValueError, match="no machine for trials"):
        allot(config, num_cpus=0, num_gpus=0, node_cpus=0, can_grow=True)


def test_gpus_are_used_when_there(config: StudyConfig) -> None:
    one = allot(config, num_cpus=16, num_gpus=1, node_cpus=16)
    assert (one.device, one.num_cpus, one.num_gpus, one.max_concurrent) == ("cuda", 16, 1, 1)
    quarter = allot(replace(config, gpus_per_trial=0.25), 16, 1, 16)
    assert (quarter.num_cpus, quarter.num_gpus, quarter.max_concurrent) == (4, 0.25, 4)
    assert allot(replace(config, gpus_per_trial=0), 16, 1, 16).device == "cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus_per_trial": 1.0}, "gpus_per_trial must be at most 0 here, got 1"),
        ({"cpus_per_trial": 9}, "cpus_per_trial must be at most 2 here, got 9"),
    ],
)
def test_more_than_there_is_is_named(
    changes: dict[str, Any], message: str, config: StudyConfig
) -> None:
    with pytest.raises(ValueError, match=message):
        allot(replace(config, **changes), num_cpus=2, num_gpus=0, node_cpus=2)
