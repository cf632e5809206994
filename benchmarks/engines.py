"""Compare the latency of networks, dense and pruned, between inference engines.

Every network, dense and pruned, is timed in every engine, alternately with one reference network in
the same engine, so that other load on the machine changes the result little. The benchmark writes
the latencies; Kendall's tau between the engines, with the number of pairs of networks that two
engines order differently by more than a tenth; the speed-up that is realised compared with the
speed-up by MACs; and the effect of rounding widths to multiples of 8 and 16.

Example (10 minutes on an idle core):
  python benchmarks/engines.py --output docs/engines_table.md
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from command import run_command
from rich.console import Console

from models import MODELS, create_model
from models.cost import count_cost
from models.engines import ENGINES, EngineSettings
from models.hardware import describe_hardware
from models.latency import Reference, measure_latency
from models.pruning import prune

REFERENCE = "fast_scnn"
CLEAR = (
    1.1  # a pair is inverted if each engine finds a different one faster by more than this factor
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Networks and engines to measure.

    Attributes:
        output: Markdown file for the result; default: print it.
        networks: Networks to time, keys of `models.MODELS`.
        engines: Engines to time them in, keys of `models.engines.ENGINES`.
        ratios: Pruning ratios; 0 is the dense network.
        rounded: Networks that are also pruned with widths rounded to multiples of 8 and 16, at the
            second highest ratio.
        resolution: Height and width of the image.
        max_seconds: Longest time of one measurement.
        num_threads: Number of CPU threads.
    """

    output: Path | None = None
    networks: tuple[str, ...] = tuple(sorted(MODELS))
    engines: tuple[str, ...] = ("pytorch", "onnxruntime", "openvino")
    ratios: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7)
    rounded: tuple[str, ...] = ("dual_branch", "fast_scnn")
    resolution: tuple[int, int] = (360, 480)
    max_seconds: float = 1.5
    num_threads: int = 1


class Case(NamedTuple):
    """A network to time.

    Attributes:
        network: Key of `models.MODELS`.
        ratio: Pruning ratio; 0 for the dense network.
        round_to: Widths are rounded to multiples of this.
    """

    network: str
    ratio: float
    round_to: int = 1


def measure(arguments: Arguments, console: Console) -> str:
    """Time all networks in all engines and return the document."""
    middle = sorted(arguments.ratios)[-2:][0]
    cases = [Case(n, p) for n in arguments.networks for p in arguments.ratios]
    rounded = [name for name in arguments.rounded if name in arguments.networks]
    cases += [Case(n, middle, r) for n in rounded for r in (8, 16)]
    shape = (3, *arguments.resolution)
    reference = create_model(REFERENCE, num_classes=11).eval()
    options = {"max_seconds": arguments.max_seconds, "num_threads": arguments.num_threads}
    nominal = {
        name: time_network(reference, shape, name, None, **options) for name in arguments.engines
    }
    rows, unprunable = [], {}
    for case in cases:
        torch.manual_seed(0)
        model = create_model(case.network, num_classes=11).eval()
        if case.ratio > 0:
            round_to = case.round_to if case.round_to > 1 else None
            try:
                prune(model, torch.zeros(1, 3, 64, 128), case.ratio, round_to=round_to)
            except Exception as error:
                unprunable[case.network] = str(error)
                console.print(f"{case.network} cannot be pruned: {error}", highlight=False)
                continue
        row = {**case._asdict(), "macs": count_cost(model, shape).macs}
        for name in arguments.engines:
            paired = Reference(reference, nominal[name])
            row[name] = time_network(model, shape, name, paired, **options)
        rows.append(row)
        console.print(row, highlight=False)
    document = describe(pd.DataFrame(rows), arguments)
    reasons = [f"{name} could not be pruned: {reason}" for name, reason in unprunable.items()]
    return "\n".join([document, *reasons]) + "\n" * bool(reasons)


