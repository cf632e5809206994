"""The common part of all stages that train: data, seed, evaluation, checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import SegmentationNetwork
from models.checkpoint import save_checkpoint
from trainables.context import Progress, StageContext
from trainables.data import TrainingStream
from trainables.data.frame_pairs import FramePairStream
from trainables.data_source import DataConfig
from trainables.learning.batchnorm_statistics import reestimate_batchnorm
from trainables.learning.evaluation import evaluate
from trainables.learning.teacher_cache import CachedTeacher
from trainables.learning.training import Batch, LossFunction, Precision, TrainConfig, train
from trainables.losses import cross_entropy
from trainables.pipeline_config import PipelineConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Learning:
    """Data and schedule of a training stage.

    Attributes:
        data: Data set and augmentation.
        training: Settings of the training.
        seed: Seed of data order, augmentation and dropout.
    """

    data: DataConfig
    training: TrainConfig
    seed: int

    def content(self) -> dict[str, Any]:
        """Return everything that the result depends on; data by fingerprint, not by path."""
        content = {**describe_data(self.data), "training": asdict(self.training), "seed": self.seed}
        if self.training.precision != "auto":  # earlier versions always evaluated in it
            content["evaluation"] = self.training.precision
        return content

    def class_weights(self, context: StageContext) -> Tensor | None:
        """Return the class weights of the loss, (C,) float32 on the context's device, or None."""
        if self.training.class_weighting == "none":
            return None
        counts = self.data.open_cached("train", context.cache_dir).label_counts
        shares = torch.tensor(counts) / sum(counts)
        weights = 1 / torch.log(1.02 + shares)
        return (weights**self.training.class_weight_power).to(context.device)

    def open_stream(
        self, context: StageContext, *, has_pairs: bool, cached: CachedTeacher | None
    ) -> TrainingStream:
        """Open the augmented training samples.

        Args:
            context: Folders.
            has_pairs: Whether images come as pairs of consecutive frames.
            cached: Cached logits and maps of the teacher, which are added to the samples.
        """
        return (FramePairStream if has_pairs else TrainingStream)(
            self.data.open_cached("train", context.cache_dir),
            self.data.augmentation,
            seed=self.seed,
            teacher_logits=cached.logits if cached else None,
            teacher_maps=cached.maps if cached else {},
        )

    def run(
        self,
        model: SegmentationNetwork,
        folder: Path,
        context: StageContext,
        *,
        name: str,
        metadata: Mapping[str, Any],
        compute_loss: LossFunction | None = None,
        adjust_gradients: Callable[[nn.Module], None] | None = None,
        beside: nn.Module | None = None,
        cached: CachedTeacher | None = None,
        has_pairs: bool = False,
        share: float = 1.0,
    ) -> dict[str, Any]:
        """Train, evaluate and save; remove the state of the unfinished training at the end.

        Args:
            model: Network to train in place.
            folder: Folder for `checkpoint.safetensors` and, during training, the training state.
            context: Machine, folders and progress report.
            name: Name of the stage, for progress and errors.
            metadata: Settings to save in the checkpoint.
            compute_loss: Loss, as in `train`; None: cross-entropy.
            adjust_gradients: As in `train`.
            beside: As in `train`.
            cached: Cached logits and maps of the teacher, which `compute_loss` gets in its batches.
            has_pairs: Whether images come as pairs of consecutive frames.
            share: Fraction of the steps after which the training pauses, in 0..1. Below 1 the
                state stays in the folder, and no checkpoint is written.

        Returns:
            A mapping with miou, iou by class, seconds, steps and the loss curve.

        Raises:
            TrainingDiverged: A loss is no longer finite.
        """
        stream = self.open_stream(context, has_pairs=has_pairs, cached=cached)
        state_path = folder / "state.safetensors"
        if compute_loss is None:
            weights = self.class_weights(context)

            def compute_loss(logits: Tensor, batch: Batch) -> Tensor:
                return cross_entropy(logits, batch.target, class_weights=weights)

        trained = train(
            model,
            stream,
            self.training,
            name=name,
            state_path=state_path,
            context=context,
            compute_loss=compute_loss,
            adjust_gradients=adjust_gradients,
            beside=beside,
            pause_after=max(1, round(share * self.training.num_steps)),
        )
        if self.training.batchnorm_batches:  # the state of a pause is already saved
            reestimate_batchnorm(
                model,
                self.data.open_cached("train", context.cache_dir),
                context,
                num_batches=self.training.batchnorm_batches,
                precision=self.training.precision,
            )
        if share < 1:
            validation = self.data.open_cached("val", context.cache_dir)
            return {
                "miou": evaluate(
                    model, validation, context, precision=self.training.precision
                ).miou,
                "seconds": trained.seconds,
            }
        result = {
            **evaluate_and_save(
                model,
                self.data,
                folder,
                context,
                name=name,
                metadata=metadata,
                precision=self.training.precision,
            ),
            "seconds": trained.seconds,
            "steps": self.training.num_steps,
            "losses": trained.losses,
        }
        state_path.unlink(missing_ok=True)
        return result


def make_learning(
    config: PipelineConfig, training: TrainConfig, seed: int | None = None
) -> Learning:
    """Combine a schedule with the study's data and seed.

    Args:
        config: Configuration of the study.
        training: Settings of the training.
        seed: Seed; None: that of the study.
    """
    return Learning(data=config.data, training=training, seed=config.seed if seed is None else seed)


def evaluate_and_save(
    model: SegmentationNetwork,
    data: DataConfig,
    folder: Path,
    context: StageContext,
    *,
    name: str,
    metadata: Mapping[str, Any],
    precision: Precision = "auto",
) -> dict[str, Any]:
    """Measure the accuracy on the validation split and write the checkpoint.

    Returns:
        A mapping with miou in 0..1, iou by class name (None for a class that never occurs) and
        pixel_accuracy.
    """
    validation = data.open_cached("val", context.cache_dir)
    matrix = evaluate(model, validation, context, precision=precision)
    context.report(Progress(name, 1, 1, miou=matrix.miou))
    description = {
        "stage": name,
        "miou": matrix.miou,
        "dataset": data.name,
        "classes": list(validation.classes),
        "normalization": model.normalization.to_json(),
        "settings": dict(metadata),
    }
    save_checkpoint(folder / "checkpoint.safetensors", model, description)
    return {
        "miou": matrix.miou,
        "iou": matrix.name_iou(validation.classes),
        "pixel_accuracy": matrix.pixel_accuracy,
    }


def describe_data(data: DataConfig) -> dict[str, Any]:
    """Return the fingerprints of both splits, and the augmentation."""
    return {
        "train": data.open("train").fingerprint,
        "val": data.open("val").fingerprint,
        "augmentation": asdict(data.augmentation),
    }
