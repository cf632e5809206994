"""How often a study stopped a pipeline that it should have finished.

Takes runs of search/run.py whose searches are over and finishes what they stopped: pipelines whose
pruned network could not enter the front by the bound on its accuracy
(search/pipelines/accuracy_bound.py),
and those that were left behind at a rung. A stop was wrong if the finished network enters the front
of those that the study did finish. What that cost is the hypervolume (share of the box up to the
dense student) of all together, less that of the study's own front. Then the bound is asked about
every network of the run, by those before it in random orders.

The networks are added to the run's stages/ (another start finds them there); nothing else of the
run is changed. Latency is known from the run.

Example (CamVid; some seconds for each stopped pipeline):
  python search/run.py camvid --data-root ... --rungs 0.34 --num-pipelines 30
  python benchmarks/early_stops.py --run-dirs runs/camvid-... --output early_stops.json
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command import describe_measurement, run_command
from rich.console import Console
from rich.table import Table

from models.hardware import describe_hardware
from search.config import CONFIG_FILE, load_config
from search.pipelines.accuracy_bound import MIN_FINISHED, find_dominating
from search.pipelines.front import front_mask, hypervolume_fraction
from search.pipelines.study import JOURNAL_FILE, PipelineStudy
from search.run_files.results import METADATA_FILE
from trainables.artifacts.remote_stages import STAGES_FOLDER
from trainables.artifacts.store import ArtifactStore
from trainables.chain import build_chain
from trainables.context import StageContext, detect_device
from trainables.pipeline import run_stage
from trainables.process.memory import keep_freed_memory

NUM_ORDERS = 20
BOUND = re.compile(r"mIoU ([0-9.]+)")  # in the reason of a stop by the bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """What is finished.

    Attributes:
        run_dirs: Folders of runs.
        output: JSON file for the results.
    """

    run_dirs: tuple[Path, ...]
    output: Path | None = None

    def __post_init__(self) -> None:
        if not self.run_dirs:
            raise ValueError("run_dirs must name at least one run, got none")


class Stop(NamedTuple):
    """A pipeline that a study stopped, and what it would have come to.

    Attributes:
        trial: Its number.
        by: "bound" or "rung".
        miou: Once finished.
        bound: mIoU that was believed to be its best; None at a rung.
        was_wrong: Whether it enters the study's front.
    """

    trial: int
    by: str
    miou: float
    bound: float | None
    was_wrong: bool


class Replay(NamedTuple):
    """What the bound does to a run's networks, each judged by those before it in random orders.

    Attributes:
        judged: Networks in all orders, from the first one on that has a bound.
        stopped: Those that would not have been distilled.
        wrong: Of these, how many would have entered the front of those before them.
    """

    judged: int
    stopped: int
    wrong: int


class Outcome(NamedTuple):
    """What the early stops of a run did.

    Attributes:
        run_dir: Its folder.
        num_finished: Pipelines that the study finished.
        stops: Those that it stopped.
        hypervolume: Of the study's own front.
        hypervolume_of_all: With the stopped ones.
        replays: Of the bound, by the costs that stand against mIoU.
    """

    run_dir: str
    num_finished: int
    stops: list[Stop]
    hypervolume: float
    hypervolume_of_all: float
    replays: dict[str, Replay]


def finish_stopped(run_dir: Path, console: Console) -> Outcome:
    """Finish what a study stopped.

    Args:
        run_dir: Folder of its run.
        console: Says how far it is.

    Raises:
        ValueError: The search is not over, or it has nothing finished.
    """
    config = load_config(run_dir / CONFIG_FILE)
    metadata = json.loads((run_dir / METADATA_FILE).read_text())
    reference = {entry["name"]: entry["reference"] for entry in metadata["objectives"]}
    with tempfile.TemporaryDirectory() as scratch:  # to open a study is to write to its journal
        shutil.copy(run_dir / JOURNAL_FILE, scratch)
        study = PipelineStudy(config, Path(scratch))
    complete = [r.metrics for r in study.records.values() if r.state == "complete"]
    if study.num_unfinished or not complete:
        raise ValueError(f"run_dirs must be runs whose search has succeeded; {run_dir} is not over")
    # A limit of the user's cannot be wrong.
    stopped = [r for r in study.records.values() if r.stopped_by in ("bound", "rung")]
    store = ArtifactStore(run_dir.absolute() / STAGES_FOLDER)
    keep_freed_memory()
    context = StageContext(
        cache_dir=config.cache_dir,
        device=detect_device(),
        num_threads=len(os.sched_getaffinity(0)),
    )
    finished: list[Mapping[str, float]] = []
    stops = []
    for record in stopped:
        chain = build_chain(config.pipeline.chain, record.settings)
        with console.status(f"{run_dir.name}: finishing trial {record.number}"):
            result = run_stage(config.pipeline, chain, store, context)
        metrics = {**record.metrics, **result.metrics}
        finished.append(metrics)
        bound = BOUND.search(record.reason) if record.stopped_by == "bound" else None
        stops.append(
            Stop(
                trial=record.number,
                by=record.stopped_by,
                miou=metrics["miou"],
                bound=float(bound[1]) if bound else None,
                was_wrong=front_mask([*complete, metrics], config.objectives)[-1],
            )
        )
    return Outcome(
        run_dir=str(run_dir),
        num_finished=len(complete),
        stops=stops,
        hypervolume=hypervolume_fraction(complete, reference),
        hypervolume_of_all=hypervolume_fraction([*complete, *finished], reference),
        replays=replay_bound([*complete, *finished], config.objectives),
    )


def replay_bound(
    networks: Sequence[Mapping[str, float]], objectives: Sequence[str]
) -> dict[str, Replay]:
    """Ask the bound about every network of a run, all of which are finished.

    A study stops few by it, as it must finish some before; here all are judged, in several orders,
    with all costs against mIoU and with each alone.

    Args:
        networks: Their metrics.
        objectives: Of the study.
    """
    costs = [name for name in objectives if name != "miou"]
    kinds = dict.fromkeys((tuple(costs), *((cost,) for cost in costs)))
    replays = {}
    for kind in kinds:
        names, judged, stopped, wrong = ("miou", *kind), 0, 0, 0
        for seed in range(NUM_ORDERS):
            order = np.random.default_rng(seed).permutation(len(networks)).tolist()
            for place in range(MIN_FINISHED, len(order)):
                before = {number: networks[number] for number in order[:place]}
                network = networks[order[place]]
                judged += 1
                if find_dominating(network, before, names, ceiling=1.0):
                    stopped += 1
                    wrong += front_mask([*before.values(), network], names)[-1]
        replays[" + ".join(kind)] = Replay(judged, stopped, int(wrong))
    return replays


def report(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print a row per run."""
    table = Table(title="early stops: wrong of all, and what they cost")
    names = ("run", "finished", "by the bound", "above it", "at a rung", "hypervolume", "of all")
    for name in names:
        is_run = name == "run"
        table.add_column(name, justify="left" if is_run else "right", overflow="fold")
    for outcome in outcomes:
        cells: list[str] = []
        for by in ("bound", "rung"):
            stops = [stop for stop in outcome.stops if stop.by == by]
            cells.append(f"{sum(stop.was_wrong for stop in stops)} of {len(stops)}")
        above = sum(stop.bound is not None and stop.miou > stop.bound for stop in outcome.stops)
        cells.insert(1, str(above))
        volumes = (f"{v:.4f}" for v in (outcome.hypervolume, outcome.hypervolume_of_all))
        name = Path(outcome.run_dir).name
        table.add_row(name, str(outcome.num_finished), *cells, *volumes)
    console.print(table)
    replay = Table("run", "costs", title="the bound, asked of every network")
    for name in ("stopped", "wrong"):
        replay.add_column(name, justify="right")
    for outcome in outcomes:
        for costs, (judged, stopped, wrong) in outcome.replays.items():
            shares = (f"{stopped / max(1, judged):.1%}", f"{wrong} of {stopped}")
            replay.add_row(Path(outcome.run_dir).name, costs, *shares)
    console.print(replay)


def main(argv: Sequence[str] | None = None) -> int:
    """Finish, print, write; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Do the whole benchmark and print it; returns JSON-able results."""
    outcomes = [finish_stopped(run_dir, console) for run_dir in arguments.run_dirs]
    report(outcomes, console)
    hardware = describe_hardware(detect_device())
    return {
        **describe_measurement("early_stops", arguments, hardware),
        "runs": [
            {
                **outcome._asdict(),
                "stops": [stop._asdict() for stop in outcome.stops],
                "replays": {costs: r._asdict() for costs, r in outcome.replays.items()},
            }
            for outcome in outcomes
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
