"""How long a network takes for an image, to a stated precision."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.batchnorm_folding import fold_batchnorms
from models.hardware import describe_hardware

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """A measured latency and all that it depends on; `dataclasses.asdict` makes it JSON-able.

    Attributes:
        median_ms: Median over the runs, of one batch.
        p95_ms: 95th percentile over the runs.
        interval_ms: Confidence interval of the median.
        confidence: Of that interval.
        is_precise: Whether the interval lies within the margin asked for.
        num_runs: Timed runs, without the warm-up.
        device: As given.
        dtype: As given.
        batch_size: Images in a run.
        resolution: (H, W) of the images.
        num_threads: Threads within an operation on a CPU.
        channels_last: Memory format of images and weights.
        fold_batchnorm: Whether BatchNorms were folded into convolutions.
        hardware: See `models.hardware.describe_hardware`.
    """

    median_ms: float
    p95_ms: float
    interval_ms: tuple[float, float]
    confidence: float
    is_precise: bool
    num_runs: int
    device: str
    dtype: str
    batch_size: int
    resolution: tuple[int, int]
    num_threads: int
    channels_last: bool
    fold_batchnorm: bool
    hardware: dict[str, Any]


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
) -> Latency:
    """Time forward passes of a copy until the median is known well enough.

    Runs go on until the confidence interval of the median lies within `relative_margin` of it,
    or `max_runs` or `max_seconds` is reached. The interval is distribution-free (between two
    order statistics), for latencies are skewed; stopping early makes its confidence nominal.

    Source: the interval: Conover, "Practical nonparametric statistics", section 3.2.

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
        min_runs: At least 1.
        max_runs: At least `min_runs`.
        max_seconds: Above 0; the warm-up may take as much again at most.

    Raises:
        ValueError: An argument is out of range.
    """
    _check_arguments(dtype, batch_size, num_threads, confidence, relative_margin, min_runs,
                     max_runs, max_seconds)  # fmt: skip
    device = torch.device(device)
    images = torch.randn(batch_size, *input_shape, device=device, dtype=DTYPES[dtype])
    ready = copy.deepcopy(model).eval().to(device=device, dtype=DTYPES[dtype])
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
        ready = ready.to(memory_format=torch.channels_last)
    with _quiet(num_threads), torch.inference_mode():
        if fold_batchnorm:
            fold_batchnorms(ready, images)
        timer = _time_on_cuda if device.type == "cuda" else _time_on_clock
        _warm_up(lambda: timer(ready, images), max_seconds)
        times, is_precise = _repeat(
            lambda: timer(ready, images), confidence, relative_margin, min_runs, max_runs,
            max_seconds,
        )  # fmt: skip
        threads = torch.get_num_threads()
    return Latency(
        median_ms=float(np.median(times)),
        p95_ms=float(np.percentile(times, 95)),
        interval_ms=compute_median_interval(times, confidence),
        confidence=confidence,
        is_precise=is_precise,
        num_runs=len(times),
        device=str(device),
        dtype=dtype,
        batch_size=batch_size,
        resolution=(input_shape[1], input_shape[2]),
        num_threads=threads,
        channels_last=channels_last,
        fold_batchnorm=fold_batchnorm,
        hardware=describe_hardware(device),
    )


def compute_median_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Bound the median of any continuous distribution by two order statistics.

    Args:
        values: Independent draws.
        confidence: In (0, 1), reached at least.

    Returns:
        Lower and upper bound; infinite where there are too few values.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    size, rank = len(ordered), 0
    # P(the median lies below the order statistic of this rank) = P(Binomial(size, 1/2) < rank).
    outside = 0.0
    while True:
        outside += math.exp(_log_binomial(size, rank) - size * math.log(2))
        if outside > (1 - confidence) / 2:
            break
        rank += 1
    if rank < 1:
        return -math.inf, math.inf
    return float(ordered[rank - 1]), float(ordered[size - rank])


def _log_binomial(size: int, chosen: int) -> float:
    return math.lgamma(size + 1) - math.lgamma(chosen + 1) - math.lgamma(size - chosen + 1)


def _repeat(
    run: Callable[[], float], confidence: float, relative_margin: float, min_runs: int,
    max_runs: int, max_seconds: float,
) -> tuple[list[float], bool]:  # fmt: skip
    """Run until the median is precise or the budget spent; times in ms."""
    times: list[float] = []
    deadline = time.monotonic() + max_seconds
    next_check = min_runs
    while True:
        times.append(run())
        is_last = len(times) >= max_runs or (
            len(times) >= min_runs and time.monotonic() >= deadline
        )
        if len(times) >= next_check or is_last:
            low, high = compute_median_interval(times, confidence)
            median = float(np.median(times))
            is_precise = max(high - median, median - low) <= relative_margin * median
            if is_precise or is_last:
                return times, is_precise
            next_check = math.ceil(1.1 * len(times))


def _warm_up(run: Callable[[], float], max_seconds: float, num_runs: int = 10) -> None:
    """Let caches, allocators and autotuning settle: some runs, at least three."""
    deadline = time.monotonic() + max_seconds
    for index in range(num_runs):
        run()
        if index >= 2 and time.monotonic() >= deadline:
            return


def _time_on_clock(model: nn.Module, images: Tensor) -> float:
    start = time.perf_counter_ns()
    model(images)
    return (time.perf_counter_ns() - start) / 1e6


def _time_on_cuda(model: nn.Module, images: Tensor) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record()
    model(images)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


@contextmanager
def _quiet(num_threads: int | None) -> Iterator[None]:
    """Set threads and cuDNN's autotuning for a measurement, and set them back."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    try:
        torch.set_num_threads(threads if num_threads is None else num_threads)
        torch.backends.cudnn.benchmark = True
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark


def _check_arguments(
    dtype: str, batch_size: int, num_threads: int | None, confidence: float,
    relative_margin: float, min_runs: int, max_runs: int, max_seconds: float,
) -> None:  # fmt: skip
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    if batch_size < 1 or (num_threads is not None and num_threads < 1):
        raise ValueError(
            f"batch_size and num_threads must be at least 1, got {batch_size!r}, {num_threads!r}"
        )
    if not 0 < confidence < 1 or not relative_margin > 0:
        raise ValueError(
            "confidence must be in (0, 1) and relative_margin above 0, got "
            f"{confidence!r} and {relative_margin!r}"
        )
    if not 1 <= min_runs <= max_runs or not max_seconds > 0:
        raise ValueError(
            "1 <= min_runs <= max_runs and max_seconds > 0 must hold, got "
            f"{min_runs!r}, {max_runs!r}, {max_seconds!r}"
        )
