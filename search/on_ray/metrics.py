"""Exports the numbers of a running study as Ray metrics, which Prometheus and Grafana read."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import ray
from ray.util.metrics import Gauge

from search.pipelines.confirmation import Confirmation
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.stage_use import (
    PipelineStages,
    StageFacts,
    StageUse,
    count_use,
    read_stage_facts,
)
from search.run_files.progress import ProgressBoard
from trainables.artifacts.remote_stages import STAGES_FOLDER, RemoteStages

logger = logging.getLogger(__name__)

# Every 10 s Ray exports the values set since the last export and drops all others.
SET_SECONDS = 4.0

STUDY_TAGS = ("recipe", "run")
"""Tags that every metric has: the study's recipe and the name of the run's folder."""


class Description(NamedTuple):
    """Description of a metric.

    Attributes:
        text: Help text.
        tags: Names of the tags beside `STUDY_TAGS`.
    """

    text: str
    tags: tuple[str, ...] = ()


METRICS = {
    "segfront_hypervolume": Description("Share of the reference box that the front dominates"),
    "segfront_front_size": Description("Networks on the front"),
    "segfront_best_miou": Description("Best validation mIoU of a finished pipeline, in 0..1"),
    "segfront_pipelines": Description("Pipelines by state", ("state",)),
    "segfront_stages": Description(
        "Finished stages (retrainings of the front included) that were computed, and the number of "
        "times that a pipeline reused one",
        ("stage", "outcome"),
    ),
    "segfront_seconds_spent": Description(
        "Seconds of work in the stages of pipelines and in retrainings", ("stage", "device")
    ),
    "segfront_seconds_saved": Description(
        "Seconds of work that pipelines saved by reusing stages", ("stage", "device")
    ),
    "segfront_teacher_cache": Description(
        "Finished distillations that found the teacher's logits on their node, or computed them",
        ("outcome",),
    ),
}
"""All metrics by name; Ray adds the prefix "ray_".

