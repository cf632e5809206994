"""Latency, measured once per distinct architecture and alone on its device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.checkpoint import load_checkpoint, read_structure
from models.hardware import describe_hardware
from models.latency import measure_latency
from trainables.context import StageContext
from trainables.pipeline_config import LatencyConfig
from trainables.stages.stage import Stage
from trainables.store import Artifact
from trainables.watchdog import note_progress


class LatencyStage(Stage):
    """Times a network; its weights do not count, so equal widths share one measurement.

    Args:
        checkpoint: A network of the architecture.
        resolution: Height and width of the images.
        config: How it is measured.
        device: What it is measured on; its hardware is part of the key.
    """

    name = "latency"

    def __init__(
        self, checkpoint: Path, resolution: tuple[int, int], config: LatencyConfig, device: str
    ) -> None:
        self.parents = {}
        self.checkpoint = checkpoint
        self.resolution = config.resolution or resolution
        self.config = config
        self.device = device

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
        model = load_checkpoint(self.checkpoint)
        with context.device_lock.exclusive():
            note_progress("the measurement of the latency")
            started = time.monotonic()
            latency = measure_latency(
                model,
                (3, *self.resolution),
                self.device,
                self.config.dtype,
                self.config.batch_size,
                self.config.num_threads,
                fold_batchnorm=self.config.fold_batchnorm,
                confidence=self.config.confidence,
                relative_margin=self.config.relative_margin,
                max_seconds=self.config.max_seconds,
            )
        return {**asdict(latency), "seconds": time.monotonic() - started}
