"""Latency, measured once per distinct architecture and alone on its device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.checkpoint import load_checkpoint, read_structure
from models.hardware import describe_hardware
from models.latency import Reference
from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.pipeline_config import LatencyConfig
from trainables.stages.reference import ReferenceStage
from trainables.stages.stage import Stage
from trainables.stages.timing import measure_alone


class LatencyStage(Stage):
    """Times a network; its weights do not count, so equal widths share one measurement.

    Args:
        checkpoint: A network of the architecture.
        resolution: Height and width of the images.
        config: How it is measured.
        device: What it is measured on; its hardware is part of the key.
        reference: What it is measured in turns with; None: latency as the clock shows it.
    """

    name = "latency"
    version = 2

    def __init__(
        self,
        checkpoint: Path,
        resolution: tuple[int, int],
        config: LatencyConfig,
        device: str,
        reference: ReferenceStage | None = None,
    ) -> None:
        self.parents = {} if reference is None else {"reference": reference}
        self.checkpoint = checkpoint
        self.resolution = resolution
        self.config = config
        self.device = device
        self.reference = reference

    def content(self) -> dict[str, Any]:
        """Architecture, image size, settings and hardware."""
        return {
            "architecture": read_structure(self.checkpoint).key,
            "config": asdict(self.config),
            "resolution": self.resolution,
            "hardware": describe_hardware(self.device),
        }

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Wait until no training step runs on the device, then measure."""
        reference = None
        if self.reference is not None:
            nominal_ms = parents["reference"].result["median_ms"]
            reference = Reference(self.reference.build(), nominal_ms)
        model = load_checkpoint(self.checkpoint)
        return measure_alone(model, self.resolution, self.config, self.device, context, reference)
