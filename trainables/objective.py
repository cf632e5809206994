"""A metric that a study can optimise."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Objective(NamedTuple):
    """A metric that a study can optimise; the stage that measures it declares it.

    Attributes:
        name: Key in a pipeline's metrics.
        direction: "maximize" or "minimize".
        unit: Unit of the metric, "" if it has none.
        label: Name to print.
    """

    name: str
    direction: Literal["maximize", "minimize"]
    unit: str
    label: str

    @property
    def ideal(self) -> float:
        """Best value possible; the corner of the box in which hypervolume is measured."""
        return 1.0 if self.direction == "maximize" else 0.0
