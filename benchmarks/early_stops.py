"""Count how often a study stopped a pipeline that it should have finished.

The benchmark takes runs of search/run.py whose search is over and finishes the pipelines that they
stopped: those whose pruned network could not enter the front according to the bound on its accuracy
(search/pipelines/accuracy_bound.py), and those that were stopped at a rung. A stop was wrong if the
finished network enters the front of the pipelines that the study did finish. The cost of all stops
is the difference of two hypervolumes (as a share of the box up to the dense student): that of all
networks minus that of the study's own front. Then the bound is tested on every network of the run,
given the networks before it in random orders.

The finished networks are added to the run's stages/, where a second benchmark finds them; nothing
else of the run is changed. Latency is taken from the run.

Example (CamVid; it takes some seconds for each stopped pipeline):
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
from search.pipelines.accuracy_bound import MIN_FINISHED, FinishedNetworks
from search.pipelines.front import front_mask, hypervolume_fraction
from search.pipelines.study import JOURNAL_FILE, PipelineStudy
from search.run_files.results import METADATA_FILE
from trainables.artifacts.remote_stages import STAGES_FOLDER
from trainables.artifacts.store import ArtifactStore
from trainables.context import StageContext, detect_device
from trainables.pipeline import run_stage
from trainables.process.memory import keep_freed_memory

NUM_ORDERS = 20
BOUND = re.compile(r"mIoU ([0-9.]+)")  # part of the reason of a stop by the bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Runs to finish.

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
    """A pipeline that a study stopped, and the result that it would have had.

    Attributes:
        trial: Number of its trial.
        by: What stopped it: "bound" or "rung".
        miou: mIoU of the finished network.
        bound: Largest mIoU that the bound allowed it; None if it was stopped at a rung.
        was_wrong: Whether the finished network enters the study's front.
    """

    trial: int
    by: str
    miou: float
    bound: float | None
    was_wrong: bool


class Replay(NamedTuple):
    """Decisions of the bound on a run's networks, each given those before it in random orders.

    Attributes:
        judged: Number of networks that the bound judged, over all orders; the first ones have no
            bound.
        stopped: Number of these that would not have been distilled.
        wrong: Number of the stopped ones that would have entered the front of those before them.
    """

    judged: int
    stopped: int
    wrong: int


class Outcome(NamedTuple):
    """The effect of the early stops of a run.

    Attributes:
        run_dir: Folder of the run.
        num_finished: Number of pipelines that the study finished.
        stops: The pipelines that it stopped.
        hypervolume: Hypervolume of the study's own front.
        hypervolume_of_all: Hypervolume with the stopped pipelines included.
        replays: Decisions of the bound, by the costs that are minimised besides mIoU.
    """

    run_dir: str
    num_finished: int
    stops: list[Stop]
    hypervolume: float
    hypervolume_of_all: float
    replays: dict[str, Replay]


def finish_stopped(run_dir: Path, console: Console) -> Outcome:
    """Finish the pipelines that a study stopped.

    Args:
        run_dir: Folder of the study's run.
        console: Console that shows the progress.

    Raises:
        ValueError: The search is not over, or it has not finished any pipeline.
    """
    config = load_config(run_dir / CONFIG_FILE)
    metadata = json.loads((run_dir / METADATA_FILE).read_text())
    reference = {entry["name"]: entry["reference"] for entry in metadata["objectives"]}
    with tempfile.TemporaryDirectory() as scratch:  # opening a study writes to its journal
        shutil.copy(run_dir / JOURNAL_FILE, scratch)
        study = PipelineStudy(config, Path(scratch))
    complete = [r.metrics for r in study.records.values() if r.state == "complete"]
    if study.num_unfinished or not complete:
        raise ValueError(
            f"run_dirs must be runs whose search has finished; that of {run_dir} has not"
        )
    # A limit that the user set cannot be wrong.
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
        chain = study.get_chain(record.number)
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
    """Test the bound on every network of a run, all of which are finished.

    The bound stops few networks in a study, because the study must finish some networks first. Here
    all networks are judged, in several orders, once with all costs and once with each cost alone.

    Args:
        networks: Metrics of the networks.
        objectives: Objectives of the study.
    """
    costs = [name for name in objectives if name != "miou"]
    kinds = dict.fromkeys((tuple(costs), *((cost,) for cost in costs)))
    replays = {}
    for kind in kinds:
        names, judged, stopped, wrong = ("miou", *kind), 0, 0, 0
        for seed in range(NUM_ORDERS):
            order = np.random.default_rng(seed).permutation(len(networks)).tolist()
            before = FinishedNetworks(names)
            for place, number in enumerate(order):
                network = networks[number]
                if place >= MIN_FINISHED:
                    judged += 1
                    if before.find_dominating(network, ceiling=1.0):
                        stopped += 1
                        earlier = [networks[other] for other in order[:place]]
                        wrong += front_mask([*earlier, network], names)[-1]
                before.add(number, network)
        replays[" + ".join(kind)] = Replay(judged, stopped, int(wrong))
    return replays


def report(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print the results, one row for each run."""
    table = Table(title="early stops: number of wrong ones, and their cost")
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
    replay = Table("run", "costs", title="the bound, tested on every network")
    for name in ("stopped", "wrong"):
        replay.add_column(name, justify="right")
    for outcome in outcomes:
        for costs, (judged, stopped, wrong) in outcome.replays.items():
            shares = (f"{stopped / max(1, judged):.1%}", f"{wrong} of {stopped}")
            replay.add_row(Path(outcome.run_dir).name, costs, *shares)
    console.print(replay)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run the benchmark and print it; returns JSON-serialisable results."""
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