def time_network(
    model: torch.nn.Module, shape: tuple[int, int, int], engine: str, reference: Reference | None,
    *, max_seconds: float, num_threads: int,
) -> float:  # fmt: skip
    """Measure a network in an engine and return the median in ms.

    Args:
        model: Network.
        shape: Shape of the image, (3, H, W).
        engine: Key of `models.engines.ENGINES`.
        reference: Network to take turns with, and its latency; None: it is timed alone.
        max_seconds: Longest time of the measurement.
        num_threads: Number of CPU threads.
    """
    return measure_latency(
        model, shape, num_threads=num_threads, engine=engine, fold_batchnorm=True,
        relative_margin=0.02, max_seconds=max_seconds, reference=reference,
    ).median_ms  # fmt: skip


def count_inversions(first: Sequence[float], second: Sequence[float]) -> tuple[int, int]:
    """Count the pairs that two engines clearly order differently, and all pairs."""
    pairs = list(itertools.combinations(range(len(first)), 2))
    inverted = sum(
        (first[i] > CLEAR * first[j] and second[j] > CLEAR * second[i])
        or (first[j] > CLEAR * first[i] and second[i] > CLEAR * second[j])
        for i, j in pairs
    )
    return inverted, len(pairs)


def describe(table: pd.DataFrame, arguments: Arguments) -> str:
    """Write the tables as Markdown."""
    engines = list(arguments.engines)
    plain = table[table["round_to"] == 1]
    conditions = describe_conditions(
        arguments.engines, arguments.resolution, arguments.num_threads, arguments.max_seconds
    )
    lines = [conditions, "", "## Latency, ms", ""]
    lines += to_markdown(["network", "p", *engines], [
        [row["network"], f"{row['ratio']:g}", *(f"{row[e]:.1f}" for e in engines)]
        for _, row in plain.iterrows()
    ])  # fmt: skip
    lines += ["", "## Order", ""]
    correlation = plain[engines].corr(method="kendall")
    rows = []
    for first, second in itertools.combinations(engines, 2):
        inverted, pairs = count_inversions(plain[first].tolist(), plain[second].tolist())
        tau = correlation.loc[first, second]
        rows.append([f"{first}, {second}", f"{tau:.2f}", f"{inverted} of {pairs}"])
    lines += to_markdown(["engines", "Kendall's tau", "pairs clearly inverted"], rows)
    lines += ["", "## Speed-up over the dense network: by MACs, and realised", ""]
    rows = []
    for name, group in plain.groupby("network"):
        dense = group[group["ratio"] == 0]
        for _, row in group[group["ratio"] > 0].iterrows() if len(dense) else ():
            first = dense.iloc[0]
            realised = [f"{first[e] / row[e]:.2f}" for e in engines]
            rows.append(
                [name, f"{row['ratio']:g}", f"{first['macs'] / row['macs']:.2f}", *realised]
            )
    lines += to_markdown(["network", "p", "MACs", *engines], rows)
    rows = []
    for _, row in table[table["round_to"] > 1].iterrows():
        same = plain[(plain["network"] == row["network"]) & (plain["ratio"] == row["ratio"])].iloc[
            0
        ]
        changes = [f"{row[e] / same[e]:.2f}" for e in engines]
        macs = f"{row['macs'] / same['macs']:.2f}"
        rows.append([row["network"], f"{row['ratio']:g}", str(row["round_to"]), macs, *changes])
    lines += ["", "## Widths in multiples, against any width", ""]
    lines += to_markdown(["network", "p", "round_to", "MACs", *engines], rows)
    return "\n".join(lines) + "\n"


def describe_conditions(
    engines: Sequence[str], resolution: tuple[int, int], num_threads: int, max_seconds: float
) -> str:
    """Describe machine, engines and image of a comparison in a paragraph."""
    hardware = describe_hardware()
    settings = EngineSettings(num_threads=num_threads)
    versions = [f"{name} {ENGINES[name].describe(settings)['version']}" for name in engines]
    height, width = resolution
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {hardware['cpu']}, {num_threads} thread, "
        f"{height}x{width}, batch 1, float32; {', '.join(versions)}. Each measurement takes "
        f"{max_seconds:g} s at most, in turns with {REFERENCE} in the same engine."
    )


def to_markdown(header: list[str], rows: list[list[str]]) -> list[str]:
    """Write the lines of a Markdown table."""
    return [
        f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows]
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    progress = Console(stderr=True)  # the document may go to the standard output
    return run_command(Arguments, measure, argv, description=__doc__, console=progress)


if __name__ == "__main__":
    sys.exit(main())
