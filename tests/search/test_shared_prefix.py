"""The first, random pipelines of a study share sparse networks and cover the pruning ratios."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.config import StudyConfig
from search.pipelines.study import PipelineStudy
from search.proposing.samplers import SAMPLERS, count_random_starts
from search.proposing.shared_prefix import PIPELINES_PER_PREFIX, choose_prefix
from search.space import make_space, set_ranges
from trainables.chain import Prefix, flatten_chain, freeze, make_settings
from trainables.pipeline import StageResult
from trainables.pipeline_config import DEFAULT_STAGES
from trainables.ranges import FloatRange

GRID = FloatRange(low=0.3, high=0.5, step=0.1)
SPACE = make_space(pruning_ratio=GRID)
STAGES = DEFAULT_STAGES
POINT = make_settings()

LAMBDAS = FloatRange(low=1e-5, high=1e-2, log=True)


def trained(sparsity_lambda: float) -> Prefix:
    """What the chain of a trained sparse network chooses."""
    return freeze({"dense.student": "student", "sparse.sparsity_lambda": sparsity_lambda})


def propose(*ratios: float, sparsity_lambda: float = 1e-5) -> list[dict[str, Any]]:
    return [
        {**POINT, "sparse.sparsity_lambda": sparsity_lambda, "pruned.pruning_ratio": ratio}
        for ratio in ratios
    ]


def test_a_trained_lambda_is_kept_until_every_pruning_ratio_was_tried() -> None:
    proposed = propose(0.3, 0.5)
    assert choose_prefix(SPACE, STAGES, proposed, {trained(1e-5)}, seed=0) == {
        "sparse.sparsity_lambda": 1e-5,
        "pruned.pruning_ratio": 0.4,
    }
    assert choose_prefix(SPACE, STAGES, propose(0.3, 0.5, 0.4), {trained(1e-5)}, seed=0) == {}
    drawn = {
        choose_prefix(SPACE, STAGES, propose(0.3), {trained(1e-5)}, s)["pruned.pruning_ratio"]
        for s in range(20)
    }
    assert drawn == {0.4, 0.5}


def test_a_lambda_that_is_not_trained_is_not_preferred() -> None:
    assert choose_prefix(SPACE, STAGES, propose(0.3), (), seed=0) == {}
    two = propose(0.3) + propose(0.3, sparsity_lambda=1e-3)
    assert (
        choose_prefix(SPACE, STAGES, two, {trained(1e-3)}, seed=0)["sparse.sparsity_lambda"] == 1e-3
    )


def test_settings_without_a_choice_are_left_out() -> None:
    one = make_space(sparsity_lambda=(1e-5,), pruning_ratio=GRID)
    assert list(choose_prefix(one, STAGES, propose(0.3), {trained(1e-5)}, seed=0)) == [
        "pruned.pruning_ratio"
    ]
    for ratio in (FloatRange(low=0.3, high=0.3), FloatRange(low=0.3, high=0.5)):
        space = make_space(pruning_ratio=ratio)
        proposed = propose(*[0.3] * (PIPELINES_PER_PREFIX - 1))
        prefix = choose_prefix(space, STAGES, proposed, {trained(1e-5)}, seed=0)
        assert prefix == {"sparse.sparsity_lambda": 1e-5}
        assert choose_prefix(space, STAGES, [*proposed, POINT], {trained(1e-5)}, seed=0) == {}


def test_only_a_setting_that_every_pipeline_has_is_covered() -> None:
    """A grid of one distiller's setting says nothing of a pipeline with another one."""
    temperature = FloatRange(low=1, high=4, step=1)
    space = make_space(
        pruning_ratio=FloatRange(low=0.3, high=0.3),
        distiller=("dkd", "none"),
        temperature=temperature,
    )
    proposed = [POINT, make_settings(distiller="none")]
    prefix = choose_prefix(space, STAGES, proposed, {trained(1e-5)}, seed=0)
    assert prefix == {"sparse.sparsity_lambda": 1e-5}


def run(config: StudyConfig, folder: Path, *, count: int) -> list[dict[str, Any]]:
    """Every sparse network is trained by the time of the next question."""
    folder.mkdir()
    study, ready = PipelineStudy(config, folder), set()
    for _ in range(count):
        proposal = study.ask(ready)
        assert proposal is not None
        ready.add(freeze(flatten_chain(proposal.chain[:2])))
        metrics = {"miou": 0.3, "latency_ms": 9.0, "num_params": 7.0}
        study.tell(proposal.number, "complete", result=StageResult(metrics=metrics))
    return [study.records[number].settings for number in range(count)]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_random_starts_share_their_lambda_and_repeat_with_the_seed(
    sampler: str, config: StudyConfig, tmp_path: Path
) -> None:
    space = set_ranges(config.space, {"sparse.sparsity_lambda": LAMBDAS})
    config = replace(config, sampler=sampler, space=space, num_pipelines=36)
    count = 8
    first, second = (run(config, tmp_path / name, count=count) for name in ("first", "second"))
    assert first == second
    lambdas = [settings["sparse.sparsity_lambda"] for settings in first]
    ratios = [settings["pruned.pruning_ratio"] for settings in first]
    if sampler == "random":
        assert len(set(lambdas)) == count
    else:  # six ratios in the grid
        assert len(set(lambdas[:6])) == len(set(lambdas[6:])) == 1
        assert lambdas[6] != lambdas[0]
        assert sorted(ratios[:6]) == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
        assert len({settings["distilled.dkd.temperature"] for settings in first}) == count


def test_random_starts_share_nothing_where_it_is_not_wanted(
    config: StudyConfig, tmp_path: Path
) -> None:
    space = set_ranges(config.space, {"sparse.sparsity_lambda": LAMBDAS})
    config = replace(config, space=space, num_pipelines=36, shared_prefix=False)
    found = run(config, tmp_path / "run", count=8)
    assert len({settings["sparse.sparsity_lambda"] for settings in found}) == 8


def test_a_sampler_that_has_learnt_is_left_alone(config: StudyConfig, tmp_path: Path) -> None:
    space = set_ranges(config.space, {"sparse.sparsity_lambda": LAMBDAS})
    settings = run(replace(config, space=space), tmp_path / "run", count=7)
    assert count_random_starts("tpe", 8) == 4
    lambdas = [entry["sparse.sparsity_lambda"] for entry in settings]
    assert len(set(lambdas[:4])) == 1
    assert len(set(lambdas[4:])) == 3


def test_given_points_are_not_displaced(config: StudyConfig, tmp_path: Path) -> None:
    points = tuple(
        {**POINT, "distilled.lr": 2e-3, "distilled.dkd.temperature": t} for t in (1.0, 2.0)
    )
    config = replace(config, first_points=points)
    assert tuple(run(config, tmp_path / "run", count=2)) == points


def test_every_sampler_says_when_it_learns() -> None:
    starts = {name: count_random_starts(name, 24) for name in SAMPLERS}
    assert starts == {"tpe": 8, "nsga2": 8, "nsga3": 8, "gp": 8, "random": 0}
