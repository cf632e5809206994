"""Compare the accuracy and cost of all distillers on the same pruned student, over several seeds.

The benchmark trains a teacher and a student once, prunes the student, and fine-tunes the one pruned
student with every method and every seed for the same number of steps. The methods are compared in
pairs: the two fine-tunings of a pair share their seed, so they see the same order of the data, the
same augmentation and the same dropout. Methods that train on pairs of neighbouring frames see other
batches, so they are compared with `none_on_pairs`. The benchmark prints the mean and 95 % t
interval of the validation mIoU and of the difference, and the time of a step. The seeds vary only
the fine-tuning: there is one teacher and one pruned student.

Every finished fine-tuning is written as a line of `results.jsonl` in the working folder, next to
the finished networks, so the same command continues where an earlier one stopped. A GPU that one
training of a small network does not fill takes several at once with --num-processes; the times of
the steps are then those beside the others.

Examples (SEGFRONT_CAMVID and SEGFRONT_WEIGHTS are set; docs/distillers.md shows the first one):
  python benchmarks/distillers.py --work-dir runs/distillers --steps 92 460
  python benchmarks/distillers.py --work-dir runs/d --methods none kd_t1 cwd --seeds 0 1 --steps 92
"""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from command import describe_measurement, run_command
from rich.console import Console
from rich.table import Table
from scipy import stats

from models import SegmentationNetwork
from models.checkpoint import load_checkpoint, save_checkpoint
from models.files.atomic_file import write_atomically
from models.hardware import describe_hardware
from models.pruning import prune
from trainables.context import StageContext, detect_device
from trainables.data import AugmentationConfig
from trainables.data_source import DataConfig
from trainables.distillers import DISTILLERS
from trainables.learning.evaluation import evaluate
from trainables.learning.optimization import OptimizerConfig
from trainables.learning.taylor import score_by_taylor
from trainables.learning.teacher_cache import TeacherLogitsConfig
from trainables.learning.training import TrainConfig
from trainables.network_config import NetworkConfig
from trainables.stages.learning import Learning
from trainables.stages.teaching import Teaching

LITE0 = NetworkConfig(
    name="deeplabv3plus",
    backbone="tu-tf_efficientnet_lite0",
    backbone_weights="imagenet_backbones/efficientnet_lite0_timm.safetensors",
    decoder_channels=128,
)
DUAL_BRANCH = NetworkConfig(name="dual_branch", backbone="tu-resnet18", width=0.25)


