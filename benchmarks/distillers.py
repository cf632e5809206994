"""Compare the accuracy and cost of all distillers on the same pruned student, over several seeds.

The benchmark trains a teacher and a student once, prunes the student, and fine-tunes the one pruned
student with every method and every seed for the same number of steps. The methods are compared in
pairs: the two fine-tunings of a pair share their seed, so they see the same order of the data, the
same augmentation and the same dropout. Methods that train on pairs of neighbouring frames see other
batches, so they are compared with `none_on_pairs`. The benchmark prints the mean and 95 % t
interval of the validation mIoU and of the difference, and the time of a step. The seeds vary only
the fine-tuning: there is one teacher and one pruned student.

Every finished fine-tuning is written as a line of `results.jsonl` in the working folder, next to
the finished networks, so the same command continues where an earlier one stopped. Several commands
with different seeds may run at the same time.

Examples (SEGFRONT_CAMVID and SEGFRONT_WEIGHTS are set; docs/distillers.md shows the first one):
  python benchmarks/distillers.py --work-dir runs/distillers --steps 92 460
  python benchmarks/distillers.py --work-dir runs/d --methods none kd_t1 cwd --seeds 0 1 --steps 92
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from command import describe_measurement, run_command
from rich.console import Console
from rich.table import Table
from scipy import stats
from torch import Tensor, nn

from models.checkpoint import load_checkpoint, save_checkpoint
from models.hardware import describe_hardware
from models.pruning import prune
from trainables.context import StageContext
from trainables.data import (
    AugmentationConfig,
    SegmentationDataset,
    TrainingStream,
    cache_dataset,
    create_dataset,
)
from trainables.data.frame_pairs import FramePairStream
from trainables.distillers import DISTILLERS, FeatureTaps, Lesson, build_loss
from trainables.learning.evaluation import evaluate
from trainables.learning.optimization import OptimizerConfig
from trainables.learning.training import Batch, TrainConfig, train
from trainables.network_config import NetworkConfig

LITE0 = NetworkConfig(
    name="deeplabv3plus",
    backbone="tu-tf_efficientnet_lite0",
    backbone_weights="imagenet_backbones/efficientnet_lite0_timm.safetensors",
    decoder_channels=128,
)


class Method(NamedTuple):
    """A method: a row of the table.

    Attributes:
        settings: Settings of each loss, by its name; the others have the defaults of the loss's
            paper.
        on_pairs: Whether the batches contain pairs of neighbouring frames.
    """

    settings: Mapping[str, Mapping[str, Any]]
    on_pairs: bool = False


METHODS: dict[str, Method] = {
    "none": Method({"none": {}}),
    "kd_t1": Method({"kd": {"temperature": 1.0, "alpha": 0.5}}),
    "kd_t4": Method({"kd": {}}),
    "dkd_paper1": Method({"dkd": {}}),
    "dkd_t1_b1": Method({"dkd": {"temperature": 1.0, "beta": 1.0}}),
    "dkd_share_half": Method({"dkd_share": {"label_share": 0.5}}),
    "dkd_share_t1": Method({"dkd_share": {"temperature": 1.0, "beta": 1.0, "label_share": 0.5}}),
    "cwd": Method({"cwd": {}}),
    "cwd_logits": Method({"cwd_logits": {}}),
    "cwd_features": Method({"cwd_features": {}}),
    "cwd_features_w5": Method({"cwd_features": {"weight": 5.0}}),
    "skd": Method({"skd": {}}),
    "kd_t1+skd": Method({"kd": {"temperature": 1.0}, "skd": {}}),
    "kd_t1+cwd_features": Method({"kd": {"temperature": 1.0}, "cwd_features": {"weight": 5.0}}),
    "adaptive_channel": Method({"adaptive_channel": {}}),
    "adaptive_feature": Method({"adaptive_feature": {}}),
    "channel_correlation": Method({"channel_correlation": {}}),
    "low_level": Method({"low_level": {}}),
    "mid_level": Method({"mid_level": {}}),
    "none_on_pairs": Method({"none": {}}, on_pairs=True),
    "high_level": Method({"high_level": {}}, on_pairs=True),
    "consistency": Method({"consistency": {}}, on_pairs=True),
    "multi_level": Method({"multi_level": {}}, on_pairs=True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Methods, seeds and networks to compare.

    Attributes:
        work_dir: Folder of the networks and results; those of an earlier command are reused.
        methods: Methods to compare, keys of `METHODS`; default: all.
        seeds: Seeds of the fine-tunings.
        steps: Numbers of steps of the fine-tunings; there is a table for each number.
        data: Data set, a key of `trainables.data.DATASETS`.
        data_root: Folder of the data set; default: the value of its environment variable.
        size: Height and width to which the images are scaled.
        teacher: Checkpoint of a trained teacher; default: a DeepLabV3+ is trained.
        teacher_steps: Number of steps of the teacher's training.
        dense_steps: Number of steps of the student's training before it is pruned.
        pruning_ratio: Pruning ratio of the student.
        batch_size: Images per step.
        lr: Peak learning rate of every fine-tuning.
        num_threads: Number of CPU threads.
        max_minutes: No further fine-tuning is started after this time; None: run all of them.
        output: JSON file for the results.
    """

    work_dir: Path
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: tuple[int, ...] = (460,)
    data: str = "camvid"
    data_root: Path | None = None
    size: tuple[int, int] = (96, 128)
    teacher: Path | None = None
    teacher_steps: int = 1500
    dense_steps: int = 1000
    pruning_ratio: float = 0.5
    batch_size: int = 8
    lr: float = 2e-3
    num_threads: int = 2
    max_minutes: float | None = None
    output: Path | None = None
    student: NetworkConfig = field(
        default_factory=lambda: NetworkConfig(
            name="dual_branch", backbone="tu-resnet18", width=0.25
        )
    )

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown:
            raise ValueError(
                f"methods must be among {', '.join(METHODS)}; got {', '.join(unknown)}"
            )


