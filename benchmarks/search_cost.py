"""What the same front costs with a plain Ray Tune script and with ours.

The plain script is what a good engineer writes in a day: Tune's OptunaSearch over the same space
and first points, a function that trains dense, sparse, pruned and distilled for each trial, the
teacher trained once and run at every step of distillation, channels_last and mixed precision as
ours, `reuse_actors=True`, and the same objectives. Networks, data, steps of a stage, number of
pipelines, seeds and workers are equal; so is the code of the stages, so that the search alone is
compared. Ours runs as a user would run it, and again with its parts switched off.

Reported: hypervolume (share of the box up to the dense student) over wall seconds and over training
seconds, and what each way had spent when it first reached the plain script's final hypervolume.

Example (about an hour on two idle cores for three seeds):
  python benchmarks/search_cost.py --seeds 0 1 2 --output search_cost.json
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from command import describe_measurement, run_command
from rich.console import Console
from rich.table import Table

from models.hardware import describe_hardware
from search.config import StudyConfig
from search.front import hypervolume_fraction
from search.objectives import OBJECTIVES
from search.recipes import RECIPES
from trainables.context import StageContext
from trainables.device_lock import DeviceLock
from trainables.pipeline import build_teacher, run_baseline, run_pipeline
from trainables.pipeline_config import PipelineConfig, PipelineSettings
from trainables.store import ArtifactStore
from trainables.teacher_cache import TeacherLogitsConfig

ROOT = Path(__file__).parents[1]
WAYS: dict[str, tuple[str, ...]] = {
    "ours": (),
    "ours, live teacher": ("--pipeline.teacher-logits.source", "live"),
    "ours, nothing stopped early": ("--no-stop-hopeless", "--rungs"),
}
RUNGS = ("--rungs", "0.34", "--reduction-factor", "2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """What is compared.

    Attributes:
        recipe: Whose networks, data, steps and space are used.
        num_pipelines: Of every search.
        seeds: Of the sampler.
        ways: Which of ours, beside the plain script.
        output: JSON file for the results.
        flags: More flags for search/run.py, for a smaller or larger comparison.
    """

    recipe: str = "quickstart"
    num_pipelines: int = 10
    seeds: tuple[int, ...] = (0, 1, 2)
    ways: tuple[str, ...] = tuple(WAYS)
    output: Path | None = None
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}; got {self.recipe!r}")
        if unknown := sorted(set(self.ways) - set(WAYS)):
            raise ValueError(f"ways must be of {'; '.join(WAYS)}; got {'; '.join(unknown)}")


class Point(NamedTuple):
    """A finished network of a search.

    Attributes:
        wall_seconds: Since the search began, trainings of teacher and dense student included.
        training_seconds: Spent by then.
        metrics: Its objectives.
    """

    wall_seconds: float
    training_seconds: float
    metrics: dict[str, float]


class Curve(NamedTuple):
    """A search as it went.

    Attributes:
        way: Which.
        seed: Of its sampler.
        points: Finished networks in the order of time.
        reference: Worst values that count.
    """

    way: str
    seed: int
    points: list[Point]
    reference: dict[str, float]

    def hypervolumes(self) -> list[float]:
        """Hypervolume after each point."""
        metrics = [point.metrics for point in self.points]
        return [hypervolume_fraction(metrics[: i + 1], self.reference) for i in range(len(metrics))]

    def cost_of(self, hypervolume: float) -> tuple[float, float] | None:
        """Wall and training seconds when it first reached a hypervolume; None if it never did."""
        for point, reached in zip(self.points, self.hypervolumes(), strict=True):
            if reached >= hypervolume:
                return point.wall_seconds, point.training_seconds
        return None


def run_ours(arguments: Arguments, way: str, seed: int, folder: Path) -> Curve:
    """Run search/run.py as a user would, and read what it wrote."""
    command = [sys.executable, str(ROOT / "search" / "run.py"), arguments.recipe, "--no-dashboard",
               "--seed", str(seed), "--num-pipelines", str(arguments.num_pipelines),
               "--output-dir", str(folder), "--cache-dir", str(folder / "cache"),
               *RUNGS, *arguments.flags, *WAYS[way]]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    (run_dir,) = folder.glob(f"{arguments.recipe}-*")
    metadata = json.loads((run_dir / "metadata.json").read_text())
    reference = {entry["name"]: entry["reference"] for entry in metadata["objectives"]}
    spent = sum(
        json.loads((run_dir / "stages" / baseline["stage"] / "result.json").read_text())["result"][
            "seconds"
        ]
        for baseline in metadata["baselines"]
    )
    with (run_dir / "trials.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["state"] in ("complete", "stopped")]
    points = []
    for row in sorted(rows, key=lambda row: float(row["elapsed_hours"])):
        spent += float(row["seconds_total"] or 0)
        if row["state"] == "complete":
            metrics = {name: float(row[name]) for name in reference}
            points.append(Point(float(row["elapsed_hours"]) * 3600, spent, metrics))
    return Curve(way, seed, points, reference)


def run_plain(arguments: Arguments, seed: int, folder: Path) -> Curve:
    """Run the plain script."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    study = read_study(arguments)
    config = replace(study.pipeline, teacher_logits=TeacherLogitsConfig(source="live"))
    cores = len(os.sched_getaffinity(0))
    started = time.monotonic()
    first = make_context(folder, cores)
    shared = ArtifactStore(folder / "shared")
    teacher = build_teacher(config).obtain(shared, first)
    spent = float(teacher.result["seconds"])

    def run_trial(trial: dict[str, Any]) -> None:
        settings = PipelineSettings(**trial)
        with tempfile.TemporaryDirectory() as scratch:
            # Its own store: every stage but the teacher is trained anew.
            shutil.copytree(teacher.folder, Path(scratch) / teacher.folder.name)
            result = run_pipeline(config, settings, ArtifactStore(Path(scratch)),
                                  make_context(folder, 1))  # fmt: skip
        tune.report({**result.metrics, "training_seconds": sum(result.seconds.values()),
                     "wall_seconds": time.monotonic() - started})  # fmt: skip

    ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    kinds = [OBJECTIVES[name] for name in study.objectives]
    try:
        results = tune.Tuner(
            tune.with_resources(run_trial, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(
                    space=study.space.distributions(),
                    metric=[kind.name for kind in kinds],
                    mode=["max" if kind.direction == "maximize" else "min" for kind in kinds],
                    points_to_evaluate=[asdict(point) for point in study.first_points],
                    seed=seed,
                ),
                num_samples=arguments.num_pipelines,
                max_concurrent_trials=cores,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    dense = measure_dense(config, folder)
    reference = {kind.name: dense.get(kind.name, 0.0) for kind in kinds}
    finished = [result.metrics for result in results if result.metrics and not result.error]
    points = []
    for metrics in sorted(finished, key=lambda metrics: metrics["wall_seconds"]):
        spent += metrics["training_seconds"]
        values = {kind.name: float(metrics[kind.name]) for kind in kinds}
        points.append(Point(metrics["wall_seconds"], spent, values))
    return Curve("plain script", seed, points, reference)


def measure_dense(config: PipelineConfig, folder: Path) -> dict[str, float]:
    """Costs of the uncompressed student, after the clock has stopped; its accuracy counts as 0."""
    untrained = replace(config, dense=replace(config.dense, num_steps=1))
    store, context = ArtifactStore(folder / "reference"), make_context(folder, 1)
    baseline = run_baseline("dense", untrained, store, context)
    return {**baseline._asdict(), "miou": 0.0}


def read_study(arguments: Arguments) -> StudyConfig:
    """The recipe with the flags that ours gets."""
    from search.command_line import parse_arguments

    return parse_arguments([arguments.recipe, *arguments.flags]).study


def make_context(folder: Path, num_threads: int) -> StageContext:
    """This machine's CPU."""
    return StageContext(
        cache_dir=folder / "cache", num_threads=num_threads, device_lock=DeviceLock("cpu")
    )


def report(curves: Sequence[Curve], console: Console) -> None:
    """Print each search, and its cost against the plain one of the same seed."""
    table = Table(title="cost of the plain script's final hypervolume")
    for column in ("search", "seed", "networks", "hypervolume", "wall s", "training s",
                   "wall s to reach", "training s to reach", "times less"):  # fmt: skip
        table.add_column(column, justify="left" if column == "search" else "right")
    plain = {curve.seed: curve for curve in curves if curve.way == "plain script"}
    for curve in curves:
        reached = curve.hypervolumes()
        wall, training, _ = curve.points[-1]
        goal = plain[curve.seed].hypervolumes()[-1]
        cost, paid = curve.cost_of(goal), plain[curve.seed].cost_of(goal)
        cells = ["never", "never", "-"]
        if cost and paid:
            cells = [f"{cost[0]:.0f}", f"{cost[1]:.0f}",
                     f"{paid[0] / cost[0]:.1f} / {paid[1] / cost[1]:.1f}"]  # fmt: skip
        table.add_row(curve.way, str(curve.seed), str(len(curve.points)), f"{reached[-1]:.4f}",
                      f"{wall:.0f}", f"{training:.0f}", *cells)  # fmt: skip
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run every search, print, write; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Do the whole benchmark and print it; returns JSON-able results."""
    curves = []
    for seed in arguments.seeds:
        for way in ("plain script", *arguments.ways):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                if way == "plain script":
                    curves.append(run_plain(arguments, seed, folder))
                else:
                    curves.append(run_ours(arguments, way, seed, folder))
            console.print(f"{way}, seed {seed}: done")
    report(curves, console)
    return {
        **describe_measurement("search_cost", arguments, describe_hardware("cpu")),
        "curves": [curve._asdict() | {"hypervolumes": curve.hypervolumes()} for curve in curves],
    }


if __name__ == "__main__":
    sys.exit(main())
