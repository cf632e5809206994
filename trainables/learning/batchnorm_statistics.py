"""Re-estimates BatchNorm statistics on whole images; those of training crops may not fit them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from trainables.context import StageContext, within_threads
from trainables.data import (
    AugmentationConfig,
    SegmentationDataset,
    TrainingStream,
    make_loader,
    normalization_of,
)
from trainables.learning.training import Precision, autocast, bring_batch, place


@within_threads
def reestimate_batchnorm(
    model: nn.Module,
    dataset: SegmentationDataset,
    context: StageContext,
    *,
    num_batches: int = 16,
    batch_size: int = 4,
    precision: Precision = "auto",
) -> None:
    """Replace mean and variance of every BatchNorm by their averages over training batches.

    The weights are not changed. It costs the forward passes of a few training steps. A training
    does it once at its end, before the network is evaluated (`TrainConfig.batchnorm_batches`).

    Source: Li et al., "EagleEye", ECCV 2020, https://arxiv.org/abs/2007.02491, section 3.3
        (adaptive BatchNorm).
    Differs: they do it after pruning, before fine-tuning, to rank pruned networks.

    Args:
        model: Network, which is moved to `context.device` and keeps its train or eval mode.
        dataset: Training images. They are used whole, with flips only, because the statistics of
            augmented crops differ enough to reduce accuracy (`docs/trial_designs.md`). Images that
            do not have the most frequent size are cropped or padded to it.
        context: Device, threads and lock.
        num_batches: Number of batches, at least 1.
        batch_size: Number of images per batch, at least 2.
        precision: Precision of the forward pass, as in training.

    Raises:
        ValueError: A number is too small.
    """
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}")
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 (BatchNorm), got {batch_size}")
    device = torch.device(context.device)
    place(model, device)
    as_they_are = AugmentationConfig(
        crop_size=dataset.common_size,
        scale_range=(1.0, 1.0),
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
    )
    stream = TrainingStream(dataset, as_they_are, seed=0)
    loader = make_loader(
        stream, batch_size=batch_size, num_steps=num_batches, num_workers=context.num_workers
    )

    def bring_images() -> Iterator[Tensor]:
        for samples in itertools.islice(loader, num_batches):
            yield bring_batch(samples, device, normalization_of(model)).images

    with context.device_lock.shared(), autocast(precision, device):
        update_bn(bring_images(), model)
