"""How many and which channels to remove, given a score for each: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SMALLEST_SHARE = 1 / 16
COST_EXPONENT = 0.5


def count_locally(size: int, pruning_ratio: float) -> int:
    """Count the channels that one group keeps: `floor(size (1 - pruning_ratio))`, at least one."""
    return max(1, math.floor(size * (1 - pruning_ratio) + 1e-9))


def count_globally(
    scores: Sequence[NDArray[np.float64]],
    pruning_ratio: float,
    macs: Sequence[int] | None = None,
) -> list[int]:
    """Count the channels that each of several groups keeps, by one ranking.

    Every group keeps at least a sixteenth of its channels (less only at very high ratios), because
    a network without one of its layers computes nothing. Channels with equal scores are removed
    from all groups alternately, so that an untrained network is pruned evenly.

    With `macs`, a score is divided by the square root of the multiply-accumulates that its channel
    saves. Scores alone keep the expensive channels of fine maps; scores per multiply-accumulate
    sacrifice accuracy for them (`docs/trial_designs.md`).

    Source: Liu et al., "Network slimming", https://arxiv.org/abs/1708.06519, section 3; the
        ranking by cost is in the spirit of Molchanov et al., "Pruning convolutional neural networks
        for resource efficient inference", https://arxiv.org/abs/1611.06440, section 2.2.
    Differs: every group keeps a smallest share; in the paper whole layers can be removed.

    Args:
        scores: Scores of each group, (C,); higher is more important, comparable across groups.
        pruning_ratio: In (0, 1), the fraction of all channels to remove; with `macs`, each channel
            is weighted by what it saves.
        macs: Multiply-accumulates that one channel of each group saves; None: all count alike.

    Returns:
        The number of channels that each group keeps.
    """
    if not scores:
        return []
    sizes = [len(s) for s in scores]
    share = min(SMALLEST_SHARE, (1 - pruning_ratio) / 2)
    spare = [size - max(1, math.ceil(size * share)) for size in sizes]
    ranks = [np.argsort(np.argsort(s, kind="stable"), kind="stable") for s in scores]
    costs = np.repeat(np.maximum(1, macs or [1] * len(sizes)), sizes).astype(np.float64)
    # Channels that a group must keep are ranked last.
    is_needed = np.concatenate([r >= n for r, n in zip(ranks, spare, strict=True)])
    turn = np.concatenate([r / len(r) for r in ranks])
    # Relative to the lowest cost, so that equal costs do not change even the smallest scores.
    expense = (costs / costs.min()) ** COST_EXPONENT
    order = np.lexsort((turn, np.concatenate(scores) / expense, is_needed))
    saved = np.cumsum(costs[order])
    goal = pruning_ratio * saved[-1] * (1 - 1e-9)
    num_removed = min(int(np.searchsorted(saved, goal)) + 1, sum(spare))
    owners = np.repeat(np.arange(len(sizes)), sizes)[order[:num_removed]]
    removed = np.bincount(owners, minlength=len(sizes))
    return [size - int(count) for size, count in zip(sizes, removed, strict=True)]


def round_width(keep: int, size: int, round_to: int | None) -> int:
    """Round a number of channels to the nearest multiple of `round_to` in [round_to, size]."""
    if round_to is None or keep == size:
        return keep
    nearest = math.floor(keep / round_to + 0.5) * round_to
    if nearest > size:
        nearest -= round_to
    return min(size, max(round_to, nearest))


def find_lowest(scores: NDArray[np.float64], count: int) -> list[int]:
    """Find the `count` channels of the lowest scores, ascending; of equal scores the first."""
    return sorted(np.argsort(scores, kind="stable")[:count].tolist())
