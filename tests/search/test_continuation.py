"""Pipelines that go on from finished networks: who from whom, and in which order."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.config import StudyConfig
from search.forecast.typical_chains import choose_typical_chains
from search.pipelines.continuation import Origins, find_loop, plan_sweeps
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.retries import Failure
from search.pipelines.rungs import Rungs
from search.pipelines.stage_seconds import StageSeconds
from search.pipelines.stage_tree import Task
from search.pipelines.study import PipelineStudy
from search.pipelines.time_budget import TimeBudget
from search.proposing.samplers import SAMPLERS
from search.space import make_space, set_ranges
from trainables.chain import flatten_chain, make_settings
from trainables.pipeline import StageResult
from trainables.pipeline_config import DEFAULT_STAGES
from trainables.ranges import FloatRange
from trainables.rehearsal import StageRate, name_kind

LOOP = find_loop(DEFAULT_STAGES)
assert LOOP is not None
SPACE = make_space(pruning_ratio=FloatRange(low=0.3, high=0.5, step=0.1))


def test_a_pipeline_goes_on_from_the_best_network_of_the_next_lower_ratio() -> None:
    origins = Origins(LOOP)
    for number, (ratio, miou, scope) in enumerate(
        (
            (0.3, 0.6, "local"),
            (0.4, 0.4, "local"),
            (0.4, 0.5, "local"),
            (0.4, 0.5, "local"),
            (0.4, 0.9, "global"),
            (0.5, 0.9, "local"),
        )
    ):
        origins.add(number, make_settings(pruning_ratio=ratio, scope=scope), {"miou": miou})
    origins.add(6, make_settings(pruning_ratio=0.4), {"latency_ms": 1.0})
    assert origins.choose(make_settings(pruning_ratio=0.5)) == 2
    assert origins.choose(make_settings(pruning_ratio=0.4)) == 0
    assert origins.choose(make_settings(pruning_ratio=0.3)) is None
    assert origins.choose(make_settings(pruning_ratio=0.5, scope="global")) == 4
    assert origins.choose(make_settings(pruning_ratio=0.5, round_to=8)) is None


@pytest.mark.parametrize(("num_pipelines", "scopes"), [(5, ["local"]), (6, ["local", "global"])])
def test_a_study_begins_with_chains_along_the_grid(num_pipelines: int, scopes: list[str]) -> None:
    sweeps = plan_sweeps(LOOP, SPACE, make_settings(lr=2e-3), num_pipelines)
    assert [sweep[0]["pruned.scope"] for sweep in sweeps] == scopes
    for sweep in sweeps:
        assert [point["pruned.pruning_ratio"] for point in sweep] == [0.3, 0.4, 0.5]
        assert {point["distilled.lr"] for point in sweep} == {2e-3}
    continuous = make_space(pruning_ratio=FloatRange(low=0.3, high=0.5))
    assert plan_sweeps(LOOP, continuous, {}, 8) == []


@pytest.mark.parametrize(
    ("num_pipelines", "num_values", "coarse"),
    [
        (36, 6, [0.2, 0.4, 0.6]),
        (36, 8, [0.3, 0.5, 0.8]),
        (35, 6, []),  # two coarse chains would be more than a sixth of the study
        (36, 5, []),  # and here hardly coarser than the others
    ],
)
def test_a_long_study_shows_the_whole_front_in_a_few_coarse_steps_first(
    num_pipelines: int, num_values: int, coarse: list[float]
) -> None:
    space = make_space(pruning_ratio=FloatRange(low=0.1, high=num_values / 10, step=0.1))
    values = [round(0.1 * number, 1) for number in range(1, num_values + 1)]
    sweeps = plan_sweeps(LOOP, space, make_settings(), num_pipelines)
    ratios = [[point["pruned.pruning_ratio"] for point in sweep] for sweep in sweeps]
    assert ratios == [coarse] * (2 if coarse else 0) + [values] * 2
    assert [sweep[0]["pruned.scope"] for sweep in sweeps[-2:]] == ["local", "global"]


@pytest.mark.parametrize(("num_values", "lengths"), [(6, [6, 6]), (7, [3, 3, 7, 7])])
def test_chains_that_run_in_turn_need_no_coarse_ones_if_the_first_is_as_short(
    num_values: int, lengths: list[int]
) -> None:
    space = make_space(pruning_ratio=FloatRange(low=0.1, high=num_values / 10, step=0.1))
    sweeps = plan_sweeps(LOOP, space, make_settings(), 36, in_turn=True)
    assert [len(sweep) for sweep in sweeps] == lengths


def test_coarse_chains_leave_room_for_a_whole_one() -> None:
    space = make_space(pruning_ratio=FloatRange(low=0.1, high=0.9, step=0.025))
    sweeps = plan_sweeps(LOOP, space, make_settings(), 36)
    assert [len(sweep) for sweep in sweeps] == [33]


@pytest.fixture
def continuing(config: StudyConfig) -> StudyConfig:
    return replace(config, continuation=True, space=SPACE, num_pipelines=8)


def drive(
    study: PipelineStudy, most: int = 10**6, failing: Collection[tuple[str, float]] = ()
) -> list[str]:
    """Run a study one stage at a time; a network's mIoU falls with its ratio."""
    dispatcher = Dispatcher(study, Places(count=2))
    costs = {"latency_ms": 5.0, "latency_p95_ms": 5.0, "num_params": 500.0, "macs": 9.0}
    seen = []
    while len(seen) < most and (task := dispatcher.take()) is not None:
        seen.append(task.label)
        chosen = flatten_chain(task.chain)
        ratio = chosen.get("pruned.pruning_ratio", 0.0)
        if (task.stage, ratio) in failing:
            dispatcher.fail(task, "no channel can be removed")
            continue
        metrics = {name: value * (1 - ratio) for name, value in costs.items()}
        if task.stage == "distilled" or task.baseline:
            metrics["miou"] = 0.7 - ratio / 2 + chosen.get("distilled.lr", 0.0)
        result = StageResult(
            metrics=metrics, stages={task.stage: task.label}, seconds={task.stage: 1.0},
            network=task.label,
        )  # fmt: skip
        dispatcher.finish(task, result)
    return seen


