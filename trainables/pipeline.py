"""Runs pipelines stage by stage, and the uncompressed networks that they are compared with."""

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
from trainables.data.frame_pairs import warn_of_gaps
from trainables.pipeline_config import STUDENT, PipelineConfig
from trainables.process.shipped_code import ShippedCode, pack_code
from trainables.settings import NoSettings
from trainables.stages import STAGES, NetworkStage, Stage, StageInputs
from trainables.stages.consistency import ConsistencyStage, check_frames
from trainables.stages.teacher import TeacherStage


class DatasetSummary(NamedTuple):
    """Summary of a data set after all of its files were read.

    Attributes:
        name: Key of `trainables.data.DATASETS`.
        num_classes: Number of classes.
        classes: Names of the classes.
        resolution: Most frequent height and width of the validation images; of several, the first.
        warnings: Warnings about the data, one sentence each.
        class_counts: Number of pixels by split and class name.
    """

    name: str
    num_classes: int
    classes: tuple[str, ...]
    resolution: tuple[int, int]
    warnings: tuple[str, ...] = ()
    class_counts: Mapping[str, Mapping[str, int]] = {}


class Baseline(NamedTuple):
    """An uncompressed network: the teacher, or a student before compression.

    Attributes:
        name: Name of the baseline in tables.
        model: Name of the network, such as a key of `models.MODELS`.
        miou: mIoU in 0..1.
        num_params: Number of parameters.
        macs: Multiply-accumulates at the validation resolution.
        stage: Name of the network's folder in the store.
        latency_ms: Median latency; None if no stage measures it.
        latency_p95_ms: 95th percentile of the latency.
        latency_raw_ms: Latency by the clock, see `StageResult`; None in records of older versions.
        reference_ms: Latency of the reference, see `StageResult`; None also without drift
            compensation.
        more: Other metrics that its stages measured, by name.
        stages: Folders in the store by stage name, as far as known.
    """

    name: str
    model: str
    miou: float
    num_params: int
    macs: int
    stage: str
    latency_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_raw_ms: float | None = None
    reference_ms: float | None = None
    more: Mapping[str, float] = {}
    stages: Mapping[str, str] = {}

    @classmethod
    def restore(cls, entry: Mapping[str, Any]) -> Baseline:
        """Rebuild a baseline from what `to_entry` made."""
        more = {name: value for name, value in entry.items() if name not in cls._fields}
        return cls(**{name: entry[name] for name in entry.keys() - more.keys()}, more=more)

    def to_entry(self) -> dict[str, Any]:
        """Its description in metadata.json: a flat mapping."""
        entry = self._asdict()
        del entry["more"]
        return {**entry, **self.more}

    @property
    def artefacts(self) -> tuple[str, ...]:
        """Folders in the store of its network and of everything measured on it."""
        return tuple(dict.fromkeys((self.stage, *self.stages.values())))

    @property
    def role(self) -> Literal["teacher", "student"]:
        """Whether it is the teacher or a student."""
        return "teacher" if self.name == TeacherStage.name else "student"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """The results of one stage, or of a chain of stages.

    Attributes:
        metrics: Metrics of the stages. The stage pruned has miou_pruned (before fine-tuning),
            num_params and macs. The stage latency has latency_ms, latency_p95_ms, latency_raw_ms
            (by the clock) and reference_ms (of the uncompressed student in the same measurement,
            with drift compensation). The stage distilled has miou, and iou/<class> for every class
            that occurs.
        stages: Folder in the store by stage name.
        seconds: Working time by stage name; 0 if the stage was reused.
        network: Folder of the last network; "" before there is one.
        elapsed: Seconds of the last stage without the start-up of its processes; 0 if not
            measured.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    network: str = ""
    elapsed: float = 0.0

    def __or__(self, later: StageResult) -> StageResult:
        """Merge with the results of a later stage."""
        return StageResult(
            metrics={**self.metrics, **later.metrics},
            stages={**self.stages, **later.stages},
            seconds={**self.seconds, **later.seconds},
            network=later.network or self.network,
            elapsed=later.elapsed,
        )


def check_data(config: PipelineConfig, cache_dir: Path) -> DatasetSummary:
    """Read every image and label of both splits once, into the node's cache.

    Raises:
        DataError: Files cannot be used, or mIoU on them is meaningless; the message says why.
        ValueError: A setting does not fit the number of classes, or the consistency of frames is to
            be measured and the images are not consecutive.
    """
    train, validation = config.data.open_all_cached(("train", "val"), cache_dir)
    report = check_splits(train, validation)
    warnings = report.warnings
    config.teacher_logits.check_classes(validation.num_classes)
    if ConsistencyStage.name in config.chain:
        check_frames(config.data, validation)
        warnings = (*warnings, *warn_of_gaps(validation, train))
    return DatasetSummary(
        config.data.name,
        validation.num_classes,
        tuple(validation.classes),
        report.resolution,
        warnings,
        report.class_counts,
    )


def build_stages(
    config: PipelineConfig, chain: Chain, *, fine_tuning_seed: int | None = None
) -> list[Stage]:
    """Build the stages of a pipeline, root first.

    Args:
        config: Configuration of the study.
        chain: Steps of the pipeline.
        fine_tuning_seed: Seed of the last training only; default: the seed of the study.
    """
    for given in (config.teacher, config.student, *config.students.values()):
        given.allow()  # the study names these networks, so checkpoints may too
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
            is_root = network is None and config.self_teaching
            if is_root or (config.previous_teaches and stage.trains):
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
    """Return the chains of the uncompressed networks: teacher and students.

    Args:
        config: Configuration of the study.

    Returns:
        Chains by the name of the network in tables.

    Raises:
        ValueError: A student has the name of another uncompressed network.
    """
    root = config.chain[0]
    taken = [name for name in (TeacherStage.name, root) if name in config.students]
    if taken:
        raise ValueError(
            f"students must not be named {taken[0]}, the name of another uncompressed network"
        )
    measured = [s for s in dict.fromkeys(config.chain) if not issubclass(STAGES[s], NetworkStage)]
    examining = dict.fromkeys([*measured, *(STAGES[s].examined_by for s in config.chain)])
    chains = {}
    if not config.self_teaching:
        chains[TeacherStage.name] = build_chain((TeacherStage.name, *measured), {})
    for name in config.students or (STUDENT,):
        label = root if name == STUDENT else name
        chains[label] = build_chain((root, *filter(None, examining)), {f"{root}.student": name})
    return chains


def describe_baseline(name: str, config: PipelineConfig, result: StageResult) -> Baseline:
    """Build the record of an uncompressed network from the results of its stages.

    Args:
        name: Key of `build_baselines`.
        config: Configuration of the study.
        result: Merged results of all stages of its chain.
    """
    is_teacher = name == TeacherStage.name
    root = STUDENT if name == config.chain[0] else name
    network = config.teacher if is_teacher else config.get_student(root)
    metrics = {key: value for key, value in result.metrics.items() if "/" not in key}
    stages = {"stage": result.network, "stages": dict(result.stages)}
    own = {"name": name, "model": network.name, **stages}
    return Baseline.restore({**metrics, **own})


def run_stage(
    config: PipelineConfig,
    chain: Chain,
    store: ArtifactStore,
    context: StageContext,
    share: float = 1.0,
    *,
    fine_tuning_seed: int | None = None,
    is_ahead: bool = False,
) -> StageResult:
    """Run the last stage of a chain, or reuse it; missing stages before it are run too.

    Args:
        config: Configuration of the study.
        chain: The pipeline up to the stage.
        store: Store of the artefacts.
        context: Machine, folders and progress report.
        share: Fraction of the stage's work after which it pauses, in 0..1; below 1 the result has
            "miou@<share>". Only for stages that `can_pause`.
        fine_tuning_seed: Seed of the last training, see `build_stages`.
        is_ahead: Whether to do only what needs no stage before it, see `Stage.prepare`; the result
            is empty.

    Raises:
        TrainingDiverged: A loss is no longer finite.
        PruningError: A layer cannot be pruned.
        DataError: The data set cannot be used.
    """
    stage = build_stages(config, chain, fine_tuning_seed=fine_tuning_seed)[-1]
    context.report(Progress(stage.name, 0, 1))
    if is_ahead:
        stage.prepare(store, context)
        return StageResult()
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
    """Run all stages of one pipeline that the store does not have."""
    results = (
        run_stage(config, chain[: length + 1], store, context) for length in range(len(chain))
    )
    return merge_results(chain, list(results))


def run_baseline(
    name: str, config: PipelineConfig, store: ArtifactStore, context: StageContext
) -> Baseline:
    """Train and measure an uncompressed network, or reuse it.

    Args:
        name: Key of `build_baselines`.
        config: Configuration of the study.
        store: Store of the artefacts.
        context: Machine, folders and progress report.
    """
    result = run_pipeline(config, build_baselines(config)[name], store, context)
    return describe_baseline(name, config, result)


def merge_results(chain: Sequence[Any], results: Sequence[StageResult]) -> StageResult:
    """Merge the results of a pipeline, without the metrics that its end will replace.

    These are the metrics of networks before the last one, and those that a later step measures
    again, as the deployed file has a latency of its own. So a metric is missing until it is final.

    Args:
        chain: Steps of the pipeline, whether they have run or not.
        results: Results of the steps, in order.
    """
    changing = [i for i, step in enumerate(chain) if STAGES[step.stage].changes_structure]
    first = changing[-1] if changing else 0
    outdated = [replace(result, metrics={}) for result in results[:first]]
    current = [
        replace(result, metrics=_keep_final(result.metrics, chain[index + 1 :]))
        for index, result in enumerate(results[first:], start=first)
    ]
    return functools.reduce(operator.or_, [*outdated, *current], StageResult())


def _keep_final(metrics: Mapping[str, float], later: Sequence[Any]) -> dict[str, float]:
    """Leave out the metrics that later steps reveal; "iou/" stands for all with that prefix."""
    again = {name for step in later for name in STAGES[step.stage].reveals}
    return {
        name: value
        for name, value in metrics.items()
        if again.isdisjoint((name, f"{name.partition('/')[0]}/"))
    }
