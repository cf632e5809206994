"""Check that every network, pruned in every way, still computes, trains, saves, loads and exports.

For each network, ratio, scope and rounding, with BatchNorms whose channels all differ, the
benchmark checks or measures:
  error      of the pruned network's logits against the same network with the removed channels
             masked, relative to the largest logit, on an image of another size than in pruning
  kept       the pruned network's parameters, as a share of the dense network's
  trains     a backward pass reaches every parameter with a finite gradient, and a step of SGD
             changes the logits
  saved      the network that `load_checkpoint` returns computes bit for bit the same
  exported   error of the ONNX file in onnxruntime, only for the ratios of --exported (10 to 40 s
             for each file)
The sweep ends with an error that names the network as soon as a network fails one of these checks.

Example (about 25 minutes on a core; --exported without a value omits the export):
  python benchmarks/pruning_sweep.py --output docs/pruning.md
"""

from __future__ import annotations

import copy
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from command import run_command
from networks import tabulate
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from models import MODELS, SegmentationNetwork, create_model
from models.channels.masking import mask_channels
from models.checkpoint import load_checkpoint, save_checkpoint
from models.export import export_onnx
from models.pruning import prune

NUM_CLASSES = 19
TRACED = torch.zeros(1, 3, 64, 96)
COMPARED_AT = (65, 97)
LARGEST_ERROR = 1e-4  # largest allowed error of a pruned network against the masked one
ROUNDINGS = (None, 8)