COSTS = {"latency_ms": 5.0, "latency_p95_ms": 5.0, "num_params": 500.0, "macs": 9.0, "miou": 0.5}


@pytest.mark.parametrize("chains_in_turn", [True, False])
def test_a_chain_has_all_threads_until_its_end(
    chains_in_turn: bool, continuing: StudyConfig, tmp_path: Path
) -> None:
    """Except while its next link waits for something, such as another attempt."""
    study = PipelineStudy(replace(continuing, stop_hopeless=False), tmp_path)
    places = Places(
        count=2, exclusive=2, of_root=2, uses_threads=True,
        most_per_training=2 if chains_in_turn else 1,
    )  # fmt: skip
    dispatcher = Dispatcher(study, places)
    running: list[Task] = []
    seen: list[tuple[str, int, int]] = []
    while not dispatcher.is_over:
        while (task := dispatcher.take()) is not None:
            running.append(task)
        task = running.pop(0)
        seen += [(task.label, task.places, len(running))] * (task.stage == "distilled")
        dispatcher.finish(task, StageResult(metrics=COSTS, network=task.label))
    assert len(seen) == 8
    if chains_in_turn:
        assert seen[:6] == [(f"distilled {number}", 2, 0) for number in range(6)]
        assert [places for _, places, _ in seen[6:]] == [1, 1]  # side by side
    else:
        assert {places for _, places, _ in seen} == {1}
        assert max(beside for _, _, beside in seen[:6]) == 1


