"""Arrays that have a row for every trial number of a study."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def with_room(rows: npt.NDArray[Any], number: int, fill: float) -> npt.NDArray[Any]:
    """Extend an array so that a trial has a row; it at least doubles, so that this happens rarely.

    Args:
        rows: (trials, ...) array; not modified.
        number: Trial number.
        fill: Value of the new rows.
    """
    missing = number + 1 - len(rows)
    if missing <= 0:
        return rows
    added = [(0, max(missing, len(rows))), *[(0, 0)] * (rows.ndim - 1)]
    return np.pad(rows, added, constant_values=fill)
