"""Bounds the accuracy that a pruned network can reach, before it is distilled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from search.objectives import OBJECTIVES

SIZES = ("num_params", "macs")
MISCOVERAGE = 0.01
MIN_FINISHED = 9
RIDGE = 0.1  # keeps the slopes finite if all networks have the same shape


def bound_miou(
    network: Mapping[str, float], finished: Sequence[Mapping[str, float]], ceiling: float
) -> float:
    """Return an upper bound on a pruned network's mIoU, from the finished networks of its study.

    A ridge regression predicts mIoU from the logarithms of parameters and MACs. The bound is the
    upper end of the one-sided jackknife+ interval: the prediction plus the error that the
    regression makes on networks left out of it. A network that is exchangeable with the finished
    ones exceeds the bound in about 1 % of cases, and in at most 2 % for any distribution of the
    errors. With fewer than 99 finished networks the largest error is used, which 1 / (n + 1) of the
    networks exceed.

    The rate must be low because a front consists of exceptions: with 5 %, simulated studies of 1000
    pipelines ended at a smaller hypervolume than without any bound. The networks of a search are
    not quite exchangeable: the settings improve over time, and with rungs only good networks
    finish, which raises the bound. `benchmarks/early_stops.py` measures how often it was wrong.

    Source: Barber et al., "Predictive inference with the jackknife+",
        https://arxiv.org/abs/1905.02928, equation 1.2, with ridge regression. Deciding about an
        expensive objective by a cheap one that is known early is the principle of decoupled
        evaluation (Daulton et al., "Hypervolume knowledge gradient", 2023).

    Args:
        network: Metrics of the pruned network, including num_params and macs, both positive.
        finished: Metrics of the finished networks, including the same and miou.
        ceiling: mIoU in 0..1 that is returned while fewer than nine networks have finished.

    Returns:
        Upper bound on mIoU, in 0..1.
    """
    if len(finished) < MIN_FINISHED:
        return ceiling
    rank = min(len(finished), math.ceil((1 - MISCOVERAGE) * (len(finished) + 1)))
    sizes = np.log([[entry[name] for name in SIZES] for entry in (*finished, network)])
    spread = sizes.std(axis=0)
    scaled = (sizes - sizes.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    *known, asked = np.column_stack([np.ones(len(scaled)), scaled])
    design, miou = np.array(known), np.array([entry["miou"] for entry in finished])
    penalty = RIDGE * np.diag([0.0, *np.ones(len(SIZES))])
    pull = np.linalg.solve(design.T @ design + penalty, design.T)  # effect of each mIoU on weights
    weights = pull @ miou
    # The predictions of a fit that leaves a network out follow from this fit in closed form.
    residuals = (miou - design @ weights) / (1 - np.einsum("ij,ji->i", design, pull))
    limits = asked @ weights - (asked @ pull) * residuals + residuals
    return float(np.clip(np.partition(limits, rank - 1)[rank - 1], 0.0, 1.0))


def find_dominating(
    network: Mapping[str, float],
    finished: Mapping[int, Mapping[str, float]],
    objectives: Sequence[str],
    ceiling: float,
) -> tuple[int, float] | None:
    """Find a finished network that dominates this one even if its mIoU reaches the bound.

    Args:
        network: Metrics of the pruned network: all of its objectives but miou, and its sizes.
        finished: Metrics of the finished networks by trial number.
        objectives: Keys of `OBJECTIVES`.
        ceiling: As in `bound_miou`.

    Returns:
        Number of the finished network and the bound, or None if this one may enter the front.
    """
    if "miou" not in objectives:
        return None
    costs = [name for name in objectives if OBJECTIVES[name].direction == "minimize"]
    cheaper = [n for n, e in finished.items() if all(e[name] <= network[name] for name in costs)]
    if not cheaper:
        return None
    best = max(cheaper, key=lambda number: finished[number]["miou"])
    bound = bound_miou(network, list(finished.values()), ceiling)
    return (best, bound) if finished[best]["miou"] >= bound else None
