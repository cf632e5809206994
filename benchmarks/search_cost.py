"""Compare the cost of finding the same front with a plain Ray Tune script and with ours, on CamVid.

The plain script is what a good engineer writes in a day. It uses Tune's OptunaSearch over the same
space and first points, and a function that trains the dense, sparse, pruned and distilled networks
of each trial. The teacher is trained once and runs at every step of the distillation, and latency
is measured while the other trials run. The script has the same channels_last and mixed precision as
ours, `reuse_actors=True`, and the same objectives. The networks, data, steps of each stage, number
of pipelines, seeds and workers are equal, and so is the code of the stages, so that only the
searches are compared. Ours runs as a user would run it, and again with each of its parts switched
off:

  nothing shared    lambda comes from a range instead of a grid, so pipelines share only the
                    teacher and the dense student, and no sparse or pruned network and no latency
  no continuation   every network is pruned from the sparse one, none from a finished one
  no first chain    the study does not begin with chains along the pruning ratios
  live teacher      the teacher runs at every step of the distillation
  no bound          networks that cannot enter the front are distilled nevertheless
  fresh processes   every stage gets a new process
  one thread        every training has one thread, even while the other cores are idle
  one at a time     one stage runs at a time, with all threads
  rungs             the less promising third of the distillations ends after 34 % of its steps;
                    ours has no rungs, because a distillation takes only seconds here
  three times       as ours, with three times as many pipelines

Two more opponents run with --opponents "careful script" sweep:
  careful script    the plain script, but the dense network is trained once and shared too
  sweep             no search at all: one sparse network is pruned by a fifth of its channels and
                    fine-tuned on the labels, then pruned further and fine-tuned again, and so on

The benchmark reports the hypervolume (as a share of the box up to the dense student) over wall
seconds, over the seconds of all stages (whatever number of threads a stage has) and over training
steps (those of the teacher are not counted). It also reports what each search had spent when it
first reached the plain script's final hypervolume, for each seed and for the mean over the seeds. A
pipeline's cost, up to the stage that it reached, counts from the start of its first stage on,
because pipelines that wait at a rung are reported only at the end.

The networks and steps are those of the streets recipe. The images have about a quarter of
CamVid's height and width, so that a stage takes seconds. The objectives are mIoU, MACs and
parameters. All searches measure latency too, but it is no objective, because the speed of the
machine during each search would decide the comparison.

Searches that the output file already contains are not repeated, so an interrupted benchmark
continues.

Example (an hour and a half on two idle cores):
  export SEGFRONT_CAMVID=...
  python benchmarks/search_cost.py --ways ours "three times" --output search_cost.json
  python benchmarks/search_cost.py --seeds 0 --output search_cost.json
A longer study gains more (70 minutes); this one has the other two opponents (33 minutes):
  python benchmarks/search_cost.py --num-pipelines 60 --ways ours \
    --opponents "careful script" sweep --output longer.json
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from command import describe_measurement, run_command
from plain_tune import run_plain_tune
from ray import tune
from rich.console import Console
from rich.table import Table

from models.hardware import describe_hardware
from search.config import StudyConfig, load_config
from search.pipelines.front import hypervolume_fraction
from trainables.artifacts.store import ArtifactStore
from trainables.chain import Chain, build_chain, make_chain
from trainables.context import StageContext
from trainables.learning.teacher_cache import TeacherLogitsConfig
from trainables.pipeline import (
    build_baselines,
    build_stages,
    check_data,
    run_baseline,
    run_pipeline,
)
from trainables.pipeline_config import PipelineConfig
from trainables.process.device_lock import DeviceLock
from trainables.process.memory import keep_freed_memory

ROOT = Path(__file__).parents[1]
RECIPE = "streets"
STUDY = shlex.split("""
    --objectives miou macs num_params
    --pipeline.latency.max-seconds 1 --pipeline.sensitivity.max-seconds 1
    --pipeline.data.name camvid --pipeline.data.size 96 128
    --pipeline.data.augmentation.crop-size 80 96
