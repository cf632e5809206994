"""Pipelines run stage by stage, and the uncompressed networks that they are compared with."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trainables.artifacts.store import ArtifactStore
from trainables.chain import Chain, build_chain
from trainables.context import Progress, StageContext
from trainables.data import check_splits
from trainables.pipeline_config import STUDENT, PipelineConfig
from trainables.process.shipped_code import ShippedCode, pack_code
from trainables.settings import NoSettings
from trainables.stages import STAGES, NetworkStage, Stage, StageInputs
from trainables.stages.consistency import ConsistencyStage, check_frames
from trainables.stages.teacher import TeacherStage


class DatasetSummary(NamedTuple):
    """What a data set is, once every file of it has been read.

    Attributes:
        name: Key of `trainables.data.DATASETS`.
        num_classes: Number of classes.
        classes: Their names.
        resolution: Height and width of most validation images, the first of equals.
        warnings: Plain sentences on what is doubtful about the data.
        class_counts: Split -> class name -> pixels of it.
    """

    name: str
    num_classes: int
    classes: tuple[str, ...]
    resolution: tuple[int, int]
    warnings: tuple[str, ...] = ()
    class_counts: Mapping[str, Mapping[str, int]] = {}


class Baseline(NamedTuple):
    """An uncompressed network: the teacher, or a student before anything was taken away.

    Attributes:
        name: Its name in tables.
        model: Name of the network, such as a key of `models.MODELS`.
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

    @property
    def role(self) -> Literal["teacher", "student"]:
        """Whether it teaches or is compressed."""
        return "teacher" if self.name == TeacherStage.name else "student"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """What one stage, or a chain of them, brought to a pipeline.

    Attributes:
        metrics: What the stages reveal: of the pruned one miou_pruned (before fine-tuning),
            num_params and macs; of the measurement latency_ms, latency_p95_ms, latency_raw_ms (as
            the clock showed it) and reference_ms (of the uncompressed student meanwhile, if the
            machine's drift is compensated); of the distilled one miou, and iou/<class> for every
            class that occurs.
        stages: Stage name -> folder in the store.
        seconds: Stage name -> seconds of work; 0 where the stage was reused.
        network: Folder of the network that the last stage made; "" before there is one.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    network: str = ""

    def __or__(self, later: StageResult) -> StageResult:
        """Merge with what a later stage brought."""
        return StageResult(
            metrics={**self.metrics, **later.metrics},
            stages={**self.stages, **later.stages},
            seconds={**self.seconds, **later.seconds},
            network=later.network or self.network,
        )


def check_data(config: PipelineConfig, cache_dir: Path) -> DatasetSummary:
    """Read every image and label of both splits once, into the node's cache.

    Raises:
        DataError: Names the files that cannot be used, or why mIoU on them would mean nothing.
        ValueError: A setting does not go with the number of classes, or the frames whose
            consistency is to be measured have no neighbours.
    """
    train, validation = config.data.open_all_cached(("train", "val"), cache_dir)
    report = check_splits(train, validation)
    config.teacher_logits.check_classes(validation.num_classes)
    if ConsistencyStage.name in config.chain:
        check_frames(config.data, validation)
    return DatasetSummary(
        config.data.name,
        validation.num_classes,
        tuple(validation.classes),
        report.resolution,
        report.warnings,
        report.class_counts,
    )


def build_stages(
    config: PipelineConfig, chain: Chain, *, fine_tuning_seed: int | None = None
) -> list[Stage]:
    """Build the stages of a pipeline, root first.

    Args:
        config: What the study shares.
        chain: What the pipeline chooses.
        fine_tuning_seed: Seed of the last training alone; default: that of all.
    """
    for given in (config.teacher, config.student, *config.students.values()):
        given.allow()  # checkpoints may name these networks, as the study itself does
    teacher = TeacherStage.build(NoSettings(), StageInputs(config=config))
    trained = [index for index, step in enumerate(chain) if STAGES[step.stage].trains]
    network: NetworkStage | None = None
    stages = []
    for index, (name, settings) in enumerate(chain):
        seed = fine_tuning_seed if index == trained[-1] else None
        inputs = StageInputs(config=config, network=network, teacher=teacher, seed=seed)
        stage = STAGES[name].build(settings, inputs)
        stages.append(stage)
        if isinstance(stage, NetworkStage):
            if network is None and config.self_teaching:
                teacher = stage
            network = stage
    return stages


def pack_networks(config: PipelineConfig) -> ShippedCode:
    """Read the code of those networks of a study that are the user's own.

    Raises:
        ValueError: One cannot be imported.
    """
    return pack_code(list_networks(config))


def list_networks(config: PipelineConfig) -> list[str]:
    """Name every network of a study: teacher and students."""
    networks = (config.teacher, config.student, *config.students.values())
    return [network.name for network in networks]


def build_baselines(config: PipelineConfig) -> dict[str, Chain]:
    """The chains of the networks that all pipelines are compared with: teacher and students.

    Args:
        config: What the study shares.

    Returns:
        Chain by the name of the network in tables.
    """
    root = config.chain[0]
    measured = [s for s in dict.fromkeys(config.chain) if not issubclass(STAGES[s], NetworkStage)]
    chains = {}
    if not config.self_teaching:
        chains[TeacherStage.name] = build_chain((TeacherStage.name, *measured), {})
    for name in config.students or (STUDENT,):
        label = root if name == STUDENT else name
        chains[label] = build_chain((root, *measured), {f"{root}.student": name})
    return chains


def describe_baseline(name: str, config: PipelineConfig, result: StageResult) -> Baseline:
    """Say what the stages of an uncompressed network found.

    Args:
        name: Key of `build_baselines`.
        config: What the study shares.
        result: Of all stages of its chain.
    """
    is_teacher = name == TeacherStage.name
    root = STUDENT if name == config.chain[0] else name
    network = config.teacher if is_teacher else config.get_student(root)
    known = {key: value for key, value in result.metrics.items() if key in Baseline._fields}
    return Baseline(
        name=name,
        model=network.name,
        stage=result.network,
        **known,  # type: ignore[arg-type]
    )


def run_stage(
    config: PipelineConfig,
    chain: Chain,
    store: ArtifactStore,
    context: StageContext,
    share: float = 1.0,
    *,
    fine_tuning_seed: int | None = None,
) -> StageResult:
    """Run the last stage of a chain, or find it; stages before it that are missing are run too.

    Args:
        config: What the study shares.
        chain: The pipeline up to the stage.
        store: Where artefacts lie.
        context: Machine, folders and progress report.
        share: Of the stage's work after which it pauses, within 0..1; the result has
            "miou@<share>" then. Only a stage that `can_pause` can.
        fine_tuning_seed: As in `build_stages`.

    Raises:
        TrainingDiverged: A loss is no longer finite.
        PruningError: A layer cannot be pruned.
        DataError: The data set cannot be used.
    """
    stage = build_stages(config, chain, fine_tuning_seed=fine_tuning_seed)[-1]
    context.report(Progress(stage.name, 0, 1))
    if share < 1:
        if not isinstance(stage, NetworkStage):
            raise ValueError(f"stage {stage.name} cannot pause")
        paused = stage.advance(store, context, share)
        return StageResult(
            metrics={f"miou@{share:g}": paused["miou"]}, seconds={stage.name: paused["seconds"]}
        )
    found = stage.obtain(store, context)
    return StageResult(
        metrics=stage.read_metrics(found.result),
        stages={stage.name: found.folder.name},
        seconds={stage.name: 0.0 if found.reused else found.result["seconds"]},
        network=found.folder.name if isinstance(stage, NetworkStage) else "",
    )


def run_pipeline(
    config: PipelineConfig, chain: Chain, store: ArtifactStore, context: StageContext
) -> StageResult:
    """Run all stages of one pipeline, those that the store lacks."""
    results = (
        run_stage(config, chain[: length + 1], store, context) for length in range(len(chain))
    )
    return merge_results(chain, list(results))


def run_baseline(
    name: str, config: PipelineConfig, store: ArtifactStore, context: StageContext
) -> Baseline:
    """Train and measure an uncompressed network, or find it.

    Args:
        name: Key of `build_baselines`.
        config: What the study shares.
        store: Where artefacts lie.
        context: Machine, folders and progress report.
    """
    result = run_pipeline(config, build_baselines(config)[name], store, context)
    return describe_baseline(name, config, result)


def merge_results(chain: Sequence[Any], results: Sequence[StageResult]) -> StageResult:
    """Merge what the stages of a pipeline brought, without metrics of networks before the last.

    Args:
        chain: Steps of the pipeline, whether they have run or not.
        results: Of the steps, in order.
    """
    changing = [i for i, step in enumerate(chain) if STAGES[step.stage].changes_structure]
    first = changing[-1] if changing else 0
    outdated = [replace(result, metrics={}) for result in results[:first]]
    return functools.reduce(operator.or_, [*outdated, *results[first:]], StageResult())
