from __future__ import annotations

import moocore
import numpy as np
import optuna
import pytest
from optuna._hypervolume.hssp import _solve_hssp
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma_multiobjective
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.proposing.bounded_history import BoundedHistorySampler
from search.proposing.one_split_tpe import OneSplitTPESampler, choose_best
from search.proposing.samplers import create_sampler
from search.proposing.study_view import show


@pytest.mark.parametrize(
    ("num_pipelines", "population"),
    [(8, 4), (24, 8), (80, 8), (240, 24), (500, 50), (10_000, 50)],
)
def test_a_generation_is_a_tenth_of_the_study(num_pipelines: int, population: int) -> None:
    for name in ("nsga2", "nsga3"):
        sampler = create_sampler(name, seed=0, trial_number=0, num_pipelines=num_pipelines)
        assert sampler.population_size == population


@pytest.mark.parametrize("max_history", [None, 5])
def test_a_sampler_sees_all_pipelines_or_a_part_of_them(max_history: int | None) -> None:
    sampler = create_sampler(
        "tpe", seed=0, trial_number=0, num_pipelines=9, max_history=max_history
    )
    assert isinstance(sampler, BoundedHistorySampler) == (max_history is not None)
    if max_history is not None:
        assert sampler.max_trials == max_history


def halve_as_optuna(
    study: optuna.Study, trial: FrozenTrial
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    trials = [t for t in study.get_trials() if t.number != trial.number]
    num_finished = sum(t.state is not TrialState.RUNNING for t in trials)
    return _split_trials(study, trials, default_gamma_multiobjective(num_finished))


def test_one_split_alone_changes_no_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OneSplitTPESampler, "halve", staticmethod(halve_as_optuna))
    space = {
        "x": FloatDistribution(0, 1),
        "y": FloatDistribution(1e-3, 1, log=True),
        "scope": CategoricalDistribution(["local", "global"]),
    }
    suggested = []
    for kind in (TPESampler, OneSplitTPESampler):
        study = optuna.create_study(directions=["maximize", "minimize"])
        for number in range(30):
            study.sampler = kind(seed=number, n_startup_trials=5)
            trial = study.ask(space)
            if number % 5 == 3:
                study.tell(trial, state=TrialState.PRUNED)
            elif number % 7:  # the others stay running
                bonus = trial.params["scope"] == "local"
                study.tell(trial, [trial.params["x"] + bonus, trial.params["y"]])
        suggested.append([trial.params for trial in study.trials])
    assert suggested[0] == suggested[1]


def test_good_are_as_many_as_of_the_whole_study_up_to_half_of_what_is_seen() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    for number in range(100):
        study.add_trial(create_trial(values=[number / 100, (37 * number % 100) / 100]))
    asked = study._storage.get_trial(study.ask()._trial_id)
    for num_seen, num_good in ((100, 10), (40, 10), (12, 6)):
        seen = show(study, lambda viewed, count=num_seen: viewed.get_trials()[:count])
        good, bad = OneSplitTPESampler.halve(seen, asked)
        assert (len(good), len(bad)) == (num_good, num_seen - num_good)


@pytest.mark.parametrize(("num_feasible", "num_good_infeasible"), [(20, 0), (2, 1)])
def test_networks_beyond_a_limit_are_good_only_where_others_lack(
    num_feasible: int, num_good_infeasible: int
) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    for number in range(30):
        trial, is_feasible = study.ask(), number < num_feasible
        trial.set_constraint("latency_ms", -0.1 if is_feasible else number / 10)
        study.tell(trial, [number + 100 * is_feasible, 30 - number])
    good, bad = OneSplitTPESampler.halve(study, study._storage.get_trial(study.ask()._trial_id))
    assert (len(good), len(bad)) == (3, 27)
    assert sum(trial.number >= num_feasible for trial in good) == num_good_infeasible


@pytest.mark.parametrize("num_objectives", [2, 3])
def test_the_thinned_rank_covers_as_much_as_optunas(num_objectives: int) -> None:
    generator = np.random.default_rng(0)
    front = np.abs(generator.normal(size=(60, num_objectives)))
    front /= np.linalg.norm(front, axis=1, keepdims=True)
    front = 1 - front  # minimised, all of one rank
    worst = np.full(num_objectives, 1.1)
    theirs = _solve_hssp(front, np.arange(60), 15, worst)
    ours = choose_best(front, 15)
    assert len(set(ours)) == 15
    covered = [moocore.hypervolume(front[rows], ref=worst) for rows in (ours, theirs)]
    assert covered[0] > 0.99 * covered[1]
    both_ranks = np.concatenate([front + 1, front])
    assert set(choose_best(both_ranks, 70)) > set(range(60, 120))