def test_the_time_of_a_chain_is_predicted_with_all_its_threads(
    continuing: StudyConfig, tmp_path: Path
) -> None:
    """With one thread, the last link would not fit into the limit."""
    config = replace(continuing, num_pipelines=3, stop_hopeless=False)
    rates = {
        name_kind(chain[:length]): StageRate(seconds_per_step=float(length > 1), fixed_seconds=1.0)
        for chain in choose_typical_chains(config)
        for length in range(1, len(chain) + 1)
    }
    places = Places(count=2, exclusive=2, of_root=2, uses_threads=True, most_per_training=2)

    def run(folder: Path, limit: float | None) -> tuple[float, list[str]]:
        folder.mkdir()
        worked = 0.0
        budget = TimeBudget(StageSeconds(config, rates), limit=limit, worked=lambda: worked)
        study = PipelineStudy(config, folder)
        dispatcher = Dispatcher(study, places, budget=budget)
        while (task := dispatcher.take()) is not None:
            worked += budget.seconds.expect(task)
            dispatcher.finish(task, StageResult(metrics=COSTS, network=task.label))
        return worked, [record.state for record in study.records.values()]

    whole, _ = run(tmp_path / "whole", None)
    _, states = run(tmp_path / "limited", 1.3 * whole)
    assert states == ["complete"] * 3


def test_a_chain_that_waits_leaves_its_place_to_others(
    continuing: StudyConfig, tmp_path: Path
) -> None:
    places = Places(count=2, exclusive=2, of_root=2, uses_threads=True, most_per_training=2)
    dispatcher = Dispatcher(PipelineStudy(continuing, tmp_path), places)
    while (task := dispatcher.take()) is not None and task.stage != "distilled":
        dispatcher.finish(task, StageResult(metrics=COSTS, network=task.label))
    assert task is not None
    dispatcher.retry(task, Failure("the worker died"))
    following = dispatcher.take()
    assert following is not None
    assert flatten_chain(following.chain)["pruned.scope"] == "global"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_network_is_pruned_further_than_the_one_it_comes_from(
    sampler: str, continuing: StudyConfig, tmp_path: Path
) -> None:
    study = PipelineStudy(replace(continuing, sampler=sampler), tmp_path)
    drive(study)
    assert study.num_unfinished == 0
    records = study.records
    assert [records[number].continues for number in range(3)] == [None, 0, 1]
    for number, record in records.items():
        assert record.state == "complete"
        ratios = [s.settings.pruning_ratio for s in study.get_chain(number) if s.stage == "pruned"]
        assert ratios == sorted(set(ratios))
        assert ratios[-1] == record.settings["pruned.pruning_ratio"]
        if record.continues is not None:  # it inherits what it does not repeat
            origin = records[record.continues].settings
            shared = "sparse.sparsity_lambda"
            assert record.settings[shared] == origin[shared]
    assert [records[number].continues for number in range(3, 6)] == [None, 3, 4]  # the other scope
    assert PipelineStudy(study.config, tmp_path).records == records


def test_one_seed_is_one_search_also_when_it_is_resumed(
    continuing: StudyConfig, tmp_path: Path
) -> None:
    ends = []
    for name, steps in (("through", [10**6]), ("resumed", [7, 9, 10**6])):
        folder = tmp_path / name
        folder.mkdir()
        for most in steps:
            study = PipelineStudy(continuing, folder)
            drive(study, most)
        ends.append([(r.continues, r.settings, r.metrics) for r in study.records.values()])
    assert ends[0] == ends[1]


@pytest.mark.parametrize("objectives", [("miou", "latency_ms"), ("miou", "consistency")])
def test_a_chain_goes_through_rungs(
    objectives: tuple[str, ...], continuing: StudyConfig, tmp_path: Path
) -> None:
    """Also with an objective that is measured only after the rung."""
    changes: dict[str, Any] = {"rungs": (0.5,), "num_pipelines": 3, "stop_hopeless": False}
    study = PipelineStudy(replace(continuing, objectives=objectives, **changes), tmp_path)
    dispatcher = Dispatcher(study, Places(count=2))
    shares = []
    while (task := dispatcher.take()) is not None:
        if task.stage == "distilled":
            shares.append((task.label, task.share))
        metrics = {"latency_ms": 5.0, "latency_p95_ms": 5.0, "num_params": 5.0, "macs": 9.0}
        metrics["miou@0.5" if task.share < 1 else "miou"] = 0.5
        if task.stage == "consistency":
            metrics["consistency"] = 0.5
        dispatcher.finish(task, StageResult(metrics=metrics, network="n"))
    assert dispatcher.is_over
    assert [record.state for record in study.records.values()][:2] == ["complete"] * 2
    # A network that another one goes on from does not wait for a promotion.
    assert ("distilled 0", 1.0) in shares
    assert ("distilled 1", 1.0) in shares


