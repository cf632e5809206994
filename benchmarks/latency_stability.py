"""Measure how repeatable the latency is, alone and beside a competing process.

The student of the camvid recipe is pruned at each of --pruning-ratios. Its latency is measured
--rounds times, alternating between the networks (A B A B ...), each time as the latency stage does
it: with the device locked, and with the uncompressed student as the reference. The three conditions
alternate within a round, so that a machine that slows down slows all of them alike:
  alone    no other process of ours runs.
  polite   a process bound to the same cores trains and takes the device lock before each step, as
           our stages do, so it waits while we measure.
  rude     the same process does not take the lock.
The benchmark reports the latency as the clock shows it (raw) and as a study states it (stated). For
each network and condition it gives the median, the coefficient of variation over the rounds, and
the relative change of the median from the condition alone. It also counts the pairs of
measurements, from any rounds and conditions, in which the two networks are in the wrong order.

On a machine that others use too, "alone" does not mean idle; the variation of the reference shows
how busy it was.

Examples (16 minutes; seconds):
  python benchmarks/latency_stability.py --output latency_stability.json
  python benchmarks/latency_stability.py --resolution 64 64 --rounds 2 --max-seconds 0.2
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from command import describe_measurement, run_command
from rich.console import Console
from rich.table import Table
from torch import nn

from models import create_model
from models.hardware import describe_hardware
from models.latency import Latency, Reference, measure_latency
from models.pruning import prune
from search.recipes import LITE0
from trainables.context import detect_device
from trainables.process.device_lock import DeviceLock

NUM_CLASSES = 11
STUDENT: dict[str, Any] = {"backbone": LITE0, "width": 0.25, "output_stride": 16}
Condition = Literal["alone", "polite", "rude"]
CONDITIONS: tuple[Condition, ...] = ("alone", "polite", "rude")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Networks, conditions and length of the measurement.

    Attributes:
        pruning_ratios: Pruning ratios of the two networks; 0 is the reference itself.
        conditions: Conditions to measure.
        rounds: Number of measurements of each network in each condition, at least 2.
        resolution: Height and width of the images.
        device: cpu, cuda or cuda:N.
        dtype: Number format of the networks.
        num_threads: Number of CPU threads of the measurement, and of the competing process.
        max_seconds: Longest time of one measurement, after its warm-up.
        output: JSON file for the results.
    """

    pruning_ratios: tuple[float, float] = (0.3, 0.4)
    conditions: tuple[Condition, ...] = CONDITIONS
    rounds: int = 10
    resolution: tuple[int, int] = (360, 480)
    device: str = detect_device()
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    num_threads: int = 1
    max_seconds: float = 10.0
    output: Path | None = None

    def __post_init__(self) -> None:
        if not all(0 <= ratio < 1 for ratio in self.pruning_ratios):
            raise ValueError(
                f"pruning_ratios must be at least 0 and below 1, got {self.pruning_ratios}"
            )
        if len(set(self.pruning_ratios)) < 2:
            raise ValueError(f"pruning_ratios must be distinct, got {self.pruning_ratios}")
        if "alone" not in self.conditions or len(set(self.conditions)) < len(self.conditions):
            raise ValueError(
                f"conditions must be distinct and include alone, got {self.conditions}"
            )
        if self.rounds < 2 or self.num_threads < 1:
            raise ValueError(
                "rounds must be at least 2 and num_threads at least 1, got "
                f"{self.rounds} and {self.num_threads}"
            )