""")
PLAIN = "plain script"
CAREFUL = "careful script"
SWEEP = "sweep"
OPPONENTS = (PLAIN, CAREFUL, SWEEP)
SWEEP_RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SWEEP_SETTINGS = {"sparsity_lambda": 1e-4, "scope": "local", "distiller": "none", "lr": 3e-3}


class Way(NamedTuple):
    """A variant of our search.

    Attributes:
        flags: Flags of search/run.py, in addition to those of the study.
        times: Number of pipelines, as a multiple of the plain script's.
    """

    flags: tuple[str, ...] = ()
    times: int = 1


WAYS = {
    "ours": Way(),
    "nothing shared": Way(("--space.sparsity-lambda", "1e-5..1e-3", "--no-shared-prefix")),
    "no continuation": Way(("--no-continuation",)),
    "no first chain": Way(("--no-begin-with-sweeps",)),
    "live teacher": Way(("--pipeline.teacher-logits.source", "live")),
    "no bound": Way(("--no-stop-hopeless",)),
    "fresh processes": Way(("--no-reuse-workers",)),
    "one thread": Way(("--cpus-per-trial", "1")),
    "one at a time": Way(("--max-concurrent", "1")),
    "rungs": Way(("--rungs", "0.34")),
    "three times": Way(times=3),
}
COSTS = ("wall_seconds", "stage_seconds", "steps")
FIELDS = {"dense": "dense", "sparse": "sparse", "distilled": "distil"}
"""The field of PipelineConfig that contains the training of each stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Searches to compare.

    Attributes:
        num_pipelines: Number of pipelines of every search.
        seeds: Seeds of the sampler and of the trainings.
        ways: Variants of our search.
        opponents: Searches that they are compared with.
        output: JSON file for the results, which is written after every search.
        runs: Folder in which our runs are kept, for example for benchmarks/early_stops.py; default:
            they are deleted.
        flags: Further flags for search/run.py, for a smaller or larger comparison.
    """

    num_pipelines: int = 20
    seeds: tuple[int, ...] = (0, 1, 2)
    ways: tuple[str, ...] = tuple(WAYS)
    opponents: tuple[str, ...] = (PLAIN,)
    output: Path | None = None
    runs: Path | None = None
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (("ways", tuple(WAYS)), ("opponents", OPPONENTS)):
            if unknown := sorted(set(getattr(self, name)) - set(known)):
                raise ValueError(
                    f"{name} must be among {'; '.join(known)}; got {'; '.join(unknown)}"
                )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more distinct values, got {self.seeds}")


class Point(NamedTuple):
    """A finished network of a search.

    Attributes:
        wall_seconds: Seconds since the search started, including the trainings of the teacher and
            the dense student.
        stage_seconds: Seconds that all stages together had taken by then.
        steps: Number of training steps, not counting the teacher's.
        metrics: Objectives of the network.
    """

    wall_seconds: float
    stage_seconds: float
    steps: float
    metrics: dict[str, float]


class Curve(NamedTuple):
    """The course of a search.

    Attributes:
        way: Name of the search.
        seed: Seed of its sampler and of its trainings.
        points: Finished networks in the order in which they finished.
        reference: Worst values of the objectives that count.
    """

    way: str
    seed: int
    points: list[Point]
    reference: dict[str, float]

    def hypervolumes(self) -> list[float]:
        """Compute the hypervolume after each point."""
        metrics = [point.metrics for point in self.points]
        return [hypervolume_fraction(metrics[: i + 1], self.reference) for i in range(len(metrics))]

    def find(self, hypervolume: float) -> Point | None:
        """Find the point that first reached a hypervolume; None if the search never did."""
        reached = zip(self.points, self.hypervolumes(), strict=True)
        return next((point for point, volume in reached if volume >= hypervolume), None)


def run_ours(arguments: Arguments, way: str, seed: int, folder: Path) -> Curve:
    """Run search/run.py as a user would, and read its results."""
    flags, times = WAYS[way]
    runs = folder
    if arguments.runs is not None:
        runs = arguments.runs / f"{way}, seed {seed}"
    program = str(ROOT / "search" / "run.py")
    command = [sys.executable, program, RECIPE, "--no-dashboard", "--no-estimate",
               "--seed", str(seed), "--pipeline.seed", str(seed),
               "--num-pipelines", str(times * arguments.num_pipelines),
               "--output-dir", str(runs), "--cache-dir", str(folder / "cache"),
               *STUDY, *arguments.flags, *flags]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    (run_dir,) = runs.glob(f"{RECIPE}-*")
    return Curve(way, seed, *read_run(run_dir))


def read_run(run_dir: Path) -> tuple[list[Point], dict[str, float]]:
    """Read the finished networks of a run of ours, and the worst values that count."""
    metadata = json.loads((run_dir / "metadata.json").read_text())
    reference = {entry["name"]: entry["reference"] for entry in metadata["objectives"]}
    with (run_dir / "trials.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["state"] != "running"]
    starts = read_starts(run_dir)
    common = list_common(rows, starts)
    config = load_config(run_dir / "config.json")
    points = []
    for row in sorted(rows, key=lambda row: float(row["elapsed_hours"])):
        if row["state"] == "complete":
            # The next link of a chain starts in the second in which this one ends.
            paid = [other for other in rows if find_start(other, starts) < row["finished_at"]]
            points.append(
                Point(
                    wall_seconds=float(row["elapsed_hours"]) * 3600,
                    stage_seconds=sum(s for start, s in common if start < row["finished_at"])
                    + sum(float(other["seconds_total"] or 0) for other in paid),
                    steps=config.pipeline.dense.num_steps
                    + sum(count_steps(config, other) for other in paid),
                    metrics={name: float(row[name]) for name in reference},
                )
            )
    return points, reference


class Start(NamedTuple):
    """When a finished stage started, in ISO 8601, and its seconds."""

    moment: str
    seconds: float


def read_starts(run_dir: Path) -> dict[str, Start]:
    """Read when each stage of a run of ours started, by the name of its folder."""
    starts = {}
    for path in (run_dir / "stages").glob("*/result.json"):
        seconds = json.loads(path.read_text())["result"].get("seconds", 0.0)
        moment = datetime.fromtimestamp(path.stat().st_mtime - seconds, UTC)
        starts[path.parent.name] = Start(moment.isoformat(timespec="seconds"), seconds)
    return starts


def list_charged(row: Mapping[str, str]) -> dict[str, str]:
    """List the stages that a pipeline of ours is charged for, and the folder of each."""
    folders = {key.partition("/")[2]: name for key, name in row.items() if key.startswith("stage/")}
    return {stage: name for stage, name in folders.items() if float(row[f"seconds/{stage}"] or 0)}


def list_common(rows: Sequence[Mapping[str, str]], starts: Mapping[str, Start]) -> list[Start]:
    """List the stages that no pipeline is charged for.

    These are the stages of the uncompressed networks, and latencies that were measured ahead.

    Args:
        rows: Rows of trials.csv that have ended.
        starts: Stages by the names of their folders.
    """
    charged = {folder for row in rows for folder in list_charged(row).values()}
    return [start for folder, start in starts.items() if folder not in charged]


def find_start(row: Mapping[str, str], starts: Mapping[str, Start]) -> str:
    """Find when the first stage of a pipeline of ours started.

    If it is charged for its fine-tuning only, which may have paused, this is when the study
    proposed it.

    Args:
        row: Row of trials.csv.
        starts: Stages by the names of their folders.

    Returns:
        Time in ISO 8601.
    """
    folders = [folder for stage, folder in list_charged(row).items() if stage != "distilled"]
    moments = [starts[folder].moment for folder in folders if folder in starts]
    return min(moments, default=row["started_at"])


def count_steps(config: StudyConfig, row: Mapping[str, str]) -> float:
    """Count the training steps that a pipeline of ours cost, without those of the dense student."""
    steps = config.pipeline.sparse.num_steps if float(row["seconds/sparse"] or 0) else 0
    levels = [(share, f"miou@{share:g}") for share in config.rungs] + [(1.0, "miou")]
    reached = max((share for share, column in levels if row.get(column)), default=0.0)
    return steps + reached * config.pipeline.distil.num_steps


def run_script(arguments: Arguments, way: str, seed: int, folder: Path) -> Curve:
    """Run the plain script or the careful script."""
    study = read_study(arguments)
    config = replace(
        study.pipeline,
        seed=seed,
        teacher_logits=TeacherLogitsConfig(source="live"),
        latency=replace(study.pipeline.latency, compensate_drift=False),
    )
    keep_freed_memory()
    first = make_context(folder, len(os.sched_getaffinity(0)))
    check_data(config, first.cache_dir)  # read before the clock starts, as in ours
    started = time.monotonic()
    shared = ArtifactStore(folder / "shared")
    kept = ("teacher", "dense") if way == CAREFUL else ("teacher",)
    roots = [build_stages(config, build_baselines(config)[name][:1])[-1] for name in kept]
    networks = [root.obtain(shared, first) for root in roots]
    spent = sum(float(network.result["seconds"]) for network in networks)

    def run_trial(trial: dict[str, Any]) -> None:
        keep_freed_memory()
        settings = study.space.complete(config.chain, trial)
        with tempfile.TemporaryDirectory() as scratch:
            # Each trial has its own store, so every stage except those of `kept` is trained again.
            for network in networks:
                shutil.copytree(network.folder, Path(scratch) / network.folder.name)
            # It also has its own lock, so nobody waits while its latency is measured.
            context = replace(make_context(folder, 1), device_lock=DeviceLock("cpu", Path(scratch)))
            chain = build_chain(config.chain, settings)
            result = run_pipeline(config, chain, ArtifactStore(Path(scratch)), context)
        tune.report({**result.metrics, "stage_seconds": sum(result.seconds.values()),
                     "wall_seconds": time.monotonic() - started})  # fmt: skip

    results = run_plain_tune(
        run_trial, study, num_trials=arguments.num_pipelines, seed=seed, folder=folder / "tune"
    )
    dense = measure_dense(config, folder)
    reference = {name: dense[name] for name in study.objectives}
    ended = [result.metrics or {} for result in results if not result.error]
    if not all("wall_seconds" in metrics for metrics in ended):
        raise KeyboardInterrupt  # after which Tune ends quietly, with what it has
    steps = config.sparse.num_steps + config.distil.num_steps
    once = config.dense.num_steps if way == CAREFUL else 0
    if way == PLAIN:
        steps += config.dense.num_steps
    points = []
    for metrics in sorted(ended, key=lambda metrics: metrics["wall_seconds"]):
        spent += metrics["stage_seconds"]
        values = {name: float(metrics[name]) for name in study.objectives}
        paid = once + steps * (len(points) + 1)
        points.append(Point(metrics["wall_seconds"], spent, paid, values))
    return Curve(way, seed, points, reference)


def run_sweep(arguments: Arguments, seed: int, folder: Path) -> Curve:
    """Prune a network further and further and fine-tune it each time; nothing is searched."""
    study = read_study(arguments)
    config = replace(study.pipeline, seed=seed)
    keep_freed_memory()
    context = make_context(folder, len(os.sched_getaffinity(0)))
    check_data(config, context.cache_dir)
    started, spent, points = time.monotonic(), 0.0, list[Point]()
    store, place = ArtifactStore(folder / "sweep"), config.chain.index("pruned")
    chain: Chain = ()
    for ratio in SWEEP_RATIOS:
        own = make_chain(config.chain, pruning_ratio=ratio, **SWEEP_SETTINGS)
        chain = (*chain, *own[place:]) if chain else own
        result = run_pipeline(config, chain, store, context)
        spent += sum(result.seconds.values())
        steps = sum(getattr(config, FIELDS[step.stage]).num_steps for step in chain
                    if step.stage in FIELDS)  # fmt: skip
        metrics = {name: float(result.metrics[name]) for name in study.objectives}
        points.append(Point(time.monotonic() - started, spent, steps, metrics))
    dense = measure_dense(config, folder)
    return Curve(SWEEP, seed, points, {name: dense[name] for name in study.objectives})


def measure_dense(config: PipelineConfig, folder: Path) -> dict[str, float]:
    """Measure the dense student's costs after the clock has stopped; its accuracy counts as 0."""
    untrained = replace(config, dense=replace(config.dense, num_steps=1))
    store, context = ArtifactStore(folder / "reference"), make_context(folder, 1)
    baseline = run_baseline("dense", untrained, store, context)
    return {**baseline._asdict(), "miou": 0.0}


