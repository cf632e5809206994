"""Compare the front by eager latency with the front by the latency of a deployed engine.

All finished networks of a run (the uncompressed ones too) are timed in every engine, alternately
with one reference network in the same engine. The benchmark writes each network's mIoU and
latencies, and how many members of one engine's front of mIoU and latency are on another's.

Example (5 minutes on an idle core):
  python benchmarks/engine_fronts.py RUN_DIR --output fronts.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import tyro
from command import run_command
from engines import describe_conditions, time_network, to_markdown
from rich.console import Console

from models import create_model
from models.checkpoint import load_checkpoint, read_metadata
from models.deployment.run_folder import CHECKPOINT
from models.latency import Reference
from search.pipelines.front import front_mask

EAGER = "pytorch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Run and engines to compare.

    Attributes:
        run_dir: Folder of a finished run.
        output: Markdown file for the result; default: print it.
        engines: Engines to time the networks in, keys of `models.engines.ENGINES`; the first is
            compared with each of the others.
        max_seconds: Longest time of one measurement.
        num_threads: Number of CPU threads.
    """

    run_dir: tyro.conf.Positional[Path]
    output: Path | None = None
    engines: tuple[str, ...] = (EAGER, "onnxruntime", "openvino")
    max_seconds: float = 3.0
    num_threads: int = 1


class Network(NamedTuple):
    """A finished network of the run.

    Attributes:
        name: Name in the table: "trial 3", or that of a baseline.
        folder: Folder of its stage.
    """

    name: str
    folder: Path


def measure(arguments: Arguments, console: Console) -> str:
    """Time all networks of the run in all engines and return the document."""
    metadata = json.loads((arguments.run_dir / "metadata.json").read_text())
    height, width = (int(side) for side in metadata["latency"]["resolution"])
    shape = (3, height, width)
    reference = create_model("fast_scnn", num_classes=11).eval()
    options = {"max_seconds": arguments.max_seconds, "num_threads": arguments.num_threads}
    nominal = {
        engine: time_network(reference, shape, engine, None, **options)
        for engine in arguments.engines
    }
    rows = []
    for network in find_networks(arguments.run_dir, metadata):
        path = network.folder / CHECKPOINT
        row: dict[str, object] = {"network": network.name, "miou": read_metadata(path)["miou"]}
        for engine in arguments.engines:
            paired = Reference(reference, nominal[engine])
            row[engine] = time_network(load_checkpoint(path), shape, engine, paired, **options)
        rows.append(row)
        console.print(row, highlight=False)
    conditions = describe_conditions(
        arguments.engines, (height, width), arguments.num_threads, arguments.max_seconds
    )
    return describe(pd.DataFrame(rows), arguments.engines, conditions)


def find_networks(run_dir: Path, metadata: dict[str, object]) -> list[Network]:
    """Find the networks of a run: uncompressed ones, and one for each complete trial."""
    trials = pd.read_csv(run_dir / "trials.csv")
    complete = trials[trials["state"] == "complete"]
    baselines: list[dict[str, str]] = metadata["baselines"]  # type: ignore[assignment]
    named = [(entry["name"], entry["stage"]) for entry in baselines]
    named += [(f"trial {row['trial']}", row["network"]) for _, row in complete.iterrows()]
    return [Network(name, run_dir / "stages" / stage) for name, stage in named]


def find_members(table: pd.DataFrame, engine: str) -> set[str]:
    """Return the names of the networks on the front of mIoU and an engine's latency."""
    names = ("miou", "latency_ms")
    measured = table[["miou", engine]].set_axis(names, axis="columns").to_dict(orient="records")
    return set(table["network"][front_mask(measured, names)])


def describe(table: pd.DataFrame, engines: tuple[str, ...], conditions: str) -> str:
    """Write the tables as Markdown."""
    fronts = {engine: find_members(table, engine) for engine in engines}
    lines = [conditions, "", "Latencies in ms; * is on the engine's front.", ""]
    lines += to_markdown(["network", "mIoU, %", *engines], [
        [
            str(row["network"]), f"{100 * row['miou']:.1f}",
            *(f"{row[e]:.2f}{'*' if row['network'] in fronts[e] else ''}" for e in engines),
        ]
        for _, row in table.sort_values("miou", ascending=False).iterrows()
    ])  # fmt: skip
    first, *others = engines
    rows = []
    for other in others:
        kept = fronts[first] & fronts[other]
        tau = table[[first, other]].corr(method="kendall").loc[first, other]
        rows.append([
            f"{first}, {other}", str(len(fronts[first])), str(len(fronts[other])), str(len(kept)),
            f"{tau:.2f}",
        ])  # fmt: skip
    header = ["engines", "front of the first", "of the second", "on both", "Kendall's tau"]
    return "\n".join([*lines, "", *to_markdown(header, rows)]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    progress = Console(stderr=True)  # the document may go to the standard output
    return run_command(Arguments, measure, argv, description=__doc__, console=progress)


if __name__ == "__main__":
    sys.exit(main())
