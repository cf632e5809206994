"""Computes non-dominated points and hypervolume for objectives of mixed directions."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

DIRECTIONS = {"maximize": True, "max": True, "minimize": False, "min": False}


def non_dominated_mask(values: ArrayLike, directions: Sequence[str]) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates.

    A point dominates another when it is at least as good in every objective and better in one.
    Equal points do not dominate each other, so every copy of a non-dominated point is marked.

    Args:
        values: (N, M) finite numbers, one row per point; N may be 0.
        directions: M of "maximize" ("max") and "minimize" ("min").

    Returns:
        (N,) bool, True for the points on the front.

    Raises:
        ValueError: A shape or direction is wrong, or a row has NaN or infinity (it is named).
    """
    maximize = _check_directions(directions)
    points = _check_values(values, len(maximize))
    if len(points) == 0:
        return np.zeros(0, dtype=bool)
    mask = moocore.is_nondominated(points, maximise=maximize, keep_weakly=True)
    return np.asarray(mask, dtype=bool)


def hypervolume(values: ArrayLike, reference_point: ArrayLike, directions: Sequence[str]) -> float:
    """Measure the volume that the points dominate, up to the reference point.

    Points that are not better than the reference in every objective add nothing.

    Source: Zitzler and Thiele, "Multiobjective evolutionary algorithms", IEEE TEC 3(4), 1999;
        computed by moocore (Fonseca, Paquete, López-Ibáñez, CEC 2006).

    Args:
        values: (N, M) finite numbers, one row per point; N may be 0.
        reference_point: (M,) finite numbers, the worst values that still count.
        directions: M of "maximize" ("max") and "minimize" ("min").

    Returns:
        The volume, in the product of the units of the objectives; 0 without points.

    Raises:
        ValueError: A shape or direction is wrong, or a row has NaN or infinity (it is named).
    """
    maximize = _check_directions(directions)
    points = _check_values(values, len(maximize))
    reference = _check_point(reference_point, len(maximize), "reference_point")
    if len(points) == 0:
        return 0.0
    return float(moocore.hypervolume(points, ref=reference, maximise=maximize))


def relative_hypervolume(
    values: ArrayLike,
    reference_point: ArrayLike,
    directions: Sequence[str],
    *,
    ideal_point: ArrayLike,
) -> float:
    """Measure the hypervolume as a share of the box between the reference and the ideal point.

    The share does not depend on units, so it can be read and compared, unlike the plain volume
    (for example in mIoU x ms x parameters).

    Args:
        values: (N, M) finite numbers, one row per point; N may be 0.
        reference_point: (M,) the worst values that still count.
        directions: M of "maximize" ("max") and "minimize" ("min").
        ideal_point: (M,) the best values possible, e.g. mIoU 1, latency 0.

    Returns:
        A number from 0 to 1 if no point is better than the ideal one; 0 if the box is empty.

    Raises:
        ValueError: As for `hypervolume`.
    """
    maximize = _check_directions(directions)
    points = _check_values(values, len(maximize))
    reference = _check_point(reference_point, len(maximize), "reference_point")
    ideal = _check_point(ideal_point, len(maximize), "ideal_point")
    span = ideal - reference
    if not all(step > 0 if up else step < 0 for step, up in zip(span, maximize, strict=True)):
        return 0.0
    return hypervolume((points - reference) / span, np.zeros(len(span)), ["maximize"] * len(span))


def _check_directions(directions: Sequence[str]) -> list[bool]:
    if isinstance(directions, str) or len(directions) == 0:
        raise ValueError(f"directions must be a sequence of names, got {directions!r}")
    for direction in directions:
        if direction not in DIRECTIONS:
            raise ValueError(f"direction {direction!r} is not one of {sorted(DIRECTIONS)}")
    return [DIRECTIONS[direction] for direction in directions]


def _check_values(values: ArrayLike, num_objectives: int) -> NDArray[np.float64]:
    points = np.asarray(values, dtype=np.float64)
    if points.size == 0 and points.ndim <= 2:
        return np.empty((0, num_objectives))
    if points.ndim != 2 or points.shape[1] != num_objectives:
        raise ValueError(
            f"values must have shape (N, {num_objectives}) for {num_objectives} directions, "
            f"got {points.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise ValueError(f"values must be finite, row {bad[0]} is {points[bad[0]].tolist()}")
    # Adding zero turns -0.0 into 0.0; otherwise the two would count as different.
    return np.ascontiguousarray(points + 0.0)


def _check_point(point: ArrayLike, num_objectives: int, name: str) -> NDArray[np.float64]:
    array = np.asarray(point, dtype=np.float64)
    if array.shape != (num_objectives,):
        raise ValueError(f"{name} must have shape ({num_objectives},), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array.tolist()}")
    return array + 0.0
