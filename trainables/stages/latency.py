"""The stage latency: measured once per architecture, without other work on the device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from models.checkpoint import load_checkpoint, read_structure, save_checkpoint
from models.user_code import hash_user_code
from trainables.artifacts.store import Artifact, ArtifactStore
from trainables.context import Progress, StageContext
from trainables.objective import Objective
from trainables.pipeline_config import LatencyConfig, PipelineConfig
from trainables.settings import NoSettings
from trainables.stages.computation import Computation
from trainables.stages.reference import ReferenceStage
from trainables.stages.stage import NetworkStage, Stage, StageInputs, Work
from trainables.stages.timing import describe_measurement, measure_alone


class LatencyStage(Stage):
    """Times the pipeline's current network.

    Args:
        network: Stage of the network.
        config: Configuration of the study.
    """

    name = "latency"
    follows = ("dense", "teacher", "pruned")
    reveals = ("latency_ms", "latency_p95_ms", "latency_raw_ms", "reference_ms")
    objectives = (Objective("latency_ms", "minimize", "ms", "Latency"),)
    is_exclusive = True
    prepares_from = "structure"

    def __init__(self, network: NetworkStage, config: PipelineConfig) -> None:
        self.network = network
        self.config = config

    @classmethod
    def count_work(cls, settings: NoSettings, config: PipelineConfig) -> Work:
        """The time that a measurement may take; most end earlier, once they are precise."""
        return Work(longest_seconds=config.latency.max_seconds)

    @classmethod
    def build(cls, settings: NoSettings, inputs: StageInputs) -> LatencyStage:
        """Build the measurement of the pipeline's current network."""
        return cls(inputs.get_network(), inputs.config)

    def obtain(self, store: ArtifactStore, context: StageContext) -> Artifact:
        """Reuse the latency of the network's architecture, or measure it."""
        network = self.network.obtain(store, context)
        context.report(Progress(self.name, 0, 1))
        return self._measure(network.checkpoint, store, context)

    def prepare(self, store: ArtifactStore, context: StageContext) -> None:
        """Measure the network's structure with untrained weights; the stage finds the result."""
        with TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "checkpoint.safetensors"
            save_checkpoint(checkpoint, self.network.sketch())
            self._measure(checkpoint, store, context)

    def _measure(self, checkpoint: Path, store: ArtifactStore, context: StageContext) -> Artifact:
        latency = self.config.latency
        resolution = latency.resolution or self.config.data.open("val").common_size
        reference = find_reference(self.config, context)
        measurement = ArchitectureLatency(
            checkpoint, resolution, latency, context.device, reference
        )
        return measurement.obtain(store, context)

    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Return the latency at the study's speed and by the clock, and that of the reference."""
        names = ("median_ms", "p95_ms", "raw_ms", "reference_ms")
        found = zip(self.reveals, (result[name] for name in names), strict=True)
        return {name: value for name, value in found if value is not None}


def find_reference(config: PipelineConfig, context: StageContext) -> ReferenceStage | None:
    """Return the reference network of a study's latencies; None without drift compensation."""
    if not config.latency.compensate_drift:
        return None
    images, latency = config.data.open("val"), config.latency
    resolution = latency.resolution or images.common_size
    student = config.get_student()
    return ReferenceStage(student, images.num_classes, resolution, latency, context.device)


class ArchitectureLatency(Computation):
    """Times a network; the key does not contain its weights, so equal widths share a measurement.

    Args:
        checkpoint: Checkpoint of a network of the architecture.
        resolution: Height and width of the images.
        config: Settings of the measurement.
        device: Device of the measurement; its hardware is part of the key.
        reference: Reference network; None: latency by the clock, without conversion.
    """

    name = "latency"
    version = 4  # tiny weights no longer slow the network

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
        """Return architecture, code of a user's network, image size, settings and hardware."""
        structure = read_structure(self.checkpoint)
        code = hash_user_code(structure.name)
        return {
            "architecture": structure.key,
            **({} if code is None else {"code": code}),
            "resolution": self.resolution,
            **describe_measurement(self.config, self.device),
        }

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Wait until no training step runs on the device, then measure."""
        stage = self.reference
        reference = None if stage is None else stage.find(parents["reference"])
        model = load_checkpoint(self.checkpoint)
        return measure_alone(model, self.resolution, self.config, self.device, context, reference)
