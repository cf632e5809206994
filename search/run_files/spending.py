"""Hours and money that a study has spent, and the hours that shared stages have saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tariff:
    """How the hours of stages are counted, and their price.

    Attributes:
        unit: Unit that is paid by the hour: GPU, or worker on CPUs.
        price_per_hour: Price of one unit for an hour, in any currency; None if not known.
    """

    unit: str
    price_per_hour: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """Hours and money that a study has spent so far.

    Attributes:
        tariff: How hours are counted.
        spent_seconds: Sum of the seconds of all stages, failed ones included, times the units that
            each of them held.
        saved_seconds: Sum of the seconds of stages that pipelines reused.
    """

    tariff: Tariff
    spent_seconds: float = 0.0
    saved_seconds: float = 0.0

    @property
    def hours(self) -> float:
        """Hours spent."""
        return self.spent_seconds / SECONDS_PER_HOUR

    @property
    def saved_hours(self) -> float:
        """Hours that sharing has saved."""
        return self.saved_seconds / SECONDS_PER_HOUR

    def describe(self) -> str:
        """Say it in a few words: "1.2 GPU-hours, costs 2.40, sharing saved 3.1 GPU-hours"."""
        unit = f"{self.tariff.unit}-hours"
        parts = [f"{self.hours:.3g} {unit}"]
        if self.tariff.price_per_hour is not None:
            parts.append(f"cost {self.hours * self.tariff.price_per_hour:.2f}")
        if self.saved_seconds:
            parts.append(f"sharing saved {self.saved_hours:.3g}")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The same in numbers."""
        price = self.tariff.price_per_hour
        return {
            "unit": f"{self.tariff.unit}-hours",
            "spent_hours": round(self.hours, 6),
            "saved_hours": round(self.saved_hours, 6),
            "price_per_hour": price,
            "cost": None if price is None else round(self.hours * price, 4),
        }