All of them are gauges, even the sums: they count over all sessions of the study and disappear with
its driver. A counter would restart at 0 in each session and remain after the end of the run.
"""


class Sample(NamedTuple):
    """One number to export.

    Attributes:
        name: Key of `METRICS`.
        value: Value of the metric.
        tags: Value of each of the metric's own tags.
    """

    name: str
    value: float
    tags: Mapping[str, str] = {}


def measure_front(board: ProgressBoard) -> Iterator[Sample]:
    """Yield the size and quality of the front (if known) and the pipelines by state."""
    known = {
        "segfront_hypervolume": board.hypervolume,
        "segfront_front_size": board.front_size,
        "segfront_best_miou": board.best_miou,
    }
    yield from (Sample(name, value) for name, value in known.items() if value is not None)
    running = board.study.num_running
    states = {name: board.states[name] for name in ("complete", "failed", "stopped")}
    states |= {"running": running, "waiting": board.study.num_unfinished - running}
    for state, number in states.items():
        yield Sample("segfront_pipelines", number, {"state": state})


def measure_stages(use: StageUse, device: str) -> Iterator[Sample]:
    """Yield how many stages were computed and reused, and the seconds spent and saved.

    Args:
        use: Counts and seconds of the stages.
        device: Torch device of the trials.
    """
    for outcome, counts in (("computed", use.computed), ("reused", use.reused)):
        for stage, number in counts.items():
            yield Sample("segfront_stages", number, {"stage": stage, "outcome": outcome})
    kind = "cpu" if device == "cpu" else "gpu"
    for name, sums in (("spent", use.spent), ("saved", use.saved)):
        for stage, seconds in sums.items():
            yield Sample(f"segfront_seconds_{name}", seconds, {"stage": stage, "device": kind})
    for outcome in ("hit", "built"):
        yield Sample("segfront_teacher_cache", use.teacher_cache[outcome], {"outcome": outcome})


class StudyMetrics:
    """Exports a study's numbers from the driver while it runs.

    Args:
        board: Progress board; its owner keeps it up to date.
        dispatcher: Dispatcher that knows the running pipelines.
        run_dir: Folder of the run; its name is a tag of every metric.
        device: Torch device of the trials.
        confirmation: Retrainings of the front; None if there are none.
        remote: Stages in storage; None if the run is in a local folder.

    Attributes:
        saved_seconds: Seconds of all stages that pipelines reused instead of computing them.
    """

    def __init__(
        self,
        board: ProgressBoard,
        dispatcher: Dispatcher,
        run_dir: Path,
        device: str,
        confirmation: Confirmation | None = None,
        remote: RemoteStages | None = None,
    ) -> None:
        self._board = board
        self._dispatcher = dispatcher
        self._stages_dir = run_dir / STAGES_FOLDER
        self._remote = remote
        self._study_tags = {"recipe": board.study.config.recipe, "run": run_dir.absolute().name}
        self._device = device
        self._confirmation = confirmation
        self._gauges: dict[str, Gauge] = {}
        self._facts: dict[str, StageFacts] = {}
        self.saved_seconds = 0.0
        self._was_set: float | None = None
        self._has_failed = False

    def tick(self) -> None:
        """Export all numbers every `SET_SECONDS`; the first failure is logged, none is raised."""
        now = time.monotonic()
        if self._was_set is not None and now - self._was_set < SET_SECONDS:
            return
        self._was_set = now
        try:
            self._set()
        except Exception:  # no failure to export may end the run
            if not self._has_failed:
                logger.exception("the metrics could not be exported; the run continues")
            self._has_failed = True

    def _set(self) -> None:
        self._export(measure_front(self._board))  # first: reading the store below may fail
        records = self._board.study.records.values()
        pipelines: list[PipelineStages] = [(entry.stages, entry.seconds) for entry in records]
        pipelines += [(entry.stages, entry.seconds) for entry in self._dispatcher.open_results]
        if self._confirmation is not None:
            pipelines += self._confirmation.stages
        baselines = {role: entry.stage for role, entry in self._dispatcher.baselines.items()}
        use = count_use(pipelines, baselines, self._read_facts)
        self.saved_seconds = sum(use.saved.values())
        self._export(measure_stages(use, self._device))

    def _export(self, samples: Iterable[Sample]) -> None:
        for name, value, tags in samples:
            if name not in self._gauges:
                text, own_tags = METRICS[name]
                gauge = Gauge(name, text, tag_keys=(*STUDY_TAGS, *own_tags))
                self._gauges[name] = gauge.set_default_tags(self._study_tags)
            self._gauges[name].set(value, tags=dict(tags))

    def _read_facts(self, folder: str) -> StageFacts:
        if folder not in self._facts:
            try:
                self._facts[folder] = self._read_record(folder)
            except FileNotFoundError:
                if self._board.study.config.keep != "front":
                    raise
                # The end of an earlier session has deleted the stage.
                self._facts[folder] = StageFacts(self._charged.get(folder, 0.0))
        return self._facts[folder]

    def _read_record(self, folder: str) -> StageFacts:
        path = self._stages_dir / folder
        if self._remote is None or path.is_dir():
            return read_stage_facts(path)
        with TemporaryDirectory() as scratch:
            self._remote.fetch_record(folder, Path(scratch))
            return read_stage_facts(Path(scratch))

    @cached_property
    def _charged(self) -> dict[str, float]:
        """Seconds of each finished stage by folder: the pipeline that needed it first has them."""
        charged: dict[str, float] = {}
        for record in self._board.study.records.values():
            for stage, folder in record.stages.items():
                seconds = record.seconds.get(stage, 0.0)
                charged[folder] = max(charged.get(folder, 0.0), seconds)
        return charged


def metrics_address() -> str:
    """Return HOST:PORT of the driver's node, which serves /metrics; "" if it serves none.

    A Ray session must be open. Ray chooses the port. It listens on 127.0.0.1 only if that is the
    address of the node.
    """
    own = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["NodeID"] == own and node["MetricsExportPort"] > 0:
            return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    return ""
