"""The stages of a compression pipeline, each a node with a content key."""

from __future__ import annotations

from trainables.stages.dense import DenseStage
from trainables.stages.distilled import DistilledStage
from trainables.stages.latency import LatencyStage
from trainables.stages.learning import Learning
from trainables.stages.pruned import PrunedStage
from trainables.stages.reference import ReferenceStage
from trainables.stages.sparse import SparseStage
from trainables.stages.stage import Stage

__all__ = [
    "DenseStage",
    "DistilledStage",
    "LatencyStage",
    "Learning",
    "PrunedStage",
    "ReferenceStage",
    "SparseStage",
    "Stage",
]
