"""Asynchronous successive halving over a front: which paused pipeline goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from search.objectives import OBJECTIVES


class SuccessiveHalving:
    """Promotes, at every rung, the best part of those that have reached it.

    Best is the lowest non-dominated rank, then the largest share of the hypervolume that its rank
    would lose without it. Costs are exact at every rung; only accuracy grows. Nobody waits for a
    rung to fill: whoever belongs to the best part of those there now goes on, and one that paused
    goes on later if the rung grows to make room for it.

    Source: Li et al., "A system for massively parallel hyperparameter tuning" (ASHA),
        https://arxiv.org/abs/1810.05934, algorithm 2; with several objectives Schmucker et al.,
        "Multi-objective asynchronous successive halving", https://arxiv.org/abs/2106.12639.
    Differs: ties within a rank by hypervolume instead of the distance-based epsilon-net.

    Args:
        num_rungs: Rungs before the end, at least 1.
        reduction_factor: One of so many is promoted, above 1.
        objectives: Keys of `OBJECTIVES`.

    Raises:
        ValueError: A value out of range.
    """

    def __init__(
        self, num_rungs: int, *, reduction_factor: float, objectives: Sequence[str]
    ) -> None:
        if num_rungs < 1:
            raise ValueError(f"num_rungs must be at least 1, got {num_rungs}")
        if not reduction_factor > 1:
            raise ValueError(f"reduction_factor must be above 1, got {reduction_factor}")
        self._kinds = [OBJECTIVES[name] for name in objectives]
        self._reduction_factor = reduction_factor
        self._reached: list[dict[int, list[float]]] = [{} for _ in range(num_rungs)]
        self._promoted: list[set[int]] = [set() for _ in range(num_rungs)]

    def report(self, number: int, rung: int, metrics: Mapping[str, float]) -> None:
        """Note that a pipeline paused.

        Args:
            number: Of the pipeline.
            rung: From 0.
            metrics: Its objectives there.
        """
        signs = [-1.0 if kind.direction == "maximize" else 1.0 for kind in self._kinds]
        values = [sign * metrics[kind.name] for sign, kind in zip(signs, self._kinds, strict=True)]
        self._reached[rung][number] = values

    def note_promoted(self, number: int, rung: int) -> None:
        """Note that a pipeline went on from a rung in an earlier session."""
        self._promoted[rung].add(number)

    def promote(self) -> int | None:
        """Choose who goes on, of the highest rung that has somebody; None to let them wait.

        Each answer counts as done: the pipeline is not chosen at this rung again.
        """
        for rung in reversed(range(len(self._reached))):
            reached, promoted = self._reached[rung], self._promoted[rung]
            places = int(len(reached) / self._reduction_factor)
            if len(promoted) >= places:
                continue
            numbers = list(reached)
            best = islice(_order(np.array(list(reached.values()))), places)
            chosen = next((numbers[i] for i in best if numbers[i] not in promoted), None)
            if chosen is not None:
                promoted.add(chosen)
                return chosen
        return None


def _order(values: NDArray[Any]) -> Iterator[int]:
    """Sort points, all objectives to be minimised: rank first, then hypervolume contribution."""
    ranks = moocore.pareto_rank(values)
    low, high = values.min(axis=0), values.max(axis=0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    for rank in np.unique(ranks):  # one at a time: who is asked for is mostly in the first
        (members,) = np.nonzero(ranks == rank)
        shares = moocore.hv_contributions(scaled[members], ref=np.full(values.shape[1], 1.1))
        yield from (int(i) for i in members[np.argsort(-shares, kind="stable")])
