"""Random pipelines of a sampler's start-up share trained stages and cover the grid behind them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from search.space import SearchSpace
from trainables.chain import Prefix, declare_all, freeze
from trainables.ranges import FloatRange
from trainables.stages import STAGES

PIPELINES_PER_PREFIX = 5  # where the setting behind has no grid that could be covered


def choose_prefix(
    space: SearchSpace,
    stages: Sequence[str],
    proposed: Sequence[Mapping[str, Any]],
    ready: Collection[Prefix],
    seed: int,
) -> dict[str, Any]:
    """Choose the first settings of a pipeline that would be drawn at random.

    Before a sampler has learnt anything, one draw is as good as another, so that it may as well be
    one that costs less and tells more: a trained sparse network is kept until each pruning ratio of
    the grid has been tried with it. Only then, or while none is trained, another lambda is worth
    its training. A network that is still being trained is not preferred: whoever asks has a worker
    that would have to wait for it.

    Args:
        space: Where pipelines are looked for.
        stages: Of a pipeline.
        proposed: What the pipelines of the study so far choose, "stage.setting" -> value.
        ready: What chains choose whose training is done.
        seed: Seed of the draw among the values of the grid that are left.

    Returns:
        Values by "stage.setting", to be completed by the sampler; empty where all is left to it.
    """
    trained = [
        i for i, name in enumerate(stages) if STAGES[name].trains and not STAGES[name].can_pause
    ]
    if not trained:
        return {}
    shared, behind = stages[: trained[-1] + 1], stages[trained[-1] + 1 :]
    covered = next((name for name in declare_all(behind) if len(_get_grid(space, name)) > 1), None)
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
    """What a pipeline chooses for some of its stages."""
    names = declare_all(stages)
    return freeze({name: value for name, value in chosen.items() if name in names})
