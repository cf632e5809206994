from __future__ import annotations

from dataclasses import asdict, fields, replace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.space import SearchSpace
from trainables.pipeline_config import PipelineSettings
from trainables.ranges import FloatRange


def test_every_setting_of_a_pipeline_is_in_the_space() -> None:
    assert [f.name for f in fields(SearchSpace)] == [f.name for f in fields(PipelineSettings)]


@given(seed=st.integers(0, 2**31))
def test_suggested_pipelines_lie_in_the_space(seed: int) -> None:
    space = SearchSpace(round_to=(1, 8))
    sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(sampler=sampler)
    settings = space.to_settings(study.ask(space.distributions()).params)
    assert space.contains(settings)
    assert settings.pruning_ratio in (0.3, 0.4, 0.5, 0.6, 0.7)


def test_one_choice_or_an_empty_range_is_fixed_and_not_suggested() -> None:
    space = SearchSpace(scope=("global",), temperature=FloatRange(low=4.0, high=4.0))
    assert not {"scope", "temperature", "round_to"} & set(space.distributions())
    params = dict.fromkeys(space.distributions(), 0.5) | {"sparsity_lambda": 1e-4}
    settings = space.to_settings(params)
    assert (settings.scope, settings.temperature, settings.round_to) == ("global", 4.0, 1)


def test_lambda_may_be_continuous() -> None:
    space = SearchSpace(sparsity_lambda=FloatRange(low=1e-5, high=1e-2, log=True))
    distribution = space.distributions()["sparsity_lambda"]
    assert distribution == optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True)
    assert space.contains(PipelineSettings(sparsity_lambda=2e-4))
    assert not space.contains(PipelineSettings(sparsity_lambda=0.1))
    with pytest.raises(ValueError, match=r"space\.sparsity_lambda: .*at least 0"):
        SearchSpace(sparsity_lambda=FloatRange(low=-1.0, high=1.0))


def test_a_grid_lists_its_values() -> None:
    assert FloatRange(low=0.3, high=0.7, step=0.1).values() == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert FloatRange(low=0.3, high=0.3).values() == (0.3,)
    assert FloatRange(low=0.3, high=0.7).values() == ()


def test_points_outside_are_recognised() -> None:
    space, point = SearchSpace(), PipelineSettings()
    assert space.contains(point)
    for outside in ({"pruning_ratio": 0.55}, {"lr": 1.0}, {"sparsity_lambda": 2e-4}):
        assert not space.contains(replace(point, **outside))
    assert set(asdict(point)) == {f.name for f in fields(space)}


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
        (lambda: SearchSpace(sparsity_lambda=()), "space.sparsity_lambda needs at least one"),
        (lambda: SearchSpace(scope=("local", "local")), "none twice"),
        (lambda: SearchSpace(sparsity_lambda=(-1.0,)), "space.sparsity_lambda: .*at least 0"),
        (lambda: SearchSpace(round_to=(0,)), "space.round_to: .*at least 1"),
        (lambda: SearchSpace(pruning_ratio=FloatRange(low=0.5, high=1.0)), "space.pruning_ratio: "),
        (lambda: SearchSpace(lr=FloatRange(low=0.0, high=1.0)), "space.lr: "),
        (lambda: SearchSpace(temperature=FloatRange(low=0.0, high=1.0)), "temperature must be"),
        (lambda: SearchSpace(beta=FloatRange(low=-1.0, high=1.0)), "space.beta must be at least 0"),
        (lambda: SearchSpace(distiller=("kd",)), "space.alpha must end at 1"),
    ],
)
def test_a_wrong_range_is_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
