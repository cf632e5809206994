"""BatchNorm statistics measured anew: those of the unpruned network are wrong for a pruned one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from trainables.context import StageContext
from trainables.data import TrainingStream, make_loader
from trainables.learning.training import Precision, autocast, bring_batch, place


def reestimate_batchnorm(
    model: nn.Module,
    stream: TrainingStream,
    context: StageContext,
    *,
    num_batches: int = 16,
    batch_size: int = 8,
    precision: Precision = "auto",
) -> None:
    """Replace mean and variance of every BatchNorm by their averages over training batches.

    The weights stay as they are. It costs the forward passes of a few training steps, and makes the
    accuracy of a pruned network before its fine-tuning worth looking at.

    Source: Li et al., "EagleEye", ECCV 2020, https://arxiv.org/abs/2007.02491, section 3.3
        (adaptive BatchNorm).

    Args:
        model: Network; moved to `context.device`, keeps its train or eval mode.
        stream: Training samples; the first `num_batches` batches are used.
        context: Device, threads and lock.
        num_batches: How many, at least 1.
        batch_size: Images per batch, at least 2.
        precision: As in training.

    Raises:
        ValueError: A number is too small.
    """
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}")
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 (BatchNorm), got {batch_size}")
    context.activate()
    device = torch.device(context.device)
    place(model, device)
    loader = make_loader(
        stream, batch_size=batch_size, num_steps=num_batches, num_workers=context.num_workers
    )

    def bring_images() -> Iterator[Tensor]:
        for samples in itertools.islice(loader, num_batches):
            yield bring_batch(samples, device).images

    with context.device_lock.shared(), autocast(precision, device):
        update_bn(bring_images(), model)
