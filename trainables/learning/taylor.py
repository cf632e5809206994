"""Taylor importance: the change of the loss without each channel, estimated from gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.channels.widths import get_resizable_layers
from trainables.context import StageContext, within_threads
from trainables.data import TrainingStream, make_loader, normalization_of
from trainables.learning.training import (
    Precision,
    autocast,
    breaks_in_channels_last,
    bring_batch,
    place,
)
from trainables.losses import cross_entropy

_Weighted = nn.BatchNorm2d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear


@within_threads
def score_by_taylor(
    model: nn.Module,
    stream: TrainingStream,
    context: StageContext,
    *,
    num_batches: int = 16,
    batch_size: int = 4,
    precision: Precision = "auto",
) -> dict[str, Tensor]:
    """Estimate the change of the loss without each output channel, to first order.

    Removing a channel sets its weights w to 0, which changes the loss by about the sum of w dL/dw
    over them. The score is the root mean square of this sum over the batches. Unlike norms, it is
    comparable between layers and takes account of how the rest of the network uses a channel.
    BatchNorms use their running statistics, as in deployment; nothing is updated.

    Source: Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019,
        https://arxiv.org/abs/1906.10771, equations 7 and 8 (group contribution).
    Differs: squares are taken per batch, not per image; we take the root, so that scores are losses
        and can be averaged over layers. A convolution counts beside the BatchNorm after it; without
        it the networks were no better (`docs/trial_designs.md`).

    Args:
        model: Network, which is moved to `context.device` and keeps its mode; its gradients are
            removed.
        stream: Training samples; the first `num_batches` batches are used.
        context: Device, threads and lock.
        num_batches: Number of batches, at least 1.
        batch_size: Number of images per batch, at least 1.
        precision: Precision of the forward pass, as in training.

    Returns:
        Score in nats of each output channel, (C,) float32 on the CPU, by name of the layer.

    Raises:
        ValueError: A number is too small.
    """
    for name, value in (("num_batches", num_batches), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    device = torch.device(context.device)
    was_training = model.training
    channels_last = not breaks_in_channels_last(model, device)
    place(model, device, channels_last=channels_last).eval()
    layers = {
        name: layer
        for name, layer in get_resizable_layers(model).items()
        if isinstance(layer, _Weighted) and layer.weight is not None
    }
    squares = {name: torch.zeros(()) for name in layers}
    loader = make_loader(
        stream, batch_size=batch_size, num_steps=num_batches, num_workers=context.num_workers
    )
    for samples in loader:
        with context.device_lock.shared():
            batch = bring_batch(
                samples, device, normalization_of(model), channels_last=channels_last
            )
            with autocast(precision, device):
                loss = cross_entropy(model(batch.images), batch.target)
            loss.backward()  # type: ignore[no-untyped-call]
        for name, layer in layers.items():
            squares[name] = squares[name] + _sum_contributions(layer) ** 2
        model.zero_grad(set_to_none=True)
    model.train(was_training)
    return {name: (square / num_batches).sqrt() for name, square in squares.items() if square.ndim}


@torch.no_grad()
def _sum_contributions(layer: _Weighted) -> Tensor:
    """Sum w dL/dw over the weights of each output channel, (C,); shape () without gradient."""
    weight, bias = layer.weight, layer.bias
    if weight.grad is None:
        return torch.zeros(())
    products = (weight * weight.grad).float()
    if isinstance(layer, nn.ConvTranspose2d):
        products = products.reshape(layer.groups, -1, *products.shape[1:])
        products = products.transpose(1, 2).flatten(0, 1)
    sums = products.reshape(len(products), -1).sum(dim=1)
    if isinstance(bias, Tensor) and bias.grad is not None:
        sums = sums + (bias * bias.grad).float()
    return sums.cpu()
