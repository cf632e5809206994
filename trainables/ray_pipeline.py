"""The thin Ray adapter: a Tune trial runs one stage of a pipeline, or a baseline."""

from __future__ import annotations

import functools
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.result import TIMESTEPS_TOTAL
from ray.tune.trainable import wrap_function

from models.engines import EngineError
from models.pruning import PruningError
from models.quantization import QuantizationError
from models.timing.host import HostError
from trainables.artifacts.store import open_store
from trainables.chain import Chain, Step
from trainables.context import Progress, StageContext
from trainables.data import DataError
from trainables.pipeline import build_stages, run_stage
from trainables.pipeline_config import PipelineConfig
from trainables.process.device_lock import DeviceLock
from trainables.process.installation import Installation, check_installation
from trainables.process.memory import keep_freed_memory
from trainables.process.shipped_code import ShippedCode, check_user_code
from trainables.process.watchdog import waiting, watched
from trainables.ray_helpers import helped
from trainables.ray_internals import set_process_title
from trainables.settings import flatten, restore
from trainables.stages import STAGES, NetworkStage
from trainables.stages.deployed_file import ParityError
from trainables.stages.stage_errors import blaming

logger = logging.getLogger(__name__)

# Equal input raises these again, so Tune must not retry them.
DETERMINISTIC_ERRORS = (
    ValueError, ArithmeticError, PruningError, QuantizationError, ParityError, EngineError,
)  # fmt: skip
REPORT_SECONDS = 1.0
LOGGED_PACKAGES = ("models", "trainables")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """Configuration of every worker, besides the pipeline.

    Attributes:
        stages_dir: Folder of the artefact store.
        remote_store: URI of the artefacts if they are in remote storage; None: all nodes share
            `stages_dir`.
        installation: Installation that every worker must have; None if there is only one.
        user_code: Code of the user's own networks, for machines that lack it.
        stalls_dir: Folder for the reports on stages that hung.
        cache_dir: Folder of the decoded images.
        checkpoint_seconds: Largest loss of work when a worker is killed, in seconds.
        device: Torch device.
        num_threads: Number of CPU threads of each process of a pipeline's stage.
        num_threads_root: Number of CPU threads of each process that trains a root.
        uses_threads: Whether a training on several places has as many times these threads, in one
            process; else it has a process on each place.
        stall_seconds: Time without progress after which the worker is killed; None or 0: no limit.
        num_workers: Number of processes that load data.
    """

    stages_dir: Path
    stalls_dir: Path
    cache_dir: Path
    checkpoint_seconds: float
    device: str
    num_threads: int
    num_threads_root: int
    uses_threads: bool = False
    stall_seconds: float | None = None
    num_workers: int = 0
    remote_store: str | None = None
    installation: Installation | None = None
    user_code: ShippedCode = field(default_factory=ShippedCode)


def make_trainable(
    config: PipelineConfig, worker: WorkerConfig
) -> Callable[[dict[str, Any]], None]:
    """Make the function that Tune runs.

    Its config comes from `describe_task`. It reports progress, and at the end "outcome" ("complete"
    or "failed") with the result or the reason. Every report has the lines logged since the last one
    in "messages".

    Args:
        config: Configuration of the study.
        worker: Configuration of the worker.
    """

    def run_trial(trial: dict[str, Any]) -> None:
        keep_freed_memory()
        stalls = stall_report(worker.stalls_dir, trial)
        with (
            LogCollector() as messages,
            blaming(trial["chain"][-1][0], worker.device),
            watched(worker.stall_seconds, stalls),
        ):
            _check_node(worker)
            report = Reporter(messages)
            outcome = _run(config, worker, trial, report)
        tune.report({**outcome, "messages": messages.take(), TIMESTEPS_TOTAL: report.step})

    return run_trial


def with_names(
    run_trial: Callable[[dict[str, Any]], None],
    resources: Callable[[dict[str, Any]], tune.PlacementGroupFactory],
) -> type[tune.Trainable]:
    """Give Tune's actors readable names, for the dashboard and `ps`.

    The class is named `PipelineStage`, and every process has the name of the stage that it runs. By
    default Ray names the process of an actor after its method, which is "train" for all of them.

    Args:
        run_trial: Function from `make_trainable`.
        resources: Function that returns the resources of a trial from its config, as for
            `tune.with_resources`.
    """

    class PipelineStage(wrap_function(run_trial)):  # type: ignore[misc]
        @classmethod
        def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
            return resources(config)

        def train(self) -> Any:
            set_process_title(f"ray::{name_trial(self.config)}")
            return super().train()

    PipelineStage.__qualname__ = PipelineStage.__name__
    return PipelineStage


def describe_task(
    chain: Chain,
    label: str,
    share: float = 1.0,
    fine_tuning_seed: int | None = None,
    *,
    places: int = 1,
    is_ahead: bool = False,
) -> dict[str, Any]:
    """Describe a trial as Tune passes it to its worker: plain lists, dicts, texts and numbers.

    Args:
        chain: The pipeline up to the stage to run.
        label: Name for the user.
        share: Fraction of the stage's work after which it pauses; 1: no pause.
        fine_tuning_seed: Seed of the last training only; None: that of the study.
        places: Number of places that a pipeline's training takes, each as large as one stage.
        is_ahead: Whether to do only what needs no stage before it, see `Stage.prepare`.
    """
    return {
        "chain": [[step.stage, flatten(step.settings)] for step in chain],
        "label": label,
        "share": share,
        "fine_tuning_seed": fine_tuning_seed,
        "places": places,
        "is_ahead": is_ahead,
    }


