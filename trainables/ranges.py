"""Search ranges: the values that a setting may take, declared together with the setting."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DIGITS = 10  # decimals of a stepped value, so that 0.3 + 2 x 0.1 and 0.5 share their stages


@dataclass(frozen=True, kw_only=True, slots=True)
class FloatRange:
    """Numbers from low to high; low == high fixes the value.

    Attributes:
        low: Smallest value.
        high: Largest value.
        step: Distance between grid values; None: any number in the range.
        log: Whether to search on a logarithmic scale; cannot be combined with step.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"a range needs low <= high, got {self.low}..{self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low > 0, got {self.low}")
        if self.step is None:
            return
        if self.log:
            raise ValueError(f"a range can have a step or log, not both; got step {self.step}")
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be greater than 0, got {self.step}")
        steps = (self.high - self.low) / self.step
        if not math.isclose(steps, round(steps), abs_tol=1e-6):
            raise ValueError(
                f"step must divide the range {self.low}..{self.high}, got step {self.step}"
            )

    def values(self) -> tuple[float, ...]:
        """Return the values of the grid, ascending; empty for a continuous range."""
        if self.low == self.high:
            return (self.low,)
        if self.step is None:
            return ()
        count = round((self.high - self.low) / self.step)
        return tuple(round(self.low + i * self.step, DIGITS) for i in range(count + 1))

    def contains(self, value: float) -> bool:
        """Return whether the range contains the value, on its grid if it has a step."""
        if not self.low - 1e-12 <= value <= self.high + 1e-12:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-6)


Space = FloatRange | tuple[Any, ...]


def setting(default: Any, space: Space, *, symbol: str = "") -> Any:
    """Declare a dataclass field that the search may vary.

    Args:
        default: Value without a search; that of the paper if it states one.
        space: Default search space: a range, or the choices. A single choice means that the setting
            is fixed unless the user gives more.
        symbol: Symbol in tables, such as "λ"; "" for values that need none, such as "local".

    Returns:
        A dataclass field with the space in its metadata.
    """
    return field(default=default, metadata={"space": space, "symbol": symbol})


def options_of(name: str, options: Mapping[str, type[Any]]) -> Any:
    """Declare the dataclass field that holds the settings of the options chosen by another field.

    Several options may be chosen at once, joined by "+". Settings of options that are not chosen
    are neither searched nor part of a stage's key. The dataclass calls
    `trainables.settings.complete_options` in its `__post_init__`.

    Args:
        name: Field whose value names the options, such as "distiller".
        options: Settings dataclass of every option, by name.

    Returns:
        A dataclass field for a mapping from the name of each chosen option to its settings.
    """
    return field(default_factory=dict, metadata={"chosen_by": name, "options": options})
