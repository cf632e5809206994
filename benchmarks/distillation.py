"""Compare distillers by fine-tuning the same pruned student with each of them and each seed.

The benchmark takes the teacher, dense, sparse and pruned networks from a run of `search/run.py` and
computes those that are missing. It fine-tunes the one pruned student with every distiller and every
seed, and compares the distillers in pairs: the two fine-tunings of a pair share their seed, so they
see the same order of the data, the same augmentation and the same dropout. The benchmark prints
each val mIoU, the mean and standard deviation, the mean paired difference with its standard error
and 95 % t interval, a verdict in words, and the hardware and date. The seeds vary only the
fine-tuning: there is one teacher and one pruned student.

Finished fine-tunings are kept in the run's store, so an interrupted benchmark continues where it
stopped.

Example (the networks of the camvid recipe are trained by the run itself):
  python benchmarks/distillation.py --run-dir runs/camvid-20260101-120000 --round-to 8
"""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from command import describe_measurement, run_command
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from scipy import stats  # type: ignore[import-untyped]

from models.hardware import describe_hardware
from trainables.artifacts.store import ArtifactStore
from trainables.chain import Chain, make_chain
from trainables.context import StageContext, detect_device
from trainables.distillers import DISTILLERS
from trainables.learning.teacher_cache import TeacherLogitsConfig
from trainables.pipeline import build_baselines, build_stages
from trainables.pipeline_config import PipelineConfig
from trainables.process.device_lock import DeviceLock
from trainables.process.memory import keep_freed_memory
from trainables.settings import choose
from trainables.stages.distilled import DistilledStage
from trainables.stages.pruned import PrunedStage

WEIGHTS = ("temperature", "alpha", "beta", "eta")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Distillers, seeds and networks to compare.

    Attributes:
        run_dir: Folder of a run, which contains config.json and stages/.
        pruning_ratio: Pruning ratio of the student; a pruned network of the run is reused if the
            ratio is one of its trials' ratios.
        sparsity_lambda: Sparsity lambda of the student, likewise.
        round_to: Channel counts of the student are rounded to multiples of this, likewise.
        seeds: Seeds of the fine-tunings, preferably two or more.
        distillers: Distillers to compare; the others are compared with "none".
        temperature: Temperature T of the distillers that have one; default: the value of the
            distiller's paper.
        alpha: Weight of TCKD, or of the loss of kd; default: likewise.
        beta: Weight of NCKD; default: likewise.
        eta: Weight of the cross-entropy that is added to DKD; default: likewise.
        lr: Peak learning rate of the fine-tunings; default: that of the run.
        num_steps: Number of steps of each fine-tuning; default: that of the run.
        teacher_logits: Whether the teacher is cached or live; default: as in the run.
        num_threads: Number of CPU threads of each process.
        jobs: Number of processes at a time.
        device: cpu, cuda or cuda:N.
        output: JSON file for the results.
    """

    run_dir: Path
    pruning_ratio: float = 0.5
    sparsity_lambda: float = 1e-5
    round_to: int = 1
    seeds: tuple[int, ...] = (0, 1, 2)
    distillers: tuple[str, ...] = ("dkd", "none")
    temperature: float | None = None
    alpha: float | None = None
    beta: float | None = None
    eta: float | None = None
    lr: float | None = None
    num_steps: int | None = None
    teacher_logits: TeacherLogitsConfig | None = None
    num_threads: int = 1
    jobs: int = 2
    device: str = field(default_factory=detect_device)
    output: Path | None = None

    def __post_init__(self) -> None:
        for name in ("seeds", "distillers"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be one or more distinct values, got {values}")
        for name in ("num_threads", "jobs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        parts = [part for distiller in self.distillers for part in choose(distiller)]
        if unknown := sorted(set(parts) - set(DISTILLERS)):
            raise ValueError(f"distillers must be among {', '.join(DISTILLERS)}; got {unknown}")
        unused = set(self.weights) - {name for part in parts for name in list_weights(part)}
        if unused:
            raise ValueError(
                f"{', '.join(sorted(unused))} was given, but {', '.join(self.distillers)} does not "
                "use it"
            )

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the losses that the user gave."""
        given = {name: getattr(self, name) for name in WEIGHTS}
        return {name: value for name, value in given.items() if value is not None}


class FineTuning(NamedTuple):
    """A fine-tuning, as it is sent to a process.

    Attributes:
        arguments: Arguments of the benchmark.
        distiller: Key of `trainables.distillers.DISTILLERS`, or several joined by "+".
        seed: Seed of the fine-tuning only.
    """

    arguments: Arguments
    distiller: str
    seed: int


