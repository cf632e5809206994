"""The reference measurement, which defines the machine speed of a study's latencies."""

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
    """Times an uncompressed network once; its latency then represents the machine's speed.

    A shared machine can be 1.5 times as fast in one minute as in another. Each later network is
    measured alternately with this one (`models.latency.Reference`), and its latency is converted to
    the speed of this first measurement. All latencies of a store are therefore comparable, also
    after a resumption. The reference is `PipelineConfig.student`, because it runs the same kernels
    as its pruned networks, on images of the same size. It has random weights, because speed does
    not depend on weights: tiny ones, which would be slow, are zero in every network that is timed
    (`models.tiny_weights`). A study of several `students` has this one reference for all of them,
    and it need not be one of them.

    Args:
        network: Configuration of the network.
        num_classes: Number of classes of the data set.
        resolution: Height and width of the images.
        config: Settings of the latency measurement.
        device: Device of the measurement. The key contains its name but not its system state, so
            latencies before and after an update of the driver have the same reference.
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
        """Return architecture, image size, settings, engine and the name of the device."""
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
        """Build the network, with the same weights at every call."""
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
        """Return the reference network and its latency for later measurements.

        Args:
            artifact: Artefact of this stage.
        """
        file = artifact.folder / NETWORK_FILE
        nominal_ms = artifact.result["median_ms"]
        return Reference(file if file.is_file() else self.build(), nominal_ms)
