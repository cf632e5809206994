"""The study's contract, the same for every sampler, and its survival of a dead driver."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.config import StudyConfig
from search.pipelines.records import Obstacle, Outcome, Proposal
from search.pipelines.study import JOURNAL_FILE, PipelineStudy
from search.proposing.samplers import SAMPLERS, create_sampler
from search.space import make_space, set_ranges
from trainables.chain import freeze, make_settings
from trainables.pipeline import StageResult
from trainables.ranges import FloatRange


def measure(settings: dict[str, Any]) -> dict[str, float]:
    kept = 1 - settings["pruned.pruning_ratio"]
    return {
        "miou": 0.5 * kept + 0.02 * settings["distilled.dkd.beta"],
        "latency_ms": 100 * kept,
        "num_params": 1e6 * kept**2,
        "iou/road": 0.9,
    }


def ask(study: PipelineStudy) -> Proposal:
    proposal = study.ask()
    assert proposal is not None
    return proposal


def run_to_the_end(study: PipelineStudy) -> list[dict[str, Any]]:
    """Fail every fourth and stop every fourth; keep two at a time."""
    running, seen = [], []
    while True:
        proposal = study.ask()
        if proposal is not None:
            running.append(proposal)
            seen.append(proposal.settings)
        if len(running) == 2 or (proposal is None and running):
            told = running.pop(0)
            number, settings = told.number, told.settings
            if number % 4 == 2:
                study.tell(number, "failed", reason="TrainingDiverged: the loss is nan")
            elif number % 4 == 3:
                study.tell(number, "stopped", reason="cannot reach the front")
            else:
                study.tell(number, "complete", result=StageResult(metrics=measure(settings)))
        elif proposal is None:
            return seen


@pytest.mark.parametrize(
    "objectives", [("miou", "latency_ms"), ("miou", "latency_ms", "num_params")]
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_leads_a_study_to_its_end(
    sampler: str, objectives: tuple[str, ...], config: StudyConfig, tmp_path: Path
) -> None:
    config = replace(config, sampler=sampler, objectives=objectives, max_latency_ms=60.0)
    suggested = []
    for attempt in ("first", "second"):
        folder = tmp_path / attempt
        folder.mkdir()
        study = PipelineStudy(config, folder)
        suggested.append(run_to_the_end(study))
        assert study.num_unfinished == 0
        states = [study.records[number].state for number in range(8)]
        measured = [measure(study.records[number].settings)["latency_ms"] for number in range(8)]
        kept = ["complete" if latency <= 60 else "stopped" for latency in measured]
        assert states == [*kept[:2], "failed", "stopped", *kept[4:6], "failed", "stopped"]
    assert suggested[0] == suggested[1]
    assert all(config.space.contains(settings) for settings in suggested[0])
    assert len(set(map(freeze, suggested[0]))) == 8
    optuna_states = [trial.state.name for trial in load(tmp_path / "first").trials]
    names = {"complete": "COMPLETE", "failed": "FAIL", "stopped": "PRUNED"}
    assert optuna_states == [names[state] for state in states]


def test_a_pruned_trial_has_its_last_values(config: StudyConfig, tmp_path: Path) -> None:
    study = PipelineStudy(replace(config, rungs=(0.25, 0.5)), tmp_path)
    costs = {"latency_ms": 9.0, "num_params": 5.0, "miou_pruned": 0.1}
    metrics = {**costs, "miou@0.25": 0.3, "miou@0.5": 0.4}
    paused, hopeless, failed = ask(study), ask(study), ask(study)
    study.report(paused.number, metrics)
    study.tell(
        paused.number, "stopped", reason="behind the front", result=StageResult(metrics=metrics)
    )
    study.tell(
        hopeless.number,
        "stopped",
        reason="cannot reach the front",
        result=StageResult(metrics=costs),
    )
    study.tell(
        failed.number, "failed", reason="the loss is nan", result=StageResult(metrics=metrics)
    )
    trials = load(tmp_path).trials
    assert [trial.state.name for trial in trials] == ["PRUNED", "PRUNED", "FAIL"]
    assert [trial.values for trial in trials] == [[0.4, 9.0, 5.0], None, None]
    assert load(tmp_path).best_trials == []


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "random"])
def test_a_sampler_learns_from_a_limit(sampler: str, config: StudyConfig, tmp_path: Path) -> None:
    """The larger a network the more accurate, at no other cost than that of the limit."""
    num_pipelines = 24 if sampler == "gp" else 40  # it learns faster, and takes longer
    config = replace(
        config,
        sampler=sampler,
        num_pipelines=num_pipelines,
        objectives=("miou", "latency_ms"),
        max_num_params=50.0,
        space=make_space(
            sparsity_lambda=(1e-4,),
            pruning_ratio=FloatRange(low=0.01, high=0.99),
            scope=("local",),
            **{name: FloatRange(low=1, high=1) for name in ("temperature", "alpha", "eta", "lr")},
        ),
    )
    study = PipelineStudy(config, tmp_path)
    too_large = []
    while (proposal := study.ask()) is not None:
        size = 100 * (1 - proposal.settings["pruned.pruning_ratio"])
        too_large.append(size > 50)
        metrics = {"latency_ms": 1 + proposal.settings["distilled.dkd.beta"], "num_params": size}
        metrics["miou_pruned" if too_large[-1] else "miou"] = size / 100
        outcome: Outcome = "stopped" if too_large[-1] else "complete"
        study.tell(proposal.number, outcome, result=StageResult(metrics=metrics))
    assert any(too_large)
    assert sum(too_large[-num_pipelines // 2 :]) <= 0.3 * (num_pipelines // 2)


def load(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL_FILE))
    return optuna.load_study(study_name="segfront", storage=optuna.storages.JournalStorage(backend))


def test_another_seed_is_another_search(config: StudyConfig, tmp_path: Path) -> None:
    settings = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        study = PipelineStudy(replace(config, seed=seed), tmp_path / str(seed))
        settings.append(ask(study).settings)
    assert settings[0] != settings[1]


def test_trials_of_a_dead_driver_are_handed_out_again(config: StudyConfig, tmp_path: Path) -> None:
    dead = PipelineStudy(config, tmp_path)
    first, second, third = ask(dead), ask(dead), ask(dead)
    dead.tell(
        second.number,
        "complete",
        result=StageResult(metrics=measure(second.settings), seconds={"dense": 2.0}),
    )
    told = dead.records[second.number]

    study = PipelineStudy(config, tmp_path)
    assert study.records[second.number] == told
    assert study.worked_seconds >= dead._worked_before
    assert (ask(study), ask(study)) == (first, third)
    assert ask(study).number == 3
    assert study.num_unfinished == 7


def test_a_resumed_study_suggests_what_it_would_have(config: StudyConfig, tmp_path: Path) -> None:
    for name in ("through", "resumed"):
        (tmp_path / name).mkdir()
    through = run_to_the_end(PipelineStudy(config, tmp_path / "through"))
    resumed = []
    for _ in range(8):
        study = PipelineStudy(config, tmp_path / "resumed")
        proposal = ask(study)
        resumed.append(proposal.settings)
        study.tell(
            proposal.number, "complete", result=StageResult(metrics=measure(proposal.settings))
        )
    assert resumed[:4] == through[:4]
    assert len(set(map(freeze, resumed))) == 8


def test_a_torn_journal_and_a_stale_lock_are_repaired(config: StudyConfig, tmp_path: Path) -> None:
    study = PipelineStudy(config, tmp_path)
    proposal = ask(study)
    study.tell(proposal.number, "complete", result=StageResult(metrics=measure(proposal.settings)))
    journal = tmp_path / JOURNAL_FILE
    with journal.open("a") as file:
        file.write('{"op_code": 4, "worker')
    (tmp_path / f"{JOURNAL_FILE}.lock").symlink_to(journal)
    study = PipelineStudy(config, tmp_path)
    assert study.records[0].state == "complete"
    assert ask(study).number == 1


def test_a_trial_killed_amid_its_suggestion_is_completed(
    config: StudyConfig, tmp_path: Path
) -> None:
    ask(PipelineStudy(config, tmp_path))
    journal = tmp_path / JOURNAL_FILE
    lines = journal.read_text().splitlines(keepends=True)
    suggestions = [i for i, line in enumerate(lines) if '"param_name"' in line]
    journal.write_text("".join(lines[: suggestions[2]]))
    proposal = ask(PipelineStudy(config, tmp_path))
    assert proposal.number == 0
    assert config.space.contains(proposal.settings)


def test_first_points_come_first_and_outsiders_are_left_out(
    config: StudyConfig, tmp_path: Path
) -> None:
    inside = make_settings(lr=2e-3)
    points = ({**inside, "distilled.lr": 1.0}, inside, {**inside, "pruned.pruning_ratio": 0.3})
    config = replace(config, first_points=points)
    PipelineStudy(config, tmp_path)
    study = PipelineStudy(config, tmp_path)
    assert [ask(study).settings for _ in range(2)] == list(points[1:])
    assert ask(study).settings not in points


def test_a_first_point_outside_the_space_is_moved_into_it(
    config: StudyConfig, tmp_path: Path
) -> None:
    point = {"distilled.lr": 2e-3, "pruned.round_to": 8, "distilled.distiller": "kd"}
    sweeping = replace(config, first_points=(point,), continuation=True)
    settings = ask(PipelineStudy(sweeping, tmp_path)).settings
    wanted = {"distilled.lr": 2e-3, "pruned.round_to": 1, "distilled.distiller": "dkd"}
    assert {name: settings[name] for name in wanted} == wanted
    space = set_ranges(config.space, {"pruned.pruning_ratio": FloatRange(low=0.2, high=0.7)})
    ungridded = replace(sweeping, space=space, first_points=({"distilled.lr": 3e-3},))
    (tmp_path / "ungridded").mkdir()
    assert ask(PipelineStudy(ungridded, tmp_path / "ungridded")).settings["distilled.lr"] == 3e-3


def test_a_completed_trial_without_a_number_has_failed(config: StudyConfig, tmp_path: Path) -> None:
    study = PipelineStudy(config, tmp_path)
    first, second = ask(study), ask(study)
    metrics = measure(first.settings)
    assert study.tell(
        first.number, "complete", result=StageResult(metrics=metrics | {"miou": float("nan")})
    ).reason == ("objective miou is nan, not a finite number")
    del metrics["latency_ms"]
    assert (
        study.tell(second.number, "complete", result=StageResult(metrics=metrics)).state == "failed"
    )


def test_an_outcome_is_told_once(config: StudyConfig, tmp_path: Path) -> None:
    study = PipelineStudy(config, tmp_path)
    proposal = ask(study)
    study.tell(proposal.number, "stopped", reason="dominated")
    with pytest.raises(ValueError, match="trial 0 is not running"):
        study.tell(
            proposal.number, "complete", result=StageResult(metrics=measure(proposal.settings))
        )
    with pytest.raises(ValueError, match="trial 9 is not running"):
        study.tell(9, "failed")


@pytest.mark.parametrize(
    ("limit", "broken"),
    [
        ({"max_latency_ms": 50.0}, "latency_ms"),
        ({"max_num_params": 50.0}, "num_params"),
        ({"max_macs": 50.0}, "macs"),
    ],
)
def test_limits_stop_a_network_and_reach_optuna(
    limit: dict[str, float], broken: str, config: StudyConfig, tmp_path: Path
) -> None:
    study = PipelineStudy(replace(config, **limit), tmp_path)
    costs = {"latency_ms": 1.0, "num_params": 1.0, "macs": 1.0, broken: 75.0}
    expected = Obstacle(f"{broken} 75 is above its limit 50", "limit")
    assert study.find_obstacle(costs, ceiling=0.9) == expected
    assert study.find_obstacle({**costs, broken: 50.0}, ceiling=0.9) is None
    study.tell(ask(study).number, "stopped", result=StageResult(metrics=costs))
    study.tell(ask(study).number, "complete", result=StageResult(metrics={**costs, "miou": 0.1}))
    assert [trial.constraints for trial in load(tmp_path).trials] == [{broken: 0.5}] * 2
    # A limit on what the last stage measures is known only once the pipeline is complete.
    ends = [(record.state, record.stopped_by) for record in study.records.values()]
    assert ends == [("stopped", ""), ("stopped", "limit")]
    assert study.records[1].reason == expected.reason


def test_a_network_that_cannot_enter_the_front_is_told_apart(
    config: StudyConfig, tmp_path: Path
) -> None:
    study = PipelineStudy(replace(config, num_pipelines=200), tmp_path)
    for size, miou in (*((8 + number, 0.4) for number in range(199)), (3, 0.5)):
        costs = {"latency_ms": size, "num_params": size, "macs": size}
        study.tell(
            ask(study).number, "complete", result=StageResult(metrics={**costs, "miou": miou})
        )
    costs = {"latency_ms": 10.0, "num_params": 10.0, "macs": 10.0}
    obstacle = study.find_obstacle(costs, ceiling=0.9)
    assert obstacle is not None
    assert obstacle.stopped_by == "bound"
    text = r"even with mIoU (.+), the best believable, trial 199 would .+ it"
    told = re.fullmatch(text, obstacle.reason)
    assert told
    assert 0.4 < float(told[1]) < 0.5
    assert study.find_obstacle({**costs, "num_params": 2.0}, ceiling=0.9) is None
    study.config = replace(config, stop_hopeless=False)
    assert study.find_obstacle(costs, ceiling=0.9) is None


class EarlierByAnHour(datetime):
    """A wall clock that was put back between two sessions."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime.now(tz) - timedelta(hours=1)


def test_a_clock_that_is_put_back_harms_nothing(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = PipelineStudy(config, tmp_path)
    for _ in range(2):
        proposal = ask(study)
        study.tell(
            proposal.number, "complete", result=StageResult(metrics=measure(proposal.settings))
        )
    ask(study)
    for name, module in sorted(sys.modules.items()):
        if name.startswith(("search.", "optuna.")) and vars(module).get("datetime") is datetime:
            monkeypatch.setattr(module, "datetime", EarlierByAnHour)
    run_to_the_end(study := PipelineStudy(config, tmp_path))
    records = PipelineStudy(config, tmp_path).records
    assert list(records) == list(range(8))
    assert records == study.records
    assert records[7].finished_at < records[0].finished_at
    hours = [records[number].elapsed_hours for number in range(8)]
    assert hours == sorted(hours)
    assert study.num_unfinished == 0


def test_an_unknown_sampler_is_named() -> None:
    with pytest.raises(ValueError, match="one of tpe, nsga2, nsga3, gp, random; got 'cmaes'"):
        create_sampler("cmaes", seed=0, trial_number=0, num_pipelines=8)
