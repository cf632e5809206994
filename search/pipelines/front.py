"""Computes the front of a study and its hypervolume during the search."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from search.objectives import OBJECTIVES
from search.pipelines.records import TrialRecord
from trainables.objective import Objective


def front_mask(metrics: Sequence[Mapping[str, float]], objectives: Sequence[str]) -> list[bool]:
    """Tell for each network whether it is on the front; of equal ones only the first is.

    Args:
        metrics: Metrics of each network.
        objectives: Keys of `OBJECTIVES`.
    """
    if not metrics:
        return []
    kinds = [OBJECTIVES[name] for name in objectives]
    mask = moocore.is_nondominated(_values(metrics, kinds), maximise=_maximise(kinds))
    return [bool(flag) for flag in mask]


def find_front(
    records: Iterable[TrialRecord],
    objectives: Sequence[str],
    kept_out: Container[int] = (),
    *,
    with_equals: bool = False,
) -> list[TrialRecord]:
    """Select the complete trials whose network no other one dominates, in the order given.

    Args:
        records: Trials in any state; only complete ones count.
        objectives: Keys of `OBJECTIVES`.
        kept_out: Numbers of trials that do not count, because their network cannot be deployed.
        with_equals: Return all trials of equal values, as the report shows them, not the first one.
    """
    complete = [r for r in records if r.state == "complete" and r.number not in kept_out]
    mask = front_mask([record.metrics for record in complete], objectives)
    front = [record for record, member in zip(complete, mask, strict=True) if member]
    if not with_equals:
        return front

    def select(record: TrialRecord) -> tuple[float, ...]:
        return tuple(record.metrics[name] for name in objectives)

    values = set(map(select, front))
    return [record for record in complete if select(record) in values]


def hypervolume_fraction(
    metrics: Sequence[Mapping[str, float]], reference: Mapping[str, float]
) -> float:
    """Return the share of the box between reference point and ideal that the networks dominate.

    Args:
        metrics: Metrics of each network.
        reference: Reference point: the worst value that counts, by objective.

    Returns:
        Share in 0..1; 0 if there are no networks or the box is empty.
    """
    kinds = [OBJECTIVES[name] for name in reference]
    point = np.array([reference[kind.name] for kind in kinds])
    box = float(np.prod(np.abs(point - np.array([kind.ideal for kind in kinds]))))
    if not metrics or box == 0:
        return 0.0
    values = _values(metrics, kinds)
    return float(moocore.hypervolume(values, ref=point, maximise=_maximise(kinds))) / box


def _values(metrics: Sequence[Mapping[str, float]], kinds: Sequence[Objective]) -> NDArray[Any]:
    return np.array([[float(entry[kind.name]) for kind in kinds] for entry in metrics])


def _maximise(kinds: Sequence[Objective]) -> list[bool]:
    return [kind.direction == "maximize" for kind in kinds]
