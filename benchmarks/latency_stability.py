"""How far a latency can be trusted: measured again and again, alone and beside a co-tenant.

The student of the camvid recipe, pruned at each of --pruning-ratios, is measured --rounds times in
turn (A B A B ...), each time as the latency stage does it: holding the device alone, beside the
uncompressed student as the reference. Three conditions take turns within a round, so that a machine
that slows down slows all alike:
  alone    nothing else of ours runs.
  polite   a process bound to the same cores trains and, before each step, asks for the device, as
           our stages do: it has to wait while we measure.
  rude     the same process does not ask.
Reported per network and condition, for the latency as the clock shows it (raw) and as a study
states it (stated): the median, the coefficient of variation over the rounds, and the median's
change against alone; and in how many of all pairs of measurements, of any rounds and conditions,
the two networks come in the wrong order.

On a machine that is shared by others, "alone" is not idle; the spread of the reference shows it.

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
    """How much is measured.

    Attributes:
        pruning_ratios: Of the two networks; 0 is the reference itself.
        conditions: Which of them.
        rounds: Measurements of each network in each condition, at least 2.
        resolution: Height and width of the images.
        device: cpu, cuda or cuda:N.
        dtype: Numbers of the networks.
        num_threads: CPU threads of the measurement, and of the co-tenant.
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
            raise ValueError(f"pruning_ratios must lie in 0..1, got {self.pruning_ratios}")
        if len(set(self.pruning_ratios)) < 2:
            raise ValueError(f"pruning_ratios must differ, got {self.pruning_ratios}")
        if "alone" not in self.conditions or len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"conditions must be different ones with alone, got {self.conditions}")
        if self.rounds < 2 or self.num_threads < 1:
            raise ValueError(
                "rounds must be at least 2 and num_threads at least 1, got "
                f"{self.rounds} and {self.num_threads}"
            )


class Spread(NamedTuple):
    """One row of the table.

    Attributes:
        network: Name.
        condition: Under which it was measured.
        kind: raw, as the clock shows it, or stated, at the nominal speed.
        median_ms: Over the rounds.
        variation: Coefficient of variation over the rounds.
        change: Of the median against that alone, relative.
    """

    network: str
    condition: str
    kind: str
    median_ms: float
    variation: float
    change: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Do the whole benchmark and print it; returns JSON-able results."""
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
    """The student with so much of its channels gone; 0 leaves it whole."""
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
        networks: By name.
        arguments: Of the benchmark.
        folder: For the locks of the device.
        console: For the progress.

    Returns:
        By network and condition, in the order of the rounds.
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
    """Keep this process, and those that it starts, on as many cores as it has threads on a CPU."""
    cores = os.sched_getaffinity(0)
    if torch.device(arguments.device).type == "cpu":
        os.sched_setaffinity(0, sorted(cores)[-arguments.num_threads :])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def co_tenant(condition: Condition, arguments: Arguments, folder: Path) -> Iterator[None]:
    """Have another process train on the same cores and device; it ends with the block.

    Args:
        condition: Who it is; alone: there is none.
        arguments: Of the benchmark.
        folder: For the locks of the device.

    Raises:
        RuntimeError: The process died.
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
                raise RuntimeError("the co-tenant died, see above")
        yield
        if not process.is_alive():
            raise RuntimeError("the co-tenant died, see above")
    finally:
        process.terminate()
        process.join()


def train(
    trains: Event, arguments: Arguments, lock_folder: Path | None, num_steps: int | None = None
) -> None:
    """Body of the co-tenant: step after step, forward and backward.

    Args:
        trains: Set after the first step.
        arguments: Of the benchmark.
        lock_folder: Where the lock is that it asks for; None: it does not ask.
        num_steps: Ends after so many; None: never.
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
    """Median, spread and change of what was measured, raw and as stated.

    Args:
        measured: By network and condition, alone among them; at least two each.
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
        measured: By network, of which there are two, and condition.
        kind: raw or stated.

    Returns:
        Such pairs, and all pairs.
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
    """Print one row per network, condition and kind."""
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
