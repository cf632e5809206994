"""What a study optimises, each with its direction and unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from trainables.stages import STAGES

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


def complete_chain(chain: Sequence[str], objectives: Sequence[str]) -> tuple[str, ...]:
    """Append the stages that measure objectives which no stage of a pipeline measures yet.

    Args:
        chain: Names of the stages of every pipeline, root first.
        objectives: Keys of `OBJECTIVES`.

    Raises:
        ValueError: Only a stage that makes another network would measure an objective.
    """
    complete = list(chain)
    for objective in objectives:
        measuring = [name for name, stage in STAGES.items() if objective in stage.reveals]
        if any(name in complete for name in measuring):
            continue
        # One that has an accuracy of its own makes another network, which nobody asked for.
        alone = [name for name in measuring if "miou" not in STAGES[name].reveals]
        if len(alone) != 1:
            raise ValueError(
                f"no stage of {', '.join(chain)} measures the objective {objective}; add one of "
                f"{', '.join(measuring)} to --pipeline.chain"
            )
        complete += alone
    return tuple(complete)