def read_chain(trial: Mapping[str, Any]) -> Chain:
    """Return the pipeline up to the stage that a trial runs, from its config."""
    return tuple(Step(name, restore(STAGES[name].Settings, own)) for name, own in trial["chain"])


def is_root(trial: Mapping[str, Any]) -> bool:
    """Return whether a trial trains the teacher or an uncompressed student."""
    return len(trial["chain"]) == 1


def name_trial(trial: Mapping[str, Any]) -> str:
    """Return the name of a trial in Tune's tables and in files, from its config."""
    return str(trial["label"]).replace(" ", "-")


def stall_report(stalls_dir: Path, trial: Mapping[str, Any]) -> Path:
    """Return the file in which the watchdog explains why it killed a trial's worker."""
    return stalls_dir / f"{name_trial(trial)}.txt"


def _check_node(worker: WorkerConfig) -> None:
    """Check that this node, which may have joined after the start, has the driver's code."""
    if worker.installation is not None:
        check_installation(worker.installation)
        check_user_code(worker.user_code, worker.cache_dir)


def _describe_place(worker: WorkerConfig, trial: Mapping[str, Any]) -> StageContext:
    """Describe this node to a stage of a trial."""
    num_threads = worker.num_threads * (trial["places"] if worker.uses_threads else 1)
    return StageContext(
        cache_dir=worker.cache_dir,
        device=worker.device,
        num_threads=worker.num_threads_root if is_root(trial) else num_threads,
        num_workers=worker.num_workers,
        device_lock=DeviceLock(worker.device),
    )


def _assist(config: PipelineConfig, worker: WorkerConfig, trial: Mapping[str, Any]) -> None:
    """Compute the stage of a trial together with its worker, which reports and keeps the result."""
    keep_freed_memory()
    chain = read_chain(trial)
    report = stall_report(worker.stalls_dir, trial)
    name = f"{report.stem}-{socket.gethostname()}-{os.getpid()}{report.suffix}"
    with (
        blaming(chain[-1].stage, worker.device),
        watched(worker.stall_seconds, report.with_name(name)),
    ):
        _check_node(worker)
        stage = build_stages(config, chain, fine_tuning_seed=trial["fine_tuning_seed"])[-1]
        assert isinstance(stage, NetworkStage)  # noqa: S101 - no other stage trains
        context = replace(_describe_place(worker, trial), checkpoint_seconds=math.inf)
        store = open_store(worker.stages_dir, worker.remote_store)
        stage.assist(store, context, trial["share"])


def _run(
    config: PipelineConfig, worker: WorkerConfig, trial: Mapping[str, Any], report: Reporter
) -> dict[str, Any]:
    """Run a trial and return its last report."""
    chain = read_chain(trial)
    stage = chain[-1].stage
    store = open_store(worker.stages_dir, worker.remote_store)
    started = time.monotonic()

    @contextmanager
    def helpers() -> Iterator[None]:
        nonlocal started
        assist = functools.partial(_assist, config, worker, trial)
        with helped(assist, name_trial(trial), stall_report(worker.stalls_dir, trial)):
            started = time.monotonic()  # the start-up of the helper processes does not count
            yield

    context = replace(
        _describe_place(worker, trial),
        checkpoint_seconds=worker.checkpoint_seconds,
        report=report,
        keep_state=store.keep_state,
        helpers=helpers,
    )
    try:
        seed = trial["fine_tuning_seed"]
        result = run_stage(
            config,
            chain,
            store,
            context,
            trial["share"],
            fine_tuning_seed=seed,
            is_ahead=trial["is_ahead"],
        )
    except (DataError, HostError):
        raise  # not caused by the settings
    except DETERMINISTIC_ERRORS as error:
        logger.exception("%s failed", stage)
        return {"outcome": "failed", "reason": describe_error(error)}
    result = replace(result, elapsed=time.monotonic() - started)
    return {"outcome": "complete", **asdict(result)}


def describe_error(error: BaseException) -> str:
    """Return the kind of error and its message in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class LogCollector(logging.Handler):
    """Collects the project's log messages in its `with` block, so that the driver can show them."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a record, unless it has a traceback, whose reason is the stage's outcome."""
        if not record.exc_info:
            self._lines.append(" ".join(record.getMessage().split()))

    def take(self) -> str:
        """Return the messages since the last call, one per line."""
        lines, self._lines = self._lines, []
        return "\n".join(lines)

    def __enter__(self) -> LogCollector:
        for package in LOGGED_PACKAGES:
            logging.getLogger(package).addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        for package in LOGGED_PACKAGES:
            logging.getLogger(package).removeHandler(self)


class Reporter:
    """Reports progress to Tune: every new stage and accuracy, otherwise at most once a second.

    The start of the first stage is not reported: the driver knows it, and for a stage that is found
    in the store, a report takes as long as all else.

    Args:
        messages: Collected messages, which are reported with the progress.

    Attributes:
        step: Step of the training at its last loss, which is TensorBoard's x axis.
    """

    def __init__(self, messages: LogCollector) -> None:
        self.step = 0
        self._messages = messages
        self._stage = ""
        self._reported = 0.0

    def __call__(self, progress: Progress) -> None:
        """Report the progress, or drop it if the last report was too recent."""
        if progress.loss is not None:
            self.step = progress.step
        now = time.monotonic()
        if not self._stage and not progress.step:
            self._stage, self._reported = progress.stage, now
        is_due = progress.stage != self._stage or now - self._reported >= REPORT_SECONDS
        if progress.miou is None and not is_due:
            return
        self._stage, self._reported = progress.stage, now
        with waiting():  # the driver may be busy
            tune.report(
                {
                    "progress": progress._asdict(),
                    "messages": self._messages.take(),
                    TIMESTEPS_TOTAL: self.step,
                }
            )