class Comparison(NamedTuple):
    """A comparison of the mIoU of a distiller with that of a reference, paired by seed.

    Attributes:
        distiller: Name of the distiller.
        reference: Name of the distiller that it is compared with.
        differences: mIoU of the distiller minus that of the reference, for each seed.
        mean: Mean of the differences.
        standard_error: Standard error of the mean; NaN if there is a single pair.
        interval: 95 % interval of the mean by Student's t; infinite if there is a single pair.
    """

    distiller: str
    reference: str
    differences: tuple[float, ...]
    mean: float
    standard_error: float
    interval: tuple[float, float]

    @property
    def verdict(self) -> str:
        """The result of the comparison in words."""
        size = f"{100 * abs(self.mean):.2f} points of mIoU over {len(self.differences)} seeds"
        low, high = self.interval
        if low > 0:
            return f"{self.distiller} helped: {size} above {self.reference}"
        if high < 0:
            return f"{self.distiller} did harm: {size} below {self.reference}"
        side = "above" if self.mean >= 0 else "below"
        return (
            f"whether {self.distiller} helped cannot be told: {size} {side} {self.reference}, "
            f"and the 95 % interval holds 0"
        )


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
    starting_points = obtain_starting_points(arguments)
    for name, value in starting_points.items():
        console.print(f"{name:>8}  mIoU {value:.4f}", highlight=False)
    tasks = [
        FineTuning(arguments, distiller, seed)
        for seed in arguments.seeds
        for distiller in arguments.distillers
    ]
    miou: dict[str, dict[int, float]] = {distiller: {} for distiller in arguments.distillers}
    for task, value, seconds in fine_tune_all(tasks, arguments.jobs):
        miou[task.distiller][task.seed] = value
        console.print(
            f"{task.distiller:>8}  seed {task.seed}  mIoU {value:.4f}  ({seconds:.0f} s)",
            highlight=False,
        )
    comparisons = _compare_all(miou, arguments)
    hardware = describe_hardware(arguments.device)
    head = describe_measurement("distillation", arguments, hardware)
    _print_tables(miou, comparisons, arguments, console)
    console.print(
        f"{hardware.get('gpu', hardware['cpu'])}, torch {hardware['torch']}, "
        f"{head['measured_at'][:10]}, {(time.monotonic() - started) / 60:.1f} minutes",
        highlight=False,
    )
    return {
        **head,
        "starting_points": starting_points,
        "miou": miou,
        "comparisons": [
            {**without_nan(pair._asdict()), "verdict": pair.verdict} for pair in comparisons
        ],
    }


def compare(
    miou: Mapping[int, float], reference: Mapping[int, float], names: tuple[str, str]
) -> Comparison:
    """Compare two distillers over the seeds that they share.

    Args:
        miou: mIoU of the distiller, from 0 to 1, by seed.
        reference: mIoU of the reference, from 0 to 1, by seed.
        names: Names of the distiller and of the reference.
    """
    differences = tuple(miou[seed] - reference[seed] for seed in miou if seed in reference)
    size, mean = len(differences), statistics.fmean(differences)
    if size < 2:
        return Comparison(*names, differences, mean, math.nan, (-math.inf, math.inf))
    error = statistics.stdev(differences) / math.sqrt(size)
    margin = float(stats.t.ppf(0.975, size - 1)) * error
    return Comparison(*names, differences, mean, error, (mean - margin, mean + margin))


def fine_tune(task: FineTuning) -> tuple[FineTuning, float, float]:
    """Fine-tune the pruned student unless this was done; returns the val mIoU and the seconds."""
    arguments = task.arguments
    config = read_pipeline(arguments)
    config = replace(
        config,
        distil=replace(config.distil, num_steps=arguments.num_steps or config.distil.num_steps),
        teacher_logits=arguments.teacher_logits or config.teacher_logits,
    )
    keep_freed_memory()
    chain = make_distilled(config, arguments, task.distiller)
    stage = build_stages(config, chain, fine_tuning_seed=task.seed)[-1]
    artifact = stage.obtain(open_store(arguments), make_context(arguments, arguments.num_threads))
    return task, artifact.result["miou"], artifact.result["seconds"]


