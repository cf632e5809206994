"""Ray Tune with OptunaSearch as a good engineer sets it up, for ours to be measured against."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from search.config import StudyConfig
from search.objectives import OBJECTIVES
from trainables.chain import build_chain, flatten_chain


def run_plain_tune(
    run_trial: Callable[[dict[str, Any]], None],
    study: StudyConfig,
    *,
    num_trials: int,
    seed: int,
    folder: Path,
) -> tune.ResultGrid:
    """Run a function once per trial, one on every core, in a Ray of its own.

    Args:
        run_trial: Takes a point of the study's space, "stage.setting" -> value for the settings
            that are searched, and reports its objectives.
        study: Space, objectives and the points tried first.
        num_trials: How many.
        seed: Of the sampler.
        folder: Takes Tune's files.
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
                        {name: value for name, value in point.items() if name in space}
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
