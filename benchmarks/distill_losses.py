"""Measure the time and peak memory of each distillation loss at the size of a Cityscapes step.

Each loss is run forward and backward on logits of shape (batch, classes, height, width) and, if it
needs features, on the stages and the fused map of a dual-branch network. The benchmark reports the
median time of `--rounds` passes and the peak memory that a pass needs beyond its inputs. The
textbook form of `dkd` (the authors' code applied to every pixel) is measured for comparison. A
training step of the student on images of the same size gives the scale: each time is also reported
as a share of this step.

Each loss is measured in its own process, so that one peak does not hide another. The peak is the
largest resident memory of the process, sampled every 5 ms.

Examples (minutes; seconds):
  python benchmarks/distill_losses.py --output distill_losses.json
  python benchmarks/distill_losses.py --shape 2 11 96 128 --rounds 2
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from command import describe_measurement, run_command
from rich.console import Console
from rich.table import Table
from torch import Tensor

from models import create_model
from models.hardware import describe_hardware
from models.pruning import prune
from trainables.distillers import DISTILLERS, Lesson, build_loss
from trainables.losses import cross_entropy
from trainables.process.memory import keep_freed_memory

STEP = "training step"
TEXTBOOK = "dkd, textbook form"
LOSSES = (
    "dkd", TEXTBOOK, "kd", "cwd_logits", "cwd", "skd", "adaptive_channel", "adaptive_feature",
    "channel_correlation", "multi_level", "low_level", "high_level", "consistency",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Losses and sizes to measure.

    Attributes:
        shape: Shape of the logits: images, classes, height and width; the number of images must be
            even.
        losses: Losses to measure: names of `DISTILLERS`, and "dkd, textbook form".
        rounds: Number of timed passes, after one pass to warm up.
        width: Width factor of the student, a dual-branch ResNet-18.
        pruning_ratio: Pruning ratio of the student.
        num_threads: Number of CPU threads.
        output: JSON file for the results.
    """

    shape: tuple[int, int, int, int] = (4, 19, 512, 1024)
    losses: tuple[str, ...] = LOSSES
    rounds: int = 3
    width: float = 0.5
    pruning_ratio: float = 0.5
    num_threads: int = 2
    output: Path | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.losses) - set(LOSSES))
        if unknown:
            raise ValueError(f"losses must be among {', '.join(LOSSES)}; got {', '.join(unknown)}")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")


class PeakMemory:
    """The peak resident memory of this process within a block, beyond what it held at the start."""

    def __init__(self) -> None:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        """Start sampling the memory."""
        self._start = _resident_bytes()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop sampling the memory."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, _resident_bytes() - self._start)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def textbook_dkd(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """Compute DKD as its authors' code does, for every pixel, with T 4, alpha 1 and beta 8.

    Source: https://github.com/megvii-research/mdistiller, mdistiller/distillers/DKD.py.
    """
    temperature, alpha, beta = 4.0, 1.0, 8.0
    own, taught = (x.permute(0, 2, 3, 1).flatten(0, 2) for x in (student, teacher))
    index = target.flatten().unsqueeze(1)
    is_target = torch.zeros_like(own).scatter_(1, index, 1).bool()
    pairs = []
    for logits in (own, taught):
        probabilities = F.softmax(logits / temperature, dim=1)
        hit = (probabilities * is_target).sum(1, keepdim=True)
        missed = (probabilities * ~is_target).sum(1, keepdim=True)
        pairs.append(torch.cat([hit, missed], dim=1))
    tckd = F.kl_div(pairs[0].log(), pairs[1], reduction="batchmean") * temperature**2
    log_own = F.log_softmax(own / temperature - 1000.0 * is_target, dim=1)
    others = F.softmax(taught / temperature - 1000.0 * is_target, dim=1)
    nckd = F.kl_div(log_own, others, reduction="batchmean") * temperature**2
    return alpha * tckd + beta * nckd


def make_step(arguments: Arguments) -> Callable[[], Tensor]:
    """Build a training step of the student on the labels alone, without the optimiser's update."""
    images, classes, height, width = arguments.shape
    student = create_model(
        "dual_branch", classes, backbone="tu-resnet18", width=arguments.width
    ).to(memory_format=torch.channels_last)
    prune(student, torch.zeros(1, 3, 64, 96), arguments.pruning_ratio)
    student.train()
    batch = torch.randn(images, 3, height, width).to(memory_format=torch.channels_last)
    target = torch.randint(0, classes, (images, height, width))
    return lambda: cross_entropy(student(batch), target)


def make_loss(name: str, arguments: Arguments) -> Callable[[], Tensor]:
    """Build the teacher's part of a loss; random tensors stand in for the networks' outputs."""
    images, classes, height, width = arguments.shape
    student = create_model("dual_branch", classes, backbone="tu-resnet18", width=arguments.width)
    prune(student, torch.zeros(1, 3, 64, 96), arguments.pruning_ratio)
    teacher = create_model("dual_branch", classes, backbone="tu-resnet18")
    target = torch.randint(0, classes, (images, height, width))
    logits = torch.randn(arguments.shape, requires_grad=True)
    taught = torch.randn(arguments.shape)
    if name == TEXTBOOK:
        return lambda: textbook_dkd(logits, taught, target)
    loss = build_loss(
        {name: DISTILLERS[name].Settings()}, student=student, teacher=teacher, image_size=(64, 96)
    )
    own, other = (
        {
            x.key: torch.randn(
                images, x.channels, height // x.stride, width // x.stride, requires_grad=learns
            )
            for x in layers
        }
        for layers, learns in ((loss.student_layers, True), (loss.teacher_layers, False))
    )
    lesson = Lesson(logits, taught, target, None, own, other)

    def compute() -> Tensor:
        for leaf in (logits, *own.values()):
            leaf.grad = None  # in a training they are no leaves, so nothing is added up
        return loss(lesson)  # type: ignore[no-any-return]

    return compute


def measure(name: str, arguments: Arguments, answer: Connection) -> None:
    """Time one loss in this process and send the result."""
    keep_freed_memory()
    torch.set_num_threads(arguments.num_threads)
    torch.manual_seed(0)
    compute = make_step(arguments) if name == STEP else make_loss(name, arguments)
    with PeakMemory() as peak:
        compute().backward()  # type: ignore[no-untyped-call]
    seconds = []
    for _ in range(arguments.rounds):
        started = time.perf_counter()
        compute().backward()  # type: ignore[no-untyped-call]
        seconds.append(time.perf_counter() - started)
    answer.send({"seconds": statistics.median(seconds), "peak_bytes": peak.bytes})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Measure the training step and each loss, one process after the other."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, Mapping[str, float]] = {}
    for name in (STEP, *arguments.losses):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(name, arguments, theirs))
        process.start()
        theirs.close()
        try:
            found[name] = ours.recv()
        except EOFError:
            raise ArithmeticError(f"the measurement of {name} ended without a result") from None
        finally:
            process.join()
    table = Table("loss", title=f"forward and backward at {arguments.shape}")
    for heading in ("seconds", "of a step %", "peak MB"):
        table.add_column(heading, justify="right")
    for name, result in found.items():
        share = 100 * result["seconds"] / found[STEP]["seconds"]
        peak = f"{result['peak_bytes'] / 1e6:.0f}"
        table.add_row(name, f"{result['seconds']:.2f}", f"{share:.1f}", peak)
    console.print(table)
    head = describe_measurement("distill_losses", arguments, describe_hardware("cpu"))
    return {**head, "losses": found}


if __name__ == "__main__":
    sys.exit(main())