def fine_tune_all(
    tasks: Sequence[FineTuning], jobs: int
) -> Iterator[tuple[FineTuning, float, float]]:
    """Run all fine-tunings, several processes at a time; see `fine_tune`."""
    if jobs == 1:
        yield from map(fine_tune, tasks)
        return
    # spawn: a forked process inherits locks of torch's thread pool.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        futures = [pool.submit(fine_tune, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def obtain_starting_points(arguments: Arguments) -> dict[str, float]:
    """Find or compute what all fine-tunings share; returns the val mIoU by name."""
    keep_freed_memory()
    config, store = read_pipeline(arguments), open_store(arguments)
    context = make_context(arguments, arguments.num_threads * arguments.jobs)
    chains = {
        **{name: chain[:1] for name, chain in build_baselines(config).items()},
        "pruned": make_pruned(config, arguments),
    }
    return {
        name: build_stages(config, chain)[-1].obtain(store, context).result["miou"]
        for name, chain in chains.items()
    }


def _read_config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        config["pipeline"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"--run-dir must be the folder of a run, which contains config.json: {error}"
        ) from error
    return config


def read_pipeline(arguments: Arguments) -> PipelineConfig:
    """Read the configuration that all pipelines of the run share."""
    pipeline = _read_config(arguments.run_dir)["pipeline"]
    return TypeAdapter(PipelineConfig).validate_python(pipeline)


def make_pruned(config: PipelineConfig, arguments: Arguments) -> Chain:
    """Build the chain of the pruned student that is fine-tuned."""
    return make_chain(_stages_up_to(PrunedStage.name, config), **_choose_student(arguments))


def make_distilled(config: PipelineConfig, arguments: Arguments, distiller: str) -> Chain:
    """Build the chain of that student and of its fine-tuning with a distiller."""
    own = {name for part in choose(distiller) for name in list_weights(part)}
    return make_chain(
        _stages_up_to(DistilledStage.name, config),
        **_choose_student(arguments),
        distiller=distiller,
        lr=arguments.lr or config.distil.optimizer.lr,
        **{name: value for name, value in arguments.weights.items() if name in own},
    )


def list_weights(distiller: str) -> list[str]:
    """List those of `WEIGHTS` that a distiller uses."""
    names = {entry.name for entry in fields(DISTILLERS[distiller].Settings)}
    return [name for name in WEIGHTS if name in names]


def _choose_student(arguments: Arguments) -> dict[str, Any]:
    names = ("pruning_ratio", "sparsity_lambda", "round_to")
    return {name: getattr(arguments, name) for name in names}


def _stages_up_to(stage: str, config: PipelineConfig) -> tuple[str, ...]:
    """List the stages of the run's pipelines up to the given one."""
    if stage not in config.chain:
        raise ValueError(
            f"run_dir must be a run with a {stage} stage; its stages are {config.chain}"
        )
    return config.chain[: config.chain.index(stage) + 1]


def open_store(arguments: Arguments) -> ArtifactStore:
    """Open the store of the run's finished stages."""
    return ArtifactStore(arguments.run_dir / "stages")


def make_context(arguments: Arguments, num_threads: int) -> StageContext:
    """Describe this machine, with the cache of the run."""
    default = Path.home() / ".cache" / "segfront"
    return StageContext(
        cache_dir=Path(_read_config(arguments.run_dir).get("cache_dir", default)),
        device=arguments.device,
        num_threads=num_threads,
        device_lock=DeviceLock(arguments.device),
    )


def _compare_all(miou: Mapping[str, Mapping[int, float]], arguments: Arguments) -> list[Comparison]:
    reference = "none" if "none" in arguments.distillers else arguments.distillers[-1]
    return [
        compare(miou[name], miou[reference], (name, reference))
        for name in arguments.distillers
        if name != reference
    ]


def _print_tables(
    miou: Mapping[str, Mapping[int, float]],
    comparisons: Sequence[Comparison],
    arguments: Arguments,
    console: Console,
) -> None:
    table = Table("distiller", title="val mIoU after fine-tuning")
    for heading in (*(f"seed {seed}" for seed in arguments.seeds), "mean", "std"):
        table.add_column(heading, justify="right")
    for name, by_seed in miou.items():
        values = [by_seed[seed] for seed in arguments.seeds]
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        numbers = (*values, statistics.fmean(values), spread)
        table.add_row(name, *(f"{number:.4f}" for number in numbers))
    console.print(table)
    for pair in comparisons:
        low, high = pair.interval
        console.print(
            f"{pair.distiller} - {pair.reference}: {pair.mean:+.4f} ± {pair.standard_error:.4f} "
            f"(95 % interval {low:+.4f} to {high:+.4f})",
            highlight=False,
        )
        console.print(f"[bold]{pair.verdict}[/]", highlight=False)


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinity, which JSON does not know, by None."""
    if math.isnan(values["standard_error"]):
        return {**values, "standard_error": None, "interval": None}
    return values


if __name__ == "__main__":
    sys.exit(main())
