"""Which prefix a sampler's first, random pipelines get: few lambdas, every pruning ratio."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from search.space import SearchSpace
from trainables.pipeline_config import PipelineSettings

PIPELINES_PER_LAMBDA = 5  # where pruning ratios have no grid that could be covered


def choose_prefix(
    space: SearchSpace, proposed: Sequence[PipelineSettings], ready: Collection[float], seed: int
) -> dict[str, Any]:
    """Choose lambda and pruning ratio of a pipeline that would be drawn at random.

    Before a sampler has learnt anything, one draw is as good as another, so that it may as well be
    one that costs less and tells more: a lambda whose sparse network is trained is kept until each
    pruning ratio of the grid has been tried with it. Only then, or while none is trained, a new
    lambda is worth its training. A lambda that is still being trained is not preferred: whoever
    asks has a worker that would have to wait for it.

    Args:
        space: Where pipelines are looked for.
        proposed: Pipelines of the study so far.
        ready: Values of lambda whose sparse stage is done.
        seed: Of the draw among the pruning ratios that are left.

    Returns:
        Values by name, to be completed by the sampler; empty where all is left to it.
    """
    grid = space.pruning_ratio.values()
    num_places = len(grid) if len(grid) > 1 else PIPELINES_PER_LAMBDA
    is_searched = space.distributions()
    for sparsity_lambda in dict.fromkeys(settings.sparsity_lambda for settings in proposed):
        tried = [s.pruning_ratio for s in proposed if s.sparsity_lambda == sparsity_lambda]
        if sparsity_lambda not in ready or len(tried) >= num_places:
            continue
        prefix = {"sparsity_lambda": sparsity_lambda}
        left = [ratio for ratio in grid if ratio not in tried]
        if left:
            prefix["pruning_ratio"] = left[int(np.random.default_rng(seed).integers(len(left)))]
        return {name: value for name, value in prefix.items() if name in is_searched}
    return {}