def test_links_that_pass_a_rung_take_no_promotion_from_others_in_any_session(
    continuing: StudyConfig, tmp_path: Path
) -> None:
    config = replace(continuing, rungs=(0.5,), num_pipelines=3, stop_hopeless=False)
    study = PipelineStudy(config, tmp_path)
    dispatcher = Dispatcher(study, Places(count=1))
    costs = {"latency_ms": 5.0, "latency_p95_ms": 5.0, "num_params": 5.0, "macs": 9.0}
    while (task := dispatcher.take()) is not None:
        if task.share == 1:
            assert dispatcher.num_paused == 0  # links do not wait
        miou = 0.9 if task.label == "distilled 2" else 0.5
        metrics = {**costs, "miou@0.5" if task.share < 1 else "miou": miou}
        dispatcher.finish(task, StageResult(metrics=metrics, network="n"))
    states = [record.state for record in study.records.values()]
    assert states == ["complete", "complete", "complete"]  # the third is the best of three
    again = Rungs(PipelineStudy(config, tmp_path))
    for rungs in (dispatcher._rungs, again):
        assert rungs._halving._passed == [{0, 1}]
        assert rungs._halving._promoted == [{2}]


@pytest.mark.parametrize(
    ("failing", "origins"),
    [
        ([("pruned", 0.3)], {1: None, 2: 1}),
        ([("pruned", 0.3), ("pruned", 0.4)], {2: None}),
        ([("pruned", 0.4)], {0: None, 2: 0}),
        ([("distilled", 0.4)], {0: None, 2: 0}),
    ],
)
@pytest.mark.parametrize("steps", [[10**6], [6, 2, 10**6]], ids=["through", "resumed"])
def test_a_chain_goes_on_without_the_links_that_failed(
    steps: list[int],
    failing: list[tuple[str, float]],
    origins: dict[int, int | None],
    continuing: StudyConfig,
    tmp_path: Path,
) -> None:
    config = replace(continuing, num_pipelines=3)
    for most in steps:
        study = PipelineStudy(config, tmp_path)
        drive(study, most, failing)
    records = study.records
    left = [number for number, record in records.items() if record.state == "complete"]
    assert {number: records[number].continues for number in left} == origins
    assert sum(record.state == "failed" for record in records.values()) == len(failing)
    for number, ratio in enumerate((0.3, 0.4, 0.5)):
        assert records[number].settings["pruned.pruning_ratio"] == ratio
        shared = "sparse.sparsity_lambda"
        assert records[number].settings[shared] == records[0].settings[shared]
    for index, number in enumerate(left):
        assert [step.stage for step in study.get_chain(number)].count("pruned") == index + 1
    assert PipelineStudy(config, tmp_path).records == records


def test_a_chain_ends_with_a_stage_that_all_its_links_need(
    continuing: StudyConfig, tmp_path: Path
) -> None:
    study = PipelineStudy(replace(continuing, num_pipelines=3), tmp_path)
    notes: list[str] = []
    dispatcher = Dispatcher(study, Places(count=8), on_change=notes.append)
    while not dispatcher.is_over:
        for task in list(iter(dispatcher.take, None)):
            if task.stage == "sparse":
                dispatcher.fail(task, "diverged")
            else:
                metrics = {"miou": 0.7, "num_params": 5.0, "macs": 9.0, "latency_ms": 5.0}
                dispatcher.finish(task, StageResult(metrics=metrics, network=task.label))
    ends = [(record.state, record.continues) for record in study.records.values()]
    assert ends == [("failed", None), ("failed", 0), ("failed", 1)]
    assert notes == []


def test_a_network_that_was_stopped_can_fail_for_those_that_continue_it(
    continuing: StudyConfig, tmp_path: Path
) -> None:
    config = replace(continuing, num_pipelines=3, max_latency_ms=3.2)  # p 0.3 has 3.5
    study = PipelineStudy(config, tmp_path)
    drive(study, failing=[("distilled", 0.3)])
    ends = [(record.state, record.continues) for record in study.records.values()]
    assert ends == [("stopped", None), ("complete", None), ("complete", 1)]


