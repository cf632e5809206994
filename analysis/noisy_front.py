"""Estimates which networks are on the front if one objective is known only with noise."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_DRAWS = 10_000


def pool_deviation(samples: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Estimate the standard deviation that all members have in common.

    Args:
        samples: Repetitions of each member, one or more.

    Returns:
        The square root of the mean of the members' variances, weighted by their degrees of freedom
        (n - 1 each), and the sum of the degrees of freedom; (0, 0) if no member has two
        repetitions.
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
    """Estimate the probability that no other member is at once as good and as cheap.

    Model: the repetitions of a member are normally distributed around its own expected value, with
    a standard deviation that all members have in common. The costs are exact. The prior of the
    expected values and the variance is non-informative (proportional to 1 / variance). The
    posterior of the variance is then a scaled inverse chi-squared distribution, and that of an
    expected value, given the variance, is normal with deviation / sqrt(n). `NUM_DRAWS` draws of all
    expected values are compared, so a probability has a standard error of 0.005 or less.

    The probability concerns the expected values, and so the settings. It is not the probability
    that one more repetition is the best, and it goes to 0 or 1 as repetitions are added.

    Source: Gelman et al., "Bayesian data analysis", 3rd edition, section 3.2, for one mean; several
        means with a common variance are a regression on the members' identity, section 14.2.
    Differs: the members' errors are assumed to be independent. Repetitions that share a seed across
        members tend to err in the same direction; the probabilities are then too cautious.

    Args:
        samples: Repetitions of each of N members, one or more; larger is better.
        costs: (N, C) exact objectives; smaller is better.
        seed: Seed of the draws.

    Returns:
        (N,) probabilities in 0..1; of two equal members neither dominates the other.

    Raises:
        ValueError: The shapes do not fit, a member has no repetition, or none has two.
    """
    exact = np.asarray(costs, dtype=np.float64)
    if exact.ndim != 2 or len(exact) != len(samples):
        raise ValueError(f"costs must be ({len(samples)}, C), got {exact.shape}")
    if any(len(values) == 0 for values in samples):
        raise ValueError("every member must have a repetition, got a member with none")
    deviation, freedom = pool_deviation(samples)
    if freedom == 0:
        raise ValueError("at least one member must have two repetitions, got one each")
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