def read_study(arguments: Arguments) -> StudyConfig:
    """Read the recipe with the flags that our search gets."""
    from search.command_line import parse_arguments

    return parse_arguments([RECIPE, *STUDY, *arguments.flags]).study


def make_context(folder: Path, num_threads: int) -> StageContext:
    """Make a context for the CPU of this machine."""
    return StageContext(
        cache_dir=folder / "cache", num_threads=num_threads, device_lock=DeviceLock("cpu")
    )


def report(curves: Sequence[Curve], console: Console) -> None:
    """Print each search, and the costs of all searches against each opponent with the same seed."""
    headings = ("wall s", "stage s", "steps")
    table = _make_table("searches", ("seed", "networks", "hypervolume", *headings))
    for curve in curves:
        costs = [f"{getattr(curve.points[-1], cost):.0f}" for cost in COSTS]
        table.add_row(curve.way, str(curve.seed), str(len(curve.points)),
                      f"{curve.hypervolumes()[-1]:.4f}", *costs)  # fmt: skip
    console.print(table)
    ways: dict[str, list[Curve]] = {}
    for curve in curves:
        ways.setdefault(curve.way, []).append(curve)
    for opponent in OPPONENTS:
        if opponent in ways:
            _report_against(opponent, ways, curves, headings, console)


