"""The stage dense: training of an uncompressed network, the root of the tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from models import SegmentationNetwork
from models.cost import count_cost
from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.network_config import NetworkConfig
from trainables.pipeline_config import STUDENT, PipelineConfig
from trainables.ranges import setting
from trainables.stages.given import GivenStage
from trainables.stages.learning import Learning, make_learning
from trainables.stages.stage import NetworkStage, StageInputs, Work

COSTS = ("num_params", "macs")


@dataclass(frozen=True, kw_only=True, slots=True)
class RootSettings:
    """The network that a pipeline compresses.

    Attributes:
        student: Name of the network in `PipelineConfig.students`.
    """

    student: str = setting("student", ("student",))


class DenseStage(NetworkStage):
    """Trains a network from its initial weights.

    Args:
        network: Configuration of the network.
        learning: Data, schedule and seed.
    """

    name = "dense"
    version = 2  # the result includes parameters and MACs
    Settings: ClassVar[type[Any]] = RootSettings
    reveals = ("miou", *COSTS)
    trains = True
    schedule = "dense"
    evaluates = True

    def __init__(self, network: NetworkConfig, learning: Learning) -> None:
        self.parents = {}
        network.allow()  # processes with this stage load checkpoints of its network
        self.network_config = network
        self.learning = learning

    @classmethod
    def choose_network(cls, settings: Any, config: PipelineConfig) -> NetworkConfig:
        """The study's network that the stage trains."""
        return config.get_student(settings.student)

    @classmethod
    def describe_structure(cls, settings: Any) -> str:
        """Name the network."""
        return f"{cls.name} {getattr(settings, 'student', '')}".strip()

    def sketch(self) -> SegmentationNetwork:
        """Build the network with its initial weights."""
        return self.network_config.build(self.learning.data.open("train").num_classes)

    @classmethod
    def count_work(cls, settings: Any, config: PipelineConfig) -> Work:
        """Steps and images; a network whose weights are given takes no step."""
        work = super().count_work(settings, config)
        is_given = cls.choose_network(settings, config).weights is not None
        return work._replace(num_steps=0) if is_given else work

    @classmethod
    def build(cls, settings: Any, inputs: StageInputs) -> NetworkStage:
        """Build the root of a student's pipelines: a training, or the given weights."""
        config = inputs.config
        network = cls.choose_network(settings, config)
        if network.weights is not None:
            name = settings.student
            place = name if name == STUDENT else f"students.{name}"
            return GivenStage(network, config.data, place)
        return cls(network, make_learning(config, config.dense))

    def content(self) -> dict[str, Any]:
        """Return the content of network and learning."""
        return {"network": self.network_config.content(), **self.learning.content()}

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Train, evaluate, count costs and save."""
        torch.manual_seed(self.learning.seed)
        data = self.learning.data
        model = self.network_config.build(data.open("train").num_classes)
        result = self.learning.run(model, folder, context, name=self.name, metadata={})
        cost = count_cost(model, (3, *data.open("val").common_size))
        return {**result, "num_params": cost.num_params, "macs": cost.macs}

    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Return accuracy and cost of the uncompressed network."""
        return {name: result[name] for name in self.reveals}
