"""The chain of stages of one pipeline, and what all pipelines of a study need first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from models.checkpoint import load_checkpoint
from models.cost import count_cost
from trainables.context import Progress, StageContext
from trainables.data_source import DataConfig
from trainables.distillers import DistillerConfig
from trainables.network_config import NetworkConfig
from trainables.pipeline_config import PipelineConfig, PipelineSettings
from trainables.stages import (
    DenseStage,
    DistilledStage,
    LatencyStage,
    Learning,
    PrunedStage,
    SparseStage,
    Stage,
)
from trainables.store import Artifact, ArtifactStore
from trainables.training import TrainConfig


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
    """

    name: str
    model: str
    miou: float
    latency_ms: float
    latency_p95_ms: float
    num_params: int
    macs: int
    stage: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineResult:
    """What came of one pipeline.

    Attributes:
        metrics: miou, miou_pruned (before fine-tuning), latency_ms, latency_p95_ms, num_params,
            macs, and iou/<class> for every class that occurs.
        stages: Stage name -> folder in the store.
        seconds: Stage name -> seconds of work that this pipeline paid for; 0 where it was reused.
    """

    metrics: dict[str, float]
    stages: dict[str, str]
    seconds: dict[str, float]


def check_data(config: DataConfig, cache_dir: Path) -> DatasetSummary:
    """Read every image and label of both splits once, into the node's cache.

    Raises:
        DataError: Names the files that cannot be used.
    """
    config.open_cached("train", cache_dir)
    validation = config.open_cached("val", cache_dir)
    return DatasetSummary(
        config.name,
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


def build_stages(config: PipelineConfig, settings: PipelineSettings) -> dict[str, Stage]:
    """The path of one pipeline through the tree of stages, root first.

    Args:
        config: What the study shares.
        settings: What this pipeline chooses.
    """
    dense = build_dense(config)
    sparse = SparseStage(dense, settings.sparsity_lambda, _learning(config, config.sparse))
    pruned = PrunedStage(
        sparse, settings.pruning_ratio, settings.scope, settings.round_to, config.data
    )
    optimizer = replace(config.distil.optimizer, lr=settings.lr)
    distiller = DistillerConfig(
        name=settings.distiller,
        temperature=settings.temperature,
        alpha=settings.alpha,
        beta=settings.beta,
        eta=settings.eta,
    )
    distilled = DistilledStage(
        pruned,
        build_teacher(config),
        distiller,
        _learning(config, replace(config.distil, optimizer=optimizer)),
    )
    return {"dense": dense, "sparse": sparse, "pruned": pruned, "distilled": distilled}


def run_teacher(config: PipelineConfig, store: ArtifactStore, context: StageContext) -> Baseline:
    """Train the teacher, or find it, and measure it.

    Raises:
        TrainingDiverged: Its loss is no longer finite.
    """
    return _measure_baseline(build_teacher(config), config, store, context)


def run_dense(config: PipelineConfig, store: ArtifactStore, context: StageContext) -> Baseline:
    """Train the uncompressed student, or find it, and measure it.

    Raises:
        TrainingDiverged: Its loss is no longer finite.
    """
    return _measure_baseline(build_dense(config), config, store, context)


def run_pipeline(
    config: PipelineConfig, settings: PipelineSettings, store: ArtifactStore, context: StageContext
) -> PipelineResult:
    """Run the stages of one pipeline; those that the store holds are reused.

    Args:
        config: What the study shares.
        settings: What this pipeline chooses.
        store: Where artefacts lie.
        context: Machine, folders and progress report.

    Raises:
        TrainingDiverged: A loss is no longer finite.
        PruningError: A layer cannot be pruned.
        DataError: The data set cannot be used.
    """
    artifacts: dict[str, Artifact] = {}
    for name, stage in build_stages(config, settings).items():
        context.report(Progress(name, 0, 1))
        artifacts[name] = stage.obtain(store, context)
        if name == "pruned":
            artifacts["latency"] = _measure(artifacts[name], config, store, context)
    pruned, latency = artifacts["pruned"].result, artifacts["latency"].result
    distilled = artifacts["distilled"].result
    metrics = {
        "miou": distilled["miou"],
        "miou_pruned": pruned["miou"],
        "latency_ms": latency["median_ms"],
        "latency_p95_ms": latency["p95_ms"],
        "num_params": pruned["num_params"],
        "macs": pruned["macs"],
    }
    for label, value in distilled["iou"].items():
        if value is not None:
            metrics[f"iou/{label}"] = value
    return PipelineResult(
        metrics=metrics,
        stages={name: artifact.folder.name for name, artifact in artifacts.items()},
        seconds={
            name: 0.0 if artifact.reused else artifact.result["seconds"]
            for name, artifact in artifacts.items()
        },
    )


def _build_dense(
    config: PipelineConfig, network: NetworkConfig, training: TrainConfig, name: str
) -> DenseStage:
    return DenseStage(network, _learning(config, training), name=name)


def _learning(config: PipelineConfig, training: TrainConfig) -> Learning:
    return Learning(data=config.data, training=training, seed=config.seed)


def _measure(
    artifact: Artifact, config: PipelineConfig, store: ArtifactStore, context: StageContext
) -> Artifact:
    resolution = config.data.open("val").sample_size(0)
    stage = LatencyStage(artifact.checkpoint, resolution, config.latency, context.device)
    context.report(Progress(stage.name, 0, 1))
    return stage.obtain(store, context)


def _measure_baseline(
    stage: DenseStage, config: PipelineConfig, store: ArtifactStore, context: StageContext
) -> Baseline:
    artifact = stage.obtain(store, context)
    latency = _measure(artifact, config, store, context).result
    model = load_checkpoint(artifact.checkpoint)
    cost = count_cost(model, (3, *config.data.open("val").sample_size(0)))
    return Baseline(
        name=stage.name,
        model=stage.network.name,
        miou=artifact.result["miou"],
        latency_ms=latency["median_ms"],
        latency_p95_ms=latency["p95_ms"],
        num_params=cost.num_params,
        macs=cost.macs,
        stage=artifact.folder.name,
    )
