"""A running study in numbers for Ray's metrics: Prometheus reads them, Grafana draws them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import ray
from ray.util.metrics import Gauge

from search.pipelines.confirmation import Confirmation
from search.pipelines.dispatcher import Dispatcher
from search.run_files.progress import ProgressBoard
from search.run_files.stage_use import (
    PipelineStages,
    StageFacts,
    StageUse,
    count_use,
    read_stage_facts,
)
from trainables.artifacts.remote_stages import STAGES_FOLDER, RemoteStages

logger = logging.getLogger(__name__)

# Ray exports every 10 s what was set since, and forgets the rest.
SET_SECONDS = 4.0

STUDY_TAGS = ("recipe", "run")
"""Tags of every metric: the study's recipe and the name of the run's folder."""


class Description(NamedTuple):
    """What a metric is.

    Attributes:
        text: In words.
        tags: Beside `STUDY_TAGS`.
    """

    text: str
    tags: tuple[str, ...] = ()


METRICS = {
    "segfront_hypervolume": Description("Share of the reference box that the front dominates"),
    "segfront_front_size": Description("Networks on the front"),
    "segfront_best_miou": Description("Best validation mIoU of a finished pipeline, in 0..1"),
    "segfront_pipelines": Description("Pipelines by state", ("state",)),
    "segfront_stages": Description(
        "Finished stages and retrainings of the front, and the times that a pipeline had a stage "
        "without computing it",
        ("stage", "outcome"),
    ),
    "segfront_seconds_spent": Description(
        "Seconds of work in the stages of pipelines and in retrainings", ("stage", "device")
    ),
    "segfront_seconds_saved": Description(
        "Seconds of the stages that pipelines had without computing them", ("stage", "device")
    ),
    "segfront_teacher_cache": Description(
        "Finished distillations that found the teacher's logits on their node, or computed them",
        ("outcome",),
    ),
}
"""All metrics, by the name that Ray puts "ray_" before.

They are gauges, the sums among them too: they hold for the study over all of its sessions, and end
with its driver, where a counter would begin at 0 in each session and stay when the run is over.
"""


class Sample(NamedTuple):
    """One number to export.

    Attributes:
        name: Key of `METRICS`.
        value: The number.
        tags: A value for each of the metric's own tags.
    """

    name: str
    value: float
    tags: Mapping[str, str] = {}


def measure_front(board: ProgressBoard) -> Iterator[Sample]:
    """Say how far a study is; numbers that are not known yet are left out."""
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
    """Say what a study's stages took.

    Args:
        use: Of the stages.
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
    """Exports a study's numbers from the driver, as long as it runs.

    Args:
        board: Kept up to date by others.
        dispatcher: Knows the pipelines that are on their way.
        run_dir: Folder of the run; its name tags every number.
        device: Torch device of the trials.
        confirmation: Retrainings of the front; none without it.
        remote: The stages in storage, if the run lies there.
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
        self._was_set: float | None = None
        self._has_failed = False

    def tick(self) -> None:
        """Set all numbers if it is time to; a failure is logged once and never raised."""
        now = time.monotonic()
        if self._was_set is not None and now - self._was_set < SET_SECONDS:
            return
        self._was_set = now
        try:
            self._set()
        except Exception:  # whatever it is, the run is worth more than its numbers
            if not self._has_failed:
                logger.exception("the metrics could not be exported; the run goes on")
            self._has_failed = True

    def _set(self) -> None:
        self._export(measure_front(self._board))  # whatever may be amiss with the store below
        records = self._board.study.records.values()
        pipelines: list[PipelineStages] = [(entry.stages, entry.seconds) for entry in records]
        pipelines += [(entry.stages, entry.seconds) for entry in self._dispatcher.open_results]
        if self._confirmation is not None:
            pipelines += self._confirmation.stages
        baselines = {role: entry.stage for role, entry in self._dispatcher.baselines.items()}
        use = count_use(pipelines, baselines, self._read_facts)
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
            path = self._stages_dir / folder
            if self._remote is None or path.is_dir():
                self._facts[folder] = read_stage_facts(path)
            else:
                with TemporaryDirectory() as scratch:
                    self._remote.fetch_record(folder, Path(scratch))
                    self._facts[folder] = read_stage_facts(Path(scratch))
        return self._facts[folder]


def metrics_address() -> str:
    """HOST:PORT of the driver's node, where /metrics answers, in a Ray session; "" if it does not.

    Ray chooses the port, and listens on 127.0.0.1 alone where the node's own address is that.
    """
    own = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["NodeID"] == own and node["MetricsExportPort"] > 0:
            return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    return ""
