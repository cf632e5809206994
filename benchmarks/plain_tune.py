"""Ray Tune with OptunaSearch as a good engineer sets it up, for comparison with ours."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from search.config import StudyConfig
from search.objectives import OBJECTIVES
from trainables.chain import build_chain, flatten_chain


def find_lowest(distribution: BaseDistribution) -> Any:
    """Return a value for a setting that a point does not use, because Tune wants one for each."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return distribution.low  # type: ignore[attr-defined]


def run_plain_tune(
    run_trial: Callable[[dict[str, Any]], None],
    study: StudyConfig,
    *,
    num_trials: int,
    seed: int,
    folder: Path,
) -> tune.ResultGrid:
    """Run a function once for each trial, one trial on every core, in a new local Ray.

    Args:
        run_trial: Function that takes a point of the study's space (a value for each
            "stage.setting" that is searched) and reports its objectives.
        study: Study with the space, the objectives and the first points.
        num_trials: Number of trials.
        seed: Seed of the sampler.
        folder: Folder for Tune's files.
    """
    kinds, stages = [OBJECTIVES[name] for name in study.objectives], study.pipeline.chain
    space = study.space.distributions(stages)
    points = [flatten_chain(build_chain(stages, point)) for point in study.first_points]
    cores = len(os.sched_getaffinity(0))
    ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    try:
        return tune.Tuner(
            tune.with_resources(run_trial, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(
                    space=space,
                    metric=[kind.name for kind in kinds],
                    mode=["max" if kind.direction == "maximize" else "min" for kind in kinds],
                    points_to_evaluate=[
                        {name: point.get(name, find_lowest(space[name])) for name in space}
                        for point in points
                        if study.space.contains(point)
                    ],
                    seed=seed,
                ),
                num_samples=num_trials,
                max_concurrent_trials=cores,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
        ).fit()
    finally:
        ray.shutdown()
