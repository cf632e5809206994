"""The best accuracy believable for a pruned network, before any distillation is paid for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from search.objectives import OBJECTIVES

SIZES = ("num_params", "macs")
MISCOVERAGE = 0.01
MIN_FINISHED = 9
RIDGE = 0.1  # keeps the slopes finite where all networks have one shape


def bound_miou(
    network: Mapping[str, float], finished: Sequence[Mapping[str, float]], ceiling: float
) -> float:
    """Bound the mIoU of a pruned network by what finished networks of its study have come to.

    mIoU is fitted over the logarithms of parameters and MACs, and as much is added as the fit
    misses a network by that was left out of it: the upper end of the one-sided jackknife+ interval.
    A network like the others exceeds it once in a hundred times (of fewer than 99 the worst misfit
    is taken, which one in their number plus one exceeds); twice as often at most, whatever the
    errors' distribution. It must be rare, as a front is made of exceptions: with once in twenty,
    simulated studies of 1000 pipelines ended at a smaller hypervolume than without any bound.
    Networks of a search are not quite alike: their settings get better, and where there are rungs
    only good ones finish, which raises the bound. How often it was wrong in a study is what
    `benchmarks/early_stops.py` measures.

    Source: Barber et al., "Predictive inference with the jackknife+",
        https://arxiv.org/abs/1905.02928, equation 1.2, by ridge regression; that a cheap objective
        known early decides about a dear one is the principle of decoupled evaluation (Daulton et
        al., "Hypervolume knowledge gradient", 2023).

    Args:
        network: Metrics of the pruned network; num_params and macs, both positive, among them.
        finished: Metrics of finished networks; miou among them too.
        ceiling: mIoU in 0..1 that holds while fewer than nine have finished.

    Returns:
        mIoU in 0..1.
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
    pull = np.linalg.solve(design.T @ design + penalty, design.T)  # of each mIoU on each weight
    weights = pull @ miou
    # What a fit without a network says of it, and of the one asked for, needs no other fit.
    residuals = (miou - design @ weights) / (1 - np.einsum("ij,ji->i", design, pull))
    limits = asked @ weights - (asked @ pull) * residuals + residuals
    return float(np.clip(np.partition(limits, rank - 1)[rank - 1], 0.0, 1.0))


def find_dominating(
    network: Mapping[str, float],
    finished: Mapping[int, Mapping[str, float]],
    objectives: Sequence[str],
    ceiling: float,
) -> tuple[int, float] | None:
    """Find a finished network that no believable accuracy of this one could escape.

    Args:
        network: Metrics of the pruned network: all of its objectives but miou, and its sizes.
        finished: Metrics of the finished networks by trial number.
        objectives: Keys of `OBJECTIVES`.
        ceiling: As in `bound_miou`.

    Returns:
        Number of the finished network and the bound, or None while the front is within reach.
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