def _report_against(
    opponent: str,
    ways: Mapping[str, Sequence[Curve]],
    curves: Sequence[Curve],
    headings: Sequence[str],
    console: Console,
) -> None:
    """Print the costs of all searches against one opponent."""
    table = _make_table(
        f"times less than the {opponent}: median over the seeds, least..most",
        (*headings, "reached", *(f"{cost} to reach" for cost in headings)),
    )
    for way, group in ways.items():
        ends, arrivals = compare_costs(group, curves, opponent)
        cells = [*map(describe_ratios, ends), f"{len(arrivals[0])} of {len(ends[0])}",
                 *map(describe_ratios, arrivals)]  # fmt: skip
        table.add_row(way, *cells)
    console.print(table)
    table = _make_table(
        f"times less until the mean over the seeds reaches the {opponent}'s final one", headings
    )
    for way, group in ways.items():
        means = compare_means(group, curves, opponent)
        table.add_row(way, *("never" if ratio is None else f"{ratio:.1f}" for ratio in means))
    console.print(table)


def _make_table(title: str, numbers: Sequence[str]) -> Table:
    """Make a table with a column of names and columns of numbers."""
    table = Table("search", title=title)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def compare_costs(
    ours: Sequence[Curve], curves: Sequence[Curve], opponent: str = PLAIN
) -> tuple[list[list[float]], list[list[float]]]:
    """Divide the costs of an opponent by those of another search, seed by seed.

    Args:
        ours: Curves of one search, one for each seed.
        curves: All curves, including those of the opponent.
        opponent: Name of the opponent, one of `OPPONENTS`.

    Returns:
        For each cost, in the order of `COSTS`: the ratios for the whole searches, and the ratios up
        to the opponent's final hypervolume for the searches that reached it.
    """
    theirs = {curve.seed: curve for curve in curves if curve.way == opponent}
    ends: list[list[float]] = [[] for _ in COSTS]
    arrivals: list[list[float]] = [[] for _ in COSTS]
    for curve in ours:
        if curve.seed not in theirs:
            continue
        other = theirs[curve.seed]
        goal = other.hypervolumes()[-1]
        pairs = [(ends, other.points[-1], curve.points[-1])]
        reached, paid = curve.find(goal), other.find(goal)
        if reached and paid:
            pairs.append((arrivals, paid, reached))
        for ratios, spent, needed in pairs:
            for found, cost in zip(ratios, COSTS, strict=True):
                found.append(getattr(spent, cost) / getattr(needed, cost))
    return ends, arrivals


