"""What a study runs next, what it runs again, and who stops: decided without a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from search.config import StudyConfig
from search.forecast.typical_chains import choose_typical_chains
from search.on_ray.allotment import TrialResources, allot
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.records import Obstacle
from search.pipelines.retries import Failure, Fault, ObstacleError
from search.pipelines.stage_seconds import StageSeconds
from search.pipelines.stage_tree import Task
from search.pipelines.study import PipelineStudy
from search.pipelines.time_budget import TimeBudget
from search.space import set_ranges
from trainables.chain import flatten_chain, make_chain, make_settings
from trainables.pipeline import StageResult
from trainables.pipeline_config import DEFAULT_STAGES
from trainables.ray_pipeline import describe_task
from trainables.rehearsal import StageRate, name_kind

BASELINE = {"miou": 0.6, "num_params": 1000, "macs": 5000}
LATENCY = {"latency_ms": 9.0, "latency_p95_ms": 10.0}
SIZES = {"miou_pruned": 0.1, "num_params": 500.0, "macs": 9.0}
COST = {**SIZES, "latency_ms": 5.0}
REVEALED: dict[str, dict[str, float]] = {
    "pruned": SIZES,
    "latency": {"latency_ms": 5.0},
    "distilled": {"miou": 0.5, "iou/road": 0.9},
}
DEAD = Failure("the worker died")


@dataclass
class Clock:
    """What `time.monotonic` says."""

    now: float = 0.0


class Driver:
    """Runs what a dispatcher hands out, under names of its own, as Tune does."""

    def __init__(self, study: PipelineStudy, max_concurrent: int) -> None:
        self.study = study
        self.dispatcher = Dispatcher(study, Places(count=max_concurrent))
        self.failure = DEAD
        self._tasks: dict[str, Task] = {}

    def suggest(self, name: str) -> Task | None:
        """Hand out a stage; None to wait or at the end."""
        task = self.dispatcher.take()
        if task is not None:
            self._tasks[name] = task
        return task

    def end(self, name: str, **parts: Any) -> None:
        self.dispatcher.finish(self._tasks.pop(name), StageResult(**parts))

    def fail(self, name: str, reason: str) -> None:
        self.dispatcher.fail(self._tasks.pop(name), reason)

    def lose(self, name: str) -> None:
        """The worker of a stage is gone."""
        self.dispatcher.retry(self._tasks.pop(name), self.failure)


@pytest.fixture
def driver(config: StudyConfig, tmp_path: Path) -> Driver:
    first = make_settings(lr=2e-3)
    points = (
        first,
        {**first, "distilled.dkd.temperature": 2.0},
        {**first, "sparse.sparsity_lambda": 1e-3},
    )
    study = PipelineStudy(replace(config, num_pipelines=3, first_points=points), tmp_path)
    return Driver(study, max_concurrent=2)


def train_baselines(driver: Driver) -> None:
    for role in ("teacher", "dense"):
        task = driver.suggest(role)
        assert task is not None
        assert (task.label, task.stage, task.share, task.fine_tuning_seed) == (role, role, 1, None)
    assert driver.suggest("too early") is None
    for role in ("teacher", "dense"):
        driver.end(role, metrics=BASELINE, stages={role: f"{role}-1"}, network=f"{role}-1")
        assert start(driver, "timed") == f"latency {role}"
        driver.end("timed", metrics=LATENCY, stages={"latency": "latency-0"})
    assert start(driver, "scanned") == "sensitivity dense"
    driver.end("scanned", stages={"sensitivity": "sensitivity-0"})


def prepare(driver: Driver) -> None:
    """Bring the first pipeline to its fine-tuning."""
    for stage in ("sparse", "pruned", "latency"):
        start(driver, stage)
        finish(driver, stage, stage)


def finish(driver: Driver, name: str, stage: str) -> None:
    metrics = REVEALED.get(stage, {})
    driver.end(name, metrics=metrics, stages={stage: f"{stage}-1"}, seconds={stage: 2.0})


def is_over(driver: Driver) -> bool:
    return driver.suggest("none") is None and driver.dispatcher.is_over


def start(driver: Driver, trial_id: str) -> str:
    task = driver.suggest(trial_id)
    assert task is not None
    return task.label


def test_every_stage_runs_once_and_every_pipeline_is_told(driver: Driver) -> None:
    train_baselines(driver)
    assert driver.dispatcher.baselines["dense"].num_params == 1000
    assert start(driver, "a") == "sparse lambda 1e-05"
    assert start(driver, "b") == "sparse lambda 0.001"  # the second pipeline waits for the first
    assert driver.suggest("c") is None
    finish(driver, "a", "sparse")
    assert start(driver, "c") == "pruned lambda 1e-05 p 0.5 local"
    on_their_way = [result.stages.get("sparse") for result in driver.dispatcher.open_results]
    assert on_their_way == ["sparse-1", "sparse-1", None]
    finish(driver, "c", "pruned")
    assert start(driver, "l") == "latency lambda 1e-05 p 0.5 local"
    finish(driver, "l", "latency")
    assert start(driver, "d") == "distilled 0"
    finish(driver, "d", "distilled")
    record = driver.study.records[0]
    assert record.state == "complete"
    assert record.metrics == {**COST, "miou": 0.5, "iou/road": 0.9}
    assert record.stages == {
        "teacher": "teacher-1", "dense": "dense-1", "sparse": "sparse-1", "pruned": "pruned-1",
        "latency": "latency-1", "distilled": "distilled-1",
    }  # fmt: skip
    paid = dict.fromkeys(("sparse", "pruned", "latency", "distilled"), 2.0)
    assert record.seconds == paid
    assert start(driver, "e") == "distilled 1"
    finish(driver, "b", "sparse")
    assert start(driver, "f") == "pruned lambda 0.001 p 0.5 local"
    finish(driver, "e", "distilled")
    assert driver.study.records[1].seconds == {**dict.fromkeys(paid, 0.0), "distilled": 2.0}
    assert driver.suggest("g") is None
    driver.fail("f", "PruningError: no")
    assert driver.study.records[2].state == "failed"
    assert driver.study.records[2].reason == "pruned: PruningError: no"
    assert is_over(driver)
    assert driver.study.num_unfinished == 0


def test_a_network_beyond_its_limit_is_not_distilled(config: StudyConfig, tmp_path: Path) -> None:
    first = make_settings(lr=2e-3)
    points = (first, {**first, "distilled.dkd.temperature": 2.0})
    config = replace(config, num_pipelines=2, first_points=points, max_latency_ms=4.0)
    study = PipelineStudy(config, tmp_path)
    driver = Driver(study, max_concurrent=1)
    train_baselines(driver)
    start(driver, "a")
    finish(driver, "a", "sparse")
    start(driver, "b")
    finish(driver, "b", "pruned")
    start(driver, "c")
    finish(driver, "c", "latency")
    # The second shares the pruned network: it is stopped as soon as it is added.
    assert is_over(driver)
    for record in study.records.values():
        assert (record.state, record.metrics) == ("stopped", COST)
        assert record.reason == "latency_ms 5 is above its limit 4"
    assert is_over(driver)


def test_a_file_is_judged_by_its_own_latency(config: StudyConfig, tmp_path: Path) -> None:
    """That of the float network before it is not the one that a limit or the front is about."""
    chain = (*DEFAULT_STAGES, "quantised")
    first = make_settings(chain, lr=2e-3)
    points = (first, {**first, "distilled.dkd.temperature": 2.0})
    config = replace(
        config,
        num_pipelines=2,
        first_points=points,
        max_latency_ms=4.0,
        pipeline=replace(config.pipeline, chain=chain),
    )
    study = PipelineStudy(config, tmp_path)
    dispatcher = Dispatcher(study, Places(count=1))
    while (task := dispatcher.take()) is not None:
        metrics = REVEALED.get(task.stage, BASELINE if task.is_root else {})
        if task.stage == "quantised":
            is_slow = flatten_chain(task.chain).get("distilled.dkd.temperature") == 2.0
            metrics = {"miou": 0.4, "latency_ms": 4.5 if is_slow else 3.0}
        dispatcher.finish(task, StageResult(metrics=metrics, network="n"))
    assert dispatcher.is_over
    ends = [(r.state, r.stopped_by, r.reason) for r in study.records.values()]
    assert ends == [
        ("complete", "", ""), ("stopped", "limit", "latency_ms 4.5 is above its limit 4")
    ]  # fmt: skip


@pytest.mark.parametrize("rungs", [(), (0.25,)])
def test_one_that_becomes_hopeless_while_it_waits_is_not_distilled_any_further(
    rungs: tuple[float, ...], config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = tuple(make_settings(lr=2e-3, temperature=t) for t in (1.0, 2.0, 3.0))
    config = replace(
        config, num_pipelines=3, first_points=points, rungs=rungs, reduction_factor=1.01
    )
    study = PipelineStudy(config, tmp_path)
    driver = Driver(study, max_concurrent=2)
    train_baselines(driver)
    prepare(driver)
    waiting = start(driver, "a"), start(driver, "b")
    assert waiting == ("distilled 0", "distilled 1")
    obstacle = Obstacle("even with mIoU 0.3 trial 0 would dominate it", "bound")
    monkeypatch.setattr(PipelineStudy, "find_obstacle", lambda *given: obstacle)
    name = "miou@0.25" if rungs else "miou"
    for trial in "ab":
        parts = {"metrics": {name: 0.5}, "seconds": {"distilled": 1.0}}
        driver.end(trial, **parts)
    assert is_over(driver)
    states = [record.state for record in study.records.values()]
    assert states == (["stopped"] * 3 if rungs else ["complete", "complete", "stopped"])
    assert study.records[2].reason == obstacle.reason
    assert study.records[2].stopped_by == "bound"


def test_only_the_best_of_a_rung_go_on(config: StudyConfig, tmp_path: Path) -> None:
    first = make_settings(lr=2e-3)
    points = tuple({**first, "distilled.dkd.temperature": t} for t in (1.0, 2.0, 3.0, 4.0))
    config = replace(
        config,
        num_pipelines=4,
        first_points=points,
        rungs=(0.25,),
        reduction_factor=2.0,
        stop_hopeless=False,
    )
    study = PipelineStudy(config, tmp_path)
    driver = Driver(study, max_concurrent=1)
    train_baselines(driver)
    prepare(driver)
    order, trial = [], 0
    while (task := driver.suggest(str(trial))) is not None:
        number, share = int(task.label.split()[1]), task.share
        order.append((number, share))
        miou = (0.3, 0.5, 0.4, 0.1)[number] + share / 10
        name = "miou" if share == 1 else "miou@0.25"
        parts = {"metrics": {name: miou}, "seconds": {"distilled": 10 * share}}
        driver.end(str(trial), **parts)
        trial += 1
    assert is_over(driver)
    states = [study.records[number].state for number in range(4)]
    assert states == ["stopped", "complete", "complete", "stopped"]
    assert order == [(0, 0.25), (1, 0.25), (1, 1.0), (2, 0.25), (3, 0.25), (2, 1.0)]
    assert study.records[1].seconds["distilled"] == 10
    assert study.records[0].reason == "behind the front at 25% of its distillation"
    assert study.records[0].stopped_by == "rung"
    # Another session knows who had reached the rung and who went on.
    again = Driver(PipelineStudy(config, tmp_path), max_concurrent=1)
    assert again.dispatcher._rungs.promote() is None
    assert again.dispatcher._rungs.paused == {}


@pytest.mark.parametrize(
    ("reduction_factor", "state"), [(4.0, "stopped"), (1.5, "complete")], ids=["held", "promoted"]
)
def test_a_pipeline_equal_to_one_that_waits_at_a_rung_shares_its_fate(
    reduction_factor: float, state: str, config: StudyConfig, tmp_path: Path
) -> None:
    config = replace(
        config,
        num_pipelines=3,
        first_points=(make_settings(lr=2e-3),) * 3,
        rungs=(0.25, 0.5),
        reduction_factor=reduction_factor,
    )
    study = PipelineStudy(config, tmp_path)
    driver = Driver(study, max_concurrent=1)
    train_baselines(driver)
    prepare(driver)
    shares = []
    while (task := driver.suggest("a")) is not None:
        shares.append(task.share)
        name = "miou" if task.share == 1 else f"miou@{task.share:g}"
        driver.end("a", metrics={name: 0.5}, seconds={"distilled": 1.0})
    assert is_over(driver)
    assert shares == ([0.25, 0.5, 1.0] if state == "complete" else [0.25])
    assert [record.state for record in study.records.values()] == [state] * 3
    assert {record.metrics["miou@0.25"] for record in study.records.values()} == {0.5}
    assert driver.dispatcher.num_paused == 0


def test_all_that_wait_in_vain_are_stopped_in_one_write(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_settings(lr=2e-3)
    points = tuple({**first, "distilled.dkd.temperature": t} for t in (1.0, 2.0, 3.0))
    config = replace(
        config, num_pipelines=3, first_points=points, rungs=(0.5,), reduction_factor=4.0,
        stop_hopeless=False,
    )  # fmt: skip
    study = PipelineStudy(config, tmp_path)
    driver = Driver(study, max_concurrent=1)
    train_baselines(driver)
    prepare(driver)
    for trial in "abc":
        start(driver, trial)
        parts = {"metrics": {"miou@0.5": 0.5}, "seconds": {"distilled": 1.0}}
        driver.end(trial, **parts)
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(file) or sync(file))
    assert is_over(driver)
    assert [record.state for record in study.records.values()] == ["stopped"] * 3
    assert len(synced) == 1
    assert PipelineStudy(config, tmp_path).records == study.records


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("search.pipelines.retries.time.monotonic", lambda: clock.now)
    return clock


def test_a_dead_worker_is_followed_by_others_that_wait_longer_and_then_its_pipelines_fail(
    driver: Driver, clock: Clock
) -> None:
    train_baselines(driver)
    for trial_id in ("a", "b"):
        start(driver, trial_id)
    for trial_id, seconds in (("a", 1.0), ("a2", 5.0)):
        driver.lose(trial_id)
        clock.now += seconds - 0.1
        assert driver.suggest("too early") is None
        clock.now += 0.2
        assert start(driver, f"{trial_id[0]}{2 if seconds == 1 else 3}") == "sparse lambda 1e-05"
    driver.lose("a3")
    assert [driver.study.records[n].state for n in range(3)] == ["failed", "failed", "running"]
    assert driver.study.records[1].reason == "sparse: the worker died; tried 3 times"
    # The study goes on with what does not need it.
    finish(driver, "b", "sparse")
    assert start(driver, "c") == "pruned lambda 0.001 p 0.5 local"


def test_a_stage_that_waits_for_its_next_attempt_holds_no_place(
    driver: Driver, clock: Clock
) -> None:
    train_baselines(driver)
    for trial_id in ("a", "b"):
        start(driver, trial_id)
    driver.lose("a")
    finish(driver, "b", "sparse")
    assert start(driver, "c") == "pruned lambda 0.001 p 0.5 local"
    finish(driver, "c", "pruned")
    start(driver, "l")
    finish(driver, "l", "latency")
    assert start(driver, "d") == "distilled 2"
    finish(driver, "d", "distilled")
    assert driver.suggest("e") is None
    assert not driver.dispatcher.is_over  # a pipeline waits for the stage
    clock.now += 1.1
    assert start(driver, "e") == "sparse lambda 1e-05"


def test_memory_is_tried_once_more_and_then_named(
    driver: Driver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = Failure("sparse needs more memory", "memory")
    driver.failure = failure
    train_baselines(driver)
    for trial_id in ("a", "a2"):
        assert start(driver, trial_id) == "sparse lambda 1e-05"
        driver.lose(trial_id)
        clock.now += 60
    assert driver.study.records[0].reason == "sparse: sparse needs more memory; tried 2 times"


@pytest.mark.parametrize(
    "faults", [["machine"] * 5 + ["worker"] * 3, ["machine"] * 21], ids=["worker", "machine"]
)
def test_lost_machines_take_no_attempt_from_a_stage_but_have_an_end(
    faults: list[Fault],
    driver: Driver,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train_baselines(driver)
    for number, fault in enumerate(faults):
        failure = Failure(f"a {fault} was lost", fault)
        driver.failure = failure
        assert start(driver, f"a{number}") == "sparse lambda 1e-05"
        driver.lose(f"a{number}")
        clock.now += 60
    expected = f"sparse: a {faults[-1]} was lost; tried {len(faults)} times"
    assert driver.study.records[0].reason == expected


def test_an_obstacle_ends_the_search_and_leaves_the_pipelines_to_the_next_session(
    driver: Driver, clock: Clock, tmp_path: Path
) -> None:
    train_baselines(driver)
    start(driver, "a")
    driver.failure = Failure("the disk is full", "surroundings")
    for name in ("a", "a2", "a3"):
        assert driver.dispatcher.problem is None
        driver.lose(name)
        clock.now += 60
        if name != "a3":
            assert start(driver, f"a{int(name[1:] or 1) + 1}") == "sparse lambda 1e-05"
    assert isinstance(driver.dispatcher.problem, ObstacleError)
    assert str(driver.dispatcher.problem) == "sparse lambda 1e-05: the disk is full"
    assert is_over(driver)
    again = PipelineStudy(driver.study.config, tmp_path)
    assert [record.state for record in again.records.values()] == ["running"]


@pytest.mark.parametrize("stage", ["teacher", "latency"])
def test_without_a_baseline_nothing_is_tried(driver: Driver, stage: str) -> None:
    for role in ("teacher", "dense"):
        driver.suggest(role)
    if stage == "latency":
        driver.end("teacher", metrics=BASELINE)
        assert start(driver, "teacher") == "latency teacher"
    driver.fail("teacher", "TrainingDiverged: nan")
    assert is_over(driver)
    assert driver.dispatcher.baseline_errors == {"teacher": "TrainingDiverged: nan"}
    assert driver.study.records == {}


def test_the_failure_of_a_baseline_is_said_at_once(config: StudyConfig, tmp_path: Path) -> None:
    notes: list[str] = []
    study = PipelineStudy(config, tmp_path)
    dispatcher = Dispatcher(study, Places(count=2), on_change=notes.append)
    teacher = dispatcher.take()
    assert teacher is not None
    assert dispatcher.take() is not None  # the student still trains
    dispatcher.fail(teacher, "TrainingDiverged: nan")
    assert notes == ["teacher failed: TrainingDiverged: nan; no further stage starts"]


def test_measurements_run_one_at_a_time(config: StudyConfig, tmp_path: Path) -> None:
    points = tuple(make_settings(lr=2e-3, pruning_ratio=p) for p in (0.3, 0.4, 0.5))
    study = PipelineStudy(replace(config, num_pipelines=3, first_points=points), tmp_path)
    driver = Driver(study, max_concurrent=4)
    train_baselines(driver)
    start(driver, "s")
    finish(driver, "s", "sparse")
    for name in "abc":
        assert start(driver, name).startswith("pruned")
    for name in "abc":
        finish(driver, name, "pruned")
    assert start(driver, "l").startswith("latency")
    assert driver.suggest("m") is None  # would only wait for the device
    finish(driver, "l", "latency")
    assert start(driver, "d") == "distilled 0"
    assert start(driver, "m").startswith("latency")


def test_cores_are_divided_among_the_pipelines(config: StudyConfig) -> None:
    two = allot(config, num_cpus=2, num_gpus=0, node_cpus=2)
    assert (two.device, two.num_cpus, two.num_gpus, two.max_concurrent) == ("cpu", 1, 0, 2)
    many = allot(config, num_cpus=32, num_gpus=0, node_cpus=32)  # 8 pipelines
    assert (many.num_cpus, many.max_concurrent) == (4, 8)
    cluster = allot(config, num_cpus=64, num_gpus=0, node_cpus=4)
    assert (cluster.num_cpus, cluster.max_concurrent) == (4, 16)
    assert allot(replace(config, max_concurrent=1), 2, 0, 2).max_concurrent == 1


@pytest.mark.parametrize(
    ("num_pipelines", "num_cpus", "threads", "at_a_time"),
    [
        (7, 2, 2, 1),  # six of them are a chain, so two at a time would not end earlier
        (12, 2, 1, 2),
        (7, 16, 4, 4),  # as many threads as a batch has images
    ],
)
def test_a_long_chain_gets_more_threads(
    num_pipelines: int, num_cpus: int, threads: int, at_a_time: int, config: StudyConfig
) -> None:
    chained = replace(config, continuation=True, num_pipelines=num_pipelines)
    resources = allot(chained, num_cpus, 0, num_cpus)
    assert (resources.num_cpus, resources.max_concurrent) == (threads, at_a_time)
    asked = allot(replace(chained, cpus_per_trial=1), num_cpus, 0, num_cpus)
    assert (asked.num_cpus, asked.max_concurrent) == (1, num_cpus)
    one = allot(replace(chained, max_concurrent=1), num_cpus, 0, num_cpus)
    assert (one.num_cpus, one.max_concurrent) == (num_cpus, 1)


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


def test_several_gpus_share_the_trainings_and_all_of_a_node_train_the_roots(
    config: StudyConfig,
) -> None:
    four = allot(replace(config, gpus_per_trial=4), 64, 16, 32, num_nodes=2, node_gpus=8)
    assert (four.num_processes, four.num_gpus, four.num_cpus, four.max_concurrent) == (4, 1, 4, 4)
    # Two roots, of 4 images a batch, on a node each.
    assert (four.num_processes_baseline, four.num_gpus_baseline) == (4, 1)
    asked = replace(config, gpus_per_baseline=2)
    assert allot(asked, 64, 16, 32, node_gpus=8).num_processes_baseline == 2
    assert allot(config, 32, 4, 32).num_processes_baseline == 2  # both at a time
    taught = replace(config, pipeline=replace(config.pipeline, self_teaching=True))
    assert allot(taught, 32, 4, 32).num_processes_baseline == 4
    halves = allot(replace(config, gpus_per_trial=0.5), 32, 1, 32)
    assert (halves.num_processes_baseline, halves.num_gpus_baseline) == (1, 0.5)


def test_only_trainings_are_shared(config: StudyConfig) -> None:
    resources = TrialResources(
        device="cpu",
        num_cpus=1,
        num_gpus=0,
        num_cpus_baseline=2,
        max_concurrent=2,
        num_processes=2,
        num_processes_baseline=3,
    )
    chain = make_chain(DEFAULT_STAGES)
    counts = {
        chain[length - 1].stage: resources.list_bundles(
            describe_task(chain[:length], "any"), config.pipeline
        )
        for length in range(1, len(chain) + 1)
    }
    assert counts == {
        "dense": [{"CPU": 2, "GPU": 0}] * 3,
        "sparse": [{"CPU": 1, "GPU": 0}] * 2,
        "pruned": [{"CPU": 1, "GPU": 0}],
        "latency": [{"CPU": 1, "GPU": 0}],
        "distilled": [{"CPU": 1, "GPU": 0}] * 2,
    }


def test_processes_that_share_a_training_share_the_cores(config: StudyConfig) -> None:
    one_node = allot(replace(config, processes_per_baseline=2, processes_per_trial=2), 4, 0, 4)
    assert (one_node.num_cpus_baseline, one_node.num_processes_baseline) == (2, 2)
    assert (one_node.num_cpus, one_node.num_processes, one_node.max_concurrent) == (1, 2, 2)
    two_nodes = allot(replace(config, processes_per_baseline=2), 8, 0, 4, num_nodes=2)
    assert (two_nodes.num_cpus_baseline, two_nodes.num_processes_baseline) == (4, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus_per_trial": 1.0}, "gpus_per_trial must be at most 0 here, got 1"),
        ({"processes_per_baseline": 3}, "processes_per_baseline must be at most 2 here, got 3"),
        ({"gpus_per_baseline": 1}, "gpus_per_baseline must be at most 0 here, got 1"),
        ({"cpus_per_trial": 9}, "cpus_per_trial must be at most 2 here, got 9"),
    ],
)
def test_more_than_there_is_is_named(
    changes: dict[str, Any], message: str, config: StudyConfig
) -> None:
    with pytest.raises(ValueError, match=message):
        allot(replace(config, **changes), num_cpus=2, num_gpus=0, node_cpus=2)


def open_places(
    config: StudyConfig, folder: Path, places: Places, *, num_pipelines: int, works_ahead: bool
) -> tuple[Dispatcher, list[Task]]:
    """A study whose uncompressed networks are about to train, and the stages that it hands out."""
    points = tuple(
        make_settings(lr=2e-3, pruning_ratio=0.3 + 0.1 * index) for index in range(num_pipelines)
    )
    study = PipelineStudy(replace(config, num_pipelines=num_pipelines, first_points=points), folder)
    return Dispatcher(study, places, works_ahead=works_ahead), []


def take_all(dispatcher: Dispatcher, running: list[Task]) -> list[Task]:
    """Hand out all stages that can start now."""
    taken = []
    while (task := dispatcher.take()) is not None:
        taken.append(task)
    running += taken
    return taken


def finish_roots(dispatcher: Dispatcher, running: list[Task]) -> None:
    while any(task.baseline for task in running):
        task = next(task for task in running if task.baseline)
        running.remove(task)
        metrics = BASELINE if task.is_root else LATENCY
        dispatcher.finish(task, StageResult(metrics=metrics, network=f"{task.stage}-1"))
        take_all(dispatcher, running)


def test_latencies_of_known_structures_are_measured_while_the_roots_train(
    config: StudyConfig, tmp_path: Path
) -> None:
    dispatcher, running = open_places(
        config, tmp_path, Places(count=6, exclusive=6, of_root=2), num_pipelines=2, works_ahead=True
    )
    taken = take_all(dispatcher, running)
    assert [task.label for task in taken] == [
        "teacher", "dense",
        "latency dense student p 0.3 round 1 ahead", "latency dense student p 0.4 round 1 ahead",
    ]  # fmt: skip
    assert [task.places for task in taken] == [2, 2, 1, 1]
    for ahead in taken[2:]:
        assert ahead.is_ahead
        running.remove(ahead)
    dispatcher.fail(taken[2], "no matter")
    dispatcher.finish(taken[3], StageResult())
    assert take_all(dispatcher, running) == []  # every structure once
    finish_roots(dispatcher, running)
    assert [task.label for task in running if not task.is_ahead] == ["sparse lambda 1e-05"]
    assert not dispatcher.baseline_errors
    assert {record.state for record in dispatcher.study.records.values()} == {"running"}


def test_the_teachers_logits_are_cached_while_the_student_still_trains(
    config: StudyConfig, tmp_path: Path
) -> None:
    dispatcher, running = open_places(
        config, tmp_path, Places(count=4), num_pipelines=1, works_ahead=True
    )
    taken = take_all(dispatcher, running)
    assert "teacher logits ahead" not in [task.label for task in taken]
    dispatcher.finish(taken[2], StageResult())
    dispatcher.finish(taken[0], StageResult(metrics=BASELINE, network="teacher-1"))
    running[:] = taken[1:2]
    (timed,) = take_all(dispatcher, running)[:1]
    dispatcher.finish(timed, StageResult(metrics=LATENCY))
    assert [task.label for task in take_all(dispatcher, running)] == ["teacher logits ahead"]


def test_no_work_is_done_ahead_on_places_that_a_root_holds(
    config: StudyConfig, tmp_path: Path
) -> None:
    dispatcher, running = open_places(
        config, tmp_path, Places(count=4, of_root=4), num_pipelines=2, works_ahead=True
    )
    assert [task.label for task in take_all(dispatcher, running)] == ["teacher", "dense"]
    assert not dispatcher.study.records


def open_untaught(
    config: StudyConfig,
    tmp_path: Path,
    places: Places,
    *,
    distillers: Sequence[str],
    budget: TimeBudget | None = None,
) -> Dispatcher:
    """Open a study of pipelines with these distillers, the first of which needs no teacher.

    Each has another pruning ratio.
    """
    students = tuple(config.pipeline.students) or ("student",)
    points = tuple(
        make_settings(
            student=students[0], distiller=name, lr=2e-3, pruning_ratio=0.2 + 0.1 * (index % 6)
        )
        for index, name in enumerate(distillers)
    )
    chosen = {"distilled.distiller": ("none", "dkd"), "dense.student": students}
    space = set_ranges(config.space, chosen)
    config = replace(config, num_pipelines=len(points), first_points=points, space=space)
    study = PipelineStudy(config, tmp_path)
    return Dispatcher(study, places, works_ahead=True, budget=budget)


def run_all(dispatcher: Dispatcher) -> Iterator[list[Task]]:
    """Run a study; before each end of a stage, yield the running ones, that one first."""
    running: list[Task] = []
    take_all(dispatcher, running)
    while running:
        yield list(running)
        task = running.pop(0)
        known = BASELINE | LATENCY if task.baseline else REVEALED.get(task.stage, {})
        dispatcher.finish(task, StageResult(metrics=known, network=f"{task.stage}-1"))
        take_all(dispatcher, running)


def test_a_teacher_is_trained_once_a_pipeline_needs_it(config: StudyConfig, tmp_path: Path) -> None:
    dispatcher = open_untaught(
        config, tmp_path, Places(count=1), distillers=("none", "dkd", "none")
    )
    stages = [running[0].label for running in run_all(dispatcher)]
    assert stages[0] == "dense"
    assert stages.index("distilled 0") < stages.index("teacher") < stages.index("distilled 1")
    assert dispatcher.is_over
    assert [record.state for record in dispatcher.study.records.values()] == ["complete"] * 3


def test_a_late_teacher_gets_all_places_and_nothing_starts_before_it(
    config: StudyConfig, tmp_path: Path
) -> None:
    dispatcher = open_untaught(
        config, tmp_path, Places(count=2, exclusive=2, of_root=2), distillers=("none", "dkd")
    )
    beside = []
    for running in run_all(dispatcher):
        if any(task.label == "teacher" for task in running):
            beside = [task.label for task in running]
    assert beside == ["teacher"]
    assert dispatcher.is_over
    assert dispatcher.study.num_unfinished == 0


def test_chains_do_not_keep_a_teacher_from_the_room_that_was_made_for_it(
    config: StudyConfig, tmp_path: Path
) -> None:
    distillers = ("none", "none", "dkd", "dkd", "dkd", "dkd", "dkd", "dkd")
    places = Places(count=4, exclusive=4, of_root=4)
    dispatcher = open_untaught(config, tmp_path, places, distillers=distillers)
    ended = [running[0].label for running in run_all(dispatcher)]
    assert ended.index("teacher") < ended.index("distilled 2")
    before = ended[: ended.index("teacher")]
    assert sum(label.startswith("distilled") for label in before) <= 2
    assert dispatcher.is_over


def test_students_are_trained_before_a_late_teacher(config: StudyConfig, tmp_path: Path) -> None:
    student = config.pipeline.student
    pipeline = replace(config.pipeline, students={"one": student, "two": student})
    config = replace(config, pipeline=pipeline)
    places = Places(count=4, exclusive=4, of_root=2)
    dispatcher = open_untaught(config, tmp_path, places, distillers=("none",))
    assert [task.label for task in take_all(dispatcher, [])] == ["one", "two"]


def test_a_teacher_that_is_trained_already_is_not_late(config: StudyConfig, tmp_path: Path) -> None:
    budget = TimeBudget(StageSeconds(config, {}, lambda chain: chain[-1].stage == "teacher"))
    dispatcher = open_untaught(
        config, tmp_path, Places(count=2), distillers=("none", "dkd"), budget=budget
    )
    assert [task.label for task in take_all(dispatcher, [])] == ["teacher", "dense"]


@pytest.mark.parametrize("limit", [None, 100.0])
def test_on_a_single_machine_nothing_runs_beside_an_uncompressed_network(
    config: StudyConfig, tmp_path: Path, limit: float | None
) -> None:
    """The second student takes longer than the limit, and must not hold up the first one."""
    student = config.pipeline.student
    pipeline = replace(config.pipeline, students={"one": student, "two": student})
    config = replace(config, pipeline=pipeline)
    rates = {
        name_kind(chain[:1]): StageRate(fixed_seconds=200.0 if "two" in str(chain[0]) else 1.0)
        for chain in choose_typical_chains(config)
    }
    budget = TimeBudget(StageSeconds(config, rates), limit=limit, worked=lambda: 0.0)
    places = Places(count=2, exclusive=2, of_root=2, uses_threads=True)
    dispatcher = open_untaught(
        config, tmp_path, places, distillers=("none", "dkd", "dkd"), budget=budget
    )
    ended, most = [], 0
    for running in run_all(dispatcher):
        assert len(running) == 1 or not any(task.is_root for task in running)
        most = max(most, len(running))
        ended.append(running[0].label)
    assert ended[: 2 if limit is None else 1] == ["one", "two"][: 2 if limit is None else 1]
    assert ("two" in ended) == (limit is None)
    assert "teacher" in ended
    assert most == 2
    assert dispatcher.is_over


@pytest.mark.parametrize("limit", [60.0, 100.0])
def test_pipelines_that_need_no_teacher_go_on_if_there_is_no_time_to_train_it(
    config: StudyConfig, tmp_path: Path, limit: float
) -> None:
    """The teacher alone would fit, but no pipeline after it."""
    clock = Clock()
    seconds = {"teacher": 50.0, "dense": 1.0, "distilled": 9.0}
    rates = {
        name_kind(chain[:length]): StageRate(
            seconds_per_step=0.0, fixed_seconds=seconds.get(chain[length - 1].stage, 0.0)
        )
        for chain in choose_typical_chains(config)
        for length in range(1, len(chain) + 1)
    }
    budget = TimeBudget(
        StageSeconds(config, rates), limit=limit, worked=lambda: clock.now, clock=lambda: clock.now
    )
    distillers = ("none", "dkd", "dkd", "none", "none")
    dispatcher = open_untaught(
        config, tmp_path, Places(count=1), distillers=distillers, budget=budget
    )
    ended = []
    for task, *_ in run_all(dispatcher):
        ended.append(task.label)
        clock.now += budget.seconds.expect(task)
    done = [label for label in ended if label.startswith("distilled")]
    assert dispatcher.is_over
    if limit < 100:
        assert "teacher" not in ended
        assert done == ["distilled 0", "distilled 3", "distilled 4"]
    else:
        assert ended.index("teacher") < len(ended) - 1
        assert "distilled 1" in done


def test_a_teacher_is_trained_beside_the_student_if_there_is_room(
    config: StudyConfig, tmp_path: Path
) -> None:
    places = Places(count=4, exclusive=4, of_root=2)
    dispatcher = open_untaught(config, tmp_path, places, distillers=("none",))
    assert [task.label for task in take_all(dispatcher, [])] == ["dense", "teacher"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_teacher_that_no_pipeline_needs_is_trained_last(
    config: StudyConfig, tmp_path: Path, count: int
) -> None:
    places = Places(count=count, of_root=2)  # more than there are, if the user allows one at a time
    dispatcher = open_untaught(config, tmp_path, places, distillers=("none", "none"))
    stages = []
    for task, *_ in run_all(dispatcher):
        assert not dispatcher.is_over
        stages.append(task.label)
    assert stages[-2:] == ["teacher", "latency teacher"]
    assert dispatcher.is_over
    assert dispatcher.baselines.keys() == {"dense", "teacher"}


def test_no_network_is_judged_by_the_uncompressed_student_before_the_teacher_is_known(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ceilings = []

    def find_obstacle(study: PipelineStudy, metrics: dict[str, float], ceiling: float) -> None:
        ceilings.append(ceiling)

    monkeypatch.setattr(PipelineStudy, "find_obstacle", find_obstacle)
    dispatcher = open_untaught(config, tmp_path, Places(count=1), distillers=("none", "dkd"))
    for _ in run_all(dispatcher):
        if "teacher" in dispatcher.baselines:
            break
    assert set(ceilings) == {1.0}


@pytest.mark.parametrize(
    ("most_places", "batch_size", "processes", "places"),
    [(1, 8, 1, 1), (4, 8, 1, 4), (16, 64, 1, 8), (8, 6, 1, 3), (8, 8, 4, 1), (8, 16, 2, 4)],
)
def test_a_training_that_others_wait_for_takes_the_free_places(
    config: StudyConfig,
    tmp_path: Path,
    most_places: int,
    batch_size: int,
    processes: int,
    places: int,
) -> None:
    pipeline = replace(
        config.pipeline, sparse=replace(config.pipeline.sparse, batch_size=batch_size)
    )
    machines = Places(
        count=8, exclusive=8, most_per_training=most_places, units_of_training=processes
    )
    dispatcher, running = open_places(
        replace(config, pipeline=pipeline), tmp_path, machines, num_pipelines=3, works_ahead=False
    )
    take_all(dispatcher, running)
    finish_roots(dispatcher, running)
    assert [(task.stage, task.places) for task in running] == [("sparse", places)]


def test_trainings_divide_the_free_places_among_them(config: StudyConfig, tmp_path: Path) -> None:
    batches = replace(config.pipeline.distil, batch_size=16)
    asked = replace(config, pipeline=replace(config.pipeline, distil=batches))
    dispatcher, running = open_places(
        asked,
        tmp_path,
        Places(count=8, exclusive=8, most_per_training=8),
        num_pipelines=3,
        works_ahead=False,
    )
    take_all(dispatcher, running)
    finish_roots(dispatcher, running)
    for stage in ("sparse", "pruned", "latency"):
        for task in [task for task in running if task.stage == stage]:
            running.remove(task)
            dispatcher.finish(task, StageResult(metrics=REVEALED.get(stage, {}), network="n-1"))
            if stage != "latency":
                take_all(dispatcher, running)
    found = take_all(dispatcher, running)
    assert [(task.stage, task.places) for task in found] == [
        ("distilled", 2), ("distilled", 3), ("distilled", 3)
    ]  # fmt: skip
    assert dispatcher.budget.running_seconds >= 0


def test_on_a_single_machine_a_root_needs_no_process_of_its_own(config: StudyConfig) -> None:
    root = describe_task(make_chain(("dense",)), "dense", places=8)
    stage = describe_task(make_chain(("dense", "sparse")), "sparse")

    def differ(resources: TrialResources) -> bool:
        bundles = [resources.list_bundles(trial, config.pipeline) for trial in (root, stage)]
        return bundles[0] != bundles[1]

    assert not differ(allot(config, 8, 0, 8))
    assert differ(
        allot(replace(config, max_concurrent=1, cpus_per_trial=2), 8, 0, 8, can_grow=True)
    )
    assert differ(allot(config, 16, 0, 8, num_nodes=2))
    assert differ(allot(replace(config, processes_per_baseline=2), 8, 0, 8))


def test_on_a_single_machine_a_training_uses_free_cores_with_threads(config: StudyConfig) -> None:
    resources = allot(config, 4, 0, 4)
    assert (resources.num_cpus, resources.max_concurrent, resources.most_places) == (1, 4, 4)
    shared = describe_task(make_chain(("dense", "sparse")), "sparse", places=4)
    assert resources.list_bundles(shared, config.pipeline) == [{"CPU": 1, "GPU": 0}]
    assert allot(replace(config, cpus_per_trial=1), 4, 0, 4).most_places == 1  # as asked
    batches = replace(config.pipeline.sparse, batch_size=2)
    few = replace(config, pipeline=replace(config.pipeline, sparse=batches))
    assert allot(few, 8, 0, 8).most_places == 2  # more threads than images would not help
    assert not allot(config, 8, 0, 4, num_nodes=2).uses_threads


def test_free_gpus_of_a_node_bound_the_places_of_a_training(config: StudyConfig) -> None:
    gpus = replace(config, gpus_per_trial=2.0)
    assert allot(gpus, 64, 16, 32, num_nodes=2, node_gpus=8).most_places == 4
    assert allot(gpus, 64, 16, 32, num_nodes=2, node_gpus=8, can_grow=True).most_places == 4
    more = replace(gpus, max_concurrent=9)  # an autoscaler would start machines for the ninth
    assert allot(more, 64, 16, 32, num_nodes=2, node_gpus=8, can_grow=True).most_places == 1
    assert allot(replace(config, gpus_per_trial=0.5), 64, 16, 32, 2, 8).most_places == 1
    shared = replace(config, processes_per_baseline=4, processes_per_trial=2, cpus_per_trial=2)
    resources = allot(shared, 8, 0, 8)
    assert resources.most_places == 2
    sparse = make_chain(("dense", "sparse"))
    trial = describe_task(sparse, "sparse", places=2)
    assert len(resources.list_bundles(trial, config.pipeline)) == 4
    ahead = describe_task(sparse, "sparse", is_ahead=True)
    assert len(resources.list_bundles(ahead, config.pipeline)) == 1
