"""The stage sensitivity: says what an uncompressed network bears, before pruning is paid for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.checkpoint import load_checkpoint
from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.data_source import DataConfig
from trainables.pipeline_config import PipelineConfig, SensitivityConfig
from trainables.sensitivity import scan_briefly
from trainables.settings import NoSettings
from trainables.stages.computation import Computation
from trainables.stages.stage import NetworkStage, Stage, StageInputs, Work


class SensitivityStage(Computation, Stage):
    """Scans a network at the smallest ratios, once for each student that pipelines will prune.

    Args:
        network: Stage of the network.
        data: Training images.
        scan: Length of the scan.
    """

    name = "sensitivity"
    version = 2  # spreads the images evenly
    follows = ("dense", "teacher")

    def __init__(self, network: NetworkStage, data: DataConfig, scan: SensitivityConfig) -> None:
        self.parents: dict[str, Computation] = {"network": network}
        self.data = data
        self.scan = scan

    @classmethod
    def count_work(cls, settings: NoSettings, config: PipelineConfig) -> Work:
        """The time that it may take to mask single groups."""
        return Work(longest_seconds=config.sensitivity.max_seconds)

    @classmethod
    def build(cls, settings: NoSettings, inputs: StageInputs) -> SensitivityStage:
        """Build the scan of the pipeline's current network."""
        return cls(inputs.get_network(), inputs.config.data, inputs.config.sensitivity)

    def content(self) -> dict[str, Any]:
        """Return the length of the scan and the fingerprint of the training images."""
        return {**asdict(self.scan), "train": self.data.open("train").fingerprint}

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Scan, and log what is doubtful."""
        started = time.monotonic()
        model = load_checkpoint(parents["network"].checkpoint)
        images = self.data.open_cached("train", context.cache_dir)
        found = scan_briefly(model, images, context, self.scan)
        return {**found, "seconds": time.monotonic() - started}

    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """No metric: the report reads the result itself."""
        return {}
