"""Measures the latency of a network to a given precision."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from models.engines import (
    ENGINES,
    Engine,
    EngineError,
    EngineSettings,
    FileEngine,
    Session,
    resolve_engine,
)
from models.engines.deployed_graph import translate_for_engine
from models.engines.engine import Run, draw_images
from models.engines.pytorch import quiet
from models.hardware import describe_hardware, read_clocks
from models.timing.host import ask_host
from models.timing.timed_runs import Precision, Timing, time_runs

Network = nn.Module | Path | bytes
"""A network to time, or a file (or its bytes) for an engine that reads files."""


Shape = tuple[int, int, int, int]
"""Shape of a batch of images, (N, 3, H, W)."""


class Reference(NamedTuple):
    """A reference network, which measures the current speed of the machine.

    Attributes:
        model: Reference network, measured alternately with the network and in the same way. Choose
            one of the same kind, so that a disturbance slows both equally.
        nominal_ms: Latency of the reference at the speed that all latencies are converted to, above
            0.
    """

    model: Network
    nominal_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """A measured latency and its conditions; `dataclasses.asdict` makes it JSON-serialisable.

    Attributes:
        median_ms: Median latency of one batch over the runs. With a reference: median over the
            rounds, converted to the speed at which the reference takes `nominal_ms`.
        p95_ms: 95th percentile, likewise.
        interval_ms: Confidence interval of the median, likewise. The nominal latency is treated as
            exact, because it is the same for all networks that are compared.
        confidence: Confidence level of that interval.
        is_precise: Whether the interval is within the requested margin.
        num_runs: Number of timed runs, without the warm-up.
        raw_ms: Median over the runs by the clock, without conversion.
        reference_ms: Median latency of the reference over the same rounds; None without a
            reference.
        nominal_ms: Latency of the reference at the speed of `median_ms`; None without a reference.
        engine: Engine that ran the network, see `models.engines.engine.Engine.describe`.
        device: Device as given; with a host, the device of that host.
        dtype: Dtype as given.
        batch_size: Number of images in a batch.
        resolution: Height and width of the images.
        num_threads: Number of CPU threads within an operation.
        channels_last: Whether images and weights were in the channels_last memory format.
        fold_batchnorm: Whether BatchNorms were folded into convolutions.
        hardware: Hardware, see `models.hardware.describe_hardware`.
        clocks: Clock rates at the end of the measurement, see `models.hardware.read_clocks`.
    """

    median_ms: float
    p95_ms: float
    interval_ms: tuple[float, float]
    confidence: float
    is_precise: bool
    num_runs: int
    raw_ms: float
    reference_ms: float | None
    nominal_ms: float | None
    engine: dict[str, Any]
    device: str
    dtype: str
    batch_size: int
    resolution: tuple[int, int]
    num_threads: int
    channels_last: bool
    fold_batchnorm: bool
    hardware: dict[str, Any]
    clocks: dict[str, Any]


def measure_latency(
    model: Network,
    input_shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    batch_size: int = 1,
    num_threads: int | None = None,
    *,
    engine: str = "pytorch",
    host: str | None = None,
    channels_last: bool = True,
    fold_batchnorm: bool = False,
    confidence: float = 0.95,
    relative_margin: float = 0.02,
    min_runs: int = 20,
    max_runs: int = 1000,
    max_seconds: float = 30.0,
    reference: Reference | None = None,
) -> Latency:
    """Time a network in an engine until its median latency is precise enough.

    Runs are repeated until the confidence interval of the median is within `relative_margin` of it,
    or until `max_runs` or `max_seconds` is reached. The interval is distribution-free (between two
    order statistics), because latencies are skewed. Because the stopping rule looks at the
    interval, its confidence is only nominal.

    A machine that is shared, or whose clock rate varies, may be half as fast a minute later. With a
    reference, the ratio of both latencies is measured round by round (`models.timing.timed_runs`),
    and the latency is converted to the speed at which the reference takes its nominal time. An
    engine that reads files is timed on the file that is deployed: from uint8 images, which the file
    normalises, to logits.

    Args:
        model: Network, which is not changed, or a file for an engine that reads files.
        input_shape: Shape of one image, (C, H, W).
        device: Device to run on; timed with CUDA events on a GPU, else with a monotonic clock.
        dtype: Dtype of the computation.
        batch_size: Number of images in a batch.
        num_threads: Number of CPU threads; None: PyTorch's current number. PyTorch's number is
            restored afterwards.
        engine: A key of `models.engines.ENGINES`, or "auto" for the device's default.
        host: Machine that times the network's file, as in ssh (user@device); None: this one. See
            `models.timing.host`.
        channels_last: Whether to use the channels_last memory format, if the engine has a choice.
        fold_batchnorm: Whether to fold BatchNorms into the convolutions before them.
        confidence: Confidence level of the interval, in (0, 1).
        relative_margin: Largest half-width of the interval relative to the median, above 0.
        min_runs: Smallest number of runs, at least 1. With a reference: of rounds, 10 are enough.
        max_runs: Largest number of runs, at least `min_runs`. With a reference: of rounds.
        max_seconds: Time limit, above 0; the warm-up may take as long again.
        reference: Reference network, which is not changed; None: no conversion.

    Raises:
        ValueError: An argument is out of range.
        EngineError: The engine is missing or cannot run the network.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size!r}")
    if reference is not None and not 0 < reference.nominal_ms < math.inf:
        raise ValueError(
            f"reference.nominal_ms must be above 0 and finite, got {reference.nominal_ms!r}"
        )
    precision = Precision(confidence, relative_margin, min_runs, max_runs, max_seconds)
    name = resolve_engine(engine, str(device), host)
    settings = EngineSettings(
        device=str(device),
        dtype=dtype,
        num_threads=torch.get_num_threads() if num_threads is None else num_threads,
        channels_last=channels_last,
        fold_batchnorm=fold_batchnorm,
    )
    shape = (batch_size, *input_shape)
    measure = _measure_here if host is None else functools.partial(_measure_on_host, host)
    found = measure(name, model, reference, shape, settings, precision)
    timing = found.timing
    return Latency(
        median_ms=timing.median_ms,
        p95_ms=timing.p95_ms,
        interval_ms=timing.interval_ms,
        confidence=confidence,
        is_precise=timing.is_precise,
        num_runs=timing.num_runs,
        raw_ms=timing.raw_ms,
        reference_ms=timing.reference_ms,
        nominal_ms=None if reference is None else reference.nominal_ms,
        engine=found.engine,
        device=str(device),
        dtype=dtype,
        batch_size=batch_size,
        resolution=(input_shape[1], input_shape[2]),
        num_threads=settings.num_threads,
        channels_last=channels_last,
        fold_batchnorm=fold_batchnorm,
        hardware=found.hardware,
        clocks=found.clocks,
    )


