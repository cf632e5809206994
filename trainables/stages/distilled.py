"""Fine-tuning of a pruned student under a teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoint import load_checkpoint
from trainables.artifacts.store import SHARE_FILES, Artifact
from trainables.context import StageContext
from trainables.data.logit_map import enlarge
from trainables.distillers import DISTILLERS, DistillerConfig
from trainables.learning.teacher_cache import CachedTeacher, TeacherLogitsConfig, cache_teacher
from trainables.learning.training import Batch, place
from trainables.stages.learning import Learning
from trainables.stages.stage import Stage

# (student logits, batch) -> teacher logits of the same shape
TeacherFunction = Callable[[Tensor, Batch], Tensor]


class DistilledStage(Stage):
    """Trains the pruned network with the teacher's logits beside the labels.

    Source: section 1.6 of the dual-branch paper (Chen et al. 2026).

    Args:
        parent: The pruned network.
        teacher: The teacher; not touched, and no part of the key, when the distiller needs none.
        distiller: Loss and its weights.
        learning: Data, schedule, seed.
        teacher_logits: Where the teacher's logits come from.
    """

    name = "distilled"
    version = 2  # the class weights hold for the teacher's part of the loss too

    def __init__(
        self,
        parent: Stage,
        teacher: Stage,
        distiller: DistillerConfig,
        learning: Learning,
        teacher_logits: TeacherLogitsConfig,
    ) -> None:
        self.parents = {"pruned": parent}
        if distiller.needs_teacher:
            self.parents["teacher"] = teacher
        self.distiller = distiller
        self.learning = learning
        self.teacher_logits = teacher_logits

    def content(self) -> dict[str, Any]:
        """Distiller (its weights and the teacher's logits only where they count) and learning."""
        if not self.distiller.needs_teacher:
            return {"distiller": "none", **self.learning.content()}
        return {
            "distiller": asdict(self.distiller),
            "teacher_logits": self.teacher_logits.content(),
            **self.learning.content(),
        }

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Train, evaluate, save; seconds of making the teacher's cache count where it was made."""
        return self._train(folder, parents, context, share=1.0)

    def compute_share(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext, share: float
    ) -> dict[str, Any]:
        """Train up to a share of the steps and evaluate there; see `Stage.advance`."""
        return self._train(folder, parents, context, share=share)

    def _train(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext, *, share: float
    ) -> dict[str, Any]:
        distil = DISTILLERS[self.distiller.name]
        class_weights = self.learning.class_weights(context)
        cached, ask_teacher = self._prepare_teacher(parents, context)

        def compute_loss(logits: Tensor, batch: Batch) -> Tensor:
            taught = ask_teacher(logits, batch)
            return distil(logits, taught, batch.target, self.distiller, class_weights)

        result = self.learning.run(
            load_checkpoint(parents["pruned"].checkpoint),
            folder,
            context,
            name=self.name,
            metadata={**asdict(self.distiller), "lr": self.learning.training.optimizer.lr},
            compute_loss=compute_loss,
            teacher_logits=cached.logits if cached else None,
            share=share,
        )
        if cached:
            spent = cached.seconds + _read_cache_seconds(folder)
            result["seconds"] += spent
            result["teacher_cache_seconds"] = spent
        return result

    def _prepare_teacher(
        self, parents: Mapping[str, Artifact], context: StageContext
    ) -> tuple[CachedTeacher | None, TeacherFunction]:
        """What the training reads, and how a step comes by the teacher's logits."""
        if not self.distiller.needs_teacher:
            return None, lambda logits, batch: logits.detach()
        checkpoint = parents["teacher"].checkpoint
        if not self.teacher_logits.cached:
            return None, load_live_teacher(checkpoint, torch.device(context.device))
        cached = cache_teacher(
            checkpoint,
            self.learning.data.open_cached("train", context.cache_dir),
            context,
            self.teacher_logits,
            precision=self.learning.training.precision,
        )
        return cached, read_cached_logits


def _read_cache_seconds(folder: Path) -> float:
    """What the teacher's cache has cost a training that was paused, up to there."""
    results = [json.loads(path.read_text()) for path in folder.glob(SHARE_FILES)]
    return max((result.get("teacher_cache_seconds", 0.0) for result in results), default=0.0)


def read_cached_logits(logits: Tensor, batch: Batch) -> Tensor:
    """The batch's logits of the teacher, brought to the size of the student's."""
    if batch.teacher_logits is None:
        raise ValueError("the batch must hold the teacher's logits; its stream has none")
    return enlarge(batch.teacher_logits, logits.shape[-2:])


def load_live_teacher(checkpoint: Path, device: torch.device) -> TeacherFunction:
    """A function that runs the teacher on the batch's images."""
    teacher = place(load_checkpoint(checkpoint).requires_grad_(False), device)

    def ask(logits: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            answer: Tensor = teacher(batch.images)
        return answer

    return ask
