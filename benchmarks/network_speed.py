"""Measure how much faster every network trains and infers here than in its plain PyTorch form.

The plain form uses float32, contiguous memory and the libraries' own convolutions. It is compared
with these forms:
  training    our training step: channels_last and the fast convolutions of
              models/blocks/cpu_convolutions.py; then bfloat16 autocast where the device is fast
              at it;
  inference   channels_last; then BatchNorms folded too; and on request `torch.compile` on top of
              both (on a CPU it takes half a minute for each network).
All forms of a network run alternately in one process that keeps the memory it frees, so that a
machine that slows down slows all of them alike. "Times faster" is the median over the rounds of the
plain form's time divided by the form's time.

Examples (about 15 minutes on two idle cores; seconds):
  python benchmarks/network_speed.py --output docs/network_speed.md
  python benchmarks/network_speed.py --networks espnet fast_scnn --rounds 2 --compiled espnet
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch
from command import run_command
from networks import tabulate
from rich.console import Console
from step_time import use_library_convolutions
from torch import nn

from models import MODELS, create_model
from models.engines.batchnorm_folding import fold_batchnorms
from models.hardware import bfloat16_is_fast, describe_hardware
from trainables.context import detect_device
from trainables.learning.optimization import OptimizerConfig, build_optimizer
from trainables.learning.training import Precision, autocast, place
from trainables.losses import cross_entropy
from trainables.process.memory import keep_freed_memory

NUM_CLASSES = 19


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Networks and length of the measurement.

    Attributes:
        output: Markdown file for the result; default: print it.
        networks: Networks to measure, keys of `models.MODELS`.
        compiled: Those of them whose inference is also measured with `torch.compile`.
        device: cpu, cuda or cuda:N.
        num_threads: Number of CPU threads.
        batch_size: Number of images of a training step; BatchNorm needs at least 2.
        crop_size: Height and width of these images.
        resolution: Height and width of the single image of an inference.
        rounds: Number of timed rounds, after one round to warm up.
    """

    output: Path | None = None
    networks: tuple[str, ...] = tuple(MODELS)
    compiled: tuple[str, ...] = ()
    device: str = field(default_factory=detect_device)
    num_threads: int = 2
    batch_size: int = 2
    crop_size: tuple[int, int] = (240, 320)
    resolution: tuple[int, int] = (360, 480)
    rounds: int = 5

    def __post_init__(self) -> None:
        for name, allowed in (("networks", tuple(MODELS)), ("compiled", self.networks)):
            unknown = sorted(set(getattr(self, name)) - set(allowed))
            if unknown:
                raise ValueError(
                    f"{name} must be among {', '.join(allowed)}; got {', '.join(unknown)}"
                )
        for name, least in (("num_threads", 1), ("batch_size", 2), ("rounds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def measure(arguments: Arguments, console: Console) -> str:
    """Measure everything and return the document."""
    torch.set_num_threads(arguments.num_threads)
    keep_freed_memory()
    rows = []
    for name in arguments.networks:
        console.print(name)
        rows.append([f"`{name}`", *_time_network(name, arguments)])
    return DOCUMENT.format(
        command=f"python benchmarks/network_speed.py {' '.join(sys.argv[1:])}".rstrip(),
        training=_show_size(arguments.batch_size, arguments.crop_size),
        inference=_show_size(1, arguments.resolution),
        hardware=_describe_setting(arguments),
        table=tabulate(COLUMNS, rows),
    )


def _time_network(name: str, arguments: Arguments) -> list[str]:
    """Fill a network's cells: ms of the plain form and the speed-ups of the others."""
    device = torch.device(arguments.device)
    plain = create_model(name, NUM_CLASSES)
    ours = copy.deepcopy(plain)
    use_library_convolutions(plain)
    steps = {
        "plain": _make_step(plain, "float32", arguments, channels_last=False),
        "ours": _make_step(ours, "float32", arguments),
    }
    if bfloat16_is_fast(device):
        steps["bfloat16"] = _make_step(copy.deepcopy(ours), "bfloat16", arguments)
    training = _compare(steps, arguments.rounds, device)
    del steps

    image = torch.randn(1, 3, *arguments.resolution, device=device)
    infer = {"plain": _make_inference(plain, image)}
    image = image.contiguous(memory_format=torch.channels_last)
    infer["channels_last"] = _make_inference(ours, image)
    with torch.inference_mode():
        folded = copy.deepcopy(ours).eval()
        fold_batchnorms(folded, image)
    infer["folded"] = _make_inference(folded, image)
    if name in arguments.compiled:
        infer["compiled"] = _make_inference(torch.compile(folded), image)
    inference = _compare(infer, arguments.rounds, device)
    return [
        *(training.get(form, "") for form in ("plain", "ours", "bfloat16")),
        *(inference.get(form, "") for form in ("plain", "channels_last", "folded", "compiled")),
    ]


def _make_step(
    model: nn.Module, precision: Precision, arguments: Arguments, *, channels_last: bool = True
) -> Callable[[], object]:
    """Build the training step of a network, as in `trainables.learning.training.train`."""
    device = torch.device(arguments.device)
    place(model, device, channels_last=channels_last).train()
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", lr=1e-4))
    shape = (arguments.batch_size, 3, *arguments.crop_size)
    images = torch.randn(shape, device=device)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, NUM_CLASSES, (shape[0], *shape[2:]), device=device)

    def step() -> None:
        with autocast(precision, device):
            loss = cross_entropy(model(images), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _make_inference(model: nn.Module, image: torch.Tensor) -> Callable[[], object]:
    model.eval()

    def infer() -> None:
        with torch.inference_mode():
            model(image)

    return infer


def _compare(
    forms: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, str]:
    """Time all forms alternately: ms of "plain", and how many times faster the others are."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for index in range(rounds + 1):
        for name, work in forms.items():
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if index > 0:
                times[name].append(time.perf_counter() - started)
    plain = times.pop("plain")
    cells = {"plain": f"{1e3 * statistics.median(plain):.0f}"}
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(plain, seconds, strict=True))
        cells[name] = f"{ratio:.2f}"
    return cells


def _show_size(batch_size: int, size: tuple[int, int]) -> str:
    return f"{batch_size} x {size[0]} x {size[1]}"


def _describe_setting(arguments: Arguments) -> str:
    hardware = describe_hardware(arguments.device)
    where = hardware.get("gpu") or hardware.get("cpu") or arguments.device
    threads = f", {arguments.num_threads} thread(s)" if arguments.device == "cpu" else ""
    return f"{where}{threads}, torch {hardware['torch']}, {datetime.now(UTC):%Y-%m-%d}"


COLUMNS = (
    "network", "training, plain, ms", "ours", "and bfloat16",
    "inference, plain, ms", "channels_last", "and BatchNorm folded", "and compiled",
)  # fmt: skip
DOCUMENT = """# How fast the networks train and infer

This file is written by `{command}`; do not edit it.

The table shows milliseconds of plain PyTorch (float32, contiguous memory, the libraries'
convolutions) and how many times faster the other forms are, in alternating measurements of a
training step of {training} and an inference of {inference}. "Ours" is channels_last with the
convolutions of `models/blocks/cpu_convolutions.py`. An empty cell was not measured (bfloat16
needs hardware that has it, and "compiled" is measured only on request). All forms here keep freed
memory, which speeds up training by about as much again (see `benchmarks/step_time.py`).
{hardware}.

{table}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    progress = Console(stderr=True)  # the document may go to the standard output
    return run_command(Arguments, measure, argv, description=__doc__, console=progress)


if __name__ == "__main__":
    sys.exit(main())