class _Measured(NamedTuple):
    timing: Timing
    engine: dict[str, Any]
    hardware: dict[str, Any]
    clocks: dict[str, Any]


def _measure_here(
    name: str,
    model: Network,
    reference: Reference | None,
    shape: Shape,
    settings: EngineSettings,
    precision: Precision,
) -> _Measured:
    engine = ENGINES[name]
    with quiet(settings.num_threads):
        run = _make_run(engine, model, shape, settings)
        if reference is None:
            timing = time_runs(run, precision)
        else:
            run_reference = _make_run(engine, reference.model, shape, settings)
            timing = time_runs(run, precision, run_reference, reference.nominal_ms)
        clocks = read_clocks(settings.device)
    hardware = describe_hardware(settings.device)
    return _Measured(timing, engine.describe(settings), hardware, clocks)


def _measure_on_host(
    host: str,
    name: str,
    model: Network,
    reference: Reference | None,
    shape: Shape,
    settings: EngineSettings,
    precision: Precision,
) -> _Measured:
    files, network = _collect_files("network", model, shape, settings)
    name_of_reference = None
    if reference is not None:
        others, name_of_reference = _collect_files("reference", reference.model, shape, settings)
        files |= others
    task = {
        "engine": name,
        "settings": asdict(settings),
        "shape": shape,
        "precision": asdict(precision),
        "network": network,
        "reference": name_of_reference,
        "nominal_ms": None if reference is None else reference.nominal_ms,
    }
    found = ask_host(host, task, files)
    interval = found["timing"].pop("interval_ms")
    timing = Timing(**found["timing"], interval_ms=(interval[0], interval[1]))
    return _Measured(timing, found["engine"], found["hardware"], found["clocks"])


def _collect_files(
    stem: str, model: Network, shape: Shape, settings: EngineSettings
) -> tuple[dict[str, bytes], str]:
    """Return the contents of a network's files by name, and the name of the file to load.

    A TensorRT plan is valid only for the GPU that it was built on, so the ONNX file beside it is
    sent instead.
    """
    if isinstance(model, Path):
        if model.suffix == ".plan":
            model = model.with_suffix(".onnx")
        files = {stem + model.suffix: model.read_bytes()}
        if model.suffix == ".xml":  # OpenVINO's weights are in a second file
            files[f"{stem}.bin"] = model.with_suffix(".bin").read_bytes()
        return files, stem + model.suffix
    content = model if isinstance(model, bytes) else translate_for_engine(model, shape, settings)
    return {f"{stem}.onnx": content}, f"{stem}.onnx"


def open_session(
    engine: Engine,
    model: Network,
    input_shape: Shape,
    settings: EngineSettings,
) -> Session:
    """Prepare a network or a file in an engine.

    Raises:
        EngineError: The engine is missing or cannot run it.
    """
    engine.check(settings)
    if isinstance(model, nn.Module):
        return engine.build(model, input_shape, settings)
    if not isinstance(engine, FileEngine):
        raise EngineError(f"{engine.name} runs PyTorch networks, not files")
    return engine.load(model, input_shape, settings)


def _make_run(engine: Engine, model: Network, shape: Shape, settings: EngineSettings) -> Run:
    session = open_session(engine, model, shape, settings)
    return session.make_run(draw_images(shape, session.image_dtype))
