"""Lets the random pipelines of a sampler's start-up share trained stages and cover the grid."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from search.space import SearchSpace
from trainables.chain import Prefix, declare_all, freeze
from trainables.ranges import FloatRange
from trainables.stages import STAGES

PIPELINES_PER_PREFIX = 5  # used if no setting after the shared stages has a grid


def choose_prefix(
    space: SearchSpace,
    stages: Sequence[str],
    proposed: Sequence[Mapping[str, Any]],
    ready: Collection[Prefix],
    seed: int,
) -> dict[str, Any]:
    """Choose the first settings of a pipeline that would otherwise be drawn at random.

    Before a sampler has learnt anything, all draws are equally good, so it is best to make a cheap
    one. A trained sparse network is used again until each pruning ratio of the grid has been tried
    with it. After that, or while none is trained, the sampler draws another lambda. A network that
    is still being trained is not preferred, because a free worker would have to wait for it.

    Args:
        space: Search space.
        stages: Stages of a pipeline.
        proposed: Settings of the study's pipelines so far, each "stage.setting" -> value.
        ready: Settings of the chains whose training is done.
        seed: Seed of the draw among the untried values of the grid.

    Returns:
        Values by "stage.setting", which the sampler completes; empty if it may choose all.
    """
    trained = [
        i for i, name in enumerate(stages) if STAGES[name].trains and not STAGES[name].can_pause
    ]
    if not trained:
        return {}
    shared, behind = stages[: trained[-1] + 1], stages[trained[-1] + 1 :]
    # Not every pipeline has the settings of an option, such as those of a distiller.
    always = [name for name, entry in declare_all(behind).items() if entry.choice is None]
    covered = next((name for name in always if len(_get_grid(space, name)) > 1), None)
    grid = () if covered is None else _get_grid(space, covered)
    is_searched = space.distributions(stages)
    for key in dict.fromkeys(_select(chosen, shared) for chosen in proposed):
        alike = [chosen for chosen in proposed if _select(chosen, shared) == key]
        if key not in ready or len(alike) >= (len(grid) or PIPELINES_PER_PREFIX):
            continue
        prefix = dict(key)
        if covered is not None:
            left = [value for value in grid if value not in [chosen[covered] for chosen in alike]]
            if left:
                prefix[covered] = left[int(np.random.default_rng(seed).integers(len(left)))]
        return {name: value for name, value in prefix.items() if name in is_searched}
    return {}


def _get_grid(space: SearchSpace, name: str) -> tuple[float, ...]:
    values = space.get_range(name)
    return values.values() if isinstance(values, FloatRange) and values.step else ()


def _select(chosen: Mapping[str, Any], stages: Sequence[str]) -> Prefix:
    """Return a pipeline's settings for the given stages."""
    names = declare_all(stages)
    return freeze({name: value for name, value in chosen.items() if name in names})
