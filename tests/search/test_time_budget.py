"""What a stage takes, and what still fits: by a clock that the tests set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from search.config import StudyConfig
from search.pipelines.confirmation import Confirmation
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.stage_seconds import StageSeconds
from search.pipelines.stage_tree import Task
from search.pipelines.study import PipelineStudy
from search.pipelines.time_budget import TimeBudget
from search.run_files.left_out import describe_left_out
from search.run_files.spending import Spending, Tariff
from trainables.chain import Chain, make_chain
from trainables.pipeline import StageResult, build_baselines
from trainables.rehearsal import StageRate, name_kind

CHAIN = make_chain(pruning_ratio=0.5)
COSTS = {"miou": 0.6, "num_params": 1000, "macs": 5000, "latency_ms": 9.0, "latency_p95_ms": 9.0}


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def make_rates(config: StudyConfig, seconds: float = 0.0, **named: float) -> dict[str, StageRate]:
    """Rates by which a stage takes so many seconds, those in `named` by their stage."""
    chains = (*build_baselines(config.pipeline).values(), CHAIN)
    parts = [chain[:length] for chain in chains for length in range(1, len(chain) + 1)]
    return {
        name_kind(part): StageRate(fixed_seconds=named.get(part[-1].stage, seconds))
        for part in parts
    }


def make_task(chain: Chain = CHAIN, share: float = 1.0, node: str = "", begin: float = 0.0) -> Task:
    return Task(node or name_kind(chain), chain, "task", share, begin)


@pytest.fixture
def halved(config: StudyConfig) -> StudyConfig:
    return replace(config, rungs=(0.25,))


def test_work_is_counted_and_times_the_rate(halved: StudyConfig) -> None:
    kind = name_kind(CHAIN)
    assert kind == "dense student distilled dkd"
    rates = {
        kind: StageRate(seconds_per_step=2.0, seconds_per_image=0.5, fixed_seconds=3.0, width=0.5)
    }
    seconds = StageSeconds(halved, rates)
    # 90 steps, of which a quarter comes before the rung; 40 validation images at either end
    assert seconds.predict(make_task(share=0.25)) == pytest.approx(0.25 * 180 + 20 + 3)
    assert seconds.predict(make_task(begin=0.25)) == pytest.approx(0.75 * 180 + 20 + 3)
    assert seconds.predict(make_task()) == pytest.approx(180 + 20 + 3)  # it does not pause
    measured = CHAIN[:4]
    rates[name_kind(measured)] = StageRate(longest_share=1.5)
    assert StageSeconds(halved, rates).predict(make_task(measured)) == pytest.approx(1.5 * 2.0)


def test_a_smaller_network_takes_less(config: StudyConfig) -> None:
    rates = {name_kind(CHAIN): StageRate(seconds_per_step=1.0, width=0.5)}
    seconds = StageSeconds(config, rates)
    assert seconds.predict(make_task()) == pytest.approx(90)
    # A constant part of 0.4, and 0.6 by multiply-accumulates: 0.55 for half of the channels.
    narrow = make_task(make_chain(pruning_ratio=0.7))
    assert seconds.predict(narrow) == pytest.approx(90 * (0.4 + 0.6 * 0.3**2) / 0.55)


def test_what_has_ended_corrects_its_kind_and_a_little_less_the_others(config: StudyConfig) -> None:
    rates = make_rates(config, 10.0)
    seconds = StageSeconds(config, rates)
    sparse, pruned = make_task(CHAIN[:2]), make_task(CHAIN[:3])
    assert seconds.predict(pruned) == 10
    seconds.note(sparse, 20.0)  # 20 s instead of 10; with 20 s of the prior, 40 instead of 30
    assert seconds.predict(pruned) == pytest.approx(10 * 4 / 3)
    seconds.note(pruned, 5.0)  # common factor 45 / 40; 5 s of 10, and one stage at that factor
    assert seconds.predict(pruned) == pytest.approx(10 * (5 + 11.25) / 20)
    seconds.forget(pruned)
    assert seconds.predict(pruned) == pytest.approx(10 * 4 / 3)


def test_a_short_stage_hardly_changes_the_prediction_of_a_long_one(config: StudyConfig) -> None:
    seconds = StageSeconds(config, make_rates(config, 10.0, sparse=3600.0))
    seconds.note(make_task(CHAIN[:3]), 1.0)
    assert seconds.predict(make_task(CHAIN[:2])) > 0.65 * 3600


def test_the_start_of_a_process_does_not_count_as_slowness(config: StudyConfig) -> None:
    clock, task = Clock(), make_task()
    seconds = StageSeconds(config, make_rates(config, 10.0))
    budget = TimeBudget(seconds, clock=clock)
    budget.hand_out(task)
    clock.now = 17.0
    assert budget.end(task, was_run=True, elapsed=10.0) == 17  # spent, but not learnt from
    assert seconds.predict(task) == pytest.approx(10)


def test_what_was_not_timed_is_learnt_from_what_has_ended(config: StudyConfig) -> None:
    seconds = StageSeconds(config, {})
    assert seconds.predict(make_task()) == 0
    seconds.note(make_task(node="a"), 4.0)
    seconds.note(make_task(node="b"), 6.0)
    assert seconds.predict(make_task(node="c")) == 5


def test_what_was_not_timed_counts_as_its_family(config: StudyConfig) -> None:
    known = make_chain(pruning_ratio=0.5, distiller="kd")
    seconds = StageSeconds(config, {name_kind(known): StageRate(fixed_seconds=4.0)})
    assert seconds.predict(make_task()) == 4
    assert seconds.predict(make_task(CHAIN[:2])) == 0


def test_what_is_there_already_takes_no_time(config: StudyConfig) -> None:
    seconds = StageSeconds(config, make_rates(config, 10.0), is_done=lambda chain: len(chain) < 3)
    assert [seconds.predict(make_task(CHAIN[:n])) for n in (1, 2, 3)] == [0, 0, 10]


def test_a_running_stage_tells_how_long_it_will_take(config: StudyConfig) -> None:
    clock, task = Clock(), make_task()
    budget = TimeBudget(StageSeconds(config, make_rates(config, 100.0)), clock=clock)
    budget.hand_out(task)
    clock.now = 30.0
    assert budget.find_remaining((task,)) == pytest.approx(70)
    budget.advance(task.node, 0.0)
    budget.advance(task.node, 0.1)  # what came before the first step does not count as speed
    for now, done in ((50.0, 0.2), (130.0, 0.6), (190.0, 0.9)):  # 200 s for all of it
        clock.now = now
        budget.advance(task.node, done)
    assert budget.find_remaining((task,)) == pytest.approx(20, rel=0.1)
    assert budget.running_seconds == 190
    assert budget.end(task, was_run=True) == 190
    assert budget.running_seconds == 0


def test_a_training_that_goes_on_from_a_checkpoint_does_not_count_as_a_fast_one(
    config: StudyConfig,
) -> None:
    clock, task = Clock(), make_task()
    seconds = StageSeconds(config, make_rates(config, 100.0))
    budget = TimeBudget(seconds, clock=clock)
    budget.hand_out(task)
    for now, done in ((5.0, 0.8), (15.0, 0.9)):
        clock.now = now
        budget.advance(task.node, done)
    assert budget.find_remaining((task,)) == pytest.approx(10, rel=0.1)
    clock.now = 25.0
    budget.end(task, was_run=True)
    assert seconds.predict(task) == pytest.approx(100)  # as its speed was, not 25


@pytest.mark.parametrize(
    ("limit", "kept"), [(100, 20), (300, 30), (1200, 60), (3600, 120), (36_000, 120)]
)
def test_time_is_kept_for_the_answer(config: StudyConfig, limit: float, kept: float) -> None:
    clock = Clock()
    budget = TimeBudget(StageSeconds(config, {}), limit=limit, worked=clock, clock=clock)
    assert budget.left == limit - kept
    assert budget.fits(budget.left / 1.11)
    assert not budget.fits(budget.left / 1.09)  # with a margin of a tenth
    clock.now = limit - kept
    assert budget.is_used_up
    assert not budget.fits(0)


def test_without_a_limit_everything_fits(config: StudyConfig) -> None:
    assert TimeBudget(StageSeconds(config, {})).fits(1e9)


class Session:
    """A study whose stages take exactly what was predicted, one place after another."""

    def __init__(
        self,
        config: StudyConfig,
        folder: Path,
        limit: float,
        begun: Collection[str] = (),
        **named: float,
    ) -> None:
        self.clock = Clock()
        self.study = PipelineStudy(config, folder)
        seconds = StageSeconds(config, make_rates(config, 10.0, **named))
        self.budget = TimeBudget(
            seconds,
            limit=limit,
            worked=self.clock,
            clock=self.clock,
            has_begun=lambda chain: chain[-1].stage in begun,
        )
        self.dispatcher = Dispatcher(self.study, Places(count=1), budget=self.budget)
        self.started: list[str] = []

    def run(self, factor: float = 1.0) -> None:
        while (task := self.dispatcher.take()) is not None:
            self.started.append(task.stage)
            self.clock.now += factor * self.budget.seconds.expect(task)
            name = f"{task.stage}-{len(self.started)}"
            self.dispatcher.finish(
                task,
                StageResult(
                    metrics=COSTS, stages={task.stage: name}, seconds={task.stage: 1}, network=name
                ),
            )


def test_no_stage_starts_that_cannot_end_in_time(config: StudyConfig, tmp_path: Path) -> None:
    # 2 baselines with their latencies take 40 s, a pipeline 30 s and its sparse network 10 s.
    session = Session(replace(config, num_pipelines=8, stop_hopeless=False), tmp_path, 200.0)
    session.run()
    assert session.dispatcher.is_out_of_time
    assert session.dispatcher.is_over
    assert session.clock.now <= 190
    complete = [r for r in session.study.records.values() if r.state == "complete"]
    # What is begun comes to its end: no training is left without the network that it leads to.
    assert session.started.count("distilled") == len(complete) >= 3
    assert session.study.num_unfinished == 8 - len(complete)


def test_a_resumed_study_goes_on_with_what_was_left_out(
    config: StudyConfig, tmp_path: Path
) -> None:
    short = replace(config, num_pipelines=4, stop_hopeless=False)
    first = Session(short, tmp_path, 120.0)
    first.run()
    left = first.study.num_unfinished
    assert 0 < left < 4
    begun = {n for n, record in first.study.records.items() if record.state == "running"}
    second = Session(short, tmp_path, 1000.0)
    second.run()
    assert second.study.num_unfinished == 0
    assert begun <= second.study.records.keys()
    assert len(second.study.records) == 4
    assert not second.dispatcher.is_out_of_time


def test_a_limit_that_nothing_fits_into_ends_at_once(config: StudyConfig, tmp_path: Path) -> None:
    session = Session(config, tmp_path, 10.0)
    session.run()
    assert session.started == []
    assert session.dispatcher.is_over
    assert session.study.records == {}


def test_a_root_that_does_not_fit_does_not_keep_the_others(
    config: StudyConfig, tmp_path: Path
) -> None:
    session = Session(config, tmp_path, 100.0, teacher=500.0)
    session.run()
    assert session.started[:2] == ["dense", "latency"]
    assert "teacher" not in session.started
    assert session.dispatcher.is_out_of_time


def test_what_an_earlier_session_has_begun_goes_on_once_nothing_else_fits(
    config: StudyConfig, tmp_path: Path
) -> None:
    session = Session(config, tmp_path, 100.0, begun="teacher", teacher=500.0)
    session.run(factor=0.1)  # nine tenths of the teacher are done already
    assert session.started[:4] == ["dense", "latency", "sensitivity", "teacher"]
    assert session.dispatcher.baselines.keys() == {"dense", "teacher"}


def test_a_begun_training_goes_on_behind_the_finished_stages_before_it(
    config: StudyConfig, tmp_path: Path
) -> None:
    one = replace(config, num_pipelines=1, stop_hopeless=False)
    session = Session(one, tmp_path, 150.0, begun=("distilled",), distilled=500.0)
    session.run(factor=0.1)  # nine tenths of it are done already
    assert session.started[-1] == "distilled"
    assert session.study.num_unfinished == 0


def test_begun_trainings_go_on_side_by_side(config: StudyConfig, tmp_path: Path) -> None:
    session = Session(
        config, tmp_path, 100.0, begun=("teacher", "dense"), teacher=500.0, dense=500.0
    )
    dispatcher = Dispatcher(session.study, Places(count=2), budget=session.budget)
    tasks = dispatcher.take(), dispatcher.take()
    assert {task.stage for task in tasks if task} == {"teacher", "dense"}


def test_what_a_stage_has_held_is_spent_even_if_it_failed(
    config: StudyConfig, tmp_path: Path
) -> None:
    session = Session(config, tmp_path, 1000.0)
    task = session.dispatcher.take()
    assert task is not None
    session.clock.now += 7
    session.dispatcher.fail(task, "no")
    assert session.study.spent_seconds == 7
    session.study.running_seconds = 5.0  # a stage that the end of the session interrupts
    session.study.save_clock()
    assert PipelineStudy(config, tmp_path).spent_seconds == 12


def test_what_was_left_out_is_said(config: StudyConfig, tmp_path: Path) -> None:
    limited = replace(config, num_pipelines=4, time_limit="2m", stop_hopeless=False, confirm=2)
    session = Session(limited, tmp_path, 120.0)
    session.run()
    left = session.study.num_unfinished
    begun = sum(record.state == "running" for record in session.study.records.values())
    confirmation = Confirmation(session.study, tmp_path)
    assert list(describe_left_out(session.study, confirmation, {"dense"})) == [
        "the time limit of 2:00 left out the training or measurement of teacher",
        f"the time limit of 2:00 left out {left} of 4 pipelines, {begun} of them begun",
        "the time limit of 2:00 left out all retrainings of the front",
    ]


def test_hours_money_and_what_sharing_saved() -> None:
    tariff = Tariff(unit="GPU", price_per_hour=3.0)
    spending = Spending(tariff=tariff, spent_seconds=3600.0, saved_seconds=1800.0)
    assert spending.describe() == "1 GPU-hours, cost 3.00, sharing saved 0.5"
    assert spending.to_json() == {
        "unit": "GPU-hours", "spent_hours": 1.0, "saved_hours": 0.5, "price_per_hour": 3.0,
        "cost": 3.0,
    }  # fmt: skip
    free = Spending(tariff=Tariff(unit="worker"), spent_seconds=1800.0)
    assert free.describe() == "0.5 worker-hours"
    assert free.to_json()["cost"] is None


@pytest.mark.parametrize(("seconds", "places"), [(59.0, 1), (61.0, 4)])
def test_a_training_shorter_than_the_start_of_its_processes_is_not_shared(
    config: StudyConfig, tmp_path: Path, seconds: float, places: int
) -> None:
    batches = replace(config.pipeline.sparse, batch_size=8)
    config = replace(config, num_pipelines=1, pipeline=replace(config.pipeline, sparse=batches))
    clock = Clock()
    budget = TimeBudget(
        StageSeconds(config, make_rates(config, sparse=seconds)), worked=clock, clock=clock
    )
    study = PipelineStudy(config, tmp_path)
    dispatcher = Dispatcher(study, Places(count=4, most_per_training=4), budget=budget)
    while (task := dispatcher.take()) is not None and task.stage != "sparse":
        dispatcher.finish(task, StageResult(metrics=COSTS, network="n"))
    assert task is not None
    assert task.places == places
    alone = budget.seconds.expect(task._replace(places=1))
    assert budget.seconds.expect(task) <= alone
