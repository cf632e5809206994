"""Compare a cache of the teacher with a live teacher: time of a step, and mIoU.

The benchmark takes the teacher and the pruned student from a run of `search/run.py`, and computes
those that are missing.
  step    It times a fine-tuning step, including its samples, with the teacher running at each step
          and with its logits (and maps) read from the cache. The two always alternate,
          so that a machine that slows down slows both alike. "Times faster" is the median over the
          rounds of live / cached in the same round. Making the cache, which happens once on each
          node, is timed separately.
  mIoU    It runs fine-tunings with every seed and both teachers, paired by seed as in
          distillation.py. Finished ones are kept in the run's store, so an interrupted benchmark
          continues where it stopped.

Example:
  python benchmarks/teacher_cache.py --run-dir runs/camvid-20260101-120000 --output cache.json
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distillation
import step_time
import torch
from command import describe_measurement, run_command
from distillation import FineTuning, make_context, make_pruned, open_store, read_pipeline
from rich.console import Console
from torch import nn
from torch.utils.data import default_collate

from models.checkpoint import load_checkpoint
from models.hardware import describe_hardware
from trainables.context import StageContext, detect_device
from trainables.distillers import DISTILLERS, check_combination
from trainables.learning.optimization import build_optimizer
from trainables.learning.teacher_cache import CachedTeacher, TeacherLogitsConfig
from trainables.learning.training import autocast, breaks_in_channels_last, bring_batch, place
from trainables.pipeline import build_baselines, build_stages
from trainables.process.memory import keep_freed_memory
from trainables.settings import choose
from trainables.stages.learning import Learning, make_learning
from trainables.stages.teaching import Lessons, Teaching


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Student, teachers and fine-tunings to compare.

    Attributes:
        run_dir: Folder of a run, which contains config.json and stages/.
        pruning_ratio: Pruning ratio of the student; a pruned network of the run is reused if the
            ratio is one of its trials' ratios.
        sparsity_lambda: Sparsity lambda of the student, likewise.
        stride: Number of pixels from one cached logit to the next.
        top_k: Number of logits that are cached at each position, the largest ones; default: all.
        distiller: Distiller of the fine-tunings, with the settings of its paper.
        rounds: Number of timed rounds of steps, after one round to warm up.
        seeds: Seeds of the fine-tunings; without seeds, only steps are timed.
        num_steps: Number of steps of each fine-tuning; default: that of the run.
        num_threads: Number of CPU threads of each process.
        jobs: Number of fine-tunings at a time.
        device: cpu, cuda or cuda:N.
        output: JSON file for the results.
    """

    run_dir: Path
    pruning_ratio: float = 0.5
    sparsity_lambda: float = 1e-5
    stride: int = 4
    top_k: int | None = None
    distiller: str = "dkd"
    rounds: int = 10
    seeds: tuple[int, ...] = (0, 1, 2)
    num_steps: int | None = None
    num_threads: int = 1
    jobs: int = 1
    device: str = field(default_factory=detect_device)
    output: Path | None = None

    def __post_init__(self) -> None:
        for name in ("stride", "rounds", "num_threads", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be distinct, got {self.seeds}")
        check_combination(choose(self.distiller))
        if not any(DISTILLERS[name].needs_teacher for name in choose(self.distiller)):
            raise ValueError(f"distiller must need a teacher, got {self.distiller}")

    def fine_tuning(self, source: TeacherLogitsConfig) -> distillation.Arguments:
        """Make the arguments of distillation.py with one of the two teachers."""
        return distillation.Arguments(
            run_dir=self.run_dir,
            pruning_ratio=self.pruning_ratio,
            sparsity_lambda=self.sparsity_lambda,
            seeds=self.seeds or (0,),
            num_steps=self.num_steps,
            teacher_logits=source,
            num_threads=self.num_threads,
            jobs=self.jobs,
            device=self.device,
        )

    @property
    def teachers(self) -> dict[str, TeacherLogitsConfig]:
        """The teachers to compare; the reference is the first."""
        return {
            "live": TeacherLogitsConfig(source="live"),
            "cached": TeacherLogitsConfig(stride=self.stride, top_k=self.top_k, maps="cached"),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(
        Arguments,
        run,
        argv,
        description=__doc__,
        interrupted="interrupted; the same command continues from here",
    )


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run the benchmark and print its results.

    Returns:
        Results that are JSON-serialisable.

    Raises:
        ValueError: The run, its data or a setting cannot be used.
        TrainingDiverged: A loss is no longer finite.
    """
    started = time.monotonic()
    cached, rows = measure_steps(arguments)
    folders = [entry.folder for entry in (cached.logits, *cached.maps.values())]
    num_bytes = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    console.print(
        f"cache of {len(cached.logits)} images: {num_bytes / 2**20:.1f} MiB, made in "
        f"{cached.seconds:.1f} s (0 if it existed)",
        highlight=False,
    )
    step_time.print_table("fine-tuning step with a teacher", rows, console)
    miou = fine_tune_all(arguments, console)
    comparison = None
    if arguments.seeds:
        comparison = distillation.compare(miou["cached"], miou["live"], ("cached", "live"))
        console.print(f"[bold]{comparison.verdict}[/]", highlight=False)
    hardware = describe_hardware(arguments.device)
    head = describe_measurement("teacher_cache", arguments, hardware)
    console.print(
        f"{hardware.get('gpu', hardware['cpu'])}, torch {hardware['torch']}, "
        f"{head['measured_at'][:10]}, {(time.monotonic() - started) / 60:.1f} minutes",
        highlight=False,
    )
    return {
        **head,
        "cache": {
            "num_images": len(cached.logits),
            "num_bytes": num_bytes,
            "seconds": cached.seconds,
        },
        "steps": [row._asdict() for row in rows],
        "miou": miou,
        "comparison": comparison
        and {**distillation.without_nan(comparison._asdict()), "verdict": comparison.verdict},
    }


def measure_steps(arguments: Arguments) -> tuple[CachedTeacher, list[step_time.Timing]]:
    """Time steps with both teachers alternately, on the same positions of the stream."""
    shared = arguments.fine_tuning(arguments.teachers["live"])
    config, store = read_pipeline(shared), open_store(shared)
    context = make_context(shared, arguments.num_threads)
    keep_freed_memory()
    torch.set_num_threads(arguments.num_threads)
    root = next(iter(build_baselines(config).values()))[:1]  # the teacher, or the own student
    teacher = build_stages(config, root)[-1].obtain(store, context).checkpoint
    student = build_stages(config, make_pruned(config, shared))[-1].obtain(store, context)
    methods = {name: DISTILLERS[name].Settings() for name in choose(arguments.distiller)}
    learning = make_learning(config, config.distil)
    times: dict[str, list[float]] = {name: [] for name in arguments.teachers}
    with ExitStack() as stack:
        steps, cached = {}, None
        for name, source in arguments.teachers.items():
            model = load_checkpoint(student.checkpoint)
            teaching = Teaching(methods=methods, teacher=teacher, logits=source)
            lessons = stack.enter_context(teaching.begin(model, learning, context))
            steps[name] = make_step(model, lessons, learning, context)
            cached = lessons.cached or cached
        for index in range(arguments.rounds + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                step(index)
                if index > 0:
                    times[name].append(time.perf_counter() - started)
    assert cached is not None
    return cached, step_time.summarize(times)


def make_step(
    model: nn.Module, lessons: Lessons, learning: Learning, context: StageContext
) -> Callable[[int], float]:
    """Make a student's training step, as in `trainables.learning.training.train`."""
    device, config = torch.device(context.device), learning.training
    channels_last = config.channels_last and not breaks_in_channels_last(model, device)
    place(model, device, channels_last=channels_last).train()
    lessons.beside.to(device)
    optimizer = build_optimizer(model, config.optimizer, lessons.beside)
    stream = learning.open_stream(context, has_pairs=lessons.has_pairs, cached=lessons.cached)
    size = config.batch_size

    def step(number: int) -> float:
        samples = default_collate([stream[number * size + offset] for offset in range(size)])
        batch = bring_batch(samples, device, channels_last=channels_last)
        with autocast(config.precision, device):
            output = model(batch.images)
            logits = output if isinstance(output, torch.Tensor) else output.logits
            loss = lessons.compute_loss(logits, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def fine_tune_all(arguments: Arguments, console: Console) -> dict[str, dict[int, float]]:
    """Run the fine-tunings; returns the val mIoU, from 0 to 1, by teacher and seed."""
    tasks = {
        FineTuning(arguments.fine_tuning(teacher), arguments.distiller, seed): name
        for seed in arguments.seeds
        for name, teacher in arguments.teachers.items()
    }
    miou: dict[str, dict[int, float]] = {name: {} for name in arguments.teachers}
    for task, value, seconds in distillation.fine_tune_all(list(tasks), arguments.jobs):
        name = tasks[task]
        miou[name][task.seed] = value
        console.print(
            f"{name:>8}  seed {task.seed}  mIoU {value:.4f}  ({seconds:.0f} s)", highlight=False
        )
    return miou


if __name__ == "__main__":
    sys.exit(main())