def test_every_student_is_pruned_along_the_ratios(continuing: StudyConfig, tmp_path: Path) -> None:
    pipeline = continuing.pipeline
    students = {"small": pipeline.student, "large": replace(pipeline.student, width=0.5)}
    config = replace(
        continuing,
        num_pipelines=12,
        pipeline=replace(pipeline, students=students),
        space=set_ranges(SPACE, {"dense.student": tuple(students), "pruned.scope": ("local",)}),
    )
    study = PipelineStudy(config, tmp_path)
    drive(study)
    chosen = [record.settings["dense.student"] for record in study.records.values()]
    assert chosen[:6] == ["small"] * 3 + ["large"] * 3
    for record in study.records.values():
        if record.continues is not None:
            assert record.settings["dense.student"] == chosen[record.continues]


def test_a_rung_compares_accuracy_if_no_objective_is_known_there(
    continuing: StudyConfig, tmp_path: Path
) -> None:
    late = replace(
        continuing.pipeline, chain=("dense", "sparse", "pruned", "distilled", "quantised")
    )
    study = PipelineStudy(
        replace(continuing, pipeline=late, objectives=("latency_ms", "consistency"), rungs=(0.5,)),
        tmp_path,
    )
    rungs = Rungs(study)
    rungs.pause(0, 0.5, {"miou@0.5": 0.3})
    assert rungs.paused == {0: 0.5}


def test_a_rung_does_not_compare_what_a_later_stage_measures_again(
    continuing: StudyConfig, tmp_path: Path
) -> None:
    late = replace(continuing.pipeline, chain=(*DEFAULT_STAGES, "quantised"))
    study = PipelineStudy(replace(continuing, pipeline=late, rungs=(0.5,)), tmp_path)
    assert "latency_ms" in study.config.objectives
    rungs = Rungs(study)
    rungs.pause(0, 0.5, {"miou@0.5": 0.3, "num_params": 5.0})
    assert rungs.paused == {0: 0.5}


def test_it_can_be_turned_off(continuing: StudyConfig, tmp_path: Path) -> None:
    study = PipelineStudy(replace(continuing, continuation=False), tmp_path)
    drive(study)
    assert {record.continues for record in study.records.values()} == {None}


def test_a_given_point_is_tried_as_it_is(continuing: StudyConfig, tmp_path: Path) -> None:
    points = tuple(
        make_settings(lr=5e-3, pruning_ratio=p, sparsity_lambda=1e-3) for p in (0.3, 0.5)
    )
    config = replace(continuing, first_points=points, begin_with_sweeps=False)
    study = PipelineStudy(config, tmp_path)
    drive(study)
    assert [study.records[number].settings for number in range(2)] == list(points)
    assert [study.records[number].continues for number in range(2)] == [None, None]


def test_a_network_is_trained_for_the_next_one_after_its_own_pipeline_was_stopped(
    continuing: StudyConfig, tmp_path: Path
) -> None:
    study = PipelineStudy(
        replace(continuing, rungs=(0.5,), num_pipelines=3, stop_hopeless=False), tmp_path
    )
    dispatcher = Dispatcher(study, Places(count=8, exclusive=8))
    costs = {"latency_ms": 5.0, "latency_p95_ms": 5.0, "num_params": 5.0, "macs": 9.0}
    seen = []
    while (task := dispatcher.take()) is not None:
        seen.append((task.label, task.share))
        if task.stage == "pruned" and task.label.endswith(" of 1"):
            dispatcher._stop(1, "for the test", "bound")
        name = "miou@0.5" if task.share < 1 else "miou"
        dispatcher.finish(task, StageResult(metrics={**costs, name: 0.5}, network="n"))
    assert dispatcher.is_over
    assert study.records[1].state == "stopped"
    assert study.records[2].state in ("complete", "stopped")
    assert [share for label, share in seen if label == "distilled 1"] == [0.5, 1.0]
    assert ("distilled 2", 0.5) in seen
