"""Measure every network of the papers in the same way, for the table in docs/networks.md.

Parameters and multiply-accumulates (MACs) are counted at 1024x2048, as ours (convolutions and
matrix products) and as fvcore counts them, and shown beside the published numbers. Latency is
measured at 512x1024 and 360x480 with BatchNorms folded. Further tables show the dual-branch network
and TBFENet pruned at every ratio, and the ablations of TBFENet.

Example (20 minutes on an idle core; two minutes with --latency-seconds 0, which omits latency):
  python benchmarks/networks.py --output docs/networks.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from command import run_command
from rich.console import Console

from models import MODELS, SegmentationNetwork, create_model
from models.cost import count_cost
from models.hardware import describe_hardware
from models.latency import measure_latency
from models.pruning import prune
from trainables.context import detect_device

COUNTED_AT = (1024, 2048)
TIMED_AT = ((512, 1024), (360, 480))
RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
TRACED = torch.zeros(1, 3, 64, 128)


class Published(NamedTuple):
    """The numbers that a paper states.

    Attributes:
        millions: Parameters in millions.
        gmacs: Billions of MACs at 1024x2048, as the paper counts them; None if it does not state
            them.
    """

    millions: float
    gmacs: float | None = None


# Source: tables 2 and 3 of paper 1 (Chen et al. 2026), table 4 of paper 3 (TBFENet), paper 2.
PUBLISHED = {
    "dual_branch": Published(40.96, 497),
    "lraspp_mobilenet_v3_large": Published(3.21, 18.49),
    "bisenetv2": Published(3.36, 98.86),
    "icnet_resnet50": Published(47.53, 122),
    "fast_scnn": Published(1.40, 7.48),
    "cgnet": Published(0.50, 27.73),
    "tbfenet": Published(0.905),
    "enet": Published(0.36),
    "erfnet": Published(2.1),
    "espnet": Published(0.36),
    "dabnet": Published(0.76),
    "lednet": Published(0.95),
    "edanet": Published(0.68),
    "segnet": Published(29.5),
    "dfanet": Published(7.8),
    "swiftnet_resnet18": Published(11.8),
    "ndnet": Published(0.50),
    "mscfnet": Published(1.15),
    "pspnet_resnet18": Published(12.6),
    "pspnet_resnet101": Published(65.6),
    "ddrnet23_slim": Published(5.7, 36.3),  # table 4 of its paper
    "pidnet_s": Published(7.63, 47.6),  # the authors' code, and table 7 of its paper
    "regseg": Published(3.34, 39.1),  # from its paper
    "pp_liteseg_t": Published(6.33),  # from a reimplementation, see the network's docstring
    "stdc1": Published(7.79),  # from a reimplementation, see the network's docstring
}
PRUNED = {
    "dual_branch": {
        0.2: Published(26.21, 316.12),
        0.3: Published(20.07, 249.16),
        0.4: Published(14.74, 185.93),
        0.5: Published(10.26, 133.49),
        0.6: Published(6.54, 88.08),
        0.7: Published(3.67, 53.37),
    },
    "tbfenet": {},
}
ABLATIONS: tuple[tuple[str, dict[str, Any], float], ...] = (
    ("semantic branch alone", {"spatial_branch": False, "channel_attention": False}, 0.8729),
    ("+ channel attention", {"spatial_branch": False}, 0.8731),
    ("+ spatial branch, added", {"spatial_attention": False, "fusion": "add"}, 0.9032),
    ("+ spatial branch, FFM", {"spatial_attention": False}, 0.9050),
    ("+ spatial attention", {}, 0.9051),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Networks and latency to measure.

    Attributes:
        output: Markdown file for the result; default: print it.
        networks: Networks to measure, keys of `models.MODELS`.
        device: Device of the latency measurement: cpu, cuda or cuda:N.
        dtype: Number format of the latency measurement.
        num_threads: Number of CPU threads of the latency measurement.
        latency_seconds: Longest time of one measurement; 0 omits latency.
    """

    output: Path | None = None
    networks: tuple[str, ...] = tuple(MODELS)
    device: str = field(default_factory=detect_device)
    dtype: str = "float32"
    num_threads: int = 1
    latency_seconds: float = 5.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.networks) - set(MODELS))
        if unknown:
            raise ValueError(
                f"networks must be among {', '.join(MODELS)}; got {', '.join(unknown)}"
            )


