"""The objectives of a study, each with its direction and unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from trainables.stages import STAGES

ObjectiveName = Literal["miou", "latency_ms", "num_params", "macs", "consistency"]


class Objective(NamedTuple):
    """One metric to optimise.

    Attributes:
        name: Key in a pipeline's metrics.
        direction: "maximize" or "minimize".
        unit: Unit of the metric, "" if it has none.
        label: Name to print.
    """

    name: ObjectiveName
    direction: Literal["maximize", "minimize"]
    unit: str
    label: str

    @property
    def ideal(self) -> float:
        """Best value possible; the corner of the box in which hypervolume is measured."""
        return 1.0 if self.direction == "maximize" else 0.0


OBJECTIVES: dict[str, Objective] = {
    "miou": Objective("miou", "maximize", "", "mIoU"),
    "latency_ms": Objective("latency_ms", "minimize", "ms", "Latency"),
    "num_params": Objective("num_params", "minimize", "", "Parameters"),
    "macs": Objective("macs", "minimize", "", "MACs"),
    "consistency": Objective("consistency", "maximize", "", "Temporal consistency"),
}


def complete_chain(chain: Sequence[str], objectives: Sequence[str]) -> tuple[str, ...]:
    """Append a stage for each objective that no stage of the pipeline measures.

    Args:
        chain: Names of the stages of every pipeline, root first.
        objectives: Keys of `OBJECTIVES`.

    Raises:
        ValueError: An objective could only be measured by a stage that makes another network.
    """
    complete = list(chain)
    for objective in objectives:
        measuring = [name for name, stage in STAGES.items() if objective in stage.reveals]
        if any(name in complete for name in measuring):
            continue
        # A stage that reveals mIoU makes another network, which the user did not ask for.
        alone = [name for name in measuring if "miou" not in STAGES[name].reveals]
        if len(alone) != 1:
            raise ValueError(
                f"no stage of {', '.join(chain)} measures the objective {objective}; add one of "
                f"{', '.join(measuring)} to --pipeline.chain"
            )
        complete += alone
    return tuple(complete)