def make_data() -> DataConfig:
    """CamVid at 96 x 128."""
    augmentation = AugmentationConfig(crop_size=(96, 128), scale_range=(0.75, 1.5))
    return DataConfig(name="camvid", size=(96, 128), augmentation=augmentation)


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
        data: Data set and augmentation.
        teacher: Network that teaches, trained first unless its weights are given.
        teacher_steps: Number of steps of the teacher's training.
        self_teaching: Whether the student before it was pruned teaches instead.
        student: Network that is pruned, trained first unless its weights are given.
        dense_steps: Number of steps of the student's training before it is pruned.
        pruning_ratio: Pruning ratio of the student.
        scope: Scope of the pruning: local or global.
        importance: Ranking of the channels: bn_scale, group_l2 or taylor.
        batch_size: Images per step.
        lr: Peak learning rate of every fine-tuning.
        batchnorm_batches: Number of batches of whole images on which the BatchNorm statistics are
            re-estimated at the end, see `TrainConfig`.
        device: cpu, cuda or cuda:N.
        num_threads: Number of CPU threads of a process.
        num_processes: Number of fine-tunings that run at the same time.
        max_minutes: No further fine-tuning is started after this time; None: run all of them.
        output: JSON file for the results.
    """

    work_dir: Path
    methods: tuple[str, ...] = tuple(METHODS)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: tuple[int, ...] = (460,)
    data: DataConfig = field(default_factory=make_data)
    teacher: NetworkConfig = LITE0
    teacher_steps: int = 1500
    self_teaching: bool = False
    student: NetworkConfig = DUAL_BRANCH
    dense_steps: int = 1000
    pruning_ratio: float = 0.5
    scope: Literal["local", "global"] = "local"
    importance: Literal["bn_scale", "group_l2", "taylor"] = "bn_scale"
    batch_size: int = 8
    lr: float = 2e-3
    batchnorm_batches: int = 0
    device: str = field(default_factory=detect_device)
    num_threads: int = 2
    num_processes: int = 1
    max_minutes: float | None = None
    output: Path | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown:
            raise ValueError(
                f"methods must be among {', '.join(METHODS)}; got {', '.join(unknown)}"
            )


MAY_CHANGE = frozenset(
    [
        "work_dir", "methods", "seeds", "steps", "device", "num_threads", "num_processes",
        "max_minutes", "output",
    ]
)  # fmt: skip
"""Arguments that may differ between the commands of one working folder."""


class FineTuning(NamedTuple):
    """A fine-tuning to run."""

    method: str
    seed: int
    steps: int


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
        self._check_settings()
        self.context = StageContext(
            cache_dir=self.folder / "cache",
            device=arguments.device,
            num_threads=arguments.num_threads,
        )
        self.val_set = arguments.data.open_cached("val", self.context.cache_dir)

    def _check_settings(self) -> None:
        """Refuse a folder whose networks and results were made with other settings."""
        path = self.folder / "settings.json"
        own = {n: v for n, v in asdict(self.arguments).items() if n not in MAY_CHANGE}
        own = json.loads(json.dumps(own, default=str))
        if not path.exists():
            write_atomically(path, json.dumps(own, indent=1) + "\n")
            return
        earlier = json.loads(path.read_text())
        for name, value in own.items():
            if earlier.get(name) != value:
                raise ValueError(
                    f"{self.folder} was made with {name} {earlier.get(name)}: use this value, or "
                    f"another --work-dir; got {value}"
                )

    def configure(
        self, num_steps: int, lr: float, *, seed: int, backbone_lr_factor: float = 1.0
    ) -> Learning:
        """Make the configuration of a training."""
        optimizer = OptimizerConfig(
            name="adamw",
            lr=lr,
            weight_decay=0.01,
            schedule="one_cycle",
            warmup_fraction=0.1,
            backbone_lr_factor=backbone_lr_factor,
        )
        training = TrainConfig(
            num_steps=num_steps,
            batch_size=self.arguments.batch_size,
            optimizer=optimizer,
            batchnorm_batches=self.arguments.batchnorm_batches,
        )
        return Learning(data=self.arguments.data, training=training, seed=seed)

    def obtain_dense(self) -> Path:
        """Get the checkpoint of the student before it is pruned."""
        learning = self.configure(self.arguments.dense_steps, 4e-3, seed=0)
        return self._obtain("dense", self.arguments.student, learning)

    def obtain_teacher(self) -> Path:
        """Get the checkpoint of the teacher."""
        if self.arguments.self_teaching:
            return self.obtain_dense()
        steps = self.arguments.teacher_steps
        learning = self.configure(steps, 2e-3, seed=0, backbone_lr_factor=0.5)
        return self._obtain("teacher", self.arguments.teacher, learning)

    def obtain_student(self) -> Path:
        """Get the checkpoint of the pruned student."""
        path = self.folder / f"pruned-{self.arguments.pruning_ratio:g}.safetensors"
        if not path.exists():
            network = load_checkpoint(self.obtain_dense())
            measured = None
            if self.arguments.importance == "taylor":
                learning = self.configure(1, 1e-3, seed=0)
                stream = learning.open_stream(self.context, has_pairs=False, cached=None)
                measured = score_by_taylor(network, stream, self.context)
            prune(
                network,
                torch.zeros(1, 3, *self.arguments.data.augmentation.crop_size),
                self.arguments.pruning_ratio,
                scope=self.arguments.scope,
                importance=self.arguments.importance,
                measured=measured,
            )
            save_checkpoint(path, network)
        return path

    def _obtain(self, name: str, config: NetworkConfig, learning: Learning) -> Path:
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            network = config.build(self.val_set.num_classes)
            if config.weights is None:
                self._train(network, learning, name)
            save_checkpoint(path, network.eval())
        return path

    def _train(
        self, network: SegmentationNetwork, learning: Learning, name: str, **options: Any
    ) -> dict[str, Any]:
        """Train in a folder that keeps the state of an interrupted training, and no more."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        result = learning.run(network, folder, self.context, name=name, metadata={}, **options)
        shutil.rmtree(folder)
        return result

    def measure(self, path: Path) -> float:
        """Measure the validation mIoU of a checkpoint."""
        return evaluate(load_checkpoint(path), self.val_set, self.context).miou

    def fine_tune(self, wanted: FineTuning) -> Run:
        """Fine-tune the pruned student with one method."""
        name, seed, steps = wanted
        method = METHODS[name]
        student = load_checkpoint(self.obtain_student())
        settings = {n: DISTILLERS[n].Settings(**given) for n, given in method.settings.items()}
        is_taught = any(DISTILLERS[part].needs_teacher for part in settings)
        teaching = Teaching(
            methods=settings,
            teacher=self.obtain_teacher() if is_taught else None,
            logits=TeacherLogitsConfig(source="live"),
        )
        learning = self.configure(steps, self.arguments.lr, seed=seed)
        with teaching.begin(student, learning, self.context) as lessons:
            result = self._train(
                student,
                learning,
                f"{name}-{seed}-{steps}",
                compute_loss=lessons.compute_loss,
                beside=lessons.beside,
                has_pairs=method.on_pairs,
            )
        return Run(name, seed, steps, result["miou"], 1000 * result["seconds"] / steps)

    def read_runs(self) -> list[Run]:
        """Read the finished fine-tunings."""
        path = self.folder / "results.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [Run(**json.loads(line)) for line in lines]

    def add_run(self, run: Run) -> None:
        """Append a finished fine-tuning to the results, in a single write."""
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(run._asdict()) + "\n")


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
    bench = open_bench(arguments)
    points = {
        "teacher": bench.measure(bench.obtain_teacher()),
        "dense": bench.measure(bench.obtain_dense()),
        "pruned": bench.measure(bench.obtain_student()),
    }
    console.print("  ".join(f"{name} {100 * miou:.1f} %" for name, miou in points.items()))
    done = {FineTuning(r.method, r.seed, r.steps) for r in bench.read_runs()}
    # One seed after the other, so that methods can be compared before the last seed.
    every = [
        FineTuning(method, seed, steps)
        for seed in arguments.seeds
        for steps in arguments.steps
        for method in arguments.methods
    ]
    wanted = [one for one in every if one not in done]
    end = math.inf if arguments.max_minutes is None else started + 60 * arguments.max_minutes
    num_finished = 0
    for found in fine_tune_all(arguments, wanted, end):
        num_finished += 1
        bench.add_run(found)
        console.print(
            f"{found.method:>20} seed {found.seed} {found.steps} steps: {100 * found.miou:.2f} % "
            f"({found.step_ms:.0f} ms a step)",
            highlight=False,
        )
    if num_finished < len(wanted):
        console.print(f"the time is up; {len(wanted) - num_finished} fine-tunings are left")
    runs = bench.read_runs()
    for steps in arguments.steps:
        print_table([r for r in runs if r.steps == steps], arguments, steps, console)
    return {
        **describe_measurement("distillers", arguments, describe_hardware(arguments.device)),
        "starting_points": points,
        "runs": [r._asdict() for r in runs],
    }


def fine_tune_all(arguments: Arguments, wanted: Sequence[FineTuning], end: float) -> Iterator[Run]:
    """Fine-tune in several processes; yields the results as they come."""
    num_processes = min(arguments.num_processes, len(wanted))
    if num_processes <= 1:
        results = (fine_tune_until(end, arguments, one) for one in wanted)
        yield from (found for found in results if found is not None)
        return
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
        pending = [pool.submit(fine_tune_until, end, arguments, one) for one in wanted]
        try:
            for finished in as_completed(pending):
                found = finished.result()
                if found is not None:
                    yield found
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those that run still end
            raise


def fine_tune_until(end: float, arguments: Arguments, wanted: FineTuning) -> Run | None:
    """Run a fine-tuning, unless the clock (`time.monotonic`) is past the end."""
    if time.monotonic() > end:
        return None
    return open_bench(arguments).fine_tune(wanted)


@cache
def open_bench(arguments: Arguments) -> Bench:
    """Open the data once in each process."""
    return Bench(arguments)


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