def compare_means(
    ours: Sequence[Curve], curves: Sequence[Curve], opponent: str = PLAIN
) -> list[float | None]:
    """Compare costs by the mean hypervolume over the seeds, so that unlucky seeds count too.

    Args:
        ours: Curves of one search, one for each seed.
        curves: All curves, including those of the opponent with at least the same seeds.
        opponent: Name of the opponent, one of `OPPONENTS`.

    Returns:
        For each cost: what a search of the opponent had spent when the mean of the opponent's
        hypervolumes first reached its final value, divided by what a search of ours had spent when
        the mean of ours reached the same value; None if it never did.
    """
    seeds = {curve.seed for curve in ours}
    theirs = [curve for curve in curves if curve.way == opponent and curve.seed in seeds]
    if not theirs:
        return [None for _ in COSTS]
    goal = statistics.fmean(curve.hypervolumes()[-1] for curve in theirs)
    pairs = [[_find_mean(group, cost, goal) for group in (theirs, ours)] for cost in COSTS]
    return [spent / needed if spent and needed else None for spent, needed in pairs]


def _find_mean(group: Sequence[Curve], cost: str, goal: float) -> float | None:
    """Find what each of a group had spent when their mean hypervolume first reached a goal."""
    events = sorted(
        (getattr(point, cost), index, volume)
        for index, curve in enumerate(group)
        for point, volume in zip(curve.points, curve.hypervolumes(), strict=True)
    )
    reached = [0.0] * len(group)
    for spent, index, volume in events:
        reached[index] = volume
        if statistics.fmean(reached) >= goal:
            return float(spent)
    return None


