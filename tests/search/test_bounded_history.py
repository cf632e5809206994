from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config import StudyConfig
from search.pipelines.study import PipelineStudy
from search.proposing.bounded_history import BoundedHistorySampler, TrialHistory, select_trials
from trainables.pipeline import StageResult

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}


def finished(x: float, y: float) -> FrozenTrial:
    return create_trial(params={"x": x, "y": y}, distributions=SPACE, values=[x + y, 2 * x])


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for i in range(40):
        study.add_trial(finished(x=(i * 7 % 40) / 40, y=(i * 11 % 40) / 80))
    return study


def ask(study: optuna.Study, sampler: optuna.samplers.BaseSampler) -> dict[str, float]:
    study.sampler = sampler
    return study.ask(SPACE).params


def test_a_short_study_is_seen_whole(study: optuna.Study):
    bounded = BoundedHistorySampler(TPESampler(seed=3), max_trials=40)
    params = ask(study, bounded)
    study.tell(40, state=TrialState.FAIL)
    assert params == ask(study, TPESampler(seed=3))


def test_a_long_study_is_seen_as_the_chosen_trials_alone(study: optuna.Study):
    trials = study.get_trials()
    values = np.array([trial.values for trial in trials])
    chosen = [trials[i] for i in select_trials(values, [True, False], 12)]
    assert len({trial.number for trial in chosen}) == 12
    best = {trial.number for trial in study.best_trials}
    assert len(best & {trial.number for trial in chosen}) >= min(6, len(best))

    short = optuna.create_study(directions=["maximize", "minimize"])
    short.add_trials(sorted(chosen, key=lambda trial: trial.number))
    bounded = BoundedHistorySampler(TPESampler(seed=3), max_trials=12)
    assert ask(study, bounded) == ask(short, TPESampler(seed=3))


def test_running_trials_stay_in_sight(study: optuna.Study):
    sampler = BoundedHistorySampler(TPESampler(seed=3), max_trials=12)
    asked = study.ask(SPACE)
    view = sampler.view(study)
    states = [trial.state for trial in view._get_trials(deepcopy=False)]
    assert states.count(TrialState.COMPLETE) == 12
    assert states.count(TrialState.RUNNING) == 1
    assert view.directions == study.directions
    study.tell(asked, [1.0, 1.0])


def test_too_few_trials_are_refused():
    with pytest.raises(ValueError, match="max_trials must be at least 2, got 1"):
        BoundedHistorySampler(TPESampler(), max_trials=1)


def test_a_study_keeps_its_history_up_to_date(config: StudyConfig, tmp_path: Path):
    def check(study: PipelineStudy) -> None:
        fresh = TrialHistory(len(config.objectives))
        for trial in study._study.get_trials(deepcopy=False):
            fresh.note(trial)
        kept, length = study._history, len(study.records)
        np.testing.assert_array_equal(kept.states[:length], fresh.states[:length])
        np.testing.assert_array_equal(kept.values[:length], fresh.values[:length])
        assert (kept.states[length:] == TrialHistory.UNKNOWN).all()

    study = PipelineStudy(config, tmp_path)
    metrics = {"miou": 0.5, "latency_ms": 3.0, "num_params": 1e5}
    for outcome in ("complete", "stopped", "failed", "complete"):
        proposal = study.ask()
        assert proposal is not None
        check(study)
        study.tell(proposal.number, outcome, result=StageResult(metrics=metrics))
        check(study)
    study.ask()
    resumed = PipelineStudy(config, tmp_path)
    check(resumed)
    resumed.ask()
    check(resumed)
