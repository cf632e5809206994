"""The sensitivity scan of a network, made once before its first pruning."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.channels.sensitivity import Sensitivity
from models.checkpoint import load_checkpoint
from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.data_source import DataConfig
from trainables.sensitivity import scan_sensitivity
from trainables.stages.computation import Computation

SCAN_FILE = "sensitivity.json"


class SensitivityScan(Computation):
    """Masks each group of channels alone and all together, and measures the loss.

    Args:
        network: Stage of an unpruned network.
        data: Training images.
    """

    name = "scan"
    version = 3  # spreads the images evenly

    def __init__(self, network: Computation, data: DataConfig) -> None:
        self.parents = {"network": network}
        self.data = data

    def content(self) -> dict[str, Any]:
        """Return the fingerprint of the training images."""
        return {"train": self.data.open("train").fingerprint}

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Scan and write `sensitivity.json`."""
        started = time.monotonic()
        model = load_checkpoint(parents["network"].checkpoint)
        images = self.data.open_cached("train", context.cache_dir)
        scan = scan_sensitivity(model, images, context)
        (folder / SCAN_FILE).write_text(scan.to_json())
        return {"warnings": list(scan.warnings), "seconds": time.monotonic() - started}


def read_scan(artifact: Artifact) -> Sensitivity:
    """Read the result of a scan."""
    return Sensitivity.from_json((artifact.folder / SCAN_FILE).read_text())
