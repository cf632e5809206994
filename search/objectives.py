"""What a study optimises, each with its direction and unit."""

from __future__ import annotations

from typing import Literal, NamedTuple

ObjectiveName = Literal["miou", "latency_ms", "num_params", "macs", "consistency"]


class Objective(NamedTuple):
    """One thing to optimise.

    Attributes:
        name: Key in a pipeline's metrics.
        direction: "maximize" or "minimize".
        unit: Unit of the number, "" if it has none.
        label: Name in words.
    """

    name: ObjectiveName
    direction: Literal["maximize", "minimize"]
    unit: str
    label: str

    @property
    def ideal(self) -> float:
        """The value that nothing can beat; a corner of the reference box."""
        return 1.0 if self.direction == "maximize" else 0.0


OBJECTIVES: dict[str, Objective] = {
    "miou": Objective("miou", "maximize", "", "mIoU"),
    "latency_ms": Objective("latency_ms", "minimize", "ms", "Latency"),
    "num_params": Objective("num_params", "minimize", "", "Parameters"),
    "macs": Objective("macs", "minimize", "", "MACs"),
    "consistency": Objective("consistency", "maximize", "", "Temporal consistency"),
}
