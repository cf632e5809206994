"""How long a network takes for an image, to a stated precision."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from models.engines.batchnorm_folding import fold_batchnorms
from models.hardware import describe_hardware, read_clocks
from models.timing.median_interval import compute_median_interval
from models.timing.timed_runs import Precision, Turn, make_run, quiet, repeat, take_turns, warm_up

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Reference(NamedTuple):
    """A network that shows how fast the machine is meanwhile.

    Attributes:
        model: Measured in turns with the network, in all the same way; best one of the same kind,
            so that what slows the network slows it as much.
        nominal_ms: Its latency at the speed that latencies are to be stated at, above 0.
    """

    model: nn.Module
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
        device: As given.
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
    model: nn.Module,
    input_shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    batch_size: int = 1,
    num_threads: int | None = None,
    *,
    channels_last: bool = True,
    fold_batchnorm: bool = False,
    confidence: float = 0.95,
    relative_margin: float = 0.02,
    min_runs: int = 20,
    max_runs: int = 1000,
    max_seconds: float = 30.0,
    reference: Reference | None = None,
) -> Latency:
    """Time forward passes of a copy until the median is known well enough.

    Runs go on until the confidence interval of the median lies within `relative_margin` of it,
    or `max_runs` or `max_seconds` is reached. The interval is distribution-free (between two
    order statistics), for latencies are skewed; stopping early makes its confidence nominal.

    A machine that is shared, or whose clocks vary, may be half as fast a minute later. Beside a
    reference, what is measured is the ratio of both latencies, turn by turn
    (`models.timing.timed_runs`),
    and the latency is stated at the speed at which the reference takes its nominal time.

    Args:
        model: Left untouched: its parameters, its mode, its device.
        input_shape: (C, H, W) of one image.
        device: Timed with CUDA events on a GPU, with a monotonic clock elsewhere.
        dtype: Of weights and images.
        batch_size: Images per run.
        num_threads: Threads on a CPU; None leaves PyTorch's number. Restored afterwards.
        channels_last: Memory format.
        fold_batchnorm: Fold BatchNorms into the convolutions before them.
        confidence: In (0, 1).
        relative_margin: Above 0.
        min_runs: At least 1; beside a reference turns, of which 10 are enough.
        max_runs: At least `min_runs`; beside a reference turns.
        max_seconds: Above 0; the warm-up may take as much again at most.
        reference: Left untouched, too; None: latency as the clock shows it.

    Raises:
        ValueError: An argument is out of range.
    """
    _check_arguments(dtype, batch_size, num_threads, reference)
    precision = Precision(confidence, relative_margin, min_runs, max_runs, max_seconds)
    device = torch.device(device)
    images = torch.randn(batch_size, *input_shape, device=device, dtype=DTYPES[dtype])
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)

    def prepare(network: nn.Module) -> nn.Module:
        ready = copy.deepcopy(network).eval().to(device=device, dtype=DTYPES[dtype])
        if channels_last:
            ready = ready.to(memory_format=torch.channels_last)
        if fold_batchnorm:
            fold_batchnorms(ready, images)
        return ready

    with quiet(num_threads), torch.inference_mode():
        run = make_run(prepare(model), images)
        if reference is None:
            warm_up(run, max_seconds)
            times, is_precise = repeat(run, precision)
            turns = [Turn([time], 1.0) for time in times]
        else:
            run_reference = make_run(prepare(reference.model), images)
            warm_up(lambda: run_reference() + run(), max_seconds)
            turns, is_precise = take_turns(run, run_reference, precision)
        threads, clocks = torch.get_num_threads(), read_clocks(device)
    nominal_ms = 1.0 if reference is None else reference.nominal_ms
    ratios = [turn.ratio for turn in turns]
    low, high = compute_median_interval(ratios, confidence)
    stated = [nominal_ms * time / turn.reference_ms for turn in turns for time in turn.times]
    reference_ms = float(np.median([turn.reference_ms for turn in turns]))
    return Latency(
        median_ms=nominal_ms * float(np.median(ratios)),
        p95_ms=float(np.percentile(stated, 95)),
        interval_ms=(nominal_ms * low, nominal_ms * high),
        confidence=confidence,
        is_precise=is_precise,
        num_runs=len(stated),
        raw_ms=float(np.median([time for turn in turns for time in turn.times])),
        reference_ms=None if reference is None else reference_ms,
        nominal_ms=None if reference is None else nominal_ms,
        device=str(device),
        dtype=dtype,
        batch_size=batch_size,
        resolution=(input_shape[1], input_shape[2]),
        num_threads=threads,
        channels_last=channels_last,
        fold_batchnorm=fold_batchnorm,
        hardware=describe_hardware(device),
        clocks=clocks,
    )


def _check_arguments(
    dtype: str, batch_size: int, num_threads: int | None, reference: Reference | None
) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    if batch_size < 1 or (num_threads is not None and num_threads < 1):
        raise ValueError(
            f"batch_size and num_threads must be at least 1, got {batch_size!r}, {num_threads!r}"
        )
    if reference is not None and not 0 < reference.nominal_ms < math.inf:
        raise ValueError(
            f"reference.nominal_ms must be above 0 and finite, got {reference.nominal_ms!r}"
        )
