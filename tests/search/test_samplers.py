from __future__ import annotations

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler

from search.one_split_tpe import OneSplitTPESampler
from search.samplers import create_sampler


@pytest.mark.parametrize(
    ("num_pipelines", "population"),
    [(8, 4), (24, 8), (80, 8), (240, 24), (500, 50), (10_000, 50)],
)
def test_a_generation_is_a_tenth_of_the_study(num_pipelines: int, population: int) -> None:
    for name in ("nsga2", "nsga3"):
        sampler = create_sampler(name, seed=0, trial_number=0, num_pipelines=num_pipelines)
        assert sampler.population_size == population


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_one_split_suggests_what_optuna_does(directions: list[str]) -> None:
    space = {
        "x": FloatDistribution(0, 1),
        "y": FloatDistribution(1e-3, 1, log=True),
        "scope": CategoricalDistribution(["local", "global"]),
    }
    suggested = []
    for kind in (TPESampler, OneSplitTPESampler):
        study = optuna.create_study(directions=directions)
        for number in range(30):
            study.sampler = kind(seed=number, n_startup_trials=5)
            trial = study.ask(space)
            values = [trial.params["x"] + (trial.params["scope"] == "local"), trial.params["y"]]
            if number % 5 == 3:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            elif number % 7:  # the others stay running
                study.tell(trial, values[: len(directions)])
        suggested.append([trial.params for trial in study.trials])
    assert suggested[0] == suggested[1]
