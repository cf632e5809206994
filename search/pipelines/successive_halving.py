"""Asynchronous successive halving over a front: chooses which of the paused members continues."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Generic, Literal, TypeVar, get_args

import moocore
import numpy as np

Direction = Literal["maximize", "minimize"]
Member = TypeVar("Member", bound=Hashable)


class SuccessiveHalving(Generic[Member]):
    """Promotes the best 1/reduction_factor of the members that have reached each rung.

    A member is anything that is trained step by step: a pipeline of a study
    (`search.pipelines.rungs`) or a trial of Tune (`search.on_ray.scheduler`).

    Members are ordered by non-dominated rank, and within a rank by the hypervolume that the rank
    would lose without them. Costs are exact at every rung; only accuracy still grows.

    Asynchronous: a member is promoted as soon as it ranks in the top 1/reduction_factor of its
    rung. A member that has paused can be promoted later, when more members have reached the rung.

    Source: Li et al., "A system for massively parallel hyperparameter tuning" (ASHA),
        https://arxiv.org/abs/1810.05934, algorithm 2; with several objectives Schmucker et al.,
        "Multi-objective asynchronous successive halving", https://arxiv.org/abs/2106.12639.
    Differs: members of equal rank are ordered by hypervolume, not by the distance-based
        epsilon-net.

    Args:
        num_rungs: Number of rungs before the end, at least 1.
        reduction_factor: Promote the best 1/reduction_factor of the members at each rung (must be
            > 1).
        directions: "maximize" or "minimize" by name of the objective.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self, num_rungs: int, *, reduction_factor: float, directions: Mapping[str, Direction]
    ) -> None:
        if num_rungs < 1:
            raise ValueError(f"num_rungs must be at least 1, got {num_rungs}")
        if not reduction_factor > 1:
            raise ValueError(f"reduction_factor must be greater than 1, got {reduction_factor}")
        if not directions:
            raise ValueError("directions must have at least one objective, got none")
        wrong = {name: way for name, way in directions.items() if way not in get_args(Direction)}
        if wrong:
            raise ValueError(f"directions must be {' or '.join(get_args(Direction))}, got {wrong}")
        self._signs = {
            name: -1.0 if direction == "maximize" else 1.0 for name, direction in directions.items()
        }
        self._reduction_factor = reduction_factor
        self._reached: list[dict[Member, list[float]]] = [{} for _ in range(num_rungs)]
        self._promoted: list[set[Member]] = [set() for _ in range(num_rungs)]
        self._passed: list[set[Member]] = [set() for _ in range(num_rungs)]
        self._is_settled = [False] * num_rungs

    def report(self, member: Member, rung: int, metrics: Mapping[str, float]) -> None:
        """Record that a member has reached a rung.

        Args:
            member: The member.
            rung: Index of the rung, from 0.
            metrics: Objectives of the member at this rung, all of them finite.
        """
        self._reached[rung][member] = [sign * metrics[name] for name, sign in self._signs.items()]
        self._is_settled[rung] = False

    def note_promoted(self, member: Member, rung: int) -> None:
        """Record that a member has been promoted at a rung before."""
        self._promoted[rung].add(member)

    def note_passed(self, member: Member, rung: int) -> None:
        """Record that a member goes on whatever its rank; it takes no promotion from others."""
        self._passed[rung].add(member)

    def promote(self) -> Member | None:
        """Choose the member to continue, from the highest rung possible; None if all must wait.

        A member is chosen only once at each rung.
        """
        for rung in reversed(range(len(self._reached))):
            reached, promoted = self._reached[rung], self._promoted[rung]
            places = int(len(reached) / self._reduction_factor)
            if len(promoted) >= places or self._is_settled[rung]:
                continue
            best = next(_order(reached, passed=promoted | self._passed[rung]), None)
            if best is not None and best[0] < places:
                promoted.add(best[1])
                return best[1]
            self._is_settled[rung] = True  # until another member reaches the rung
        return None

    def find_last(self, members: Collection[Member]) -> Member:
        """Choose the worst member: the last in order at the lowest rung.

        Args:
            members: Members that have reached a rung, at least one.
        """
        highest = {member: rung for rung, there in enumerate(self._reached) for member in there}
        lowest = min(highest[member] for member in members)
        ordered = [member for _, member in _order(self._reached[lowest])]
        return next(m for m in reversed(ordered) if m in members and highest[m] == lowest)


def _order(
    reached: Mapping[Member, list[float]], *, passed: Collection[Member] = ()
) -> Iterator[tuple[int, Member]]:
    """Yield the members at a rung, best first: by rank, then by hypervolume contribution.

    Args:
        reached: Objectives by member, all to be minimised.
        passed: Members that are counted but not yielded.

    Yields:
        Place of a member in the order, from 0, and the member.
    """
    members, values = list(reached), np.array(list(reached.values()))
    ranks = moocore.pareto_rank(values)
    low, high = values.min(axis=0), values.max(axis=0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    is_left = np.array([member not in passed for member in members])
    place = 0
    for rank in np.unique(ranks):
        (peers,) = np.nonzero(ranks == rank)
        if is_left[peers].any():  # contributions take most of the time
            ordered = peers
            if values.shape[1] > 1:  # otherwise all members of a rank are equal
                shares = moocore.hv_contributions(scaled[peers], ref=np.full(values.shape[1], 1.1))
                ordered = peers[np.argsort(-shares, kind="stable")]
            yield from ((place + i, members[row]) for i, row in enumerate(ordered) if is_left[row])
        place += len(peers)
