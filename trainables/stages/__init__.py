"""The stages of a compression pipeline, one file each.

Each stage declares everything that the search must know of it. To add a stage, write its file (see
`trainables.stages.stage` for what it declares) and list it here.
"""

from __future__ import annotations

from trainables.stages.consistency import ConsistencyStage
from trainables.stages.dense import DenseStage
from trainables.stages.distilled import DistilledStage
from trainables.stages.latency import LatencyStage
from trainables.stages.pruned import PrunedStage
from trainables.stages.quantised import QuantisedStage
from trainables.stages.sensitivity import SensitivityStage
from trainables.stages.sparse import SparseStage
from trainables.stages.stage import NetworkStage, Stage, StageInputs
from trainables.stages.teacher import TeacherStage

STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        TeacherStage,
        DenseStage,
        SensitivityStage,
        SparseStage,
        PrunedStage,
        LatencyStage,
        DistilledStage,
        ConsistencyStage,
        QuantisedStage,
    )
}

__all__ = ["STAGES", "NetworkStage", "Stage", "StageInputs"]
