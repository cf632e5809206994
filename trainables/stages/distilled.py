"""The stage distilled: fine-tuning of a pruned student with a teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from models.checkpoint import load_checkpoint
from trainables.artifacts.artifact_files import SHARE_FILES
from trainables.artifacts.store import Artifact, ArtifactStore
from trainables.context import StageContext
from trainables.data.frame_pairs import find_frame_pairs
from trainables.distillers import DISTILLERS, check_combination
from trainables.distillers.maps import FINEST_STRIDE
from trainables.learning.teacher_cache import TeacherLogitsConfig
from trainables.objective import Objective
from trainables.pipeline_config import PipelineConfig
from trainables.ranges import FloatRange, options_of, setting
from trainables.settings import choose, complete_options, flatten
from trainables.stages.computation import Computation
from trainables.stages.learning import Learning, make_learning
from trainables.stages.stage import NetworkStage, StageInputs
from trainables.stages.teaching import Teaching


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilledSettings:
    """Settings of the fine-tuning: distillation method and learning rate.

    Attributes:
        distiller: Loss of the fine-tuning: a name of `DISTILLERS`, or several joined by "+".
        lr: Peak learning rate, above 0.
        methods: Settings of each distiller, by name; default: those of its paper.
    """

    distiller: str = setting("dkd", ("dkd",))
    lr: float = setting(0.01, FloatRange(low=0.003, high=0.03, log=True), symbol="lr")
    methods: Mapping[str, Any] = options_of(
        "distiller", {name: distiller.Settings for name, distiller in DISTILLERS.items()}
    )

    def __post_init__(self) -> None:
        complete_options(self)
        check_combination(choose(self.distiller))
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr must be greater than 0, got {self.lr}")


class DistilledStage(NetworkStage):
    """Trains the pruned network on the labels and on the teacher's outputs.

    Source: section 1.6 of the dual-branch paper (Chen et al. 2026).

    Args:
        network: Stage of the pruned network.
        teacher: Stage of the teacher; not used, and not part of the key, if the distiller needs
            none.
        settings: Loss and learning rate.
        learning: Data, schedule and seed.
        teacher_logits: Source of the teacher's logits and maps.
    """

    name = "distilled"
    version = 4  # explicit gradients of dkd and kd, equal up to rounding
    Settings: ClassVar[type[Any]] = DistilledSettings
    follows = ("pruned",)
    reveals = ("miou", "iou/")
    objectives = (Objective("miou", "maximize", "", "mIoU"),)
    trains = True
    schedule = "distil"
    evaluates = True
    can_pause = True
    prepares_from = "teacher"

    def __init__(
        self,
        network: NetworkStage,
        teacher: NetworkStage | None,
        settings: DistilledSettings,
        learning: Learning,
        teacher_logits: TeacherLogitsConfig,
    ) -> None:
        self.origin = network
        self.parents: dict[str, Computation] = {"network": network}
        self.has_teacher = self.needs_teacher(settings)
        if self.has_teacher:
            if teacher is None:
                raise ValueError(f"distiller {settings.distiller} needs a teacher")
            self.parents["teacher"] = teacher
        self.settings = settings
        optimizer = replace(learning.training.optimizer, lr=settings.lr)
        self.learning = replace(learning, training=replace(learning.training, optimizer=optimizer))
        self.teacher_logits = teacher_logits
        if not self.teaching(None).reads_maps:  # only what is used belongs to the key
            self.teacher_logits = replace(teacher_logits, maps="live")
        elif teacher_logits.maps == "live":
            self.teacher_logits = replace(teacher_logits, source="live")

    @classmethod
    def needs_teacher(cls, settings: DistilledSettings) -> bool:
        """Return whether one of the chosen distillers needs a teacher."""
        return any(DISTILLERS[name].needs_teacher for name in choose(settings.distiller))

    @classmethod
    def check(cls, settings: DistilledSettings, config: PipelineConfig, device: str) -> None:
        """Raise an error for a distiller of frame pairs if there are no whole pairs in a batch."""
        needy = [name for name in choose(settings.distiller) if DISTILLERS[name].needs_pairs]
        if needy and config.distil.batch_size % 2:
            raise ValueError(
                f"distil.batch_size must be even, because distiller {needy[0]} needs pairs of "
                f"consecutive frames; got {config.distil.batch_size}"
            )
        if needy and not find_frame_pairs(config.data.open("train")):
            raise ValueError(
                f"distiller {needy[0]} needs consecutive frames of a drive, but the training "
                f"images of {config.data.name} are not: they must be named DRIVE_NUMBER"
            )

    @classmethod
    def build(cls, settings: DistilledSettings, inputs: StageInputs) -> DistilledStage:
        """Build the fine-tuning of one pipeline."""
        config, source = inputs.config, inputs.config.teacher_logits
        if config.previous_teaches:  # a cache would have one reader only
            source = replace(source, source="live", maps="live")
        learning = make_learning(config, config.distil, inputs.seed)
        return cls(inputs.get_network(), inputs.teacher, settings, learning, source)

    def prepare(self, store: ArtifactStore, context: StageContext) -> None:
        """Cache the teacher's logits on this node, if the training reads them from the cache."""
        if self.has_teacher and self.teacher_logits.cached:
            teacher = self.parents["teacher"].obtain(store, context)
            self.teaching(teacher.checkpoint).fill_cache(self.learning, context)

    def content(self) -> dict[str, Any]:
        """Return the distiller with its settings, the teacher's logits if used, and learning."""
        content = {**flatten(self.settings), **self.learning.content()}
        if self.has_teacher:
            content["teacher_logits"] = self.teacher_logits.content()
        if self.teaching(None).reads_maps:
            content |= {"finest_stride": FINEST_STRIDE, "padding": "cut"}
        return content

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Train, evaluate and save; "seconds" includes the time of making the teacher's cache."""
        return self._train(folder, parents, context, share=1.0)

    def compute_share(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext, share: float
    ) -> dict[str, Any]:
        """Train up to a fraction of the steps and evaluate there; see `Computation.advance`."""
        return self._train(folder, parents, context, share=share)

    def _train(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext, *, share: float
    ) -> dict[str, Any]:
        student = load_checkpoint(parents["network"].checkpoint)
        teacher = parents["teacher"].checkpoint if self.has_teacher else None
        with self.teaching(teacher).begin(student, self.learning, context) as lessons:
            cached = lessons.cached
            result = self.learning.run(
                student,
                folder,
                context,
                name=self.name,
                metadata=flatten(self.settings),
                compute_loss=lessons.compute_loss,
                beside=lessons.beside,
                cached=cached,
                has_pairs=lessons.has_pairs,
                share=share,
            )
        if cached:
            spent = cached.seconds + _read_cache_seconds(folder)
            result["seconds"] += spent
            result["teacher_cache_seconds"] = spent
        return result

    def teaching(self, teacher: Path | None) -> Teaching:
        """The way in which this stage's teacher teaches.

        Args:
            teacher: Checkpoint of the teacher; None if there is none.
        """
        return Teaching(methods=self.settings.methods, teacher=teacher, logits=self.teacher_logits)

    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Return the accuracy of the finished network: mIoU, and IoU of every class that occurs."""
        classes = {f"iou/{name}": iou for name, iou in result["iou"].items() if iou is not None}
        return {"miou": result["miou"], **classes}


def _read_cache_seconds(folder: Path) -> float:
    """Return the time that the teacher's cache cost a paused training before its pause."""
    results = [json.loads(path.read_text()) for path in folder.glob(SHARE_FILES)]
    return max((result.get("teacher_cache_seconds", 0.0) for result in results), default=0.0)
