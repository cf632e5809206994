"""The best accuracy believable for a pruned network, before any distillation is paid for."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from search.objectives import OBJECTIVES

SIZES = ("num_params", "macs")
MIN_WITNESSES = 3
SMALLEST_MARGIN = 0.01


def bound_miou(
    network: Mapping[str, float], finished: Sequence[Mapping[str, float]], ceiling: float
) -> float:
    """Bound the mIoU of a pruned network by that of finished networks that are no smaller.

    Of one dense network, trained by one recipe, a part is not believed to beat a larger part by
    more than the settings make of it: the bound is the best mIoU of the finished networks with at
    least its parameters and MACs, plus as much as this best one is above their median (at least
    one point). With fewer than three such witnesses nothing is known, and the ceiling holds.

    Source: our own; the principle, that a cheap objective known early decides about a dear one,
        is that of decoupled evaluation (Daulton et al., "Hypervolume knowledge gradient", 2023).

    Args:
        network: Metrics of the pruned network; num_params and macs among them.
        finished: Metrics of finished networks; miou among them too.
        ceiling: mIoU in 0..1 that holds while nothing is known.

    Returns:
        mIoU in 0..1.
    """
    witnesses = [entry["miou"] for entry in finished if all(entry[s] >= network[s] for s in SIZES)]
    if len(witnesses) < MIN_WITNESSES:
        return ceiling
    best = max(witnesses)
    return min(1.0, best + max(SMALLEST_MARGIN, best - statistics.median(witnesses)))


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
    bound = bound_miou(network, list(finished.values()), ceiling)
    costs = [name for name in objectives if OBJECTIVES[name].direction == "minimize"]
    for number, entry in finished.items():
        if entry["miou"] >= bound and all(entry[name] <= network[name] for name in costs):
            return number, bound
    return None
