"""Formats measured numbers: label, unit and digits."""

from __future__ import annotations

from typing import NamedTuple

SHOWN_UNITS = {
    "miou": ("%", 100.0),
    "num_params": ("M", 1e-6),
    "macs": ("G", 1e-9),
    "latency_ms": ("ms", 1.0),
}


class Quantity(NamedTuple):
    """A measure as a reader sees it.

    Attributes:
        label: Name to print.
        unit: Unit that is shown; "" if there is none.
        scale: Factor from the stored number to the shown one.
    """

    label: str
    unit: str
    scale: float

    @property
    def title(self) -> str:
        """Label with the unit in brackets, for an axis or a column."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def shown(self, value: float) -> float:
        """Convert a stored value to the shown unit."""
        return value * self.scale

    def digits(self, value: float) -> str:
        """Format a stored value in the shown unit, without the unit."""
        return f"{value * 100:.1f}" if self.unit == "%" else format_number(value * self.scale)

    def text(self, value: float) -> str:
        """Format a stored value in the shown unit, with the unit."""
        return f"{self.digits(value)} {self.unit}" if self.unit else self.digits(value)


def get_quantity(name: str, label: str = "", unit: str = "") -> Quantity:
    """Return how the measure of this name is shown; an unknown measure keeps its own unit."""
    shown_unit, scale = SHOWN_UNITS.get(name, (unit, 1.0))
    return Quantity(label or name, shown_unit, scale)


def format_number(value: float) -> str:
    """Format a number with about three significant digits."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.01 else f"{value:.2g}"


def format_setting(value: float | str | bool | None) -> str:
    """Format one setting of a trial; a dash if the trial does not have it."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:.3g}"
