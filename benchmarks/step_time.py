"""Measure what each optimisation gains on this CPU, as ratios measured in one run.

The variants always alternate (A B C A B C ...), so that a machine that slows down slows all of them
alike. The benchmark measures:
  training step   of the camvid recipe's two networks at 4 x 240 x 320. The plain form uses float32,
                  contiguous memory and the libraries' own convolutions. It is compared with
                  channels_last, freed memory kept (mallopt), fast convolutions
                  (models/blocks/cpu_convolutions.py), one thread, and bfloat16 autocast. Each
                  variant has its own process, because mallopt and the number of threads apply to
                  the whole process; only one process works at a time.
  data            a batch of 4 augmented crops: PNG files decoded each time against the cache.
  device lock     acquiring and releasing it once, as every training step does.
  latency         of one image, before and after folding BatchNorm into convolutions.
"Times faster" is the median over the rounds of the plain form's time divided by the variant's time
in the same round. The lowest and highest of these ratios show how far the machine can be trusted.

On CPUs without AVX512-BF16 or AMX, bfloat16 is emulated and an order of magnitude slower; there it
is measured in only `--bf16-rounds` rounds and without a warm-up.

Examples (about 4 minutes; seconds):
  python benchmarks/step_time.py --data-root /data/camvid --output step_time.json
  python benchmarks/step_time.py --batch-size 2 --crop-size 64 64 --resolution 64 64 --rounds 1
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from command import describe_measurement, run_command
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

from models import create_model
from models.blocks import cpu_convolutions
from models.hardware import bfloat16_is_fast, describe_hardware
from models.latency import measure_latency
from search.recipes import LITE0
from trainables.data import (
    AugmentationConfig,
    SegmentationDataset,
    TrainingStream,
    cache_dataset,
    create_dataset,
    normalize,
)
from trainables.learning.optimization import OptimizerConfig, build_optimizer
from trainables.learning.training import Precision, autocast, place
from trainables.losses import cross_entropy
from trainables.process.device_lock import DeviceLock
from trainables.process.memory import keep_freed_memory

NUM_CLASSES = 11
NETWORKS: dict[str, dict[str, Any]] = {
    "deeplabv3plus": {"backbone": LITE0},
    "dual_branch": {"backbone": LITE0, "width": 0.25, "output_stride": 16},
}
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Networks and length of the measurement.

    Attributes:
        networks: Networks to measure, keys of `NETWORKS`; both by default.
        rounds: Number of timed rounds of training steps, after one round to warm up.
        bf16_rounds: Number of rounds of bfloat16 where it is emulated; 0 omits it.
        num_threads: Number of threads of all variants except those with a single thread.
        batch_size: Number of images of a training step and of the data batch.
        crop_size: Height and width of the training images.
        resolution: Height and width of the images whose latency is measured.
        data_rounds: Number of timed batches from files and from the cache.
        data_root: Folder of CamVid; default: PNG files of synthetic streets are written and used.
        latency_rounds: Number of measurements of each latency.
        latency_seconds: Longest time of one measurement, after its warm-up.
        output: JSON file for the results.
    """

    networks: tuple[str, ...] = tuple(NETWORKS)
    rounds: int = 7
    bf16_rounds: int = 1
    num_threads: int = 2
    batch_size: int = 4
    crop_size: tuple[int, int] = (240, 320)
    resolution: tuple[int, int] = (360, 480)
    data_rounds: int = 20
    data_root: Path | None = None
    latency_rounds: int = 3
    latency_seconds: float = 2.0
    output: Path | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.networks) - set(NETWORKS))
        if unknown:
            raise ValueError(
                f"networks must be among {', '.join(NETWORKS)}; got {', '.join(unknown)}"
            )
        for name in ("rounds", "num_threads", "data_rounds", "latency_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 (BatchNorm), got {self.batch_size}")


class Variant(NamedTuple):
    """A form of the training step.

    Attributes:
        num_threads: Number of threads of the process.
        channels_last: Memory format of weights and activations.
        precision: "float32", or "bfloat16" for autocast.
        keep_memory: Whether the process keeps the memory that it frees.
        fast_convolutions: Whether the convolutions are those of `models.blocks.cpu_convolutions`
            instead of the libraries'.
    """

    num_threads: int
    channels_last: bool = False
    precision: Precision = "float32"
    keep_memory: bool = False
    fast_convolutions: bool = False


