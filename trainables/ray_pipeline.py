"""The thin Ray adapter: a Tune trial runs one stage of a pipeline, or a baseline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.result import TIMESTEPS_TOTAL
from ray.tune.trainable import wrap_function

from models.pruning import PruningError
from trainables.artifacts.store import open_store
from trainables.chain import Chain, Step
from trainables.context import Progress, StageContext
from trainables.data import DataError
from trainables.pipeline import run_stage
from trainables.pipeline_config import PipelineConfig
from trainables.process.device_lock import DeviceLock
from trainables.process.installation import Installation, check_installation
from trainables.process.memory import keep_freed_memory
from trainables.process.shipped_code import ShippedCode, check_user_code
from trainables.process.stage_errors import blaming
from trainables.process.watchdog import waiting, watched
from trainables.ray_internals import set_process_title
from trainables.settings import flatten, restore
from trainables.stages import STAGES

logger = logging.getLogger(__name__)

# Equal input raises these again, so Tune must not retry them.
DETERMINISTIC_ERRORS = (ValueError, ArithmeticError, PruningError)
REPORT_SECONDS = 1.0
LOGGED_PACKAGES = ("models", "trainables")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """What every worker needs to know besides the pipeline.

    Attributes:
        stages_dir: Folder of the artefact store.
        remote_store: URI of the artefacts where they lie in storage; None: all nodes share their
            folder.
        installation: That every worker must have; None where nobody can have another.
        user_code: Code of the networks that are the user's own, for machines that lack it.
        stalls_dir: Folder for what is known of stages that hung.
        cache_dir: Folder of the decoded images.
        checkpoint_seconds: Most work that a killed worker loses.
        device: Torch device.
        num_threads: CPU threads of a pipeline's stage.
        num_threads_root: CPU threads of the training of teacher or dense student.
        stall_seconds: Longest time without progress, after which the worker is killed; None or 0:
            no limit.
        num_workers: Processes that load data.
    """

    stages_dir: Path
    stalls_dir: Path
    cache_dir: Path
    checkpoint_seconds: float
    device: str
    num_threads: int
    num_threads_root: int
    stall_seconds: float | None = None
    num_workers: int = 0
    remote_store: str | None = None
    installation: Installation | None = None
    user_code: ShippedCode = field(default_factory=ShippedCode)


def make_trainable(
    config: PipelineConfig, workplace: WorkerConfig
) -> Callable[[dict[str, Any]], None]:
    """Make the function that Tune runs.

    Its config is what `describe_task` makes. It reports progress, and at the end "outcome"
    ("complete" or "failed") with the result or the reason; with both, in "remarks", what has been
    logged for the user meanwhile, a line each.

    Args:
        config: What all pipelines share.
        workplace: Folders and threads.
    """

    def run_trial(trial: dict[str, Any]) -> None:
        keep_freed_memory()
        stalls = stall_report(workplace.stalls_dir, trial)
        with (
            LogCollector() as remarks,
            blaming(trial["chain"][-1][0], workplace.device),
            watched(workplace.stall_seconds, stalls),
        ):
            if workplace.installation is not None:  # a node may have joined after the start
                check_installation(workplace.installation)
                check_user_code(workplace.user_code, workplace.cache_dir)
            report = Reporter(remarks)
            outcome = _run(config, workplace, trial, report)
        tune.report({**outcome, "remarks": remarks.take(), TIMESTEPS_TOTAL: report.step})

    return run_trial


def with_names(
    run_trial: Callable[[dict[str, Any]], None],
    resources: Callable[[dict[str, Any]], tune.PlacementGroupFactory],
) -> type[tune.Trainable]:
    """Give Tune's actors readable names, for the dashboard and `ps`.

    The class is named `PipelineStage`, and every process like the stage that it computes; Ray's own
    title of an actor's process names the method that it runs, which is "train" for all.

    Args:
        run_trial: From `make_trainable`.
        resources: What a trial needs, from its config; as for `tune.with_resources`.
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
    chain: Chain, label: str, share: float = 1.0, fine_tuning_seed: int | None = None
) -> dict[str, Any]:
    """Describe a trial as Tune hands it to its worker: plain lists, dicts, texts and numbers.

    Args:
        chain: The pipeline up to the stage that is to run.
        label: For people.
        share: Of the stage's work after which it pauses; 1: at its end.
        fine_tuning_seed: Seed of the last training alone; None: that of the study.
    """
    return {
        "chain": [[step.stage, flatten(step.settings)] for step in chain],
        "label": label,
        "share": share,
        "fine_tuning_seed": fine_tuning_seed,
    }


