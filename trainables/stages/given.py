"""The root of the tree for a network that is already trained."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from models import SegmentationNetwork
from models.cost import count_cost
from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.data_source import DataConfig
from trainables.network_config import NetworkConfig
from trainables.pipeline_config import STUDENT
from trainables.settings import NoSettings
from trainables.stages.learning import evaluate_and_save
from trainables.stages.stage import NetworkStage, StageInputs

logger = logging.getLogger(__name__)

LEAST_SKILL = 1.5  # multiple of the mIoU of a constant prediction


class GivenStage(NetworkStage):
    """Evaluates a network with the user's weights and saves it, without training.

    Args:
        network: Configuration of the network, with `weights`.
        data: Validation data.
        place: Place of the network in `PipelineConfig`, for advice: "teacher", "student" or
            "students.NAME".
    """

    name = "given"
    version = 2  # reads other averages and copies of weights; renews class layers of equal number
    Settings: ClassVar[type[Any]] = NoSettings
    reveals = ("miou", "num_params", "macs")

    def __init__(self, network: NetworkConfig, data: DataConfig, place: str = STUDENT) -> None:
        self.parents = {}
        self.network_config = network
        self.data = data
        self.place = place

    @classmethod
    def build(cls, settings: Any, inputs: StageInputs) -> GivenStage:
        """Build the root of the student's pipelines."""
        return cls(inputs.config.get_student(), inputs.config.data)

    def content(self) -> dict[str, Any]:
        """Return the network with the checksum of its weights, and the validation data."""
        validation = self.data.open("val").fingerprint
        return {"network": self.network_config.content(), "val": validation}

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Load, evaluate, count costs and save; warn if the accuracy is near that of chance."""
        started = time.monotonic()
        validation = self.data.open_cached("val", context.cache_dir)
        model = self.network_config.build(validation.num_classes)
        result = evaluate_and_save(model, self.data, folder, context, name=self.name, metadata={})
        cost = count_cost(model, (3, *validation.common_size))
        warnings = find_doubts(
            self.place, self.network_config, result["miou"], validation.label_counts
        )
        for text in warnings:
            logger.warning(text)
        return {
            **result,
            "num_params": cost.num_params,
            "macs": cost.macs,
            "warnings": warnings,
            "seconds": time.monotonic() - started,
        }

    def sketch(self) -> SegmentationNetwork:
        """Load the given network."""
        return self.network_config.build(self.data.open("val").num_classes)

    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Return accuracy and cost of the given network."""
        return {name: result[name] for name in self.reveals}


def find_doubts(
    place: str, network: NetworkConfig, miou: float, counts: tuple[int, ...]
) -> list[str]:
    """Return a warning if the given weights are hardly better than a constant prediction.

    Args:
        place: Place of the network in `PipelineConfig`, as in `GivenStage`.
        network: Configuration of the network.
        miou: mIoU on the validation split, in 0..1.
        counts: Number of pixels of each class in the validation split.

    Returns:
        Warnings for the user; empty if nothing is doubtful.
    """
    present = sum(count > 0 for count in counts)
    chance = max(counts) / max(1, sum(counts)) / max(1, present)
    if miou >= LEAST_SKILL * chance:
        return []
    return [
        f"{network.weights} has {100 * miou:.1f} % mIoU on the validation split, where always "
        f"predicting the most frequent class has {100 * chance:.1f} %: usual causes are "
        f"another normalisation or channel order (--pipeline.{place}.normalization.*) and another "
        f"order of the classes (--pipeline.{place}.outputs)"
    ]
