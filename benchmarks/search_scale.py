"""Measure what the search itself costs and gains, by simulating machines that nobody has to own.

The benchmark runs the real searcher, dispatcher and study (`search/on_ray/searcher.py`,
`search/pipelines/dispatcher.py` and `study.py`, including the journal on disk) in a discrete-event
simulation with a virtual clock. Workers are busy for as long as a model of the pipelines says
(`benchmarks/simulated_pipelines.py`, or the trials of a recorded run). The computation of the
search is real, and its CPU seconds are counted.

These methods are compared, each with the same number of pipelines:
  ours            shared stages, cheap objectives first, rungs; the sampler of --sampler
  random          the same with random proposals
  no-cheap-first  ours without stopping networks that cannot enter the front
  no-rungs        ours, with every distillation in one go
  single          ours, with every training on a single worker, and no work ahead
  plain           the sampler alone: no rungs, and every pipeline pays for its own sparse, pruned,
                  latency and distilled stage (not for the dense one, which a careful script would
                  share)

With --node-workers a training of ours may take several workers of a node while nothing else could
use them, and the trainings of the uncompressed networks take a node, in plain too. n workers are
n^0.8 times as fast as one. --training-hours makes all trainings as long as those of Cityscapes.

The benchmark reports for each setting: the utilisation of the workers, in all and from the end of
the baselines on; the CPU time of a decision (a suggestion that starts something; mean and 95th
percentile) and of all our code, including Optuna; the journal's share of the search's wall time;
the growth of memory; the training hours that were spent; the hypervolume of the finished pipelines
(by their mean accuracy, so that lucky draws do not count); the time and training until the search
reached the lower of its own and plain's final hypervolume, as a share of what plain needed for the
same; and how many pipelines the accuracy bound and the rungs stopped, and how many of these would
have entered the front if they had been finished. The virtual clock includes the driver, which
starts one stage after another and needs --driver-seconds for each. Latency is a stage like any
other: every worker is its own machine, so several latencies can be measured at a time.

The whole sweep takes hours, most of it at 10 000 pipelines; the critical path takes minutes:
  python benchmarks/search_scale.py --num-pipelines 10 100 1000 10000 --num-workers 1 16 128 1024 \
    --seeds 0 1 2 --output search_scale.json
  python benchmarks/search_scale.py --num-pipelines 1000 --num-workers 16 128 1024 \
    --methods single ours plain --training-hours 6 --node-workers 8
A recorded run instead of formulas, or test problems with known hypervolume:
  python benchmarks/search_scale.py --run-dir runs/camvid-20260101-120000
  python benchmarks/search_scale.py --num-pipelines 300 --known-answers
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from command import describe_measurement, run_command
from known_answers import PROBLEMS, measure, optimise
from ray.tune.utils import flatten_dict
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from simulated_pipelines import (
    BASELINES,
    PipelineModel,
    RecordedPipelines,
    SyntheticPipelines,
)

from models.hardware import describe_hardware
from search.config import StudyConfig
from search.on_ray.searcher import PipelineSearcher, read_result
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.front import front_mask, hypervolume_fraction
from search.pipelines.journal import WholeLineBackend
from search.pipelines.places import Places
from search.pipelines.records import StoppedBy, TrialRecord
from search.pipelines.retries import Failure
from search.pipelines.stage_seconds import SPEED_EXPONENT
from search.pipelines.study import PipelineStudy
from search.proposing.samplers import BOUNDED, SamplerName
from search.run_files.progress import ProgressBoard
from search.run_files.results import reference_point, write_trials
from trainables.chain import Chain, ChainSettings, find_structure, flatten_chain
from trainables.pipeline import build_baselines
from trainables.ray_pipeline import describe_task, read_chain
from trainables.stages import STAGES

MethodName = Literal["ours", "random", "no-cheap-first", "no-rungs", "single", "plain"]
METHODS: tuple[MethodName, ...] = (
    "ours", "random", "no-cheap-first", "no-rungs", "single", "plain",
)  # fmt: skip
CHECKPOINTS = 200
STOPPED_BY: dict[str, StoppedBy] = {"bound": "bound", "rungs": "rung"}
UNCOMPRESSED = {stage for stages in BASELINES.values() for stage in stages}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Studies to simulate.

    Attributes:
        num_pipelines: Numbers of pipelines of the studies.
        num_workers: Numbers of workers.
        methods: Methods to compare, see above.
        seeds: Seeds of the sampler and of the model's noise.
        sampler: Sampler of every method except random.
        rungs: Shares of the distillation at which pipelines pause.
        reduction_factor: One of this number of pipelines that reach a rung continues.
        noise: Standard deviation of the final mIoU in the formulas.
        global_harm: mIoU that the formulas subtract for global scope, so that the accuracy bound
            has networks to stop.
        node_workers: Number of workers of a node, which one training may use together.
        training_hours: Hours of each training of the unpruned student on one worker, such as 6 for
            the 40 000 steps of Cityscapes; the teacher takes twice as long. Default: seconds like
            those of the camvid recipe.
        continuation: Whether networks are pruned further from finished ones; not by plain.
        driver_seconds: Seconds that the driver (Tune and our code) needs to start a stage, one
            stage after another.
        run_dir: Folder of a recorded run that replaces the formulas.
        study_dir: Folder for the journals; default: the machine's temporary folder.
        known_answers: Whether to optimise test problems with known hypervolume instead.
        output: JSON file for the results.
    """

    num_pipelines: tuple[int, ...] = (10, 100)
    num_workers: tuple[int, ...] = (1, 16)
    methods: tuple[MethodName, ...] = METHODS
    seeds: tuple[int, ...] = (0,)
    sampler: SamplerName = "tpe"
    rungs: tuple[float, ...] = (0.25,)
    reduction_factor: float = 1.5
    noise: float = 0.005
    global_harm: float = 0.0
    node_workers: int = 1
    training_hours: float | None = None
    continuation: bool = True
    driver_seconds: float = 0.05
    run_dir: Path | None = None
    study_dir: Path | None = None
    known_answers: bool = False
    output: Path | None = None

    def __post_init__(self) -> None:
        for name in ("num_pipelines", "num_workers", "methods", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be one or more distinct values, got {values}")
        for name in ("num_pipelines", "num_workers"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("noise", "global_harm", "driver_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


class Setting(NamedTuple):
    """A simulation, as it is sent to a process."""

    arguments: Arguments
    method: MethodName
    num_pipelines: int
    num_workers: int
    seed: int


class Driven(Protocol):
    """What Tune talks to: our searcher, or the plain script."""

    def suggest(self, trial_id: str) -> Any:
        """Suggest what to run next; anything but a dict means that there is nothing to run now."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None) -> None:
        """Take the result of a trial."""


class PlainScript:
    """A search that runs a whole pipeline of the study, except for its root, as one trial.

    Args:
        study: Study that proposes the pipelines and takes their results.
        places_of_root: Number of workers that train an uncompressed network.
    """

    def __init__(self, study: PipelineStudy, places_of_root: int = 1) -> None:
        self._study = study
        self._places_of_root = places_of_root
        self._waiting = list(build_baselines(study.config.pipeline).items())
        self._num_waited_for = len(self._waiting)
        self._running: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """See `Driven`."""
        if self._waiting:
            name, chain = self._waiting.pop(0)
            return {**describe_task(chain, name, places=self._places_of_root), "first": 0}
        proposal = None if self._num_waited_for else self._study.ask()
        if proposal is None:
            return None
        self._running[trial_id] = proposal.number
        return {**describe_task(proposal.chain, f"pipeline {proposal.number}"), "first": 1}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None) -> None:
        """See `Driven`."""
        assert result is not None
        if trial_id in self._running:
            found = read_result(flatten_dict(result))
            self._study.tell(self._running.pop(trial_id), "complete", result=found)
        else:
            self._num_waited_for -= 1


class Worker:
    """A worker that answers a stage as the trainables would, but at once.

    Args:
        model: Model of the pipelines.
        rungs: Rungs of the study.
    """

    def __init__(self, model: PipelineModel, rungs: Sequence[float]) -> None:
        self._model = model
        self._shares = (0.0, *rungs, 1.0)
        self._measured: set[str | None] = set()

    def work(self, task: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """Compute the seconds of a task and what a worker would report.

        Args:
            task: Task as `describe_task` makes it, for the last stage of its chain; "first", if it
                is present, is the index of the first of several stages.
        """
        chain, share = read_chain(task), task["share"]
        names, settings = [step.stage for step in chain], flatten_chain(chain)
        structure = find_structure(chain)
        if task["is_ahead"]:
            self._measured.add(structure)
            is_timed = names[-1] == "latency"
            return self._model.get_seconds(settings, "latency") if is_timed else 0.0, {
                "outcome": "complete"
            }
        known = self._measure(chain, settings, share)
        spent, paid, metrics = 0.0, dict[str, float](), dict[str, float]()
        for name in names[task.get("first", -1) :]:
            if name in BASELINES:
                seconds = self._model.get_baseline(name)[1]
            else:
                seconds = self._model.get_seconds(settings, name)
            if STAGES[name].schedule:
                seconds /= task["places"] ** SPEED_EXPONENT
            elif name == "latency" and structure is not None and structure in self._measured:
                seconds = 0.0
            reveals = STAGES[name].reveals if share == 1 else (f"miou@{share:g}",)
            metrics |= {key: known[key] for key in reveals if key in known}
            before = self._shares[self._shares.index(share) - 1] if name == "distilled" else 0.0
            paid[name] = seconds * share
            spent += seconds * (share - before)
        return spent, {"outcome": "complete", "metrics": metrics, "seconds": paid}

    def _measure(self, chain: Chain, settings: ChainSettings, share: float) -> dict[str, float]:
        """Compute all metrics that are known once these stages have run."""
        names = [step.stage for step in chain]
        if set(names) <= UNCOMPRESSED:
            return self._model.get_baseline(names[0])[0]._asdict()
        known = self._model.get_costs(settings) if "pruned" in names else {}
        if "distilled" in names:
            name = "miou" if share == 1 else f"miou@{share:g}"
            before = [s.settings.pruning_ratio for s in chain if s.stage == "pruned"][:-1]
            known[name] = self._model.get_miou(settings, share, before=before[-1] if before else 0)
        return known


@dataclass(kw_only=True, slots=True)
class Trace:
    """The record of a simulation.

    Attributes:
        finished: (virtual seconds, worker seconds spent until then, completed trials).
        decisions: CPU seconds of every suggestion that started a stage.
        cpu_seconds: CPU seconds of all suggestions and results.
        wall_seconds: Wall seconds of all suggestions and results.
        training_seconds: Seconds that all stages took together, times their workers.
        baselines_finished: Virtual seconds at which the last baseline finished.
        busy: Virtual seconds at which every stage started and ended, and its workers.
        makespan: Virtual seconds of the whole study.
        num_stages: Number of stages that ran.
    """

    finished: list[tuple[float, float, int]] = field(default_factory=list)
    decisions: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    training_seconds: float = 0.0
    baselines_finished: float = 0.0
    busy: list[tuple[float, float, int]] = field(default_factory=list)
    makespan: float = 0.0
    num_stages: int = 0

    @property
    def busy_after_baselines(self) -> float:
        """Seconds that all workers were busy after the last baseline had finished."""
        since = self.baselines_finished
        return sum(count * max(0.0, end - max(begin, since)) for begin, end, count in self.busy)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Add the time that the search computes within the block."""
        cpu, wall = time.thread_time(), time.perf_counter()
        yield
        self.cpu_seconds += time.thread_time() - cpu
        self.wall_seconds += time.perf_counter() - wall


class ToldStudy(PipelineStudy):
    """A study that remembers the order in which its pipelines were completed."""

    def __init__(self, config: StudyConfig, run_dir: Path) -> None:
        super().__init__(config, run_dir)
        self.complete: list[int] = []

    def tell(self, number: int, *arguments: Any, **keywords: Any) -> TrialRecord:
        """See `PipelineStudy`."""
        record = super().tell(number, *arguments, **keywords)
        if record.state == "complete":
            self.complete.append(number)
        return record


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    return run_command(Arguments, run, argv, description=__doc__)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run the benchmark and print it; returns JSON-serialisable results."""
    if arguments.known_answers:
        results = list(find_known_answers(arguments))
        print_known_answers(results, console)
    else:
        results = simulate_all(arguments, console)
        print_costs(results, console)
        print_worth(results, console)
    head = describe_measurement("search_scale", arguments, describe_hardware("cpu"))
    console.print(f"{head['hardware']['cpu']}, {head['measured_at'][:10]}", highlight=False)
    return {**head, "results": results}


def simulate_all(arguments: Arguments, console: Console) -> list[dict[str, Any]]:
    """Simulate every setting, each in its own process, so that its memory can be measured."""
    make_model(arguments, 0)  # an unusable run folder raises its error here
    settings = [
        Setting(arguments, method, num_pipelines, num_workers, seed)
        for num_pipelines in arguments.num_pipelines
        for num_workers in arguments.num_workers
        for seed in arguments.seeds
        for method in arguments.methods
    ]
    results = []
    spawn = multiprocessing.get_context("spawn")  # a forked process would inherit locks and memory
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for result in pool.map(simulate, settings):
            results.append(result)
            console.print(
                f"{result['method']}: {result['num_pipelines']} pipelines on "
                f"{result['num_workers']} workers, seed {result['seed']}: hypervolume "
                f"{result['hypervolume']:.4f}, {result['cpu_seconds']:.1f} CPU seconds",
                highlight=False,
            )
    return compare_with_plain(results)


def simulate(setting: Setting) -> dict[str, Any]:
    """Simulate one study; returns JSON-serialisable results."""
    arguments = setting.arguments
    model = make_model(arguments, setting.seed)
    config = make_config(setting)
    memory = _peak_memory()
    with (
        tempfile.TemporaryDirectory(dir=arguments.study_dir) as folder,
        timed_journal() as journal,
    ):
        study = ToldStudy(config, Path(folder))
        workers, single = setting.num_workers, setting.method == "single"
        of_root = max(1, min(arguments.node_workers, workers // len(BASELINES)))
        driven: Driven = PlainScript(study, of_root)
        if setting.method != "plain":
            dispatcher = Dispatcher(
                study,
                Places(
                    count=workers,
                    exclusive=workers,
                    of_root=1 if single else of_root,
                    most_per_training=1 if single else min(arguments.node_workers, workers),
                ),
                works_ahead=not single,
            )
            driven = PipelineSearcher(dispatcher, explain_error=Failure)
        worker = Worker(model, config.rungs)
        journal.clear()  # opening the study is not part of the search
        trace = drive(driven, study, worker, setting.num_workers, arguments.driver_seconds)
        journal_seconds = sum(journal)
        writing = time_results_files(study, Path(folder))
    growth = _peak_memory() - memory
    states = [record.state for record in study.records.values()]
    searched = trace.makespan - trace.baselines_finished
    baselines = [model.get_baseline(name)[0] for name in BASELINES]
    return {
        **{name: value for name, value in setting._asdict().items() if name != "arguments"},
        "states": {state: states.count(state) for state in sorted(set(states))},
        "num_stages": trace.num_stages,
        "makespan_hours": trace.makespan / 3600,
        "utilisation_in_all": trace.training_seconds / (trace.makespan * setting.num_workers),
        "utilisation": trace.busy_after_baselines / (searched * setting.num_workers),
        "decision_ms_mean": 1e3 * statistics.fmean(trace.decisions),
        "decision_ms_p95": 1e3 * float(np.quantile(trace.decisions, 0.95)),
        "cpu_seconds": trace.cpu_seconds,
        "wall_seconds": trace.wall_seconds,
        "journal_share": journal_seconds / trace.wall_seconds,
        "results_files_ms": 1e3 * writing,
        "memory_mib": growth / 2**20,
        "training_hours": trace.training_seconds / 3600,
        "stopped": judge_stopped(study, model),
        **follow_hypervolume(study, model, trace, reference_point(config, baselines)),
    }


def make_model(arguments: Arguments, seed: int) -> PipelineModel:
    """Make the model: the formulas, or the recorded run."""
    if arguments.run_dir is not None:
        return RecordedPipelines(arguments.run_dir)
    return SyntheticPipelines(
        seed=seed,
        noise=arguments.noise,
        global_harm=arguments.global_harm,
        training_hours=arguments.training_hours,
    )


def make_config(setting: Setting) -> StudyConfig:
    """Make the configuration of a method's study."""
    arguments, method = setting.arguments, setting.method
    return StudyConfig(
        num_pipelines=setting.num_pipelines,
        sampler="random" if method == "random" else arguments.sampler,
        seed=setting.seed,
        rungs=() if method in ("plain", "no-rungs") else arguments.rungs,
        reduction_factor=arguments.reduction_factor,
        stop_hopeless=method not in ("plain", "no-cheap-first"),
        continuation=arguments.continuation and method != "plain",
    )


def drive(
    driven: Driven, study: ToldStudy, worker: Worker, num_workers: int, driver_seconds: float
) -> Trace:
    """Simulate the events: free workers ask for tasks, and results arrive in the order of time.

    A task that needs more workers than are free waits; others may start meanwhile.

    Raises:
        RuntimeError: The study is not over, but nothing runs and nothing can be started.
    """
    trace = Trace()
    events: list[tuple[float, int, str, dict[str, Any]]] = []
    waiting: list[tuple[str, dict[str, Any]]] = []
    held: dict[str, int] = {}
    clock, driver, num_asked = 0.0, 0.0, 0
    while True:
        while True:
            free = num_workers - sum(held.values())
            found = next((w for w in waiting if w[1]["places"] <= free), None)
            if found is None:
                if free < 1:
                    break
                trial_id, before = str(num_asked), trace.cpu_seconds
                with trace.computing():
                    task = driven.suggest(trial_id)
                if not isinstance(task, dict):
                    break
                trace.decisions.append(trace.cpu_seconds - before)
                num_asked += 1
                waiting.append((trial_id, task))
                continue
            waiting.remove(found)
            trial_id, task = found
            held[trial_id] = task["places"]
            seconds, result = worker.work(task)
            trace.num_stages += 1
            trace.training_seconds += seconds * task["places"]
            driver = max(clock, driver) + driver_seconds
            trace.busy.append((driver, driver + seconds, task["places"]))
            if {stage for stage, _ in task["chain"]} <= UNCOMPRESSED:
                trace.baselines_finished = max(trace.baselines_finished, driver + seconds)
            heappush(events, (driver + seconds, trace.num_stages, trial_id, result))
        if not events:
            break
        clock, _, trial_id, result = heappop(events)
        del held[trial_id]
        with trace.computing():
            driven.on_trial_complete(trial_id, result)
        known = trace.finished[-1][2] if trace.finished else 0
        if len(study.complete) > known:
            trace.finished.append((clock, trace.training_seconds, len(study.complete)))
    if study.num_unfinished:
        raise RuntimeError(f"{study.num_unfinished} pipelines were never finished")
    trace.makespan = clock
    return trace


@contextmanager
def timed_journal() -> Iterator[list[float]]:
    """Collect the wall seconds of the journal's reads and writes."""
    seconds: list[float] = []
    originals: list[Any] = [WholeLineBackend.append_logs, WholeLineBackend.read_logs]

    def timed(call: Callable[..., Any]) -> Any:
        def replacement(*arguments: Any) -> Any:
            started = time.perf_counter()
            answer = call(*arguments)
            logs = iter([]) if answer is None else iter(list(answer))
            seconds.append(time.perf_counter() - started)
            return logs

        return replacement

    WholeLineBackend.append_logs, WholeLineBackend.read_logs = map(timed, originals)  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        WholeLineBackend.append_logs, WholeLineBackend.read_logs = originals  # type: ignore[method-assign]


def time_results_files(study: PipelineStudy, folder: Path) -> float:
    """Measure the CPU seconds that `search/run.py` needs to write the files of the whole study."""
    board = ProgressBoard(study)
    started = time.thread_time()
    write_trials(folder / "trials.csv", study.records.values(), study.config.objectives)
    board.refresh()
    return time.thread_time() - started


def judge_stopped(study: PipelineStudy, model: PipelineModel) -> dict[str, dict[str, int]]:
    """Finish the stopped pipelines and count those that would have entered the final front."""
    names = study.config.objectives
    records = study.records.values()
    complete = [record.metrics for record in records if record.state == "complete"]
    mask = front_mask(complete, names)
    front = [entry for entry, is_member in zip(complete, mask, strict=True) if is_member]
    found = {}
    for cause, stopped_by in STOPPED_BY.items():
        stopped = [record for record in records if record.stopped_by == stopped_by]
        finished = [
            {**r.metrics, "miou": model.get_miou(r.settings, before=find_before(study, r))}
            for r in stopped
        ]
        wrong = sum(front_mask([*front, entry], names)[-1] for entry in finished)
        found[cause] = {"stopped": len(stopped), "wrong": wrong}
    return found


def follow_hypervolume(
    study: ToldStudy, model: PipelineModel, trace: Trace, reference: Mapping[str, float]
) -> dict[str, Any]:
    """Compute the hypervolume over virtual and training seconds, and its final value."""
    networks = [
        {**record.metrics, "miou": model.get_miou(record.settings, is_noisy=False, before=before)}
        for record in (study.records[number] for number in study.complete)
        for before in (find_before(study, record),)
    ]
    if not networks:
        return {"hypervolume": 0.0, "curve": []}
    steps = np.linspace(0, len(trace.finished) - 1, CHECKPOINTS).round().astype(int)
    curve = [
        (clock, training, hypervolume_fraction(networks[:count], reference))
        for clock, training, count in (trace.finished[i] for i in dict.fromkeys(steps.tolist()))
    ]
    return {"hypervolume": curve[-1][2], "curve": curve}


def find_before(study: PipelineStudy, record: TrialRecord) -> float:
    """Find the ratio to which a pipeline's network was pruned before; 0 for the unpruned one."""
    if record.continues is None:
        return 0.0
    return float(study.records[record.continues].settings["pruned.pruning_ratio"])


def compare_with_plain(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the cost of the lower of two final hypervolumes, as a share of plain's cost."""
    group = ("num_pipelines", "num_workers", "seed")
    plain = {
        tuple(result[name] for name in group): result
        for result in results
        if result["method"] == "plain"
    }
    for result in results:
        other = plain.get(tuple(result[name] for name in group))
        result["relative_time"] = result["relative_training"] = None
        if other is not None and min(result["hypervolume"], other["hypervolume"]) > 0:
            target = min(result["hypervolume"], other["hypervolume"])
            ours, theirs = (
                next(point for point in entry["curve"] if point[2] >= target)
                for entry in (result, other)
            )
            result["relative_time"] = ours[0] / theirs[0]
            result["relative_training"] = ours[1] / theirs[1]
    return results


def print_costs(results: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print what the search costs."""
    table = _make_table(
        "what the search costs",
        ("decision ms", "p95", "CPU s", "journal", "files ms", "MiB", "stages"),
    )
    for result in results:
        table.add_row(
            *_name(result),
            f"{result['decision_ms_mean']:.1f}",
            f"{result['decision_ms_p95']:.1f}",
            f"{result['cpu_seconds']:.1f}",
            f"{result['journal_share']:.0%}",
            f"{result['results_files_ms']:.0f}",
            f"{result['memory_mib']:.0f}",
            str(result["num_stages"]),
        )
    console.print(table)


def print_worth(results: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print what the search gains."""
    table = _make_table(
        "what the search gains; time and training to the common hypervolume, plain = 1",
        ("use", "later", "hours", "training h", "HV", "time", "training", "bound", "rungs"),
    )
    for result in results:
        wrong = [f"{c['wrong']}/{c['stopped']}" for c in result["stopped"].values()]
        table.add_row(
            *_name(result),
            f"{result['utilisation_in_all']:.0%}",
            f"{result['utilisation']:.0%}",
            f"{result['makespan_hours']:.2f}",
            f"{result['training_hours']:.1f}",
            f"{result['hypervolume']:.4f}",
            *(_format_share(result[name]) for name in ("relative_time", "relative_training")),
            *wrong,
        )
    console.print(table)
    console.print("use: busy workers; later: from the end of the baselines on", highlight=False)
    console.print("bound, rungs: number wrongly stopped / number stopped", highlight=False)


def find_known_answers(arguments: Arguments) -> Iterator[dict[str, Any]]:
    """Optimise every test problem with the sampler, with NSGA-II and at random.

    A sampler that normally sees only a part of the history (`search.proposing.bounded_history`)
    also runs with the whole history.
    """
    ways = dict.fromkeys((sampler, False) for sampler in (arguments.sampler, "nsga2", "random"))
    if arguments.sampler in BOUNDED:
        ways[arguments.sampler, True] = None
    for name, problem in PROBLEMS.items():
        for (sampler, sees_all), num_evaluations in product(ways, arguments.num_pipelines):
            started = time.process_time()
            reached = [
                measure(
                    name,
                    optimise(name, sampler, seed=seed, num_evaluations=num_evaluations,
                             sees_all=sees_all),
                )
                for seed in arguments.seeds
            ]  # fmt: skip
            seconds = time.process_time() - started
            yield {
                "problem": name,
                "sampler": f"{sampler}, whole history" if sees_all else sampler,
                "num_evaluations": num_evaluations,
                "hypervolume": reached,
                "known": problem.hypervolume,
                "cpu_ms": 1000 * seconds / len(reached) / num_evaluations,
            }


def print_known_answers(results: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the share of the known hypervolume that each sampler reached."""
    table = Table("problem", "sampler", title="hypervolume reached, as a share of the known one")
    for heading in ("evaluations", "mean", "lowest", "highest", "CPU ms each"):
        table.add_column(heading, justify="right")
    for result in results:
        shares = [value / result["known"] for value in result["hypervolume"]]
        numbers = (statistics.fmean(shares), min(shares), max(shares))
        table.add_row(
            result["problem"],
            result["sampler"],
            str(result["num_evaluations"]),
            *(f"{number:.3f}" for number in numbers),
            f"{result['cpu_ms']:.0f}",
        )
    console.print(table)


def _make_table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("pipelines/workers/seed", "method"):
        table.add_column(heading, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _name(result: Mapping[str, Any]) -> tuple[str, str]:
    setting = "/".join(str(result[name]) for name in ("num_pipelines", "num_workers", "seed"))
    return setting, str(result["method"])


def _format_share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"


def _peak_memory() -> int:
    """Get the peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
