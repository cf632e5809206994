"""Compare a study under random faults with the same study left undisturbed.

Both studies have the same seed, random proposals, no early stops and one thread per stage.
Therefore every suggestion depends only on the seed and the number of its trial, and every accuracy
depends only on the settings. In whatever order the pipelines end, and whatever breaks, both studies
must have the same trials with the same settings, mIoU, parameters and MACs, from the same stages.
(The other samplers learn from the latency, which is measured, so their proposals would differ from
run to run.)

While the study runs, one process or machine at a time is broken, at equal shares of its pipelines.
The kinds of faults come in a random order:
  worker      kill -9 of a process that computes a stage
  raylet      kill -9 of a worker node's Ray, which ends its stages too; the node comes back
  preemption  SIGTERM to all processes of a worker node, as when a spot instance is preempted; the
              node comes back
  link        the link of a worker node is cut, and restored after --cut-seconds
  driver      kill -9 of search/run.py, which is then started again with --resume

The benchmark reports for every fault the stages that it interrupted, the work that was lost in each
(CPU seconds since the stage's last checkpoint, or since its start), and the seconds until all of
them had resumed. All of this is observed from outside, in the kernel's file locks and the run's
folder. In this benchmark a host whose link is cut still shares the disk with the others, so it may
finish its stage meanwhile; a real host would lose the shared folder with its link.

If SEGFRONT_HOSTS_SCRIPT names a script that makes hosts (see host_cluster.py), the nodes are hosts
that `ray up` sets up. Otherwise they are processes of this machine, and a stopped raylet stands for
a cut link. The head's Ray is not killed, because a cluster cannot survive without it.

Examples (45 minutes, and 9, on two cores):
  python benchmarks/faults.py --num-steps 200 --output faults.json
  python benchmarks/faults.py --num-pipelines 6 --num-faults 3 --nodes local
"""

from __future__ import annotations

import os
import shlex
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from command import describe_measurement, run_command
from fault_clusters import FaultCluster, LinkedHosts, LocalCluster
from host_cluster import SCRIPT_VARIABLE, find_obstacle
from rich.console import Console
from rich.table import Table
from stage_watch import Attempt, StageWatch
from study_breaker import Breaker, Fault, Session, read_trials

from models.hardware import describe_hardware

