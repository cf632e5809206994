"""Asynchronous successive halving over a front: who of those that have paused goes on."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from itertools import islice
from typing import Generic, Literal, TypeVar, get_args

import moocore
import numpy as np

Direction = Literal["maximize", "minimize"]
Member = TypeVar("Member", bound=Hashable)


class SuccessiveHalving(Generic[Member]):
    """Promotes, at every rung, the best part of those that have reached it.

    They are whatever is trained step by step and compared: pipelines of a study
    (`search.pipelines.rungs`), trials of Tune (`search.on_ray.scheduler`).

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
        directions: "maximize" or "minimize" by name of the objective.

    Raises:
        ValueError: A value out of range.
    """

    def __init__(
        self, num_rungs: int, *, reduction_factor: float, directions: Mapping[str, Direction]
    ) -> None:
        if num_rungs < 1:
            raise ValueError(f"num_rungs must be at least 1, got {num_rungs}")
        if not reduction_factor > 1:
            raise ValueError(f"reduction_factor must be above 1, got {reduction_factor}")
        if not directions:
            raise ValueError("directions must name an objective, got none")
        wrong = {name: way for name, way in directions.items() if way not in get_args(Direction)}
        if wrong:
            raise ValueError(f"directions must be {' or '.join(get_args(Direction))}, got {wrong}")
        self._signs = {
            name: -1.0 if direction == "maximize" else 1.0 for name, direction in directions.items()
        }
        self._reduction_factor = reduction_factor
        self._reached: list[dict[Member, list[float]]] = [{} for _ in range(num_rungs)]
        self._promoted: list[set[Member]] = [set() for _ in range(num_rungs)]

    def report(self, member: Member, rung: int, metrics: Mapping[str, float]) -> None:
        """Note that one has come to a rung.

        Args:
            member: Who.
            rung: From 0.
            metrics: Its objectives there, all of them finite.
        """
        self._reached[rung][member] = [sign * metrics[name] for name, sign in self._signs.items()]

    def note_promoted(self, member: Member, rung: int) -> None:
        """Note that one has gone on from a rung without being asked to."""
        self._promoted[rung].add(member)

    def promote(self) -> Member | None:
        """Choose who goes on, of the highest rung that has somebody; None to let them wait.

        Each answer counts as done: the pipeline is not chosen at this rung again.
        """
        for rung in reversed(range(len(self._reached))):
            reached, promoted = self._reached[rung], self._promoted[rung]
            places = int(len(reached) / self._reduction_factor)
            if len(promoted) >= places:
                continue
            best = islice(_order(reached), places)
            chosen = next((member for member in best if member not in promoted), None)
            if chosen is not None:
                promoted.add(chosen)
                return chosen
        return None

    def find_last(self, members: Collection[Member]) -> Member:
        """Choose whom nobody would miss: the last in order of the lowest rung.

        Args:
            members: Some of those that have come to a rung, at least one.
        """
        highest = {member: rung for rung, there in enumerate(self._reached) for member in there}
        lowest = min(highest[member] for member in members)
        ordered = list(_order(self._reached[lowest]))
        return next(m for m in reversed(ordered) if m in members and highest[m] == lowest)


def _order(reached: Mapping[Member, list[float]]) -> Iterator[Member]:
    """Sort those at a rung, all objectives to be minimised: rank first, then contribution."""
    members, values = list(reached), np.array(list(reached.values()))
    ranks = moocore.pareto_rank(values)
    low, high = values.min(axis=0), values.max(axis=0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    for rank in np.unique(ranks):  # one at a time: who is asked for is mostly in the first
        (peers,) = np.nonzero(ranks == rank)
        shares = moocore.hv_contributions(scaled[peers], ref=np.full(values.shape[1], 1.1))
        yield from (members[i] for i in peers[np.argsort(-shares, kind="stable")])
