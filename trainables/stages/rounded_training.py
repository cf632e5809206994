"""Quantisation-aware fine-tuning: the convolutions round to 8 bits during training."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from models.quantization.fake_quantization import FakeQuantization
from trainables.context import StageContext
from trainables.data import TrainingStream
from trainables.learning.training import Batch, place, train
from trainables.losses import cross_entropy, kd_loss
from trainables.pipeline_config import PipelineConfig


def train_with_rounding(
    model: nn.Module, config: PipelineConfig, folder: Path, context: StageContext
) -> None:
    """Train in place, on the labels and on the logits of the unrounded network.

    The unrounded network is the teacher, because the training should restore its outputs.

    Args:
        model: Network in eval mode with BatchNorms folded; it ends on the CPU in eval mode.
        config: Configuration of the study, with data, schedule of `int8` and seed.
        folder: Folder for the state of the unfinished training.
        context: Machine, folders and progress report.

    Raises:
        TrainingDiverged: A loss is no longer finite.
    """
    device = torch.device(context.device)
    teacher = place(copy.deepcopy(model).requires_grad_(False), device).eval()
    schedule = config.int8
    optimizer = replace(config.distil.optimizer, lr=schedule.lr)
    training = replace(config.distil, num_steps=schedule.num_steps, optimizer=optimizer)
    stream = TrainingStream(
        config.data.open_cached("train", context.cache_dir),
        config.data.augmentation,
        seed=config.seed,
    )
    model.requires_grad_(True)
    rounding = FakeQuantization(model)

    def compute_loss(logits: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            taught: Tensor = teacher(batch.images)
        return cross_entropy(logits, batch.target) + kd_loss(logits, taught, 1.0, batch.target)

    state_path = folder / "state.safetensors"
    train(
        model,
        stream,
        training,
        name="quantised",
        state_path=state_path,
        context=context,
        compute_loss=compute_loss,
    )
    rounding.remove()
    state_path.unlink(missing_ok=True)
    model.cpu().eval()
