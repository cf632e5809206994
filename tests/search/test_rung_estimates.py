"""What the sampler is shown of pipelines that wait at a rung."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from search.config import StudyConfig
from search.pipelines.study import JOURNAL_FILE, PipelineStudy
from search.proposing.rung_estimates import EstimatingSampler, RungEstimates
from search.proposing.samplers import SAMPLERS
from trainables.pipeline import StageResult

OBJECTIVES = ("miou", "latency_ms")


def test_a_rung_is_raised_by_what_others_gained_from_there() -> None:
    estimates = RungEstimates((0.25, 0.5), OBJECTIVES)

    def estimate(number: int) -> list[float]:
        (values,) = estimates.estimate(np.array([number])).tolist()
        return list(values)

    estimates.note(0, {"latency_ms": 9.0})
    assert np.isnan(estimate(0)).all()
    assert not estimates.knows(0)
    estimates.note(0, {"latency_ms": 9.0, "miou@0.25": 0.2})
    assert estimate(0) == [0.2, 9.0]
    assert estimates.knows(0)
    # Gains up to 0.5: 0.1, 0.2 and 0.4; from there on: 0.05.
    estimates.note(1, {"latency_ms": 8.0, "miou@0.25": 0.3, "miou@0.5": 0.4})
    estimates.note(2, {"latency_ms": 8.0, "miou@0.25": 0.1, "miou@0.5": 0.5})
    assert estimate(0) == pytest.approx([0.45, 9.0])
    final = {"latency_ms": 7.0, "miou@0.25": 0.3, "miou@0.5": 0.5, "miou": 0.55}
    estimates.note(3, final)
    estimates.note(3, final)  # counts once
    assert estimate(0) == pytest.approx([0.2 + 0.2 + 0.05, 9.0])
    assert estimate(1) == pytest.approx([0.4 + 0.05, 8.0])
    estimates.note(4, {"latency_ms": 1.0, "miou@0.25": float("nan")})
    assert np.isnan(estimate(4)).all()
    assert np.isnan(estimate(99)).all()
    assert not estimates.knows(99)


def test_only_the_view_has_the_estimates() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    space = {"x": FloatDistribution(0, 1)}
    estimates = RungEstimates((0.5,), OBJECTIVES)
    waiting, told, running = (study.ask(space) for _ in range(3))
    estimates.note(waiting.number, {"latency_ms": 3.0, "miou@0.5": 0.4})
    estimates.note(told.number, {"latency_ms": 2.0, "miou@0.5": 0.3})
    study.tell(told, state=TrialState.PRUNED)

    view = EstimatingSampler(TPESampler(), estimates).view(study)
    shown = view._get_trials(deepcopy=False)
    states = [trial.state.name for trial in shown]
    assert states == ["COMPLETE", "PRUNED", "RUNNING"]
    assert shown[0].values == [0.4, 3.0]
    assert shown[0].params == waiting.params
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "PRUNED", "RUNNING"]
    assert running.number == 2


@pytest.mark.parametrize("limit", [None, 8.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_of_waiting_pipelines_is_learnt_from_and_resumed(
    sampler: str, limit: float | None, config: StudyConfig, tmp_path: Path
) -> None:
    config = replace(config, sampler=sampler, rungs=(0.25,), num_pipelines=24, max_latency_ms=limit)
    settings = []
    for attempt in ("through", "again", "resumed"):
        folder = tmp_path / attempt
        folder.mkdir()
        study = PipelineStudy(config, folder)
        for number in range(10):  # eight are random
            proposal = study.ask()
            assert proposal is not None
            costs = {"latency_ms": 9.0 - number % 3, "num_params": 5.0 + number}
            reached = {
                **costs,
                "miou@0.25": 0.5 - proposal.settings["distilled.dkd.temperature"] / 20,
            }
            study.report(number, reached)
            if number == 0:
                study.tell(number, "complete", result=StageResult(metrics={**reached, "miou": 0.5}))
        if attempt == "resumed":
            study = PipelineStudy(config, folder)
            for _ in range(9):
                study.ask()
        proposal = study.ask()
        assert proposal is not None
        settings.append(proposal.settings)
    assert settings[0] == settings[1] == settings[2]


def test_a_report_is_one_line_and_an_outcome_two(config: StudyConfig, tmp_path: Path) -> None:
    study = PipelineStudy(replace(config, rungs=(0.25,)), tmp_path)
    assert study.ask() is not None
    lines = [len((tmp_path / JOURNAL_FILE).read_text().splitlines())]
    metrics = {"latency_ms": 9.0, "num_params": 5.0, "miou@0.25": 0.3}
    for _ in range(2):  # the second brings nothing new
        study.report(0, metrics)
        lines.append(len((tmp_path / JOURNAL_FILE).read_text().splitlines()))
    study.tell(
        0,
        "stopped",
        reason="behind the front",
        result=StageResult(metrics=metrics, seconds={"dense": 1.0}),
    )
    lines.append(len((tmp_path / JOURNAL_FILE).read_text().splitlines()))
    assert [after - before for before, after in pairwise(lines)] == [1, 0, 2]
    again = PipelineStudy(replace(config, rungs=(0.25,)), tmp_path)
    assert again.records == study.records
    assert again.worked_seconds >= study._worked_before
