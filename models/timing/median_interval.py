"""A distribution-free confidence interval of a median."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def compute_median_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Bound the median of any continuous distribution by two order statistics.

    Source: Conover, "Practical nonparametric statistics", section 3.2.

    Args:
        values: Independent draws.
        confidence: Smallest confidence level of the interval, in (0, 1).

    Returns:
        Lower and upper bound; infinite if there are too few values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    size, rank = len(ordered), 0
    # P(the median lies below the order statistic of this rank) = P(Binomial(size, 1/2) < rank).
    outside = 0.0
    while True:
        outside += math.exp(_log_binomial(size, rank) - size * math.log(2))
        if outside > (1 - confidence) / 2:
            break
        rank += 1
    if rank < 1:
        return -math.inf, math.inf
    return float(ordered[rank - 1]), float(ordered[size - rank])


def _log_binomial(size: int, chosen: int) -> float:
    return math.lgamma(size + 1) - math.lgamma(chosen + 1) - math.lgamma(size - chosen + 1)
