"""Who is on the front when one objective is known from a few noisy repetitions only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_DRAWS = 10_000


def pool_deviation(samples: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Estimate the deviation that all members have in common.

    Args:
        samples: Repetitions of each member, one or more.

    Returns:
        Square root of the mean of the members' variances, weighted by their degrees of freedom
        (n - 1 each), and the sum of those; (0, 0) where no member has two repetitions.
    """
    freedom = sum(len(values) - 1 for values in samples)
    if freedom == 0:
        return 0.0, 0
    squares = sum(
        statistics.variance(values) * (len(values) - 1) for values in samples if len(values) > 1
    )
    return float(squares / freedom) ** 0.5, freedom


def estimate_probability_non_dominated(
    samples: Sequence[Sequence[float]], costs: ArrayLike, *, seed: int = 0
) -> NDArray[np.float64]:
    """Estimate how probably no other member is at once as good and as cheap.

    Model: a member's repetitions are normally distributed about its own expected value with a
    deviation that all members have in common; the costs are exact. Nothing is presumed of the
    expected values and the deviation (prior proportional to 1 / variance), which makes the
    posterior of a variance a scaled inverse chi-squared, that of an expected value given it normal
    with deviation / sqrt(n), and alone a Student t about the mean. `NUM_DRAWS` draws of all
    expected values are compared; a share of them is known to 0.005 (one standard error) or better.

    The probability is that of the expected values, thus of the settings, and not that one more
    repetition comes out best: it goes to 0 or 1 as repetitions are added.

    Source: Gelman et al., "Bayesian data analysis", 3rd edition, section 3.2, for one mean; several
        with a common variance are a regression on who is who, section 14.2.
    Differs: the members' errors are taken as independent. Repetitions that share a seed across
        members tend to err to the same side; then the answers are more cautious than they need be.

    Args:
        samples: Repetitions of each of N members, one or more, more is better.
        costs: (N, C) exact objectives, less is better.
        seed: Of the draws.

    Returns:
        (N,) probabilities in 0..1; of equal costs and equal values neither dominates the other.

    Raises:
        ValueError: Shapes that do not fit, a member without repetitions, or none with two.
    """
    exact = np.asarray(costs, dtype=np.float64)
    if exact.ndim != 2 or len(exact) != len(samples):
        raise ValueError(f"costs must be ({len(samples)}, C), got {exact.shape}")
    if any(len(values) == 0 for values in samples):
        raise ValueError("every member must have a repetition, got none for one")
    deviation, freedom = pool_deviation(samples)
    if freedom == 0:
        raise ValueError("one member at least must have two repetitions, got one each")
    random = np.random.default_rng(seed)
    common = deviation * np.sqrt(freedom / random.chisquare(freedom, NUM_DRAWS))
    counts = np.array([len(values) for values in samples])
    means = np.array([statistics.fmean(values) for values in samples])
    errors = random.standard_normal((NUM_DRAWS, len(samples))) / np.sqrt(counts)
    draws = means + common[:, None] * errors
    shares = []
    for member, cost in enumerate(exact):
        own = draws[:, [member]]
        cheaper = (exact <= cost).all(axis=1)
        strictly = cheaper & (exact < cost).any(axis=1)
        beaten = (draws[:, cheaper] > own).any(axis=1) | (draws[:, strictly] >= own).any(axis=1)
        shares.append(1 - beaten.mean())
    return np.array(shares)