class Spread(NamedTuple):
    """One row of the table.

    Attributes:
        network: Name of the network.
        condition: Condition under which it was measured.
        kind: "raw", as the clock shows it, or "stated", at the nominal speed.
        median_ms: Median over the rounds.
        variation: Coefficient of variation over the rounds.
        change: Relative change of the median from that of the condition alone.
    """

    network: str
    condition: str
    kind: str
    median_ms: float
    variation: float
    change: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run the benchmark and print it; returns JSON-serialisable results."""
    networks = {f"p {ratio:g}": build(ratio) for ratio in arguments.pruning_ratios}
    with tempfile.TemporaryDirectory() as folder, bound(arguments):
        measured = measure_all(networks, arguments, Path(folder), console)
    rows = summarize(measured)
    print_table(rows, console)
    wrong = {kind: count_wrong_order(measured, kind) for kind in ("raw", "stated")}
    for kind, (count, pairs) in wrong.items():
        console.print(f"{kind}: {count} of {pairs} pairs in the wrong order", highlight=False)
    reference = [entry.reference_ms for entries in measured.values() for entry in entries]
    known = [value for value in reference if value is not None]
    console.print(
        f"reference: {min(known):.1f} to {max(known):.1f} ms, "
        f"coefficient of variation {_variation(known):.1%}",
        highlight=False,
    )
    head = describe_measurement("latency_stability", arguments, describe_hardware(arguments.device))
    return {
        **head,
        "load_average": os.getloadavg(),
        "rows": [row._asdict() for row in rows],
        "wrong_order": {kind: list(counts) for kind, counts in wrong.items()},
        "measured": [
            {
                "network": network,
                "condition": condition,
                "raw_ms": [entry.raw_ms for entry in entries],
                "stated_ms": [entry.median_ms for entry in entries],
                "reference_ms": [entry.reference_ms for entry in entries],
                "is_precise": [entry.is_precise for entry in entries],
            }
            for (network, condition), entries in measured.items()
        ],
    }


def build(pruning_ratio: float) -> nn.Module:
    """Build the student and prune it at a ratio; 0 leaves it dense."""
    torch.manual_seed(0)
    model = create_model("dual_branch", NUM_CLASSES, **STUDENT)
    if pruning_ratio:
        prune(model, torch.zeros(1, 3, 64, 128), pruning_ratio=pruning_ratio)
    return model.eval()


def measure_all(
    networks: Mapping[str, nn.Module], arguments: Arguments, folder: Path, console: Console
) -> dict[tuple[str, Condition], list[Latency]]:
    """Measure all networks in all conditions, round by round.

    Args:
        networks: Networks by name.
        arguments: Arguments of the benchmark.
        folder: Folder for the lock of the device.
        console: Console that shows the progress.

    Returns:
        The measurements by network and condition, in the order of the rounds.
    """
    device = arguments.device
    lock = DeviceLock(device, folder)
    dense = build(0.0)
    nominal_ms = _measure(dense, arguments, None).median_ms
    reference = Reference(dense, nominal_ms)
    measured: dict[tuple[str, Condition], list[Latency]] = {
        (name, condition): [] for condition in arguments.conditions for name in networks
    }
    for index in range(arguments.rounds):
        with console.status(f"round {index + 1} of {arguments.rounds}"):
            for condition in arguments.conditions:
                with co_tenant(condition, arguments, folder):
                    for name, model in networks.items():
                        with lock.exclusive():
                            latency = _measure(model, arguments, reference)
                        measured[name, condition].append(latency)
    return measured


@contextmanager
def bound(arguments: Arguments) -> Iterator[None]:
    """Bind this process and those that it starts to as many cores as it has threads (on a CPU)."""
    cores = os.sched_getaffinity(0)
    if torch.device(arguments.device).type == "cpu":
        os.sched_setaffinity(0, sorted(cores)[-arguments.num_threads :])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def co_tenant(condition: Condition, arguments: Arguments, folder: Path) -> Iterator[None]:
    """Run a process that trains on the same cores and device until the block ends.

    Args:
        condition: Condition of the measurement; there is no process if it is alone.
        arguments: Arguments of the benchmark.
        folder: Folder for the lock of the device.

    Raises:
        RuntimeError: The process ended unexpectedly.
    """
    if condition == "alone":
        yield
        return
    spawn = multiprocessing.get_context("spawn")
    trains = spawn.Event()
    lock_folder = folder if condition == "polite" else None
    process = spawn.Process(target=train, args=(trains, arguments, lock_folder), daemon=True)
    process.start()
    try:
        while not trains.wait(1.0):
            if not process.is_alive():
                raise RuntimeError(
                    "the competing process ended unexpectedly; its error is printed above"
                )
        yield
        if not process.is_alive():
            raise RuntimeError(
                "the competing process ended unexpectedly; its error is printed above"
            )
    finally:
        process.terminate()
        process.join()


def train(
    trains: Event, arguments: Arguments, lock_folder: Path | None, num_steps: int | None = None
) -> None:
    """Run training steps (forward and backward) without end, in the competing process.

    Args:
        trains: Event that is set after the first step.
        arguments: Arguments of the benchmark.
        lock_folder: Folder of the lock that it takes before each step; None: it takes no lock.
        num_steps: Number of steps after which it ends; None: it never ends.
    """
    torch.set_num_threads(arguments.num_threads)
    device = torch.device(arguments.device)
    model = create_model("dual_branch", NUM_CLASSES, **STUDENT).to(device)
    images = torch.randn(2, 3, *arguments.resolution, device=device)
    lock = DeviceLock(arguments.device, lock_folder) if lock_folder else None
    for _ in itertools.count() if num_steps is None else range(num_steps):
        with lock.shared() if lock else nullcontext():
            model(images).square().mean().backward()  # type: ignore[no-untyped-call]
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        trains.set()


def summarize(measured: Mapping[tuple[str, Condition], Sequence[Latency]]) -> list[Spread]:
    """Compute the median, variation and change of the measured latencies, raw and as stated.

    Args:
        measured: Measurements by network and condition, including alone; at least two each.
    """
    rows = []
    for (network, condition), entries in measured.items():
        for kind in ("raw", "stated"):
            times = [_pick(entry, kind) for entry in entries]
            alone = [_pick(entry, kind) for entry in measured[network, "alone"]]
            median = statistics.median(times)
            rows.append(
                Spread(
                    network=network,
                    condition=condition,
                    kind=kind,
                    median_ms=median,
                    variation=_variation(times),
                    change=median / statistics.median(alone) - 1,
                )
            )
    return rows


def count_wrong_order(
    measured: Mapping[tuple[str, Condition], Sequence[Latency]], kind: str
) -> tuple[int, int]:
    """Count the pairs, one measurement of each network, that contradict the stated medians.

    Args:
        measured: Measurements by network, of which there are two, and by condition.
        kind: "raw" or "stated".

    Returns:
        The number of such pairs, and the number of all pairs.
    """
    names = list(dict.fromkeys(network for network, _ in measured))
    entries = [
        [entry for (network, _), found in measured.items() if network == name for entry in found]
        for name in names
    ]
    medians = [statistics.median(entry.median_ms for entry in found) for found in entries]
    slow, fast = entries if medians[0] > medians[1] else entries[::-1]
    pairs = list(itertools.product(slow, fast))
    return sum(_pick(a, kind) <= _pick(b, kind) for a, b in pairs), len(pairs)


def print_table(rows: Sequence[Spread], console: Console) -> None:
    """Print one row for each network, condition and kind."""
    table = Table("network", "co-tenant", "latency")
    for heading in ("median ms", "variation", "against alone"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.network,
            row.condition,
            row.kind,
            f"{row.median_ms:.2f}",
            f"{row.variation:.1%}",
            f"{row.change:+.1%}",
        )
    console.print(table)


def _measure(model: nn.Module, arguments: Arguments, reference: Reference | None) -> Latency:
    return measure_latency(
        model,
        (3, *arguments.resolution),
        arguments.device,
        arguments.dtype,
        num_threads=arguments.num_threads,
        fold_batchnorm=True,
        max_seconds=arguments.max_seconds,
        reference=reference,
    )


def _pick(latency: Latency, kind: str) -> float:
    return latency.raw_ms if kind == "raw" else latency.median_ms


def _variation(values: Sequence[float]) -> float:
    return statistics.stdev(values) / statistics.fmean(values)


if __name__ == "__main__":
    sys.exit(main())
