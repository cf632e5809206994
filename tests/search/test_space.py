from __future__ import annotations

import pickle
from collections.abc import Callable

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from ray import cloudpickle

from search.space import SearchSpace, find_nearest, make_space
from trainables.chain import build_chain, flatten_chain, make_settings
from trainables.pipeline_config import DEFAULT_STAGES
from trainables.ranges import FloatRange, Space
from trainables.stages import STAGES


def find_outside(space: SearchSpace, **chosen: object) -> list[str]:
    return space.find_outside(make_settings(**chosen))


def test_every_setting_of_a_pipeline_is_in_the_space() -> None:
    ranges = SearchSpace().list_ranges(DEFAULT_STAGES)
    assert set(make_settings()) <= set(ranges)
    assert set(make_settings(distiller="kd")) <= set(ranges)
    assert all(name.partition(".")[0] in STAGES for name in ranges)


def test_a_space_that_was_sent_to_a_worker_leaves_its_classes_as_they_were() -> None:
    space = SearchSpace()
    for sent in (pickle, cloudpickle):
        received = sent.loads(sent.dumps(space))
        assert received == space
        assert type(received.distilled) is type(space.distilled)
    TypeAdapter(SearchSpace)  # config.json is read through it


@given(seed=st.integers(0, 2**31))
def test_suggested_pipelines_lie_in_the_space(seed: int) -> None:
    space = make_space(round_to=(1, 8), distiller=("dkd", "kd", "none"))
    sampler = optuna.samplers.RandomSampler(seed=seed)
    trial = optuna.create_study(sampler=sampler).ask()
    chosen = space.suggest(DEFAULT_STAGES, trial._suggest)
    assert flatten_chain(build_chain(DEFAULT_STAGES, chosen)) == chosen
    assert space.contains(chosen)
    assert chosen["pruned.pruning_ratio"] in (0.3, 0.4, 0.5, 0.6, 0.7)
    # What the distiller does not use is not suggested.
    used = {name.split(".")[1] for name in trial.params if name.count(".") == 2}
    assert used == {chosen["distilled.distiller"]} - {"none"}


def test_one_choice_or_an_empty_range_is_fixed_and_not_suggested() -> None:
    space = make_space(scope=("global",), temperature=FloatRange(low=4.0, high=4.0))
    fixed = {"pruned.scope", "distilled.dkd.temperature", "pruned.round_to"}
    assert not fixed & set(space.distributions(DEFAULT_STAGES))
    chosen = space.complete(DEFAULT_STAGES, {"sparse.sparsity_lambda": 1e-4})
    values = [chosen[name] for name in ("pruned.scope", "distilled.dkd.temperature")]
    assert [*values, chosen["pruned.round_to"]] == ["global", 4.0, 1]


def test_lambda_may_be_continuous() -> None:
    space = make_space(sparsity_lambda=FloatRange(low=1e-5, high=1e-2, log=True))
    distribution = space.distributions(DEFAULT_STAGES)["sparse.sparsity_lambda"]
    assert distribution == optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True)
    assert not find_outside(space, sparsity_lambda=2e-4)
    assert find_outside(space, sparsity_lambda=0.1) == ["sparse.sparsity_lambda"]
    with pytest.raises(ValueError, match=r"space\.sparse\.sparsity_lambda: .*at least 0"):
        make_space(sparsity_lambda=FloatRange(low=-1.0, high=1.0))


def test_a_grid_lists_its_values() -> None:
    assert FloatRange(low=0.3, high=0.7, step=0.1).values() == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert FloatRange(low=0.3, high=0.3).values() == (0.3,)
    assert FloatRange(low=0.3, high=0.7).values() == ()


def test_points_outside_are_recognised() -> None:
    space = SearchSpace()
    assert not find_outside(space)
    for outside in ({"pruning_ratio": 0.55}, {"lr": 1.0}, {"sparsity_lambda": 2e-4}):
        assert find_outside(space, **outside)


@pytest.mark.parametrize(
    ("values", "wanted", "nearest"),
    [
        (FloatRange(low=0.2, high=0.4, step=0.1), 0.33, 0.3),
        (FloatRange(low=0.2, high=0.4), 0.9, 0.4),
        ((1e-6, 3e-5), 1e-5, 1e-6),
        ((1e-6, 9e-6), 1e-5, 9e-6),
        (("kd", "dkd"), "none", "kd"),
        ((1, 8), 8, 8),
    ],
)
def test_a_value_outside_has_a_nearest_one_inside(
    values: Space, wanted: float | str, nearest: float | str
) -> None:
    assert find_nearest(values, wanted) == nearest


def test_several_distillers_go_together_in_the_default_space() -> None:
    space = make_space(distiller=("dkd", "kd"))  # kd's alpha has a range of its own
    suggested = space.distributions(DEFAULT_STAGES)
    assert {"distilled.dkd.beta", "distilled.kd.alpha"} <= set(suggested)
    assert "distilled.kd.alpha" not in SearchSpace().distributions(DEFAULT_STAGES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FloatRange(low=2.0, high=1.0), "low <= high, got 2.0..1.0"),
        (lambda: FloatRange(low=0.0, high=1.0, log=True), "low > 0, got 0.0"),
        (
            lambda: FloatRange(low=0.0, high=1.0, step=0.3),
            "divide the range 0.0..1.0, got step 0.3",
        ),
        (lambda: FloatRange(low=1.0, high=2.0, step=1.0, log=True), "a step or log, not both"),
        (lambda: FloatRange(low=0.0, high=1.0, step=-0.5), "step must be greater than 0, got -0.5"),
        (lambda: make_space(sparsity_lambda=()), "sparsity_lambda needs at least one"),
        (lambda: make_space(scope=("local", "local")), "no choice twice"),
        (lambda: make_space(sparsity_lambda=(-1.0,)), "sparsity_lambda: .*at least 0"),
        (lambda: make_space(round_to=(0,)), "round_to: .*at least 1"),
        (lambda: make_space(pruning_ratio=FloatRange(low=0.5, high=1.0)), "pruning_ratio: "),
        (lambda: make_space(lr=FloatRange(low=0.0, high=1.0)), "space.distilled.lr: "),
        (lambda: make_space(temperature=FloatRange(low=0.0, high=1.0)), "temperature must be"),
        (lambda: make_space(beta=FloatRange(low=-1.0, high=1.0)), "beta must be at least 0"),
        (
            lambda: make_space(distiller=("kd",), alpha=FloatRange(low=0.0, high=2.0)),
            r"space\.distilled\.kd\.alpha: alpha must be in 0\.\.1",
        ),
        (lambda: make_space(distiller=("fitnets",)), "distiller must be one of .* got 'fitnets'"),
        (lambda: make_space(gamma=(1.0,)), "unknown setting gamma"),
    ],
)
def test_a_wrong_range_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
