"""Fine-tuning of a pruned student under a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.checkpoint import load_checkpoint
from trainables.context import StageContext
from trainables.distillers import DISTILLERS, DistillerConfig
from trainables.stages.learning import Learning
from trainables.stages.stage import Stage
from trainables.store import Artifact
from trainables.training import place


class DistilledStage(Stage):
    """Trains the pruned network with the teacher's logits beside the labels.

    Source: section 1.6 of the dual-branch paper (Chen et al. 2026).

    Args:
        parent: The pruned network.
        teacher: The teacher; not touched, and no part of the key, when the distiller needs none.
        distiller: Loss and its weights.
        learning: Data, schedule, seed.
    """

    name = "distilled"

    def __init__(
        self, parent: Stage, teacher: Stage, distiller: DistillerConfig, learning: Learning
    ) -> None:
        self.parents = {"pruned": parent}
        if distiller.needs_teacher:
            self.parents["teacher"] = teacher
        self.distiller = distiller
        self.learning = learning

    def content(self) -> dict[str, Any]:
        """Distiller (its weights only where they count) and learning."""
        distiller = asdict(self.distiller) if self.distiller.needs_teacher else "none"
        return {"distiller": distiller, **self.learning.content()}

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Train, evaluate, save."""
        distil = DISTILLERS[self.distiller.name]
        class_weights = self.learning.class_weights(context)
        teacher = None
        if self.distiller.needs_teacher:
            teacher = load_checkpoint(parents["teacher"].checkpoint).requires_grad_(False)
            place(teacher, torch.device(context.device))

        def compute_loss(logits: Tensor, images: Tensor, target: Tensor) -> Tensor:
            teacher_logits = logits.detach()
            if teacher is not None:
                with torch.no_grad():
                    teacher_logits = teacher(images)
            return distil(logits, teacher_logits, target, self.distiller, class_weights)

        return self.learning.run(
            load_checkpoint(parents["pruned"].checkpoint),
            folder,
            context,
            name=self.name,
            metadata={**asdict(self.distiller), "lr": self.learning.training.optimizer.lr},
            compute_loss=compute_loss,
        )
