"""What a study has spent in hours and money, and what the sharing of stages has saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tariff:
    """What is counted for a stage, and what it costs.

    Attributes:
        unit: What is paid for by the hour: GPU, or worker on CPUs.
        units_per_stage: GPUs that a stage holds; 1 on CPUs.
        price_per_hour: Of one unit, in any currency; None: not known.
    """

    unit: str
    units_per_stage: float = 1.0
    price_per_hour: float | None = None

    @property
    def hours_per_second(self) -> float:
        """Hours of the unit for a second of a stage."""
        return self.units_per_stage / SECONDS_PER_HOUR


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """What a study has spent until now.

    Attributes:
        tariff: How it is counted.
        spent_seconds: Seconds that stages have held their places.
        saved_seconds: Seconds of the stages that pipelines had without computing them.
    """

    tariff: Tariff
    spent_seconds: float = 0.0
    saved_seconds: float = 0.0

    @property
    def hours(self) -> float:
        """Hours spent."""
        return self.spent_seconds * self.tariff.hours_per_second

    @property
    def saved_hours(self) -> float:
        """Hours that sharing has saved."""
        return self.saved_seconds * self.tariff.hours_per_second

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