STUDY = shlex.split("""
    streets --sampler random --no-stop-hopeless --no-dashboard --no-estimate --cpus-per-trial 1
    --pipeline.data.size 64 128 --pipeline.data.num-samples 16
    --pipeline.data.augmentation.crop-size 64 64 --pipeline.latency.max-seconds 0.2
    --pipeline.teacher.width 0.125 --pipeline.student.width 0.125
""")
STAGES_WITH_STEPS = ("teacher-training", "dense", "sparse", "distil")
COMPARED = ("state", "miou", "num_params", "macs")
SPARE_DRIVERS = 5  # drivers that may end without having been killed


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """The study and its faults.

    Attributes:
        num_pipelines: Number of pipelines of the study.
        num_faults: Number of faults, spread evenly over the study.
        num_steps: Number of steps of each training.
        checkpoint_seconds: Checkpoint interval of the study: the most work that a fault may cost a
            stage.
        cut_seconds: Time for which a link stays cut.
        nodes: Kind of nodes: hosts that `ray up` sets up; local processes; or auto, which is hosts
            if there is a script for them.
        seed: Seed of the study's proposals and of the faults.
        output: JSON file for the results.
    """

    num_pipelines: int = 60
    num_faults: int = 20
    num_steps: int = 300
    checkpoint_seconds: float = 3.0
    cut_seconds: float = 20.0
    nodes: Literal["auto", "hosts", "local"] = "auto"
    seed: int = 0
    output: Path | None = None

    def __post_init__(self) -> None:
        for name in ("num_pipelines", "num_faults", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_faults > self.num_pipelines:
            raise ValueError(
                f"num_faults must be at most num_pipelines ({self.num_pipelines}), "
                f"got {self.num_faults}"
            )


class Outcome(NamedTuple):
    """The result of a study.

    Attributes:
        seconds: Seconds from its start to its end.
        trials: Rows of trials.csv.
        stages: Folders of all finished stages.
        num_damaged: Number of stages that were set aside as damaged.
        num_repeated: Number of stages that were started again although no fault had interrupted
            them.
        num_drivers: Number of drivers that were started: one, and another for each that ended
            early.
    """

    seconds: float
    trials: list[dict[str, str]]
    stages: list[str]
    num_damaged: int
    num_repeated: int
    num_drivers: int


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run the benchmark and print it; returns JSON-serialisable results."""
    script = os.environ.get(SCRIPT_VARIABLE)
    obstacle = find_obstacle(script)
    if arguments.nodes == "hosts" and obstacle:
        raise ValueError(f"nodes must be local here: {obstacle}")
    is_local = arguments.nodes == "local" or bool(obstacle)
    cluster: FaultCluster = LocalCluster() if is_local else LinkedHosts(Path(str(script)))
    console.print(f"nodes: {cluster.name}", highlight=False)
    faults: list[Fault] = []
    try:
        cluster.start()
        calm = run_study(arguments, cluster, "calm", console, None)
        disturbed = run_study(arguments, cluster, "disturbed", console, faults)
    finally:
        cluster.stop()
    comparison = compare(calm, disturbed)
    goals = judge(arguments, comparison, faults, disturbed.num_drivers)
    report(arguments, calm, disturbed, faults, comparison, goals, console)
    return {
        **describe_measurement("faults", arguments, describe_hardware("cpu")),
        "nodes": cluster.name,
        "seconds": {"calm": calm.seconds, "disturbed": disturbed.seconds},
        "num_stages": len(calm.stages),
        "num_drivers": disturbed.num_drivers,
        "faults": [asdict(fault) for fault in faults],
        "comparison": comparison,
        "goals": goals,
    }


def run_study(
    arguments: Arguments,
    cluster: FaultCluster,
    name: str,
    console: Console,
    faults: list[Fault] | None,
) -> Outcome:
    """Run the study once.

    Args:
        arguments: Arguments of the benchmark.
        cluster: Cluster on which it runs.
        name: Name of its folder.
        console: Console on which every fault is printed.
        faults: List to which the faults are appended; None: there are no faults.

    Raises:
        RuntimeError: The study failed for a reason other than a fault.
    """
    session = Session(
        cluster=cluster,
        folder=cluster.folder / name,
        flags=make_flags(arguments, cluster),
        num_pipelines=arguments.num_pipelines,
        most_drivers=1 if faults is None else arguments.num_faults + SPARE_DRIVERS,
    )
    try:
        session.start()
        with StageWatch(session.run_dir) as watch:
            if faults is not None:
                breaker = Breaker(
                    session,
                    watch,
                    cut_seconds=arguments.cut_seconds,
                    pause_seconds=2 * arguments.checkpoint_seconds,
                    seed=arguments.seed,
                )
                for fault in breaker.break_all(arguments.num_faults):
                    faults.append(fault)
                    console.print(describe(fault), highlight=False, soft_wrap=True)
            while session.keep_up():
                session.drivers[-1].wait()
    finally:
        session.end()
    seconds = time.time() - session.started
    if status := session.drivers[-1].wait():
        raise RuntimeError(f"the driver ended with {status}: {session.log.read_text()}")
    victims = [victim.stage for fault in faults or () for victim in fault.victims]
    return Outcome(
        seconds=seconds,
        trials=read_trials(session.run_dir),
        stages=watch.published(),
        num_damaged=len(list((session.run_dir / "stages").glob("*.damaged-*"))),
        num_repeated=count_repeated(watch.attempts, victims),
        num_drivers=len(session.drivers),
    )


def make_flags(arguments: Arguments, cluster: FaultCluster) -> list[str]:
    """Make the flags of search/run.py."""
    flags = [*STUDY, "--num-pipelines", str(arguments.num_pipelines),
             "--seed", str(arguments.seed), "--cache-dir", str(cluster.cache_dir),
             "--checkpoint-seconds", str(arguments.checkpoint_seconds)]  # fmt: skip
    for stage in STAGES_WITH_STEPS:
        flags += [f"--pipeline.{stage}.num-steps", str(arguments.num_steps)]
    return flags


def describe(fault: Fault) -> str:
    """Describe a fault in one line."""
    wait = "never" if fault.recovery_seconds is None else f"{fault.recovery_seconds:.1f} s"
    return (
        f"{fault.at:6.0f} s  {fault.kind:<10} on node {fault.node}: {len(fault.victims)} stages "
        f"interrupted, {fault.lost_seconds:.1f} s of work lost, resumed after {wait}"
    )


def count_repeated(attempts: Iterable[Attempt], victims: Sequence[str]) -> int:
    """Count the attempts at stages, beyond the first one, that no fault explains.

    Args:
        attempts: All attempts of a study.
        victims: Stages that faults interrupted, one entry for each time.
    """
    computed = [attempt.stage for attempt in attempts if not attempt.found]
    return sum(max(0, computed.count(stage) - 1 - victims.count(stage)) for stage in set(computed))


def compare(calm: Outcome, disturbed: Outcome) -> dict[str, Any]:
    """List the differences between the undisturbed study and the disturbed one.

    Returns:
        The numbers of the trials that are lost (complete only in the first study), added (only in
        the second) or differing (in settings or in noiseless metrics); how many trials and stages
        exist twice; and the stages that only one of the studies has.
    """
    first, second = ({row["trial"]: row for row in o.trials} for o in (calm, disturbed))
    complete = {number for number, row in first.items() if row["state"] == "complete"}
    again = {number for number, row in second.items() if row["state"] == "complete"}
    columns = [name for name in calm.trials[0] if name.startswith("config/") or name in COMPARED]
    return {
        "num_complete": len(complete),
        "lost": sorted(complete - again, key=int),
        "added": sorted(second.keys() - first.keys(), key=int),
        "differing": [
            number
            for number in sorted(first.keys() & second.keys(), key=int)
            if any(first[number][name] != second[number][name] for name in columns)
        ],
        "num_duplicates": len(disturbed.trials) - len(second),
        "num_repeated_stages": disturbed.num_repeated + disturbed.num_damaged,
        "other_stages": sorted(set(calm.stages) ^ set(disturbed.stages)),
    }


def judge(
    arguments: Arguments, comparison: dict[str, Any], faults: Sequence[Fault], num_drivers: int
) -> dict[str, bool]:
    """Decide which goals are met.

    Args:
        arguments: Arguments of the benchmark.
        comparison: Comparison of the two studies.
        faults: All faults of the disturbed study.
        num_drivers: Number of drivers of the disturbed study.
    """
    lost = [victim.lost_seconds for fault in faults for victim in fault.victims]
    return {
        "no pipeline lost, all results equal": not (
            comparison["lost"] or comparison["added"] or comparison["differing"]
        ),
        "nothing twice in the results": not (
            comparison["num_duplicates"] or comparison["other_stages"]
        ),
        "no stage computed twice": not comparison["num_repeated_stages"],
        "at most one checkpoint interval of a stage lost": (
            max(lost, default=0.0) <= arguments.checkpoint_seconds
        ),
        "recovered from every fault": all(f.recovery_seconds is not None for f in faults),
        "only drivers that were killed ended early": (
            num_drivers == 1 + sum(fault.kind == "driver" for fault in faults)
        ),
    }


def report(
    arguments: Arguments,
    calm: Outcome,
    disturbed: Outcome,
    faults: Sequence[Fault],
    comparison: dict[str, Any],
    goals: dict[str, bool],
    console: Console,
) -> None:
    """Print the faults by kind, the time that they cost, and the goals."""
    table = Table(title=f"{len(faults)} faults, a checkpoint every "
                        f"{arguments.checkpoint_seconds:g} s")  # fmt: skip
    for column in ("fault", "number", "stages interrupted", "s lost, mean",
                   "s lost of a stage, most", "s to recover, median", "most"):  # fmt: skip
        table.add_column(column, justify="left" if column == "fault" else "right")
    for kind in dict.fromkeys(fault.kind for fault in faults):
        group = [fault for fault in faults if fault.kind == kind]
        lost = [victim.lost_seconds for fault in group for victim in fault.victims]
        waits = [f.recovery_seconds for f in group if f.recovery_seconds is not None]
        table.add_row(
            kind, str(len(group)), str(len(lost)),
            f"{statistics.mean(fault.lost_seconds for fault in group):.1f}",
            f"{max(lost, default=0.0):.1f}",
            f"{statistics.median(waits):.1f}" if waits else "never",
            f"{max(waits):.1f}" if len(waits) == len(group) else "never",
        )  # fmt: skip
    console.print(table)
    extra = disturbed.seconds - calm.seconds
    console.print(
        f"undisturbed {calm.seconds:.0f} s, disturbed {disturbed.seconds:.0f} s: "
        f"{extra / max(1, len(faults)):.1f} s per fault; {comparison['num_complete']} pipelines, "
        f"{len(calm.stages)} stages",
        highlight=False,
    )
    for goal, is_met in goals.items():
        console.print(f"{'met' if is_met else '[bold red]NOT MET[/]'}: {goal}", highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
