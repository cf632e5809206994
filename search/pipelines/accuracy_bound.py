"""Bounds the accuracy that a pruned network can reach, before it is distilled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from search.objectives import OBJECTIVES
from search.proposing.trial_arrays import with_room

SIZES = ("num_params", "macs")
MISCOVERAGE = 0.01
MIN_FINISHED = 9
RIDGE = 0.1  # keeps the slopes finite if all networks have the same shape

Floats = npt.NDArray[np.float64]


class FinishedNetworks:
    """The finished networks of a study, by which the accuracy of others is bounded.

    They are kept in arrays, because a long study asks thousands of times about thousands of them.

    Args:
        objectives: Keys of `OBJECTIVES`.
    """

    def __init__(self, objectives: Sequence[str]) -> None:
        # The bound holds for mIoU alone, so another gain that is still unknown is not judged by it.
        gains = [name for name in objectives if OBJECTIVES[name].direction == "maximize"]
        self._judges_accuracy = gains == ["miou"]
        self._costs = [name for name in objectives if OBJECTIVES[name].direction == "minimize"]
        self._numbers: list[int] = []
        self._rows: Floats = np.zeros((0, len(SIZES) + 1 + len(self._costs)))

    def __len__(self) -> int:
        """Return the number of networks."""
        return len(self._numbers)

    def add(self, number: int, metrics: Mapping[str, float]) -> None:
        """Add a network, unless it lacks an objective that is a cost, a size or the mIoU.

        Args:
            number: Trial number, which has not been added before.
            metrics: Metrics of the network.
        """
        if not {*SIZES, "miou", *self._costs} <= metrics.keys():
            return
        self._rows = with_room(self._rows, len(self), np.nan)
        sizes = [math.log(metrics[name]) for name in SIZES]
        costs = [metrics[name] for name in self._costs]
        self._rows[len(self)] = (*sizes, metrics["miou"], *costs)
        self._numbers.append(number)

    def find_dominating(
        self, network: Mapping[str, float], ceiling: float
    ) -> tuple[int, float] | None:
        """Find a finished network that dominates this one even if its mIoU reaches the bound.

        Args:
            network: Metrics of the pruned network: all of its objectives but miou, and its sizes.
            ceiling: As in `bound_miou`.

        Returns:
            Number of the finished network and the bound, or None if this one may enter the front,
            as it always may if the study does not maximise mIoU alone.
        """
        if not self._judges_accuracy:
            return None
        costs = self._rows[: len(self), len(SIZES) + 1 :]
        cheaper = np.flatnonzero((costs <= [network[name] for name in self._costs]).all(axis=1))
        if not cheaper.size:
            return None
        miou = self._rows[: len(self), len(SIZES)]
        best = int(cheaper[np.argmax(miou[cheaper])])
        bound = self.bound_miou(network, ceiling)
        return (self._numbers[best], bound) if miou[best] >= bound else None

    def bound_miou(self, network: Mapping[str, float], ceiling: float) -> float:
        """Return an upper bound on a pruned network's mIoU, from the finished networks.

        A ridge regression predicts mIoU from the logarithms of parameters and MACs. The bound is
        the upper end of the one-sided jackknife+ interval: the prediction plus the error that the
        regression makes on networks left out of it. A network that is exchangeable with the
        finished ones exceeds the bound in about 1 % of cases, and in at most 2 % for any
        distribution of the errors. With fewer than 99 finished networks the largest error is used,
        which 1 / (n + 1) of the networks exceed.

        The rate must be low because a front consists of exceptions: with 5 %, simulated studies of
        1000 pipelines ended at a smaller hypervolume than without any bound. The networks of a
        search are not quite exchangeable: the settings improve over time, and with rungs only good
        networks finish, which raises the bound. `benchmarks/early_stops.py` measures how often it
        was wrong.

        Source: Barber et al., "Predictive inference with the jackknife+",
            https://arxiv.org/abs/1905.02928, equation 1.2, with ridge regression. Deciding about an
            expensive objective by a cheap one that is known early is the principle of decoupled
            evaluation (Daulton et al., "Hypervolume knowledge gradient", 2023).

        Args:
            network: Metrics of the pruned network, including num_params and macs, both positive.
            ceiling: mIoU in 0..1 that is returned while fewer than nine networks have finished and
                none of them exceeds it.

        Returns:
            Upper bound on mIoU, in 0..1.
        """
        count = len(self)
        if count < MIN_FINISHED:
            exceeds = (self._rows[:count, len(SIZES)] > ceiling).any()
            return 1.0 if exceeds else ceiling
        rank = min(count, math.ceil((1 - MISCOVERAGE) * (count + 1)))
        asked_sizes = [math.log(network[name]) for name in SIZES]
        sizes = np.vstack([self._rows[:count, : len(SIZES)], asked_sizes])
        miou = self._rows[:count, len(SIZES)]
        spread = sizes.std(axis=0)
        scaled = (sizes - sizes.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        described = np.column_stack([np.ones(len(scaled)), scaled])
        design, asked = described[:-1], described[-1]
        penalty = RIDGE * np.diag([0.0, *np.ones(len(SIZES))])
        # The effect of each mIoU on the weights:
        pull = np.linalg.solve(design.T @ design + penalty, design.T)
        weights = pull @ miou
        # The predictions of a fit that leaves a network out follow from this fit in closed form.
        leverage = np.einsum("ij,ji->i", design, pull)
        residuals = (miou - design @ weights) / (1 - leverage)
        limits = asked @ weights - (asked @ pull) * residuals + residuals
        return float(np.clip(np.partition(limits, rank - 1)[rank - 1], 0.0, 1.0))