def time_network(model: SegmentationNetwork, arguments: Arguments) -> list[str]:
    """Measure the median ms at every size of `TIMED_AT`; a star means a too wide interval."""
    if not arguments.latency_seconds:
        return []
    cells = []
    for size in TIMED_AT:
        latency = measure_latency(
            model,
            (3, *size),
            arguments.device,
            arguments.dtype,  # type: ignore[arg-type]
            num_threads=arguments.num_threads,
            fold_batchnorm=True,
            min_runs=5,
            max_seconds=arguments.latency_seconds,
        )
        cells.append(f"{latency.median_ms:.1f}{'' if latency.is_precise else '*'}")
    return cells


def describe(
    model: SegmentationNetwork, published: Published | None, arguments: Arguments
) -> list[str]:
    """Fill a network's cells: our numbers, the published ones, the difference and the latency."""
    shape = (3, *COUNTED_AT)
    cost = count_cost(model, shape)
    fvcore = count_cost(model, shape, "fvcore")
    millions = cost.num_params / 1e6
    stated = ["", "", ""]
    if published is not None:
        gmacs = "" if published.gmacs is None else f"{published.gmacs:g}"
        difference = 100 * (millions / published.millions - 1)
        stated = [f"{published.millions:g}", f"{difference:+.1f} %", gmacs]
    return [
        f"{millions:.3f}",
        stated[0],
        stated[1],
        f"{cost.macs / 1e9:.2f}",
        f"{fvcore.macs / 1e9:.2f}",
        stated[2],
        *time_network(model, arguments),
    ]


def headings(first: Sequence[str], arguments: Arguments) -> list[str]:
    """Name the columns that `describe` fills, after the first ones."""
    timed = [f"ms at {h}x{w}" for h, w in TIMED_AT] if arguments.latency_seconds else []
    counted = ["M params", "published", "difference", "GMAC", "fvcore", "published"]
    return [*first, *counted, *timed]


def tabulate(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Draw a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measure(arguments: Arguments, console: Console) -> str:
    """Measure everything and return the document."""
    networks = []
    for name in arguments.networks:
        console.print(name)
        model = create_model(name)
        networks.append([f"`{name}`", *describe(model, PUBLISHED.get(name), arguments)])
    pruned = []
    for name in sorted(PRUNED.keys() & set(arguments.networks)):
        for ratio in RATIOS:
            console.print(f"{name} pruned at {ratio}")
            model = create_model(name)
            prune(model, TRACED, ratio)
            cells = describe(model, PRUNED[name].get(ratio), arguments)
            pruned.append([f"`{name}`", f"{ratio:g}", *cells])
    ablations = []
    if "tbfenet" in arguments.networks:
        for label, options, millions in ABLATIONS:
            found = count_cost(create_model("tbfenet", **options), (3, 512, 1024))
            row = [label, f"{found.num_params / 1e6:.4f}", f"{millions:.4f}"]
            ablations.append([*row, f"{found.macs / 1e9:.2f}"])
    return DOCUMENT.format(
        command=f"python benchmarks/networks.py --output {arguments.output or 'docs/networks.md'}",
        hardware=describe_setting(arguments),
        networks=tabulate(headings(["network"], arguments), networks),
        pruned=tabulate(headings(["network", "p"], arguments), pruned),
        ablations=tabulate(["network", "M params", "published", "GMAC at 512x1024"], ablations),
    )


def describe_setting(arguments: Arguments) -> str:
    """Say in one sentence where and how latency was measured."""
    if not arguments.latency_seconds:
        return "Latency was not measured."
    hardware = describe_hardware(arguments.device)
    where = hardware.get("gpu") or hardware.get("cpu") or arguments.device
    threads = f"{arguments.num_threads} thread(s), " if arguments.device == "cpu" else ""
    return (
        f"Latency: median of single images on {where} ({arguments.device}, {arguments.dtype}, "
        f"{threads}channels_last, BatchNorms folded), {datetime.now(UTC):%Y-%m-%d}; a star: its "
        f"95 % interval was still wider than 2 % after {arguments.latency_seconds:g} s."
    )


DOCUMENT = """# The networks, measured

This file is written by `{command}`; do not edit it.

Parameters are counted with 19 classes and without auxiliary heads. GMAC counts the
multiply-accumulates of convolutions and matrix products for one image of 1024x2048. The fvcore
column adds the operations that fvcore (and so mmengine and many papers) counts for BatchNorm,
bilinear resizing and pooling; papers call this number FLOPs. If a published count cannot be
reproduced, the docstring of the network says why. {hardware}

{networks}

## Pruned evenly in every layer

These networks are pruned by `models.pruning.prune(model, image, p)`. The published numbers are from
table 3 of paper 1.

{pruned}

## Ablations of TBFENet

{ablations}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    progress = Console(stderr=True)  # the document may go to the standard output
    return run_command(Arguments, measure, argv, description=__doc__, console=progress)


if __name__ == "__main__":
    sys.exit(main())