Scope = Literal["local", "global"]
SCOPES: tuple[Scope, ...] = ("local", "global")
WAYS = tuple(itertools.product(SCOPES, ROUNDINGS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Networks and ratios to prune.

    Attributes:
        output: Markdown file for the result; default: print it.
        networks: Networks to prune, keys of `models.MODELS`.
        ratios: Pruning ratios.
        exported: Those ratios at which the network that is pruned locally without rounding is
            exported.
    """

    output: Path | None = None
    networks: tuple[str, ...] = tuple(MODELS)
    ratios: tuple[float, ...] = (0.2, 0.5, 0.7)
    exported: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        for name, allowed in (("networks", tuple(MODELS)), ("exported", self.ratios)):
            unknown = sorted(set(getattr(self, name)) - set(allowed))
            if unknown:
                raise ValueError(f"{name} must be among {allowed}; got {unknown}")


class Form(NamedTuple):
    """One way to prune."""

    ratio: float
    scope: Scope
    round_to: int | None


class Outcome(NamedTuple):
    """The result of pruning a network in one way.

    Attributes:
        kept: Share of the parameters that are left.
        error: Error against the masked network.
        export_error: Error of the ONNX file; None if there is no file.
    """

    kept: float
    error: float
    export_error: float | None


def sweep(arguments: Arguments, console: Console) -> str:
    """Prune all networks and return the document.

    Raises:
        ArithmeticError: A pruned network fails a check.
    """
    rows = []
    for name in arguments.networks:
        dense = make_network(name)
        outcomes = {}
        for form in (Form(ratio, *way) for ratio in arguments.ratios for way in WAYS):
            console.print(f"{name}: p {form.ratio:g} {form.scope}, round_to {form.round_to}")
            exports = form.ratio in arguments.exported and form[1:] == ("local", None)
            outcomes[form] = try_form(dense, form, exports=exports)
        rows.append([f"`{name}`", *describe(outcomes, arguments.ratios)])
    ratios = ", ".join(f"{ratio:g}" for ratio in arguments.ratios)
    columns = [
        "network",
        *(f"{scope}{', multiples of 8' if round_to else ''}"
          for scope, round_to in WAYS),
        "largest error",
        "ONNX, largest error",
    ]  # fmt: skip
    return DOCUMENT.format(
        command=f"python benchmarks/pruning_sweep.py {' '.join(sys.argv[1:])}".rstrip(),
        ratios=ratios,
        exported=", ".join(f"{ratio:g}" for ratio in arguments.exported) or "none",
        table=tabulate(columns, rows),
    )


def make_network(name: str) -> SegmentationNetwork:
    """Make a network in which every channel matters: no BatchNorm values are zero or equal."""
    torch.manual_seed(0)
    model = create_model(name, NUM_CLASSES)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.2, 1.5)
            nn.init.normal_(layer.bias, 0.0, 0.2)
            nn.init.normal_(layer.running_mean, 0.0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return model


def try_form(dense: SegmentationNetwork, form: Form, *, exports: bool) -> Outcome:
    """Prune a copy in one way and check everything that it must be able to do.

    Raises:
        ArithmeticError: A check fails; the message names the network, the form and the check.
    """
    masked, pruned = copy.deepcopy(dense), copy.deepcopy(dense)
    record = prune(pruned, TRACED, *form)
    mask_channels(masked, record.layers)
    images = torch.randn(1, 3, *COMPARED_AT)
    expected, found = _evaluate(masked, images), _evaluate(pruned, images)
    error = float((found - expected).abs().max() / expected.abs().max())

    def check(holds: bool, what: str) -> None:
        if not holds:
            raise ArithmeticError(f"{dense.name}, {form}: {what}")

    check(error < LARGEST_ERROR, f"differs from the masked network by {error:.1e}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.safetensors"
        save_checkpoint(path, pruned)
        check(
            torch.equal(_evaluate(load_checkpoint(path), images), found),
            "computes something else after saving and loading",
        )
        export = Path(folder) / "pruned.onnx"
        export_error = (
            export_onnx(pruned, export, image_size=COMPARED_AT).error if exports else None
        )
    check(_trains(copy.deepcopy(pruned)), "does not train")
    kept = record.num_params_after / record.num_params_before
    return Outcome(kept, error, export_error)


def describe(outcomes: dict[Form, Outcome], ratios: Sequence[float]) -> list[str]:
    """Fill the cells of one network."""
    kept = [
        " / ".join(f"{outcomes[Form(r, scope, round_to)].kept:.1%}" for r in ratios)
        for scope, round_to in WAYS
    ]
    exports = [o.export_error for o in outcomes.values() if o.export_error is not None]
    return [
        *kept,
        f"{max(outcome.error for outcome in outcomes.values()):.0e}",
        f"{max(exports):.0e}" if exports else "",
    ]


def _evaluate(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model.eval()(images)
    return logits


def _trains(model: SegmentationNetwork) -> bool:
    # Four images, because BatchNorm over 1 x 1 features of only two would leave only their signs.
    images, target = torch.randn(4, 3, 64, 96), torch.randint(0, NUM_CLASSES, (4, 64, 96))
    parameters = list(model.train().parameters())
    outputs = model(images)
    heads = [outputs] if isinstance(outputs, Tensor) else [outputs.logits, *outputs.auxiliary]
    losses = torch.stack([F.cross_entropy(logits, target) for logits in heads])
    losses.sum().backward()  # type: ignore[no-untyped-call]
    if not all(p.grad is not None and p.grad.isfinite().all() for p in parameters):
        return False
    before = _evaluate(model, images)
    torch.optim.SGD(parameters, lr=1e-3).step()
    after = _evaluate(model, images)
    return bool(after.isfinite().all()) and not torch.equal(after, before)


DOCUMENT = """# Every network pruned in every way

This file is written by `{command}`; do not edit it.

The table shows the parameters that remain at p {ratios}, as a share of the dense network's.
Channels are ranked within each layer (local) or over all layers (global), with and without widths
that are multiples of 8. Each of these networks gives the same output as the dense network with
the removed channels masked (the column has the largest error of them, relative to the largest
logit), trains for one step, and is the same bit for bit after saving and loading. The ONNX file
was compared with PyTorch at p {exported}, local. BatchNorm scales are random, so "global" has
little reason to prefer one layer to another.

{table}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    progress = Console(stderr=True)  # the document may go to the standard output
    return run_command(Arguments, sweep, argv, description=__doc__, console=progress)


if __name__ == "__main__":
    sys.exit(main())
