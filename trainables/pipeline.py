"""The chain of stages of one pipeline, and what all pipelines of a study need first."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from models.checkpoint import load_checkpoint
from models.cost import count_cost
from trainables.artifacts.store import Artifact, ArtifactStore
from trainables.context import Progress, StageContext
from trainables.distillers import DistillerConfig
from trainables.learning.training import TrainConfig
from trainables.network_config import NetworkConfig
from trainables.pipeline_config import PipelineConfig, PipelineSettings
from trainables.stages import (
    DenseStage,
    DistilledStage,
    LatencyStage,
    Learning,
    PrunedStage,
    ReferenceStage,
    SparseStage,
    Stage,
)


class DatasetSummary(NamedTuple):
    """What a data set is, once every file of it has been read.

    Attributes:
        name: Key of `trainables.data.DATASETS`.
        num_classes: Number of classes.
        classes: Their names.
        resolution: Height and width of the first validation image.
    """

    name: str
    num_classes: int
    classes: tuple[str, ...]
    resolution: tuple[int, int]


class Baseline(NamedTuple):
    """An uncompressed network: the teacher, or the student before anything was taken away.

    Attributes:
        name: "teacher" or "dense".
        model: Key of `models.MODELS`.
        miou: In 0..1.
        latency_ms: Median.
        latency_p95_ms: 95th percentile.
        num_params: Parameters.
        macs: Multiply-accumulates at the validation resolution.
        stage: Folder in the store.
        latency_raw_ms: As in `StageResult`; None in the records of older versions.
        reference_ms: Likewise; None also without compensation of the machine's drift.
    """

    name: str
    model: str
    miou: float
    latency_ms: float
    latency_p95_ms: float
    num_params: int
    macs: int
    stage: str
    latency_raw_ms: float | None = None
    reference_ms: float | None = None


BASELINES = ("teacher", "dense")
"""Stages that all pipelines of a study share; both are measured as networks of their own."""

PATH = ("dense", "sparse", "pruned", "distilled")
"""The stages of a pipeline, root first."""

_SETTINGS = {
    "dense": (),
    "sparse": ("sparsity_lambda",),
    "pruned": ("sparsity_lambda", "pruning_ratio", "scope", "round_to"),
    "distilled": tuple(entry.name for entry in fields(PipelineSettings)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """What one stage, or a chain of them, brought to a pipeline.

    Attributes:
        metrics: Of the pruned stage: miou_pruned (before fine-tuning), latency_ms, latency_p95_ms,
            latency_raw_ms (as the clock showed it) and reference_ms (of the uncompressed student
            meanwhile, if the machine's drift is compensated), num_params, macs; of the distilled
            one: miou, and iou/<class> for every class that occurs.
        stages: Stage name -> folder in the store.
        seconds: Stage name -> seconds of work; 0 where the stage was reused.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __or__(self, later: StageResult) -> StageResult:
        """Merge with what a later stage brought."""
        return StageResult(
            metrics={**self.metrics, **later.metrics},
            stages={**self.stages, **later.stages},
            seconds={**self.seconds, **later.seconds},
        )


def get_prefix(settings: PipelineSettings, stage: str) -> tuple[Any, ...]:
    """Values of the settings that a stage depends on: equal ones mean one stage within a study.

    Args:
        settings: Of a pipeline.
        stage: One of `PATH`.
    """
    return tuple(getattr(settings, name) for name in _SETTINGS[stage])


def check_data(config: PipelineConfig, cache_dir: Path) -> DatasetSummary:
    """Read every image and label of both splits once, into the node's cache.

    Raises:
        DataError: Names the files that cannot be used.
        ValueError: A setting does not go with the number of classes.
    """
    data = config.data
    data.open_cached("train", cache_dir)
    validation = data.open_cached("val", cache_dir)
    config.teacher_logits.check_classes(validation.num_classes)
    return DatasetSummary(
        data.name,
        validation.num_classes,
        tuple(validation.classes),
        validation.sample_size(0),
    )


def build_teacher(config: PipelineConfig) -> DenseStage:
    """The stage that trains the teacher."""
    return _build_dense(config, config.teacher, config.teacher_training, "teacher")


def build_dense(config: PipelineConfig) -> DenseStage:
    """The stage that trains the student before compression."""
    return _build_dense(config, config.student, config.dense, "dense")


def build_stages(
    config: PipelineConfig, settings: PipelineSettings, *, fine_tuning_seed: int | None = None
) -> dict[str, Stage]:
    """The path of one pipeline through the tree of stages, root first.

    Args:
        config: What the study shares.
        settings: What this pipeline chooses.
        fine_tuning_seed: Seed of the distilled stage alone; default: that of all stages.
    """
    dense = build_dense(config)
    sparse = SparseStage(dense, settings.sparsity_lambda, _learning(config, config.sparse))
    pruned = PrunedStage(
        sparse, settings.pruning_ratio, settings.scope, settings.round_to, config.data
    )
    optimizer = replace(config.distil.optimizer, lr=settings.lr)
    fine_tuning = _learning(config, replace(config.distil, optimizer=optimizer))
    if fine_tuning_seed is not None:
        fine_tuning = replace(fine_tuning, seed=fine_tuning_seed)
    distiller = DistillerConfig(
        name=settings.distiller,
        temperature=settings.temperature,
        alpha=settings.alpha,
        beta=settings.beta,
        eta=settings.eta,
    )
    distilled = DistilledStage(
        pruned, build_teacher(config), distiller, fine_tuning, config.teacher_logits
    )
    return {"dense": dense, "sparse": sparse, "pruned": pruned, "distilled": distilled}


def run_baseline(
    name: str, config: PipelineConfig, store: ArtifactStore, context: StageContext
) -> Baseline:
    """Train the teacher or the dense student, or find it, and measure it.

    Args:
        name: One of `BASELINES`.
        config: What the study shares.
        store: Where artefacts lie.
        context: Machine, folders and progress report.

    Raises:
        TrainingDiverged: Its loss is no longer finite.
    """
    stage = build_teacher(config) if name == "teacher" else build_dense(config)
    artifact = stage.obtain(store, context)
    latency = _measure(artifact, config, store, context).result
    model = load_checkpoint(artifact.checkpoint)
    cost = count_cost(model, (3, *config.data.open("val").sample_size(0)))
    return Baseline(
        name=stage.name,
        model=stage.network.name,
        miou=artifact.result["miou"],
        **_name_latencies(latency),
        num_params=cost.num_params,
        macs=cost.macs,
        stage=artifact.folder.name,
    )


def run_stage(
    config: PipelineConfig,
    settings: PipelineSettings,
    name: str,
    store: ArtifactStore,
    context: StageContext,
    share: float = 1.0,
    *,
    fine_tuning_seed: int | None = None,
) -> StageResult:
    """Run one stage of a pipeline, or find it; stages before it that are missing are run too.

    Args:
        config: What the study shares.
        settings: What this pipeline chooses.
        name: One of `PATH`.
        store: Where artefacts lie.
        context: Machine, folders and progress report.
        share: Of the stage's work after which it pauses, within 0..1; the result has
            "miou@<share>" then. Only the distilled stage can pause.
        fine_tuning_seed: As in `build_stages`.

    Raises:
        TrainingDiverged: A loss is no longer finite.
        PruningError: A layer cannot be pruned.
        DataError: The data set cannot be used.
    """
    context.report(Progress(name, 0, 1))
    stage = build_stages(config, settings, fine_tuning_seed=fine_tuning_seed)[name]
    if share < 1:
        paused = stage.advance(store, context, share)
        return StageResult(
            metrics={f"miou@{share:g}": paused["miou"]}, seconds={name: paused["seconds"]}
        )
    artifact = stage.obtain(store, context)
    artifacts = {name: artifact}
    metrics: dict[str, float] = {}
    if name == "pruned":
        artifacts["latency"] = _measure(artifact, config, store, context)
        metrics = {
            "miou_pruned": artifact.result["miou"],
            **_name_latencies(artifacts["latency"].result),
            "num_params": artifact.result["num_params"],
            "macs": artifact.result["macs"],
        }
    elif name == "distilled":
        classes = artifact.result["iou"].items()
        metrics = {"miou": artifact.result["miou"]}
        metrics |= {f"iou/{label}": value for label, value in classes if value is not None}
    return StageResult(
        metrics=metrics,
        stages={key: found.folder.name for key, found in artifacts.items()},
        seconds={
            key: 0.0 if found.reused else found.result["seconds"]
            for key, found in artifacts.items()
        },
    )


def run_pipeline(
    config: PipelineConfig, settings: PipelineSettings, store: ArtifactStore, context: StageContext
) -> StageResult:
    """Run all stages of one pipeline, those that the store lacks; see `run_stage`."""
    results = (run_stage(config, settings, name, store, context) for name in PATH)
    return functools.reduce(operator.or_, results)


def _build_dense(
    config: PipelineConfig, network: NetworkConfig, training: TrainConfig, name: str
) -> DenseStage:
    return DenseStage(network, _learning(config, training), name=name)


def _learning(config: PipelineConfig, training: TrainConfig) -> Learning:
    return Learning(data=config.data, training=training, seed=config.seed)


def _measure(
    artifact: Artifact, config: PipelineConfig, store: ArtifactStore, context: StageContext
) -> Artifact:
    images = config.data.open("val")
    latency, device = config.latency, context.device
    resolution = latency.resolution or images.sample_size(0)
    reference = None
    if latency.compensate_drift:
        classes = images.num_classes
        reference = ReferenceStage(config.student, classes, resolution, latency, device)
    stage = LatencyStage(artifact.checkpoint, resolution, latency, device, reference)
    context.report(Progress(stage.name, 0, 1))
    return stage.obtain(store, context)


def _name_latencies(result: Mapping[str, Any]) -> dict[str, float]:
    """What a measurement found, by the names of a pipeline's metrics."""
    found = {
        "latency_ms": result["median_ms"],
        "latency_p95_ms": result["p95_ms"],
        "latency_raw_ms": result["raw_ms"],
        "reference_ms": result["reference_ms"],
    }
    return {name: value for name, value in found.items() if value is not None}