class Timing(NamedTuple):
    """A row of a table.

    Attributes:
        name: Name of the variant.
        median_ms: Median time over the rounds.
        speedup: Median over the rounds of the plain form's time divided by the variant's.
        lowest: Lowest of those ratios.
        highest: Highest of them.
        num_rounds: Number of these ratios.
    """

    name: str
    median_ms: float
    speedup: float
    lowest: float
    highest: float
    num_rounds: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run the benchmark and print it; returns JSON-serialisable results.

    Raises:
        DataError: The data set cannot be used.
    """
    started = time.monotonic()
    torch.set_num_threads(arguments.num_threads)
    tables = measure_all(arguments, console)
    lock_us = measure_lock()
    console.print(f"device lock: {lock_us:.0f} µs a step", highlight=False)
    hardware = describe_hardware()
    head = describe_measurement("step_time", arguments, hardware)
    console.print(
        f"{hardware['cpu']}, {hardware['num_cpus']} CPUs, torch {hardware['torch']}, "
        f"{head['measured_at'][:10]}, {(time.monotonic() - started) / 60:.1f} minutes",
        highlight=False,
    )
    return {
        **head,
        "load_average": os.getloadavg(),
        "tables": {name: [row._asdict() for row in rows] for name, rows in tables.items()},
        "device_lock_us": lock_us,
    }


def measure_all(arguments: Arguments, console: Console) -> dict[str, list[Timing]]:
    """Measure and print one table after the other.

    Raises:
        DataError: The data set cannot be used.
    """
    tables: dict[str, list[Timing]] = {}

    def add(title: str, rows: list[Timing]) -> None:
        tables[title] = rows
        print_table(title, rows, console)

    images = f"{arguments.batch_size} x {arguments.crop_size[0]} x {arguments.crop_size[1]}"
    add(f"data: batch of {images}", measure_data(arguments))
    for network in arguments.networks:
        add(f"training step: {network}, {images}", measure_steps(network, arguments))
    height, width = arguments.resolution
    for network in arguments.networks:
        title = f"latency: {network}, {height} x {width}, 1 thread"
        add(title, measure_folding(network, arguments))
    return tables


def make_variants(num_threads: int) -> dict[str, Variant]:
    """Make the variants that are compared; the first one is the plain form."""
    plain = Variant(num_threads)
    kept = plain._replace(channels_last=True, keep_memory=True)
    best = kept._replace(fast_convolutions=True)
    variants = {
        "plain (float32, contiguous)": plain,
        "channels_last": plain._replace(channels_last=True),
        "memory kept": plain._replace(keep_memory=True),
        "channels_last, memory kept": kept,
        "both, fast convolutions": best,
        "channels_last, bfloat16": plain._replace(channels_last=True, precision="bfloat16"),
    }
    if num_threads > 1:
        variants["plain, 1 thread"] = plain._replace(num_threads=1)
        variants["all three, 1 thread"] = best._replace(num_threads=1)
    return variants


def measure_steps(network: str, arguments: Arguments) -> list[Timing]:
    """Time training steps of all variants alternately, each in its own process.

    Raises:
        RuntimeError: A process ended unexpectedly.
    """
    variants = make_variants(arguments.num_threads)
    turns = {name: range(arguments.rounds + 1) for name in variants}
    if not bfloat16_is_fast(CPU):
        # An emulated bfloat16 step takes as long as a dozen others, so round 0 does not warm it up.
        slow = range(1, min(arguments.bf16_rounds, arguments.rounds) + 1)
        turns |= {name: slow for name in variants if variants[name].precision == "bfloat16"}
    times: dict[str, list[float]] = {name: [] for name in variants if turns[name]}
    with _workers({name: variants[name] for name in times}, network, arguments) as workers:
        for index in range(arguments.rounds + 1):
            for name, connection in workers.items():
                if index not in turns[name]:
                    continue
                connection.send("step")
                seconds = _receive(connection, f"{network}, {name}")
                if index > 0:
                    times[name].append(seconds)
    return summarize(times)


def serve_steps(
    connection: Connection, network: str, variant: Variant, batch_size: int, size: tuple[int, int]
) -> None:
    """Answer each message with the seconds of one training step, in a worker process."""
    if variant.keep_memory:
        keep_freed_memory()
    torch.set_num_threads(variant.num_threads)
    step = make_step(network, variant, batch_size, size)
    connection.send(0.0)
    while connection.recv() == "step":
        started = time.perf_counter()
        step()
        connection.send(time.perf_counter() - started)


def make_step(
    network: str, variant: Variant, batch_size: int, size: tuple[int, int]
) -> Callable[[], float]:
    """Build a network and return its training step, as in `trainables.learning.training.train`."""
    torch.manual_seed(0)
    model = _build(network)
    if not variant.fast_convolutions:
        use_library_convolutions(model)
    place(model, CPU, channels_last=variant.channels_last).train()
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", lr=1e-4))
    batch = torch.randint(0, 256, (batch_size, 3, *size), dtype=torch.uint8)
    target = torch.randint(0, NUM_CLASSES, (batch_size, *size), dtype=torch.uint8)

    def step() -> float:
        images = normalize(batch)
        if not variant.channels_last:
            images = images.contiguous()
        with autocast(variant.precision, CPU):
            loss = cross_entropy(model(images), target)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def measure_data(arguments: Arguments) -> list[Timing]:
    """Time the same batches from decoded files and from the cache."""
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.data_root
        dataset = _make_png_files(Path(scratch)) if root is None else create_dataset("camvid", root)
        augmentation = AugmentationConfig(crop_size=arguments.crop_size, scale_range=(0.5, 1.5))
        sources = {
            f"{dataset.name}: PNG decoded each time": dataset,
            f"{dataset.name}: memory-mapped cache": cache_dataset(dataset, Path(scratch) / "cache"),
        }
        times: dict[str, list[float]] = {name: [] for name in sources}
        for index in range(arguments.data_rounds + 1):
            first = index * arguments.batch_size
            for name, source in sources.items():
                stream = TrainingStream(source, augmentation, seed=0)
                started = time.perf_counter()
                samples = [stream[first + offset] for offset in range(arguments.batch_size)]
                torch.stack([sample.image for sample in samples])
                torch.stack([sample.target for sample in samples])
                if index > 0:
                    times[name].append(time.perf_counter() - started)
    return summarize(times)


def measure_lock(num_blocks: int = 20, block: int = 100) -> float:
    """Measure the microseconds to acquire and release the free lock: the median over blocks."""
    microseconds = []
    with tempfile.TemporaryDirectory() as folder:
        lock = DeviceLock("cpu", Path(folder))
        for _ in range(num_blocks):
            started = time.perf_counter()
            for _ in range(block):
                with lock.shared():
                    pass
            microseconds.append(1e6 * (time.perf_counter() - started) / block)
    return statistics.median(microseconds)


def measure_folding(network: str, arguments: Arguments) -> list[Timing]:
    """Measure latency alternately with BatchNorms as they are and folded."""
    model = _build(network).eval()
    times: dict[str, list[float]] = {"BatchNorm as trained": [], "BatchNorm folded": []}
    for _ in range(arguments.latency_rounds):
        for folded, name in enumerate(times):
            latency = measure_latency(
                model,
                (3, *arguments.resolution),
                num_threads=1,
                fold_batchnorm=bool(folded),
                min_runs=3,
                max_seconds=arguments.latency_seconds,
            )
            times[name].append(latency.median_ms / 1e3)
    return summarize(times)


def summarize(times: Mapping[str, Sequence[float]]) -> list[Timing]:
    """Compare every variant with the first, round by round.

    Args:
        times: Seconds of each round, by variant; a variant may have fewer rounds than the first
            one.
    """
    plain = next(iter(times.values()))
    rows = []
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(plain, seconds, strict=False)]
        rows.append(
            Timing(
                name=name,
                median_ms=1e3 * statistics.median(seconds),
                speedup=statistics.median(ratios),
                lowest=min(ratios),
                highest=max(ratios),
                num_rounds=len(ratios),
            )
        )
    return rows


@contextmanager
def _workers(
    variants: Mapping[str, Variant], network: str, arguments: Arguments
) -> Iterator[dict[str, Connection]]:
    """Start one process for each variant; they end with the block, or with this process."""
    spawn = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    processes = []
    try:
        for name, variant in variants.items():
            connections[name], theirs = spawn.Pipe()
            settings = (theirs, network, variant, arguments.batch_size, arguments.crop_size)
            processes.append(spawn.Process(target=serve_steps, args=settings, daemon=True))
            processes[-1].start()
            theirs.close()
        for name, connection in connections.items():
            _receive(connection, f"{network}, {name}")  # nothing is timed before all are built
        yield connections
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _receive(connection: Connection, name: str) -> float:
    try:
        return float(connection.recv())
    except EOFError:
        raise RuntimeError(
            f"the process of {name} ended unexpectedly; its error is printed above"
        ) from None


def _build(network: str) -> nn.Module:
    return create_model(network, NUM_CLASSES, **NETWORKS[network])


def use_library_convolutions(model: nn.Module) -> None:
    """Undo `models.blocks.cpu_convolutions.use_cpu_convolutions`."""
    for module in model.modules():
        if type(module).__module__ == cpu_convolutions.__name__:
            kinds = type(module).__mro__
            module.__class__ = next(k for k in kinds if k.__module__ != cpu_convolutions.__name__)


def _make_png_files(folder: Path, num_samples: int = 32) -> SegmentationDataset:
    """Write synthetic streets of CamVid's size as PNG files and open them."""
    streets = create_dataset("synthetic", size=(360, 480), num_samples=num_samples)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    (folder / "classes.txt").write_text("\n".join(streets.classes))
    stems = [f"{index:03d}" for index in range(num_samples)]
    (folder / "train.txt").write_text("\n".join(stems))
    for stem, index in zip(stems, range(num_samples), strict=True):
        image, target = streets[index]
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{stem}.png")
        Image.fromarray(target.numpy()).save(folder / "masks" / f"{stem}.png")
    return create_dataset("folder", folder)


def print_table(title: str, rows: Sequence[Timing], console: Console) -> None:
    """Print one row for each variant."""
    table = Table("", title=title, title_justify="left")
    for heading in ("median ms", "times faster", "lowest", "highest", "rounds"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.median_ms:.1f}",
            f"{row.speedup:.2f}",
            f"{row.lowest:.2f}",
            f"{row.highest:.2f}",
            str(row.num_rounds),
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
