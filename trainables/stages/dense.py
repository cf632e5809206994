"""Training of a whole network, teacher or student."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.network_config import NetworkConfig
from trainables.stages.learning import Learning
from trainables.stages.stage import Stage


class DenseStage(Stage):
    """Trains a network from its first weights.

    Args:
        network: What is trained.
        learning: Data, schedule, seed.
        name: "teacher" or "dense"; both do the same work.
    """

    def __init__(self, network: NetworkConfig, learning: Learning, *, name: str = "dense") -> None:
        self.name = name
        self.parents = {}
        self.network = network
        self.learning = learning

    def content(self) -> dict[str, Any]:
        """Network and learning."""
        return {"network": self.network.content(), **self.learning.content()}

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Train, evaluate, save."""
        torch.manual_seed(self.learning.seed)
        num_classes = self.learning.data.open("train").num_classes
        return self.learning.run(
            self.network.build(num_classes), folder, context, name=self.name, metadata={}
        )
