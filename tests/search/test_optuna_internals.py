"""What is not public in Optuna is as `search/proposing/optuna_internals.py` needs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.samplers._tpe import sampler as tpe
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.proposing import optuna_internals as internals
from search.proposing.one_split_tpe import OneSplitTPESampler
from search.proposing.study_view import ViewingSampler, show

CHANGED = (
    "Optuna {version} has changed {name}: adapt search/proposing/optuna_internals.py, which alone "
    "uses it, or keep the older version by the bound in pyproject.toml"
)
SIGNATURES: dict[str, tuple[Callable[..., Any], str]] = {
    "Study._get_trials": (Study._get_trials, "self, deepcopy, states, use_cache"),
    "TPESampler._sample": (TPESampler._sample, "self, study, trial, search_space"),
    "TPESampler._get_internal_repr": (
        TPESampler._get_internal_repr,
        "self, trials, search_space, study",
    ),
    "TPESampler._build_parzen_estimator": (
        TPESampler._build_parzen_estimator,
        "self, study, search_space, trials, handle_below",
    ),
    "TPESampler._compute_acquisition_func": (
        TPESampler._compute_acquisition_func,
        "self, samples, mpe_below, mpe_above",
    ),
    "TPESampler._compare": (TPESampler._compare, "samples, acquisition_func_vals"),
    "_split_trials": (tpe._split_trials, "study, trials, n_below"),
    "default_gamma_multiobjective": (tpe.default_gamma_multiobjective, "x"),
    "BaseStorage.create_new_trial": (
        optuna.storages.BaseStorage.create_new_trial,
        "self, study_id, template_trial",
    ),
    "BaseStorage.set_trial_state_values": (
        optuna.storages.BaseStorage.set_trial_state_values,
        "self, trial_id, state, values",
    ),
}


def explain(name: str) -> str:
    return CHANGED.format(version=optuna.__version__, name=name)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_is_the_known_one(name: str) -> None:
    function, parameters = SIGNATURES[name]
    assert ", ".join(inspect.signature(function).parameters) == parameters, explain(name)


@pytest.fixture
def study() -> Study:
    return optuna.create_study(directions=["minimize", "maximize"])


def test_a_trial_begins_and_ends_in_the_storage(study: Study) -> None:
    trial = internals.begin_trial(study)
    trial_id = internals.get_trial_id(trial)
    assert internals.read_trial(study, trial_id).state is TrialState.RUNNING, explain("get_trial")
    trial.suggest_float("x", 0, 1)
    internals.end_trial(study, trial, TrialState.PRUNED, [1.0, 2.0])
    (ended,) = study.get_trials()
    why = explain("set_trial_state_values")
    assert (ended.state, ended.values) == (TrialState.PRUNED, [1.0, 2.0]), why
    assert internals.get_trial_id(ended) == trial_id, explain("FrozenTrial._trial_id")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("kind", [NSGAIISampler, NSGAIIISampler])
def test_a_trial_of_the_first_generation_is_a_parent(study: Study, kind: Any) -> None:
    sampler = kind(seed=0)
    attributes = internals.get_first_generation()
    key = sampler._get_generation_key()
    assert attributes[key] == 0, explain("BaseGASampler._get_generation_key")
    for value in range(60):
        study.add_trial(create_trial(values=[float(value), float(value)], system_attrs=attributes))
    generation = sampler.get_trial_generation(study, study.get_trials()[0])
    assert generation == 0, explain("BaseGASampler.get_trial_generation")


def test_good_trials_are_a_tenth(study: Study) -> None:
    assert internals.count_good(100) == 10, explain("default_gamma_multiobjective")
    for value in range(20):
        study.add_trial(create_trial(values=[float(value), -float(value)]))
    good, others = internals.split_trials(study, study.get_trials(), 3)
    assert [trial.number for trial in good] == [0, 1, 2], explain("_split_trials")
    assert len(others) == 17, explain("_split_trials")


def test_tpe_draws_where_the_division_says(study: Study) -> None:
    """A subclass that calls the low half good gets low suggestions, and the other way round."""

    class Halved(internals.SplitTPESampler):
        wants_low = True

        def split(self, study: Study, trial: FrozenTrial) -> internals.Halves:
            trials = [t for t in study.get_trials() if t.state is TrialState.COMPLETE]
            low = [t for t in trials if t.params["x"] < 0.5]
            high = [t for t in trials if t.params["x"] >= 0.5]
            return (low, high) if self.wants_low else (high, low)

    space = {"x": FloatDistribution(0, 1)}
    for index in range(20):
        study.add_trial(
            create_trial(values=[0, 0], params={"x": index / 20}, distributions=dict(space))
        )
    for wants_low in (True, False):
        study.sampler = Halved(seed=0, n_startup_trials=0)
        study.sampler.wants_low = wants_low
        drawn = [study.ask(space).params["x"] for _ in range(5)]
        assert all((x < 0.5) == wants_low for x in drawn), explain("TPESampler._sample")


class FirstThree(ViewingSampler):
    """Shows another sampler the first three trials."""

    def view(self, study: Study) -> Study:
        return show(study, lambda viewed: viewed.get_trials()[:3])


@pytest.mark.parametrize(
    "make",
    [
        lambda: TPESampler(seed=0, n_startup_trials=1),
        lambda: NSGAIISampler(seed=0, population_size=2),
        lambda: GPSampler(seed=0, n_startup_trials=1),
    ],
    ids=["tpe", "nsga2", "gp"],
)
def test_a_sampler_learns_from_the_trials_of_the_view_alone(make: Callable[[], Any]) -> None:
    space, suggested = {"x": FloatDistribution(0, 1)}, []
    for num_trials, sampler in ((3, make()), (9, FirstThree(make()))):
        study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
        for index in range(num_trials):
            params = {"x": (index * 0.37) % 1}
            made = create_trial(
                values=[index % 4.0, float(index)], params=params, distributions=dict(space)
            )
            study.add_trial(made)
        suggested.append(study.ask(space).params["x"])
    assert suggested[0] == suggested[1], explain("the way in which samplers read trials")


def test_settings_are_read_as_optuna_reads_them(study: Study) -> None:
    space = {
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "ratio": FloatDistribution(0.0, 0.9, step=0.1),
        "kind": CategoricalDistribution(["a", "b"]),
        "depth": IntDistribution(1, 9),
    }
    generator = np.random.default_rng(0)
    for number in range(12):
        trial = internals.begin_trial(study)
        trial.suggest_float("rate", 1e-4, 1.0, log=True)
        if number % 3:
            trial.suggest_float("ratio", 0.0, 0.9, step=0.1)
        trial.suggest_categorical("kind", ["a", "b"])
        trial.suggest_int("depth", 1, 9)
        if number % 2 == 0:
            internals.end_trial(study, trial, TrialState.COMPLETE, generator.random(2).tolist())
    sampler = OneSplitTPESampler(seed=0)
    for _ in range(2):
        trials = study.get_trials(deepcopy=False)
        for name, distribution in space.items():
            ours = sampler._get_internal_repr(trials, {name: distribution}, study)
            theirs = TPESampler._get_internal_repr(sampler, trials, {name: distribution}, study)
            np.testing.assert_array_equal(ours[name], theirs[name])
        trial.suggest_float("later", 0.0, 1.0)  # a running trial has one more
        space["later"] = FloatDistribution(0.0, 1.0)
