"""Arrays with a row for every trial of a study, by its number."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def with_room(rows: npt.NDArray[Any], number: int, fill: float) -> npt.NDArray[Any]:
    """Lengthen an array so that a trial has a row; it doubles at least, so that it is seldom.

    Args:
        rows: (trials, ...); is left as it is.
        number: Of the trial.
        fill: In the new rows.
    """
    missing = number + 1 - len(rows)
    if missing <= 0:
        return rows
    added = [(0, max(missing, len(rows))), *[(0, 0)] * (rows.ndim - 1)]
    return np.pad(rows, added, constant_values=fill)
