"""Quantisation-aware fine-tuning: the convolutions round to 8 bits during training."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from models.quantization.fake_quantization import FakeQuantization
from trainables.context import StageContext
from trainables.distillers.kd import KDSettings
from trainables.learning.teacher_cache import TeacherLogitsConfig
from trainables.learning.training import place, train
from trainables.pipeline_config import PipelineConfig
from trainables.stages.learning import make_learning
from trainables.stages.teaching import Teaching


def train_with_rounding(
    model: nn.Module,
    teaching: Teaching | None,
    config: PipelineConfig,
    folder: Path,
    context: StageContext,
) -> None:
    """Train in place, on the labels and on a teacher.

    Args:
        model: Network in eval mode with BatchNorms folded; it ends on the CPU in eval mode.
        teaching: Distillation of the pipeline. None: the unrounded network is the teacher, because
            the training should restore its outputs.
        config: Configuration of the study, with data, schedule of `int8` and seed.
        folder: Folder for the state of the unfinished training.
        context: Machine, folders and progress report.

    Raises:
        TrainingDiverged: A loss is no longer finite.
    """
    schedule = config.int8
    if schedule.whole_images:
        size = config.data.open_cached("train", context.cache_dir).common_size
        augmentation = replace(config.data.augmentation, crop_size=size, scale_range=(1.0, 1.0))
        config = replace(config, data=replace(config.data, augmentation=augmentation))
    optimizer = replace(config.distil.optimizer, lr=schedule.lr)
    learning = make_learning(
        config,
        replace(config.distil, num_steps=schedule.num_steps, optimizer=optimizer),
    )
    if teaching is None:
        teaching = _teach_itself(model, torch.device(context.device))
    model.requires_grad_(True)
    state_path = folder / "state.safetensors"
    with teaching.begin(model, learning, context) as lessons:
        rounding = FakeQuantization(model)
        stream = learning.open_stream(context, has_pairs=lessons.has_pairs, cached=lessons.cached)
        train(
            model,
            stream,
            learning.training,
            name="quantised",
            state_path=state_path,
            context=context,
            compute_loss=lessons.compute_loss,
            beside=lessons.beside,
        )
        rounding.remove()
    state_path.unlink(missing_ok=True)
    model.cpu().eval()


def _teach_itself(model: nn.Module, device: torch.device) -> Teaching:
    """Let a network in eval mode teach its copy, with half of the loss on the labels."""
    teacher = place(copy.deepcopy(model).requires_grad_(False), device).eval()
    settings = {"kd": KDSettings(temperature=1.0, alpha=0.5)}
    return Teaching(methods=settings, teacher=teacher, logits=TeacherLogitsConfig(source="live"))
