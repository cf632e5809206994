"""How the next pipeline is chosen; every sampler is seeded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
)

from search.proposing.bounded_history import MAX_HISTORY, BoundedHistorySampler, TrialHistory
from search.proposing.one_split_tpe import OneSplitTPESampler
from search.proposing.optuna_internals import get_first_generation
from search.proposing.rung_estimates import EstimatingSampler, RungEstimates

SamplerName = Literal["tpe", "nsga2", "nsga3", "gp", "random"]

# (seed, pipelines of the study) -> sampler; a small study must not spend itself on random starts.
SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, num: OneSplitTPESampler(seed=seed, n_startup_trials=_share(num, most=10)),
    "nsga2": lambda seed, num: NSGAIISampler(seed=seed, population_size=_population(num)),
    "nsga3": lambda seed, num: NSGAIIISampler(seed=seed, population_size=_population(num)),
    "gp": lambda seed, num: GPSampler(seed=seed, n_startup_trials=_share(num, most=10)),
    "random": lambda seed, num: RandomSampler(seed=seed),
}

BOUNDED = ("tpe",)  # those whose suggestions take long after thousands of trials

# Marks trials of other runs for the genetic samplers: they breed from nothing without a generation.
FIRST_GENERATION = get_first_generation()


def create_sampler(
    name: str,
    *,
    seed: int,
    trial_number: int,
    num_pipelines: int,
    estimates: RungEstimates | None = None,
    history: TrialHistory | None = None,
    max_history: int | None = MAX_HISTORY,
) -> BaseSampler:
    """Make the sampler of one suggestion.

    A fresh sampler per trial, seeded by the study's seed and the trial's number, makes a suggestion
    a function of the seed and the results so far: a resumed study draws what it would have drawn.

    Args:
        name: Key of `SAMPLERS`.
        seed: Of the study.
        trial_number: Trials that exist already.
        num_pipelines: Length of the study.
        estimates: Of the pipelines that wait at a rung; None: there are none.
        history: Of the study's trials; None: it is read from the study.
        max_history: Most finished trials that a sampler of `BOUNDED` sees; None: all.

    Raises:
        ValueError: An unknown name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}; got {name!r}")
    derived = derive_seed(seed, trial_number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # NSGA-III
        sampler: BaseSampler = SAMPLERS[name](derived, num_pipelines)
    if estimates is not None:
        sampler = EstimatingSampler(sampler, estimates)
    if name in BOUNDED and max_history is not None:
        estimate = estimates.estimate if estimates else None
        sampler = BoundedHistorySampler(sampler, max_history, estimate=estimate, history=history)
    return sampler


def derive_seed(seed: int, trial_number: int) -> int:
    """A seed of its own for every suggestion of a study."""
    return int(np.random.SeedSequence([seed, trial_number]).generate_state(1)[0])


def count_random_starts(name: SamplerName, num_pipelines: int) -> int:
    """Pipelines that must have finished before a sampler learns from them.

    Args:
        name: Key of `SAMPLERS`; random never learns and has no start, so that it stays random.
        num_pipelines: Length of the study.
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
    """Pipelines of one generation of a genetic sampler.

    The first generation is random and only the later ones learn, so that a study should have ten:
    with Optuna's default of 50 one of 300 pipelines would have six, and spend a sixth at random.
    Fewer than 8 parents of three objectives are all of one rank and select nothing, so that a short
    study has fewer generations, yet at least three; beyond 500 pipelines the default holds, and
    more pipelines mean more generations.
    """
    return max(4, min(50, max(8, num_pipelines // 10), num_pipelines // 3))
