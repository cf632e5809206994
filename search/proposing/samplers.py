"""The samplers that choose the next pipeline; all of them are seeded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
)

from search.proposing.bounded_history import MAX_HISTORY, BoundedHistorySampler, TrialHistory
from search.proposing.conditional_settings import CompletingSampler
from search.proposing.one_split_tpe import OneSplitTPESampler
from search.proposing.optuna_internals import get_first_generation
from search.proposing.rung_estimates import EstimatingSampler, RungEstimates

SamplerName = Literal["tpe", "nsga2", "nsga3", "gp", "random"]

# (seed, num_pipelines) -> sampler. The number of random trials depends on num_pipelines, so that a
# short study is not mostly random.
SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, num: OneSplitTPESampler(seed=seed, n_startup_trials=_share(num, most=10)),
    "nsga2": lambda seed, num: NSGAIISampler(seed=seed, population_size=_population(num)),
    "nsga3": lambda seed, num: NSGAIIISampler(seed=seed, population_size=_population(num)),
    "gp": lambda seed, num: GPSampler(seed=seed, n_startup_trials=_share(num, most=10)),
    "random": lambda seed, num: RandomSampler(seed=seed),
}

COMPLETED = ("nsga2", "nsga3", "gp")  # samplers that need the same settings in all trials
BOUNDED = ("tpe",)  # samplers whose suggestions are slow after thousands of trials

# Attributes for trials of other runs: genetic samplers ignore a trial that has no generation.
FIRST_GENERATION = get_first_generation()


def create_sampler(
    name: str,
    *,
    seed: int,
    trial_number: int,
    num_pipelines: int,
    distributions: Mapping[str, BaseDistribution] | None = None,
    read_settings: Callable[[int], Mapping[str, Any]] = lambda number: {},
    estimates: RungEstimates | None = None,
    history: TrialHistory | None = None,
    max_history: int | None = MAX_HISTORY,
) -> BaseSampler:
    """Create the sampler for one suggestion.

    Each trial gets a new sampler, seeded by the study's seed and the trial's number. A suggestion
    then depends only on the seed and the results so far, so a resumed study draws the same values.

    Args:
        name: Key of `SAMPLERS`.
        seed: Seed of the study.
        trial_number: Number of trials that exist already.
        num_pipelines: Number of pipelines of the study.
        distributions: Distributions of all searched settings; None if every trial has all of them.
        read_settings: Function from the number of a trial to the settings of its pipeline, as far
            as they are known.
        estimates: Estimates of the pipelines that wait at a rung; None if there are none.
        history: History of the study's trials; None: read it from the study.
        max_history: Largest number of finished trials that a sampler of `BOUNDED` sees; None: all.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}; got {name!r}")
    derived = derive_seed(seed, trial_number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # NSGA-III
        sampler: BaseSampler = SAMPLERS[name](derived, num_pipelines)
    if history is not None and isinstance(sampler, OneSplitTPESampler):
        sampler.numbers = history.numbers
    if distributions is not None and name in COMPLETED:
        sampler = CompletingSampler(sampler, distributions, read_settings)
    if estimates is not None:
        sampler = EstimatingSampler(sampler, estimates)
    if name in BOUNDED and max_history is not None:
        estimate = estimates.estimate if estimates else None
        sampler = BoundedHistorySampler(sampler, max_history, estimate=estimate, history=history)
    return sampler


def derive_seed(seed: int, trial_number: int) -> int:
    """Return a different seed for every suggestion of a study."""
    return int(np.random.SeedSequence([seed, trial_number]).generate_state(1)[0])


def count_random_starts(name: SamplerName, num_pipelines: int) -> int:
    """Return how many pipelines must have finished before a sampler learns from them.

    Args:
        name: Key of `SAMPLERS`; 0 is returned for random, which never learns.
        num_pipelines: Number of pipelines of the study.
    """
    starts: dict[SamplerName, int] = {
        "tpe": _share(num_pipelines, most=10),
        "nsga2": _population(num_pipelines),
        "nsga3": _population(num_pipelines),
        "gp": _share(num_pipelines, most=10),
        "random": 0,
    }
    return starts[name]


def _share(num_pipelines: int, *, most: int) -> int:
    return max(4, min(most, num_pipelines // 3))


def _population(num_pipelines: int) -> int:
    """Return the population size of a genetic sampler.

    Only the first generation is random, so a study should have about ten generations. With Optuna's
    default of 50, a study of 300 pipelines would have six and spend a sixth of them at random.
    Fewer than 8 parents with three objectives mostly have the same rank, so that nothing is
    selected; therefore a short study has fewer generations, but at least three. From 500 pipelines
    on, the size is Optuna's default.
    """
    return max(4, min(50, max(8, num_pipelines // 10), num_pipelines // 3))
