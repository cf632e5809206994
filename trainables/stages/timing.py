"""Latency measurements while no other work of segfront runs on the device."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from models.engines import (
    ENGINES,
    Engine,
    EngineSettings,
    FileEngine,
    resolve_device,
    resolve_engine,
)
from models.hardware import describe_hardware
from models.latency import Reference, measure_latency
from models.timing.host import describe_host
from trainables.context import StageContext
from trainables.pipeline_config import LatencyConfig
from trainables.process.watchdog import note_progress


def describe_measurement(config: LatencyConfig, device: str) -> dict[str, Any]:
    """Return everything that a latency depends on besides network and image size, for keys.

    Returns:
        A mapping with `config`, `engine` (`models.engines.Engine.describe`) and `hardware` of the
        machine that runs the network.

    Raises:
        EngineError: The engine is missing or does not support the device, or the host cannot be
            reached.
    """
    engine, settings = _choose(config, device)
    description = {"config": asdict(replace(config, engine="auto"))}
    if config.host is not None:
        items = tuple(asdict(settings).items())
        return {**description, **describe_host(config.host, engine.name, items)}
    engine.check(settings)
    hardware = describe_hardware(device)
    return {**description, "engine": engine.describe(settings), "hardware": hardware}


def write_network(
    model: nn.Module, resolution: tuple[int, int], config: LatencyConfig, device: str, path: Path
) -> nn.Module | Path:
    """Write the file of a network that will be measured often, if the engine reads files.

    Args:
        model: The network.
        resolution: Height and width of the images.
        config: Settings of the measurement.
        device: Torch device here; see `models.engines.resolve_device`.
        path: Path of the file.

    Returns:
        The path, or the network itself for an engine that reads no files.
    """
    engine, settings = _choose(config, device)
    if not isinstance(engine, FileEngine):
        return model
    path.write_bytes(engine.translate(model, (config.batch_size, 3, *resolution), settings))
    return path


def _choose(config: LatencyConfig, device: str) -> tuple[Engine, EngineSettings]:
    settings = EngineSettings(
        device=resolve_device(config.engine, device, config.host),
        dtype=config.dtype,
        num_threads=config.num_threads,
        fold_batchnorm=config.fold_batchnorm,
    )
    return ENGINES[resolve_engine(config.engine, device, config.host)], settings


def measure_alone(
    model: nn.Module | Path,
    resolution: tuple[int, int],
    config: LatencyConfig,
    device: str,
    context: StageContext,
    reference: Reference | None = None,
) -> dict[str, Any]:
    """Wait until no training step runs on the device, then measure.

    Args:
        model: The network to measure, or its file.
        resolution: Height and width of the images.
        config: Settings of the measurement.
        device: Torch device here; see `models.engines.resolve_device`.
        context: Context with the device's lock.
        reference: Reference network.

    Returns:
        `models.latency.Latency` as a dict, and "seconds" of work.
    """
    # Another host has its own lock, so this machine can continue training.
    alone = context.device_lock.exclusive() if config.host is None else nullcontext()
    with alone:
        note_progress("the measurement of the latency")
        started = time.monotonic()
        latency = measure_latency(
            model,
            (3, *resolution),
            resolve_device(config.engine, device, config.host),
            config.dtype,
            config.batch_size,
            config.num_threads,
            engine=config.engine,
            host=config.host,
            fold_batchnorm=config.fold_batchnorm,
            confidence=config.confidence,
            relative_margin=config.relative_margin,
            max_seconds=config.max_seconds,
            reference=reference,
        )
    return {**asdict(latency), "seconds": time.monotonic() - started}