def describe_ratios(ratios: Sequence[float]) -> str:
    """Format the median and the range."""
    if not ratios:
        return "never"
    return f"{statistics.median(ratios):.1f}\n{min(ratios):.1f}..{max(ratios):.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run the benchmark and print it; returns JSON-serialisable results."""
    head = describe_measurement("search_cost", arguments, describe_hardware("cpu"))
    head["study"] = STUDY
    curves = read_curves(arguments)
    for seed in arguments.seeds:
        for way in (*arguments.opponents, *arguments.ways):
            if any((curve.way, curve.seed) == (way, seed) for curve in curves):
                continue
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                if way == SWEEP:
                    curve = run_sweep(arguments, seed, folder)
                elif way in OPPONENTS:
                    curve = run_script(arguments, way, seed, folder)
                else:
                    curve = run_ours(arguments, way, seed, folder)
            curves.append(curve)
            if arguments.output is not None:
                arguments.output.write_text(json.dumps({**head, **describe_curves(curves)}))
            last, volume = curve.points[-1], curve.hypervolumes()[-1]
            console.print(
                f"{way}, seed {seed}: hypervolume {volume:.4f} in {last.wall_seconds:.0f} s",
                highlight=False,
            )
    report(curves, console)
    return {**head, **describe_curves(curves)}


def describe_curves(curves: Sequence[Curve]) -> dict[str, Any]:
    """Describe the searches, JSON-serialisable."""
    return {
        "curves": [
            {
                **curve._asdict(),
                "points": [point._asdict() for point in curve.points],
                "hypervolumes": curve.hypervolumes(),
            }
            for curve in curves
        ]
    }


def read_curves(arguments: Arguments) -> list[Curve]:
    """Read the searches that an interrupted benchmark left in the output file.

    Raises:
        ValueError: The searches were made with other flags.
    """
    path = arguments.output
    if path is None or not path.exists():
        return []
    found = json.loads(path.read_text())
    if found.get("study") != STUDY:
        raise ValueError(f"{path} contains searches of another study; choose another --output")
    for name in ("num_pipelines", "flags"):
        given = json.loads(json.dumps(getattr(arguments, name)))
        if found["settings"][name] != given:
            raise ValueError(
                f"{path} contains searches with {name} {found['settings'][name]}: "
                f"use this value, or choose another --output; got {given}"
            )
    return [
        Curve(
            points=[Point(**point) for point in entry["points"]],
            **{name: entry[name] for name in ("way", "seed", "reference")},
        )
        for entry in found["curves"]
    ]


if __name__ == "__main__":
    sys.exit(main())
