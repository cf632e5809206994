"""The thin Ray adapter: a Tune trial runs one stage of a pipeline, or a baseline."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray import tune

from models.pruning import PruningError
from trainables.context import Progress, StageContext
from trainables.device_lock import DeviceLock
from trainables.pipeline import BASELINES, run_baseline, run_stage
from trainables.pipeline_config import PipelineConfig, PipelineSettings
from trainables.store import ArtifactStore

logger = logging.getLogger(__name__)

# Equal input raises these again, so Tune must not retry them.
DETERMINISTIC_ERRORS = (ValueError, ArithmeticError, PruningError)
REPORT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """What every worker needs to know besides the pipeline.

    Attributes:
        stages_dir: Folder of the artefact store.
        cache_dir: Folder of the decoded images.
        checkpoint_seconds: Most work that a killed worker loses.
        device: Torch device.
        num_threads: CPU threads by stage.
        num_workers: Processes that load data.
    """

    stages_dir: Path
    cache_dir: Path
    checkpoint_seconds: float
    device: str
    num_threads: Mapping[str, int]
    num_workers: int = 0


def make_trainable(
    config: PipelineConfig, workplace: Workplace
) -> Callable[[dict[str, Any]], None]:
    """Make the function that Tune runs.

    Its config holds "stage", the pipeline's "settings" (empty for a baseline) and the "share" of
    the stage's work after which it pauses. It reports progress, and at the end "outcome"
    ("complete" or "failed") with the result or the reason.

    Args:
        config: What all pipelines share.
        workplace: Folders and threads.
    """

    def run_trial(trial: dict[str, Any]) -> None:
        stage = trial["stage"]
        context = StageContext(
            cache_dir=workplace.cache_dir,
            device=workplace.device,
            num_threads=workplace.num_threads[stage],
            num_workers=workplace.num_workers,
            checkpoint_seconds=workplace.checkpoint_seconds,
            report=Reporter(),
            device_lock=DeviceLock(workplace.device),
        )
        store = ArtifactStore(workplace.stages_dir)
        try:
            if stage in BASELINES:
                baseline = run_baseline(stage, config, store, context)
                tune.report({"outcome": "complete", "baseline": baseline._asdict()})
                return
            settings = PipelineSettings(**trial["settings"])
            result = run_stage(config, settings, stage, store, context, trial["share"])
        except DETERMINISTIC_ERRORS as error:
            logger.exception("%s failed", stage)
            tune.report({"outcome": "failed", "reason": describe_error(error)})
            return
        tune.report({"outcome": "complete", **asdict(result)})

    return run_trial


def describe_error(error: BaseException) -> str:
    """One line: the kind of error and its message."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class Reporter:
    """Passes progress on to Tune: every new stage, else at most once a second."""

    def __init__(self) -> None:
        self._stage = ""
        self._reported = 0.0

    def __call__(self, progress: Progress) -> None:
        """Report, or drop what comes too soon."""
        now = time.monotonic()
        if progress.stage == self._stage and now - self._reported < REPORT_SECONDS:
            return
        self._stage, self._reported = progress.stage, now
        tune.report({"progress": progress._asdict()})
