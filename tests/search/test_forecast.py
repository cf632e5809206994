"""What a study will take, and what of it is left out for a time limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.config import StudyConfig
from search.forecast.dry_run import Forecast, dry_run
from search.forecast.estimate import Estimate, describe_estimate, load_estimate, save_estimate
from search.forecast.fitting import fit_study
from search.forecast.planning import plan_study, time_stages
from search.forecast.time_left import find_seconds_left
from search.forecast.typical_chains import choose_typical_chains
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.stage_seconds import StageSeconds
from search.pipelines.stage_tree import Task
from search.pipelines.study import PipelineStudy
from search.pipelines.time_budget import TimeBudget
from search.recipes import RECIPES, streets
from search.run_files.spending import Tariff
from search.space import make_space
from trainables.chain import Chain
from trainables.context import StageContext
from trainables.pipeline import StageResult, build_baselines
from trainables.rehearsal import StageRate, name_kind

ONE = Places(count=1)


def make_rates(config: StudyConfig, **seconds: float) -> dict[str, StageRate]:
    """So many seconds for a step of each training stage and for the whole of each other one."""
    rates = {}
    for chain in choose_typical_chains(config):
        for length in range(1, len(chain) + 1):
            stage = chain[length - 1].stage
            value = seconds.get(stage, 0.0)
            is_training = stage in ("teacher", "dense", "sparse", "distilled")
            rates[name_kind(chain[:length])] = StageRate(
                seconds_per_step=value if is_training else 0.0,
                fixed_seconds=0.0 if is_training else value,
            )
    return rates


@pytest.fixture
def study() -> StudyConfig:
    return replace(streets(), num_pipelines=6)  # one chain along the ratios


@pytest.fixture
def taught(study: StudyConfig) -> StudyConfig:
    """A study whose first pipeline needs the teacher."""
    return replace(study, first_points=({"distilled.distiller": "dkd"},))


@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - {"streets_network"}))
def test_every_kind_of_stage_is_timed_once(recipe: str) -> None:
    config = RECIPES[recipe]()
    chains = choose_typical_chains(config)
    kinds = {name_kind(chain[:n]) for chain in chains for n in range(1, len(chain) + 1)}
    distillers = config.space.get_choices("distilled.distiller")
    assert sum(" distilled " in kind for kind in kinds) == len(distillers)
    num_teachers = len(build_baselines(config.pipeline).keys() & {"teacher"})
    students = max(1, len(config.pipeline.students))
    assert len(chains) == len(distillers) + num_teachers + students


def test_a_study_need_not_measure_latency(study: StudyConfig) -> None:
    pipeline = replace(study.pipeline, chain=("dense", "sparse", "pruned", "distilled"))
    study = replace(study, pipeline=pipeline, objectives=("miou", "macs", "num_params"))
    found = dry_run(study, make_rates(study, teacher=0.1, dense=0.1), ONE)
    assert found.root_seconds == pytest.approx(42)


def test_shared_stages_count_once(study: StudyConfig) -> None:
    rates = make_rates(study, teacher=0.1, dense=0.1, sparse=0.5, pruned=2.0, latency=1.0,
                       distilled=0.1)  # fmt: skip
    found = dry_run(study, rates, ONE)
    # teacher and dense 21 s each with 1 s of latency; sparse 30 s once; the six networks of the
    # chain 2 + 1 s each, and 90 steps of 0.1 s that get shorter with the network.
    assert found.root_seconds == pytest.approx(44)
    assert found.by_baseline == {"teacher": pytest.approx(22), "dense": pytest.approx(22)}
    assert {kind: round(n) for kind, (n, _) in found.stages.items()} == {
        "dense student sparse": 1, "dense student pruned": 6, "dense student latency": 6,
        "dense student distilled none": 6,
    }  # fmt: skip
    kept = [(0.4 + 0.6 * (1 - p) ** 2) / 1.0 for p in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    assert found.seconds == pytest.approx(44 + 30 + 6 * 3 + 9 * sum(kept))
    assert found.spent_seconds == pytest.approx(found.seconds)
    assert found.num_complete == 6


def test_chains_and_roots_bound_what_more_machines_help(taught: StudyConfig) -> None:
    rates = make_rates(taught, teacher=0.1, dense=0.1, distilled=0.1, latency=1.0)
    alone = dry_run(taught, rates, Places(count=2, exclusive=2, of_root=2))
    beside = dry_run(taught, rates, Places(count=2, of_root=1))
    assert alone.root_seconds == pytest.approx(43)  # one after the other, then both latencies
    assert beside.root_seconds == pytest.approx(23)
    searching = dry_run(taught, rates, ONE).seconds - 44
    assert alone.seconds - alone.root_seconds == pytest.approx(searching)
    assert alone.in_use == pytest.approx(0.5)  # the chain leaves one of two places empty


def test_a_teacher_that_is_needed_late_counts_once(study: StudyConfig) -> None:
    """Two chains of one scope each need no teacher; the pipelines after them do."""
    space = make_space(
        pruning_ratio=study.space.get_range("pruned.pruning_ratio"), distiller=("none", "dkd")
    )
    study = replace(study, num_pipelines=20, space=space)
    rates = make_rates(study, teacher=0.1, dense=0.1, distilled=0.1)
    for places in (ONE, Places(count=2, exclusive=2, of_root=2)):
        found = dry_run(study, rates, places)
        assert found.by_baseline == {"dense": pytest.approx(21), "teacher": pytest.approx(21)}
        assert found.root_seconds == pytest.approx(42)
        assert found.num_complete == 20
        times = [moment for _, moment in found.progress]
        assert times == sorted(times)
        # The first chains take their share of the pipelines' time, without the teacher's.
        assert found.find_time(0.5) == pytest.approx(0.5, abs=0.1)


def test_a_teacher_at_the_end_is_foretold_with_rungs_too(study: StudyConfig) -> None:
    rates = make_rates(study, teacher=0.1, dense=0.1, distilled=0.1)
    found = dry_run(replace(study, rungs=(0.25,)), rates, ONE)
    assert found.by_baseline.keys() == {"dense", "teacher"}


def test_a_late_teacher_without_time_is_not_trained(study: StudyConfig) -> None:
    space = make_space(
        pruning_ratio=study.space.get_range("pruned.pruning_ratio"), distiller=("none", "dkd")
    )
    many = replace(study, num_pipelines=20, space=space)
    config, forecast, changes = fit(many, "300s")
    assert config.pipeline.self_teaching
    assert "the teacher (dual_branch) is not trained" in changes
    assert forecast.num_complete == 20


def test_a_long_study_goes_on_as_it_began(
    study: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.forecast.dry_run.MOST_PIPELINES", 12)
    rates = make_rates(study, pruned=1.0)
    found = dry_run(replace(study, num_pipelines=60), rates, ONE)
    assert found.num_complete == 60
    trained = [count for kind, (count, _) in found.stages.items() if " distilled " in kind]
    assert sum(trained) == 60


@pytest.mark.parametrize("limit", ["50s", "200s"])  # not even the first 12 fit; all of them do
def test_a_long_study_ends_at_its_limit(
    limit: str, study: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.forecast.dry_run.MOST_PIPELINES", 12)
    many = replace(study, num_pipelines=60, time_limit=limit, continuation=False)
    rates = make_rates(many, pruned=10.0)
    found = dry_run(many, rates, ONE, many.limit_seconds)
    alone = dry_run(replace(many, num_pipelines=12), rates, ONE, many.limit_seconds)
    assert found.seconds <= many.limit_seconds
    assert alone.num_complete <= found.num_complete < 60


def test_stages_that_are_finished_take_no_time(study: StudyConfig) -> None:
    rates = make_rates(study, teacher=0.1, dense=0.1)
    found = dry_run(study, rates, ONE, is_done=lambda chain: chain[-1].stage == "teacher")
    assert found.seconds == pytest.approx(21)  # only the dense student is trained


RATES = {"teacher": 1.0, "dense": 0.1, "sparse": 0.1, "distilled": 0.1}


def fit(study: StudyConfig, limit: str, **more: float) -> tuple[StudyConfig, Forecast, str]:
    limited, rates = replace(study, time_limit=limit), make_rates(study, **RATES, **more)
    found = fit_study(limited, lambda c: dry_run(c, rates, ONE, c.limit_seconds))
    return found.config, found.forecast, "; ".join(found.changes)


def test_a_limit_that_holds_all_changes_nothing(study: StudyConfig) -> None:
    config, forecast, changes = fit(study, "1h")
    assert (config, changes) == (replace(study, time_limit="1h"), "")
    assert forecast.num_complete == 6


def test_pipelines_that_do_not_fit_are_left_to_the_search(taught: StudyConfig) -> None:
    config, forecast, changes = fit(taught, "296s")
    assert (config.pipeline, changes) == (taught.pipeline, "")
    assert 3 <= forecast.num_complete < 6
    assert forecast.seconds <= 300


def test_a_teacher_that_leaves_too_little_is_not_trained(taught: StudyConfig) -> None:
    config, forecast, changes = fit(taught, "277s")
    assert config.pipeline.self_teaching
    assert "the teacher (dual_branch) is not trained" in changes
    assert config.pipeline.dense == taught.pipeline.dense
    assert forecast.num_complete == 6


def test_trainings_are_shortened_only_where_nothing_else_helps(study: StudyConfig) -> None:
    slow = replace(study, pipeline=study.pipeline.dense and replace(
        study.pipeline, dense=replace(study.pipeline.dense, num_steps=2000)))  # fmt: skip
    config, forecast, changes = fit(slow, "120s")
    assert forecast.num_complete >= 3
    assert config.pipeline.sparse == study.pipeline.sparse
    steps = config.pipeline.dense.num_steps
    assert 0 < steps < 2000
    assert f"the training dense is shortened from 2000 to {steps} steps" in changes
    config, _, changes = fit(slow, "10s")
    assert config.pipeline.distil.num_steps < study.pipeline.distil.num_steps
    assert "the training distilled is shortened" in changes


def test_a_limit_without_any_answer_is_refused(study: StudyConfig) -> None:
    with pytest.raises(ValueError, match=r"time_limit 8s is too short for any answer: .* take 0:0"):
        fit(study, "8s", latency=1.0, pruned=5.0)


def test_a_limit_does_not_change_what_earlier_runs_have_trained(taught: StudyConfig) -> None:
    known = replace(taught, time_limit="277s", warm_start=(Path("earlier"),))
    rates = make_rates(known, **RATES)
    match = "time_limit 277s changes the trainings, so the runs of --warm-start are not comparable"
    with pytest.raises(ValueError, match=match):
        plan_study(known, rates, [], ONE)
    ample = replace(known, time_limit="1h")
    assert plan_study(ample, rates, [], ONE)[0] == ample


@pytest.mark.parametrize("rungs", [(0.25,), (0.25, 0.5)])
def test_pipelines_that_stop_at_a_rung_fit(rungs: tuple[float, ...], study: StudyConfig) -> None:
    halved = replace(study, rungs=rungs, reduction_factor=3.0, continuation=False)
    config, forecast, changes = fit(halved, "1h")
    assert (config.pipeline, changes) == (study.pipeline, "")
    assert forecast.num_complete < 3
    assert forecast.num_ended == 6
    estimate = Estimate(rates={}, forecast=forecast)
    (line,) = describe_estimate(config, estimate, ONE, Tariff(unit="GPU"))
    assert ", 6 pipelines " in line


@pytest.mark.parametrize(("num_disturbed", "num_passes"), [(0, 1), (2, 2), (1000, 1)])
def test_a_disturbed_minute_does_not_lengthen_an_estimate(
    study: StudyConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    num_disturbed: int,
    num_passes: int,
) -> None:
    rehearsed: list[Chain] = []

    def rehearse(
        config: Any, chain: Chain, *_: Any, rates: dict[str, StageRate], **others: Any
    ) -> None:
        seconds = 6.0 if len(rehearsed) < num_disturbed else 1.0
        rehearsed.append(chain)
        for length in range(1, len(chain) + 1):
            trains = chain[length - 1].stage in RATES
            rate = StageRate(seconds_per_step=seconds if trains else 0.0, fixed_seconds=seconds)
            rates.setdefault(name_kind(chain[:length]), rate)

    monkeypatch.setattr("search.forecast.planning.rehearse", rehearse)
    rates, problems = time_stages(study, StageContext(cache_dir=tmp_path), 2)
    chains = choose_typical_chains(study)
    assert [len(chain) for chain in rehearsed].count(1) == 1  # the first training, once more
    assert len(rehearsed) == num_passes * len(chains) + 1
    assert {rate.fixed_seconds for rate in rates.values()} == {6.0 if num_disturbed > 9 else 1.0}
    assert not problems


def test_an_estimate_outlives_its_session(study: StudyConfig, tmp_path: Path) -> None:
    assert load_estimate(tmp_path) is None
    rates = make_rates(study, **RATES)
    saved = Estimate(rates=rates, forecast=dry_run(study, rates, ONE), changes=("less",))
    save_estimate(saved, tmp_path)
    assert load_estimate(tmp_path) == saved
    (tmp_path / "estimate.json").write_text("{}")
    with pytest.raises(ValueError, match=r"estimate\.json cannot be read; delete it"):
        load_estimate(tmp_path)


def test_an_estimate_is_said_in_time_hours_and_money(study: StudyConfig) -> None:
    forecast = Forecast(
        seconds=7200.0, spent_seconds=5400.0, root_seconds=3600.0,
        by_baseline={"dense": 3600.0}, num_complete=3, num_ended=4,
    )  # fmt: skip
    limited = replace(study, time_limit="2h", price_per_hour=2.0)
    estimate = Estimate(rates={}, forecast=forecast, changes=("changed",), problems=("unknown",))
    tariff = Tariff(unit="GPU", price_per_hour=2.0)
    assert list(describe_estimate(limited, estimate, Places(count=3), tariff)) == [
        "estimate: 2:00:00 (dense 1:00:00, 4 pipelines 1:00:00, 3 at a time), 1.5 GPU-hours, "
        "cost 3.00",
        "changed",
        "within 2h there is no time to train teacher",
        "within 2h about 4 of 6 pipelines fit; the others are left for a later session",
        "unknown",
    ]


@pytest.mark.parametrize("slower", [0.6, 1.0, 1.8])
@pytest.mark.parametrize(("count", "num_pipelines"), [(1, 6), (2, 6), (2, 9), (3, 14)])
def test_after_a_quarter_the_time_left_is_right_within_a_quarter(
    study: StudyConfig, tmp_path: Path, count: int, num_pipelines: int, slower: float
) -> None:
    """The stages take another time than was foretold; the first quarter tells how much.

    On several places some are idle: while the first chain of networks grows, and at the end.
    """
    places = Places(count=count, of_root=count)
    study = replace(study, num_pipelines=num_pipelines, sampler="random", stop_hopeless=False)
    rates = make_rates(study, teacher=0.3, dense=0.2, sparse=0.2, pruned=2.0, latency=1.0,
                       distilled=0.2)  # fmt: skip
    forecast = dry_run(study, rates, places)
    clock = [0.0]
    budget = TimeBudget(StageSeconds(study, rates), clock=lambda: clock[0], starts_at_once=False)
    dispatcher = Dispatcher(PipelineStudy(study, tmp_path), places, budget=budget)
    waiting: list[Task] = []  # for a machine, as roots do that take all places
    running: list[tuple[float, float, Task]] = []  # begin, seconds
    predictions = []
    while True:
        while (task := dispatcher.take()) is not None:
            waiting.append(task)
        while waiting and waiting[0].places + sum(t.places for *_, t in running) <= count:
            task = waiting.pop(0)
            budget.begin(task.node)
            running.append((clock[0], slower * budget.seconds.expect(task), task))
        if not running:
            break
        begin, seconds, task = min(running, key=lambda entry: entry[0] + entry[1])
        while clock[0] < begin + seconds:
            clock[0] = min(clock[0] + 1.0, begin + seconds)
            for since, needed, other in running:
                budget.advance(other.node, (clock[0] - since) / needed if needed else 1.0)
            predictions.append((clock[0], find_seconds_left(dispatcher, forecast, places)))
        running.remove((begin, seconds, task))
        ratios = [s.settings.pruning_ratio for s in task.chain if s.stage == "pruned"]
        macs = 100 * (1 - ratios[-1]) ** 2 if ratios else 100.0
        number = len(dispatcher.study.records)
        metrics = {"miou": 0.5 + 0.01 * number, "num_params": 900.0, "macs": macs,
                   "latency_ms": 9.0, "latency_p95_ms": 9.0}  # fmt: skip
        dispatcher.finish(
            task,
            StageResult(metrics=metrics, stages={task.stage: f"{task.stage}-{clock[0]:.3f}"},
                        seconds={task.stage: seconds}, network="x"),
        )  # fmt: skip
    assert dispatcher.study.num_unfinished == 0
    checked = [(now, left) for now, left in predictions if 0.25 <= now / clock[0] < 0.9]
    assert len(checked) > 20
    for now, left in checked:
        assert left == pytest.approx(clock[0] - now, rel=0.25), now / clock[0]


def test_a_study_resumed_with_more_time_counts_all_of_its_pipelines(
    study: StudyConfig, tmp_path: Path
) -> None:
    study = replace(study, continuation=False, first_points=())
    rates = make_rates(study, pruned=10.0, distilled=0.1)
    of_all, of_two = dry_run(study, rates, ONE), dry_run(study, rates, ONE, 60.0)
    assert (of_all.num_ended, of_two.num_ended) == (6, 2)
    dispatcher = Dispatcher(PipelineStudy(study, tmp_path), ONE)
    left = [find_seconds_left(dispatcher, forecast, ONE) for forecast in (of_all, of_two)]
    assert left[1] == pytest.approx(left[0], rel=0.25)


def test_the_estimate_says_that_retrainings_come_on_top(study: StudyConfig) -> None:
    estimate = Estimate(
        rates={}, forecast=Forecast(seconds=9.0, spent_seconds=9.0, root_seconds=1.0)
    )
    confirmed = replace(study, confirm=3)
    lines = list(describe_estimate(confirmed, estimate, ONE, Tariff(unit="GPU")))
    assert lines[1:] == ["3 retrainings of every network of the front come on top of that"]


def test_a_stage_costs_the_gpus_that_it_holds(study: StudyConfig) -> None:
    rates = make_rates(study, dense=0.1, pruned=1.0, distilled=0.1)
    plain = dry_run(study, rates, ONE).spent_seconds
    places = Places(count=1, units=0.5, units_of_training=2.0, units_of_root=8.0)
    pipelines = plain - 21
    assert dry_run(study, rates, places).spent_seconds == pytest.approx(
        8 * 21 + 0.5 * 6 + 2 * (pipelines - 6)
    )