class Run(NamedTuple):
    """A finished fine-tuning and its result."""

    method: str
    seed: int
    steps: int
    miou: float
    step_ms: float


class Bench:
    """The data, the networks to start from and the finished fine-tunings."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.folder = arguments.work_dir
        self.folder.mkdir(parents=True, exist_ok=True)
        self.context = StageContext(
            cache_dir=self.folder / "cache", num_threads=arguments.num_threads
        )
        self.train_set = self._open("train")
        self.val_set = self._open("val")

    def _open(self, split: str) -> SegmentationDataset:
        options = {"size": self.arguments.size}
        dataset = create_dataset(self.arguments.data, self.arguments.data_root, split, **options)
        return cache_dataset(dataset, self.folder / "cache")

    def configure(self, num_steps: int, lr: float, backbone_lr_factor: float = 1.0) -> TrainConfig:
        """Make the configuration of a training."""
        optimizer = OptimizerConfig(
            name="adamw",
            lr=lr,
            weight_decay=0.01,
            schedule="one_cycle",
            warmup_fraction=0.1,
            backbone_lr_factor=backbone_lr_factor,
        )
        return TrainConfig(
            num_steps=num_steps, batch_size=self.arguments.batch_size, optimizer=optimizer
        )

    def stream(self, seed: int, *, on_pairs: bool = False) -> TrainingStream:
        """Make the stream of training samples."""
        augmentation = AugmentationConfig(crop_size=self.arguments.size, scale_range=(0.75, 1.5))
        return (FramePairStream if on_pairs else TrainingStream)(
            self.train_set, augmentation, seed=seed
        )

    def obtain_teacher(self) -> Path:
        """Get the checkpoint of the teacher; the teacher is trained if none was given."""
        path = self.arguments.teacher or self.folder / "teacher.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            network = LITE0.build(self.train_set.num_classes)
            self._train_first(network, "teacher", self.arguments.teacher_steps, 2e-3, path, 0.5)
        return path

    def obtain_student(self) -> Path:
        """Get the checkpoint of the pruned student."""
        dense = self.folder / "dense.safetensors"
        if not dense.exists():
            torch.manual_seed(0)
            network = self.arguments.student.build(self.train_set.num_classes)
            self._train_first(network, "dense", self.arguments.dense_steps, 4e-3, dense, 1.0)
        path = self.folder / f"pruned-{self.arguments.pruning_ratio:g}.safetensors"
        if not path.exists():
            network = load_checkpoint(dense)
            prune(network, torch.zeros(1, 3, *self.arguments.size), self.arguments.pruning_ratio)
            save_checkpoint(path, network)
        return path

    def _train_first(
        self, network: nn.Module, name: str, steps: int, lr: float, path: Path, factor: float
    ) -> None:
        state = self.folder / f"{name}.state"
        config = self.configure(steps, lr, factor)
        train(network, self.stream(0), config, name=name, state_path=state, context=self.context)
        save_checkpoint(path, network.eval())
        state.unlink(missing_ok=True)

    def measure(self, path: Path) -> float:
        """Measure the validation mIoU of a checkpoint."""
        return evaluate(load_checkpoint(path), self.val_set, self.context).miou

    def fine_tune(self, name: str, seed: int, steps: int) -> Run:
        """Fine-tune the pruned student with one method."""
        method = METHODS[name]
        student = load_checkpoint(self.obtain_student())
        teacher = load_checkpoint(self.obtain_teacher()).requires_grad_(False)
        torch.manual_seed(seed)
        loss = build_loss(
            {part: DISTILLERS[part].Settings(**given) for part, given in method.settings.items()},
            student=student,
            teacher=teacher,
            image_size=self.arguments.size,
        )
        is_taught = any(DISTILLERS[part].needs_teacher for part in method.settings)
        with ExitStack() as stack:
            own = stack.enter_context(FeatureTaps(student, loss.student_layers))
            other = stack.enter_context(FeatureTaps(teacher, loss.teacher_layers))

            def compute_loss(logits: Tensor, batch: Batch) -> Tensor:
                with torch.no_grad():
                    taught = teacher(batch.images) if is_taught else None
                features = own.take(), other.take()
                return loss.compute_total(Lesson(logits, taught, batch.target, None, *features))

            trained = train(
                student,
                self.stream(seed, on_pairs=method.on_pairs),
                self.configure(steps, self.arguments.lr),
                name=name,
                state_path=self.folder / f"{name}-{seed}-{steps}.state",
                context=self.context,
                compute_loss=compute_loss,
                beside=loss,
            )
        miou = evaluate(student, self.val_set, self.context).miou
        return Run(name, seed, steps, miou, 1000 * trained.seconds / steps)

    def read_runs(self) -> list[Run]:
        """Read the finished fine-tunings."""
        path = self.folder / "results.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Run(**json.loads(line)) for line in lines]

    def add_run(self, run: Run) -> None:
        """Append a finished fine-tuning to the results, in a single write."""
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(run._asdict()) + "\n")
        (self.folder / f"{run.method}-{run.seed}-{run.steps}.state").unlink(missing_ok=True)


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
    """Run the fine-tunings that are not finished and print the tables."""
    started = time.monotonic()
    bench = Bench(arguments)
    points = {
        "teacher": bench.measure(bench.obtain_teacher()),
        "pruned": bench.measure(bench.obtain_student()),
    }
    dense = arguments.work_dir / "dense.safetensors"
    points["dense"] = bench.measure(dense)
    console.print("  ".join(f"{name} {100 * miou:.1f} %" for name, miou in points.items()))
    done = {(r.method, r.seed, r.steps) for r in bench.read_runs()}
    # One seed after the other, so that methods can be compared before the last seed.
    wanted = [
        (method, seed, steps)
        for seed in arguments.seeds
        for steps in arguments.steps
        for method in arguments.methods
        if (method, seed, steps) not in done
    ]
    for method, seed, steps in wanted:
        if (
            arguments.max_minutes is not None
            and time.monotonic() - started > 60 * arguments.max_minutes
        ):
            console.print(
                f"the time is up; {len(wanted)} fine-tunings were unfinished at the start"
            )
            break
        found = bench.fine_tune(method, seed, steps)
        bench.add_run(found)
        console.print(
            f"{method:>20} seed {seed} {steps} steps: {100 * found.miou:.2f} % "
            f"({found.step_ms:.0f} ms a step)",
            highlight=False,
        )
    runs = bench.read_runs()
    for steps in arguments.steps:
        print_table([r for r in runs if r.steps == steps], arguments, steps, console)
    return {
        **describe_measurement("distillers", arguments, describe_hardware("cpu")),
        "starting_points": points,
        "runs": [r._asdict() for r in runs],
    }


def print_table(runs: Sequence[Run], arguments: Arguments, steps: int, console: Console) -> None:
    """Print the mIoU of each method and its difference to that without a teacher."""
    epochs = steps * arguments.batch_size
    table = Table(title=f"{steps} steps of {arguments.batch_size} images ({epochs} images)")
    for heading in ("method", "seeds", "mIoU %", "against none", "ms a step"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    by_method: dict[str, dict[int, Run]] = {}
    for found in runs:
        by_method.setdefault(found.method, {})[found.seed] = found
    for name in METHODS:
        if name not in by_method:
            continue
        mine = by_method[name]
        reference = by_method.get("none_on_pairs" if METHODS[name].on_pairs else "none", {})
        shared = [s for s in mine if s in reference]
        gains = [100 * (mine[s].miou - reference[s].miou) for s in shared]
        table.add_row(
            name,
            str(len(mine)),
            describe_interval([100 * r.miou for r in mine.values()]),
            describe_interval(gains, signed=True) if name not in ("none", "none_on_pairs") else "",
            f"{statistics.median(r.step_ms for r in mine.values()):.0f}",
        )
    console.print(table)


def describe_interval(values: Sequence[float], *, signed: bool = False) -> str:
    """Format the mean and half the width of its 95 % t interval, or "?" for a single value."""
    if not values:
        return ""
    mean = statistics.fmean(values)
    text = f"{mean:+.2f}" if signed else f"{mean:.2f}"
    if len(values) < 2:
        return f"{text} ± ?"
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{text} ± {float(stats.t.ppf(0.975, len(values) - 1)) * error:.2f}"


if __name__ == "__main__":
    sys.exit(main())
