"""A measurement of latency while nothing else of segfront runs on the device."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from torch import nn

from models.latency import Reference, measure_latency
from trainables.context import StageContext
from trainables.pipeline_config import LatencyConfig
from trainables.process.watchdog import note_progress


def measure_alone(
    model: nn.Module,
    resolution: tuple[int, int],
    config: LatencyConfig,
    device: str,
    context: StageContext,
    reference: Reference | None = None,
) -> dict[str, Any]:
    """Wait until no training step runs on the device, then measure.

    Args:
        model: What is measured.
        resolution: Height and width of the images.
        config: How it is measured.
        device: What it is measured on.
        context: Has the lock of the device.
        reference: What it is measured in turns with.

    Returns:
        `models.latency.Latency` as a dict, and "seconds" of work.
    """
    with context.device_lock.exclusive():
        note_progress("the measurement of the latency")
        started = time.monotonic()
        latency = measure_latency(
            model,
            (3, *resolution),
            device,
            config.dtype,
            config.batch_size,
            config.num_threads,
            fold_batchnorm=config.fold_batchnorm,
            confidence=config.confidence,
            relative_margin=config.relative_margin,
            max_seconds=config.max_seconds,
            reference=reference,
        )
    return {**asdict(latency), "seconds": time.monotonic() - started}