def read_chain(trial: Mapping[str, Any]) -> Chain:
    """The pipeline up to the stage that a trial runs, from its config."""
    return tuple(Step(name, restore(STAGES[name].Settings, own)) for name, own in trial["chain"])


def is_root(trial: Mapping[str, Any]) -> bool:
    """Whether a trial trains the teacher or an uncompressed student, before all pipelines."""
    return len(trial["chain"]) == 1


def name_trial(trial: Mapping[str, Any]) -> str:
    """Name of a trial in Tune's tables and in files, from its config."""
    return str(trial["label"]).replace(" ", "-")


def stall_report(stalls_dir: Path, trial: Mapping[str, Any]) -> Path:
    """File that says why the watchdog killed a trial's worker."""
    return stalls_dir / f"{name_trial(trial)}.txt"


def _run(
    config: PipelineConfig, workplace: WorkerConfig, trial: Mapping[str, Any], report: Reporter
) -> dict[str, Any]:
    """Do the work of a trial; returns its last report."""
    chain = read_chain(trial)
    stage = chain[-1].stage
    store = open_store(workplace.stages_dir, workplace.remote_store)
    context = StageContext(
        cache_dir=workplace.cache_dir,
        device=workplace.device,
        num_threads=workplace.num_threads_root if is_root(trial) else workplace.num_threads,
        num_workers=workplace.num_workers,
        checkpoint_seconds=workplace.checkpoint_seconds,
        report=report,
        keep_state=store.keep_state,
        device_lock=DeviceLock(workplace.device),
    )
    try:
        seed = trial["fine_tuning_seed"]
        result = run_stage(config, chain, store, context, trial["share"], fine_tuning_seed=seed)
    except DataError:
        raise  # no fault of the settings
    except DETERMINISTIC_ERRORS as error:
        logger.exception("%s failed", stage)
        return {"outcome": "failed", "reason": describe_error(error)}
    return {"outcome": "complete", **asdict(result)}


def describe_error(error: BaseException) -> str:
    """One line: the kind of error and its message."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class LogCollector(logging.Handler):
    """Collects what the project logs in its `with` block, for a user who sees no worker's log."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record, unless it has a traceback, whose reason is the stage's outcome."""
        if not record.exc_info:
            self._lines.append(" ".join(record.getMessage().split()))

    def take(self) -> str:
        """What has come since the last time, a line each."""
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
    """Passes progress on to Tune: every new stage and every accuracy, else at most once a second.

    Args:
        remarks: Are passed on with it.

    Attributes:
        step: Of the training, as of its last loss: where TensorBoard draws what is reported.
    """

    def __init__(self, remarks: LogCollector) -> None:
        self.step = 0
        self._remarks = remarks
        self._stage = ""
        self._reported = 0.0

    def __call__(self, progress: Progress) -> None:
        """Report, or drop what comes too soon."""
        if progress.loss is not None:
            self.step = progress.step
        now = time.monotonic()
        is_due = progress.stage != self._stage or now - self._reported >= REPORT_SECONDS
        if progress.miou is None and not is_due:
            return
        self._stage, self._reported = progress.stage, now
        with waiting():  # for the driver, which may be busy
            tune.report(
                {
                    "progress": progress._asdict(),
                    "remarks": self._remarks.take(),
                    TIMESTEPS_TOTAL: self.step,
                }
            )
