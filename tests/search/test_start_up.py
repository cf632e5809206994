"""The first, random pipelines of a study share sparse networks and cover the pruning ratios."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search.config import StudyConfig
from search.pipelines.study import PipelineStudy
from search.proposing.samplers import SAMPLERS, count_random_starts
from search.proposing.shared_prefix import PIPELINES_PER_LAMBDA, choose_prefix
from search.space import SearchSpace
from trainables.pipeline_config import PipelineSettings
from trainables.ranges import FloatRange

SPACE = SearchSpace(pruning_ratio=FloatRange(low=0.3, high=0.5, step=0.1))
POINT = PipelineSettings()


def propose(*ratios: float, sparsity_lambda: float = 1e-5) -> list[PipelineSettings]:
    return [
        replace(POINT, sparsity_lambda=sparsity_lambda, pruning_ratio=ratio) for ratio in ratios
    ]


def test_a_trained_lambda_is_kept_until_every_pruning_ratio_was_tried() -> None:
    proposed = propose(0.3, 0.5)
    assert choose_prefix(SPACE, proposed, {1e-5}, seed=0) == {
        "sparsity_lambda": 1e-5,
        "pruning_ratio": 0.4,
    }
    assert choose_prefix(SPACE, propose(0.3, 0.5, 0.4), {1e-5}, seed=0) == {}
    drawn = {choose_prefix(SPACE, propose(0.3), {1e-5}, s)["pruning_ratio"] for s in range(20)}
    assert drawn == {0.4, 0.5}


def test_a_lambda_that_is_not_trained_is_not_preferred() -> None:
    assert choose_prefix(SPACE, propose(0.3), (), seed=0) == {}
    two = propose(0.3) + propose(0.3, sparsity_lambda=1e-3)
    assert choose_prefix(SPACE, two, {1e-3}, seed=0)["sparsity_lambda"] == 1e-3


def test_settings_without_a_choice_are_left_out() -> None:
    one = replace(SPACE, sparsity_lambda=(1e-5,))
    assert list(choose_prefix(one, propose(0.3), {1e-5}, seed=0)) == ["pruning_ratio"]
    for ratio in (FloatRange(low=0.3, high=0.3), FloatRange(low=0.3, high=0.5)):
        space = replace(SPACE, pruning_ratio=ratio)
        proposed = propose(*[0.3] * (PIPELINES_PER_LAMBDA - 1))
        prefix = choose_prefix(space, proposed, {1e-5}, seed=0)
        assert prefix == {"sparsity_lambda": 1e-5}
        assert choose_prefix(space, [*proposed, POINT], {1e-5}, seed=0) == {}


def run(config: StudyConfig, folder: Path, *, count: int) -> list[PipelineSettings]:
    """Every sparse network is trained by the time of the next question."""
    folder.mkdir()
    study, ready = PipelineStudy(config, folder), set()
    for _ in range(count):
        proposal = study.ask(ready)
        assert proposal is not None
        ready.add(proposal.settings.sparsity_lambda)
        metrics = {"miou": 0.3, "latency_ms": 9.0, "num_params": 7.0}
        study.tell(proposal.number, "complete", metrics=metrics)
    return [study.records[number].settings for number in range(count)]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_random_starts_share_their_lambda_and_repeat_with_the_seed(
    sampler: str, config: StudyConfig, tmp_path: Path
) -> None:
    space = replace(config.space, sparsity_lambda=FloatRange(low=1e-5, high=1e-2, log=True))
    config = replace(config, sampler=sampler, space=space, num_pipelines=36)
    count = 8
    first, second = (run(config, tmp_path / name, count=count) for name in ("first", "second"))
    assert first == second
    lambdas = [settings.sparsity_lambda for settings in first]
    ratios = [settings.pruning_ratio for settings in first]
    if sampler == "random":
        assert len(set(lambdas)) == count
    else:  # six ratios in the grid
        assert len(set(lambdas[:6])) == len(set(lambdas[6:])) == 1
        assert lambdas[6] != lambdas[0]
        assert sorted(ratios[:6]) == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
        assert len({settings.temperature for settings in first}) == count


def test_random_starts_share_nothing_where_it_is_not_wanted(
    config: StudyConfig, tmp_path: Path
) -> None:
    space = replace(config.space, sparsity_lambda=FloatRange(low=1e-5, high=1e-2, log=True))
    config = replace(config, space=space, num_pipelines=36, shared_prefix=False)
    found = run(config, tmp_path / "run", count=8)
    assert len({settings.sparsity_lambda for settings in found}) == 8


def test_a_sampler_that_has_learnt_is_left_alone(config: StudyConfig, tmp_path: Path) -> None:
    space = replace(config.space, sparsity_lambda=FloatRange(low=1e-5, high=1e-2, log=True))
    settings = run(replace(config, space=space), tmp_path / "run", count=7)
    assert count_random_starts("tpe", 8) == 4
    lambdas = [entry.sparsity_lambda for entry in settings]
    assert len(set(lambdas[:4])) == 1
    assert len(set(lambdas[4:])) == 3


def test_given_points_are_not_displaced(config: StudyConfig, tmp_path: Path) -> None:
    points = tuple(replace(POINT, lr=2e-3, temperature=t) for t in (1.0, 2.0))
    config = replace(config, first_points=points)
    assert tuple(run(config, tmp_path / "run", count=2)) == points


def test_every_sampler_says_when_it_learns() -> None:
    starts = {name: count_random_starts(name, 24) for name in SAMPLERS}
    assert starts == {"tpe": 8, "nsga2": 8, "nsga3": 8, "gp": 8, "random": 0}
