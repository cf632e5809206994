"""How a measured number is shown: its label, its unit and its digits."""

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
        label: Its name in words.
        unit: The unit shown, "" where it has none.
        scale: Shown number = stored number x scale.
    """

    label: str
    unit: str
    scale: float

    @property
    def title(self) -> str:
        """Label with the unit in brackets, for an axis or a column."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def shown(self, value: float) -> float:
        """Stored value in the shown unit."""
        return value * self.scale

    def digits(self, value: float) -> str:
        """Stored value as digits of the shown unit."""
        return f"{value * 100:.1f}" if self.unit == "%" else format_number(value * self.scale)

    def text(self, value: float) -> str:
        """Stored value as digits with the unit."""
        return f"{self.digits(value)} {self.unit}" if self.unit else self.digits(value)


def get_quantity(name: str, label: str = "", unit: str = "") -> Quantity:
    """Return how the measure of this name is shown; unknown names keep their own unit."""
    shown_unit, scale = SHOWN_UNITS.get(name, (unit, 1.0))
    return Quantity(label or name, shown_unit, scale)


def format_number(value: float) -> str:
    """Write a number with three to four digits that mean something."""
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
    """Write one setting of a trial; a dash where the trial does not have it."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:.3g}"
