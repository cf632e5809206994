"""The stage consistency: how well a network's predictions for consecutive frames agree."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoint import load_checkpoint
from trainables.artifacts.store import Artifact
from trainables.context import Progress, StageContext, within_threads
from trainables.data import SegmentationDataset, normalization_of, normalize
from trainables.data.frame_pairs import find_frame_pairs
from trainables.data.optical_flow import MotionFunction, find_motion
from trainables.data_source import DataConfig
from trainables.learning.training import autocast, place
from trainables.metrics import TemporalConsistency
from trainables.objective import Objective
from trainables.process.watchdog import note_progress
from trainables.settings import NoSettings
from trainables.stages.computation import Computation
from trainables.stages.stage import NetworkStage, Stage, StageInputs


class ConsistencyStage(Computation, Stage):
    """Compares the predictions for consecutive validation frames, warped onto each other.

    Args:
        network: Stage of the network.
        data: Data set whose validation images are frames of drives (`find_frame_pairs`).
    """

    name = "consistency"
    version = 1
    follows = ("dense", "teacher", "sparse", "pruned", "distilled")
    reveals = ("consistency",)
    evaluates = True
    objectives = (Objective("consistency", "maximize", "", "Temporal consistency"),)

    def __init__(self, network: NetworkStage, data: DataConfig) -> None:
        self.parents: dict[str, Computation] = {"network": network}
        self.data = data

    @classmethod
    def build(cls, settings: NoSettings, inputs: StageInputs) -> ConsistencyStage:
        """Build the measurement of the pipeline's current network."""
        return cls(inputs.get_network(), inputs.config.data)

    def content(self) -> dict[str, Any]:
        """Return the fingerprint of the validation images."""
        return {"val": self.data.open("val").fingerprint}

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Predict every frame once and compare it with the next one."""
        started = time.monotonic()
        value = measure_consistency(parents["network"].checkpoint, self.data, context)
        return {"consistency": value, "seconds": time.monotonic() - started}

    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Return the mIoU of predictions with those of the next frames."""
        return {"consistency": result["consistency"]}


@torch.inference_mode()
@within_threads
def measure_consistency(checkpoint: Path, data: DataConfig, context: StageContext) -> float:
    """Measure the temporal consistency of a network on the validation frames, in 0..1.

    Args:
        checkpoint: Checkpoint of the network.
        data: Data set.
        context: Device, threads and lock.

    Raises:
        ValueError: The validation images are not frames of drives, or their motion is not
            available.
    """
    device = torch.device(context.device)
    images = data.open_cached("val", context.cache_dir)
    pairs = check_frames(data, images)
    motion = _find_motion(data, images)
    model = place(load_checkpoint(checkpoint), device).eval()
    normalization = normalization_of(model)
    meter = TemporalConsistency(images.num_classes, images.ignore_index)

    def predict(index: int) -> Tensor:
        with context.device_lock.shared(), autocast("auto", device):
            logits: Tensor = model(
                normalize(images[index].image.unsqueeze(0).to(device), normalization)
            )
            return logits.argmax(dim=1)[0].cpu()

    kept: dict[int, Tensor] = {}
    for number, (first, second) in enumerate(pairs):
        note_progress(f"pair {number + 1} of {len(pairs)} of the consistency")
        context.report(Progress("consistency", number, len(pairs)))
        # Each frame is predicted once and kept until the pair with its next frame.
        kept = {i: kept[i] if i in kept else predict(i) for i in (first, second)}
        context.count("image")
        meter.update(kept[first], kept[second], motion(first, second))
    return meter.miou


def check_frames(data: DataConfig, images: SegmentationDataset) -> list[tuple[int, int]]:
    """Check that consistency can be measured.

    Args:
        data: Data set.
        images: Validation images of the data set.

    Returns:
        Pairs of consecutive frames, see `find_frame_pairs`.

    Raises:
        ValueError: There are no pairs, or their motion must be estimated and OpenCV is missing.
    """
    pairs = find_frame_pairs(images)
    if not pairs:
        raise ValueError(
            f"consistency needs consecutive frames in {data.name} (val): images named DRIVE_NUMBER"
        )
    _find_motion(data, images)
    return pairs


def _find_motion(data: DataConfig, images: SegmentationDataset) -> MotionFunction:
    """Return the known motion of the data set, or else estimate it from the cached images.

    Only data sets that are drawn know their motion; the cache never leaves out images of these.
    """
    original = data.open("val")
    return find_motion(original if hasattr(original, "motion") else images)
