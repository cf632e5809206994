"""How long a network takes for an image, to a stated precision."""

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
from models.engines.engine import draw_images
from models.engines.pytorch import quiet
from models.hardware import describe_hardware, read_clocks
from models.timing.host import ask_host
from models.timing.timed_runs import Precision, Run, Timing, time_runs

Network = nn.Module | Path | bytes
"""What is timed: a network, or a file (or its bytes) for an engine that reads files."""


Shape = tuple[int, int, int, int]
"""(N, 3, H, W)."""


class Reference(NamedTuple):
    """A network that shows how fast the machine is meanwhile.

    Attributes:
        model: Measured in turns with the network, in all the same way; best one of the same kind,
            so that what slows the network slows it as much.
        nominal_ms: Its latency at the speed that latencies are to be stated at, above 0.
    """

    model: Network
    nominal_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """A measured latency and all that it depends on; `dataclasses.asdict` makes it JSON-able.

    Attributes:
        median_ms: Of one batch: median over the runs, or, beside a reference, over the turns, at
            the speed at which the reference takes `nominal_ms`.
        p95_ms: 95th percentile over the runs, likewise.
        interval_ms: Confidence interval of the median, likewise. The nominal latency counts as
            exact in it: it is the same for all networks that are compared.
        confidence: Of that interval.
        is_precise: Whether the interval lies within the margin asked for.
        num_runs: Timed runs, without the warm-up.
        raw_ms: Median over the runs as the clock showed them.
        reference_ms: Latency of the reference meanwhile, median over the turns; None without one.
        nominal_ms: That of the reference at the speed of `median_ms`; None without one.
        engine: What ran the network; see `models.engines.engine.Engine.describe`.
        device: As given; on a host that is named, its.
        dtype: As given.
        batch_size: Images in a run.
        resolution: (H, W) of the images.
        num_threads: Threads within an operation on a CPU.
        channels_last: Memory format of images and weights.
        fold_batchnorm: Whether BatchNorms were folded into convolutions.
        hardware: See `models.hardware.describe_hardware`.
        clocks: At the end of the measurement; see `models.hardware.read_clocks`.
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
    """Time a network in an engine until the median is known well enough.

    Runs go on until the confidence interval of the median lies within `relative_margin` of it,
    or `max_runs` or `max_seconds` is reached. The interval is distribution-free (between two
    order statistics), for latencies are skewed; stopping early makes its confidence nominal.

    A machine that is shared, or whose clocks vary, may be half as fast a minute later. Beside a
    reference, what is measured is the ratio of both latencies, turn by turn
    (`models.timing.timed_runs`), and the latency is stated at the speed at which the reference
    takes its nominal time. An engine that reads files is timed on the file that is deployed: from
    uint8 images, which the file normalises, to logits.

    Args:
        model: A network, which is left untouched (its parameters, its mode, its device), or a file
            for an engine that reads files.
        input_shape: (C, H, W) of one image.
        device: Timed with CUDA events on a GPU, with a monotonic clock elsewhere.
        dtype: Of the computation.
        batch_size: Images per run.
        num_threads: Threads on a CPU; None: PyTorch's number, which is restored afterwards.
        engine: A key of `models.engines.ENGINES`, or "auto" for the device's own.
        host: Machine on which the network's file is timed, as ssh takes it (user@device); None:
            this one. See `models.timing.host`.
        channels_last: Memory format, where the engine leaves the choice.
        fold_batchnorm: Fold BatchNorms into the convolutions before them.
        confidence: In (0, 1).
        relative_margin: Above 0.
        min_runs: At least 1; beside a reference turns, of which 10 are enough.
        max_runs: At least `min_runs`; beside a reference turns.
        max_seconds: Above 0; the warm-up may take as much again at most.
        reference: Left untouched, too; None: latency as the clock shows it.

    Raises:
        ValueError: An argument is out of range.
        EngineError: The engine is missing, or does not take the network.
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
    """Content of a network's files by name, and the name of that which the engine loads."""
    if isinstance(model, Path):
        files = {stem + model.suffix: model.read_bytes()}
        if model.suffix == ".xml":  # OpenVINO's weights lie beside it
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
    """Make a network or a file ready in an engine.

    Raises:
        EngineError: The engine is missing, or does not take it.
    """
    engine.check(settings)
    if isinstance(model, nn.Module):
        return engine.build(model, input_shape, settings)
    if not isinstance(engine, FileEngine):
        raise EngineError(f"{engine.name} runs networks of PyTorch, and no files")
    return engine.load(model, input_shape, settings)


def _make_run(engine: Engine, model: Network, shape: Shape, settings: EngineSettings) -> Run:
    session = open_session(engine, model, shape, settings)
    return session.make_run(draw_images(shape, session.image_dtype))
