"""The objectives of a study, each with its direction and unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from trainables.stages import STAGES

OBJECTIVES = {entry.name: entry for stage in STAGES.values() for entry in stage.objectives}
"""Objectives that the stages declare, by name."""

if TYPE_CHECKING:
    ObjectiveName = str
else:  # so that the command line lists them
    ObjectiveName = Literal[tuple(OBJECTIVES)]


def complete_chain(chain: Sequence[str], objectives: Iterable[str]) -> tuple[str, ...]:
    """Append a stage for each objective that no stage of the pipeline measures.

    What is measured before the last pruning is not about the network that a pipeline ends with.

    Args:
        chain: Names of the stages of every pipeline, root first.
        objectives: Keys of `OBJECTIVES`.

    Raises:
        ValueError: An objective could only be measured by a stage that makes another network.
    """
    complete = list(chain)
    pruned = max((i for i, name in enumerate(chain) if STAGES[name].changes_structure), default=0)
    for objective in objectives:
        measuring = [name for name, stage in STAGES.items() if objective in stage.reveals]
        if any(name in complete[pruned:] for name in measuring):
            continue
        # A stage that reveals mIoU makes another network, which the user did not ask for.
        alone = [name for name in measuring if "miou" not in STAGES[name].reveals]
        if len(alone) != 1:
            possible = [name for name in measuring if STAGES[name].follows]
            raise ValueError(
                f"no stage of {', '.join(chain)} measures {objective} of the network that a "
                f"pipeline ends with; add one of {', '.join(possible)} to --pipeline.chain"
            )
        complete += alone
    return tuple(complete)
