"""Measure the time that a stage costs besides its work, against a trial of plain Ray Tune.

A study is run twice on one store (`--store`), with the same pipelines: they are drawn at random and
do not continue from each other, because both would depend on which stage ends first. The second
time, every stage is found in the store, so all of its time goes into scheduling, the messages of
Tune and Ray, reading and checking artefacts, and results files (`search_scale` times the sampler).
Plain Tune runs as many trials of a function that reports three numbers at once, with OptunaSearch
over the same space, `reuse_actors=True` and as many trials at a time.

The benchmark reports the seconds from the end of one trial to the end of the next, over all
workers, without the start of Ray and of the first processes; and the seconds that a trial holds
its worker.

Example (4 minutes on two idle cores):
  python benchmarks/trial_overhead.py --output trial_overhead.json
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from command import describe_measurement, run_command
from plain_tune import run_plain_tune
from ray import tune
from rich.console import Console
from rich.table import Table

from models.hardware import describe_hardware
from search.recipes import streets

ROOT = Path(__file__).parents[1]
STUDY = shlex.split("""
    streets --sampler tpe --no-stop-hopeless --no-dashboard --no-estimate --cpus-per-trial 1
    --pipeline.data.size 64 128 --pipeline.data.num-samples 8
    --pipeline.data.augmentation.crop-size 64 64 --pipeline.latency.max-seconds 0.1
    --pipeline.teacher.width 0.125 --pipeline.student.width 0.125
    --pipeline.teacher-training.num-steps 1 --pipeline.dense.num-steps 1
    --pipeline.sparse.num-steps 1 --pipeline.distil.num-steps 1
    --sampler random --no-continuation
""")
WARM_UP = 4  # number of trials during which processes start


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Study to time.

    Attributes:
        num_pipelines: Number of pipelines of the study.
        output: JSON file for the results.
    """

    num_pipelines: int = 60
    output: Path | None = None

    def __post_init__(self) -> None:
        if self.num_pipelines <= WARM_UP:
            raise ValueError(f"num_pipelines must be above {WARM_UP}, got {self.num_pipelines}")


class Timing(NamedTuple):
    """The times of one search's trials.

    Attributes:
        search: Name of the search.
        num_trials: Number of trials that were timed.
        interval_ms: Mean time from the end of a trial to the next end.
        held_ms: Median time that a trial held its worker, as Tune reports it.
    """

    search: str
    num_trials: int
    interval_ms: float
    held_ms: float


def time_ours(arguments: Arguments, folder: Path) -> Timing:
    """Run the study twice and time the stages of the second run."""
    for runs in ("first", "second"):
        command = [sys.executable, str(ROOT / "search" / "run.py"), *STUDY,
                   "--num-pipelines", str(arguments.num_pipelines),
                   "--output-dir", str(folder / runs), "--store", str(folder / "store"),
                   "--cache-dir", str(folder / "cache")]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return read_timing("ours", folder / "second")


def time_plain(folder: Path, num_trials: int) -> Timing:
    """Run the same number of trials of a function that does nothing."""
    study = streets()

    def run_trial(trial: dict[str, Any]) -> None:
        tune.report(dict.fromkeys(study.objectives, trial["pruned.pruning_ratio"]))

    run_plain_tune(run_trial, study, num_trials=num_trials, seed=0, folder=folder / "plain")
    return read_timing("plain Tune", folder / "plain")


def read_timing(search: str, folder: Path) -> Timing:
    """Read from Tune's result files when every trial ended and how long it took."""
    paths = [path for path in folder.rglob("result.json") if "stages" not in path.parts]
    # The times of the files themselves cannot be used, because Tune copies the files at the end.
    results = [json.loads(path.read_text().splitlines()[-1]) for path in paths]
    results.sort(key=lambda result: result["timestamp"])
    timed = results[WARM_UP:]
    seconds = timed[-1]["timestamp"] - results[WARM_UP - 1]["timestamp"]
    return Timing(
        search=search,
        num_trials=len(timed),
        interval_ms=1000 * seconds / len(timed),
        held_ms=1000 * statistics.median(result["time_total_s"] for result in timed),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run the benchmark and print it; returns JSON-serialisable results."""
    with tempfile.TemporaryDirectory() as scratch:
        ours = time_ours(arguments, Path(scratch))
        plain = time_plain(Path(scratch), ours.num_trials + WARM_UP)
    table = Table(title="time besides the work")
    for name in ("search", "trials", "ms from end to end", "ms held"):
        table.add_column(name, justify="left" if name == "search" else "right")
    for timing in (ours, plain):
        times = (f"{value:.0f}" for value in (timing.interval_ms, timing.held_ms))
        table.add_row(timing.search, str(timing.num_trials), *times)
    console.print(table)
    return {
        **describe_measurement("trial_overhead", arguments, describe_hardware("cpu")),
        "timings": [ours._asdict(), plain._asdict()],
    }


if __name__ == "__main__":
    sys.exit(main())
