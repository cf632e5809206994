"""Computes the front of a study and its hypervolume during the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from search.objectives import OBJECTIVES, Objective


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


def front_and_equals(
    metrics: Sequence[Mapping[str, float]], objectives: Sequence[str]
) -> list[bool]:
    """Tell for each network whether it is on the front; equal ones all are, as in the report.

    Args:
        metrics: Metrics of each network.
        objectives: Keys of `OBJECTIVES`.
    """
    values = [tuple(entry[name] for name in objectives) for entry in metrics]
    front = {v for v, member in zip(values, front_mask(metrics, objectives), strict=True) if member}
    return [value in front for value in values]


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
