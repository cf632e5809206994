"""The speed of a machine at which a study states its latencies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.latency import Reference
from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.network_config import NetworkConfig
from trainables.pipeline_config import LatencyConfig
from trainables.stages.computation import Computation
from trainables.stages.timing import describe_measurement, measure_alone, write_network

NETWORK_FILE = "network.onnx"


class ReferenceStage(Computation):
    """Times the uncompressed student once; its latency then stands for the speed of the machine.

    A shared machine is 1.5 times as fast in one minute as in another. Each later network is
    measured in turns with this one (`models.latency.Reference`) and stated at the speed of this
    first measurement, so that all latencies of a store compare, over resumptions as well. The
    student is the reference because it does what its pruned networks do: the same kernels on
    images of the same size. It has random weights, on which speed does not depend.

    Args:
        network: The student.
        num_classes: Of the data set.
        resolution: Height and width of the images, as measured.
        config: How latency is measured.
        device: What it is measured on. Its name is part of the key, not the state of its system:
            latencies from before and after an update of the driver are stated at one speed.
    """

    name = "reference"
    version = 2

    def __init__(
        self,
        network: NetworkConfig,
        num_classes: int,
        resolution: tuple[int, int],
        config: LatencyConfig,
        device: str,
    ) -> None:
        self.parents = {}
        self.network = network.without_weights()
        self.num_classes = num_classes
        self.resolution = resolution
        self.config = config
        self.device = device

    def content(self) -> dict[str, Any]:
        """Architecture, image size, settings, engine and the name of the device."""
        measurement = describe_measurement(self.config, self.device)
        hardware = measurement["hardware"]
        return {
            "network": self.network.content(),
            "num_classes": self.num_classes,
            "config": measurement["config"],
            "engine": measurement["engine"],
            "resolution": self.resolution,
            "device": hardware.get("gpu", hardware["cpu"]),
        }

    def build(self) -> nn.Module:
        """Build the network, the same each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.network.build(self.num_classes)

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Wait until no training step runs on the device, then measure."""
        file = folder / NETWORK_FILE
        network = write_network(self.build(), self.resolution, self.config, self.device, file)
        return measure_alone(network, self.resolution, self.config, self.device, context)

    def find(self, artifact: Artifact) -> Reference:
        """Find the network and its latency for a measurement in turns with it.

        Args:
            artifact: Of this stage.
        """
        file = artifact.folder / NETWORK_FILE
        nominal_ms = artifact.result["median_ms"]
        return Reference(file if file.is_file() else self.build(), nominal_ms)
