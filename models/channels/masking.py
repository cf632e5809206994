"""Masking: checks a pruning against the unpruned network with the same channels set to zero."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from models.blocks.channel_layers import ChannelLayer
from models.channels.record import KeptChannels, get_num_channels, replay
from models.network import SegmentationNetwork

_SEED = 20_240_409


@torch.no_grad()
def mask_channels(model: nn.Module, layers: Mapping[str, KeptChannels]) -> None:
    """Zero the channels that are not kept, in place, by their weights, biases and norms.

    Args:
        model: The unpruned network.
        layers: Channels that each layer keeps.
    """
    for name, kept in layers.items():
        layer = model.get_submodule(name)
        size = get_num_channels(layer)[1]
        removed = sorted(set(range(size)) - set(kept.outputs))
        if isinstance(layer, nn.PReLU | ChannelLayer) or not removed:
            continue
        weight = layer.weight
        device = weight.device if isinstance(weight, torch.Tensor) else None
        index = torch.tensor(removed, device=device)
        if isinstance(layer, nn.ConvTranspose2d):  # (inputs, outputs of one group, ...)
            kernels = layer.weight.unflatten(0, (layer.groups, -1))  # type: ignore[no-untyped-call]
            group, column = index // kernels.shape[2], index % kernels.shape[2]
            kernels[group, :, column] = 0.0
        elif isinstance(weight, nn.Parameter):
            weight.index_fill_(0, index, 0.0)
        elif (mean := getattr(layer, "running_mean", None)) is not None:
            # Without scales, a normalisation maps zeros to zeros only if their mean is zero.
            mean.index_fill_(0, index.to(mean.device), 0.0)
        if isinstance(layer.bias, nn.Parameter):
            layer.bias.index_fill_(0, index, 0.0)


@torch.inference_mode()
def measure_masking_error(
    model: SegmentationNetwork,
    layers: Mapping[str, KeptChannels],
    size: tuple[int, int] = (64, 96),
    *,
    dtype: torch.dtype = torch.float64,
    thorough: bool = True,
) -> float:
    """Compare the outputs of the pruned and the masked network, auxiliary heads included.

    Two comparisons are made: with the network's own weights, and with random BatchNorms. The second
    is needed because a branch whose BatchNorm scale is zero (as in a new residual block) would hide
    a mistake.

    Args:
        model: The unpruned network; not changed.
        layers: Channels that each layer keeps.
        size: Height and width of the random images.
        dtype: Floating-point type of the computation.
        thorough: Whether to make both comparisons or only the second.

    Returns:
        The largest difference relative to the largest output; infinity if an output is not finite
        or has another shape.

    Raises:
        ValueError: The layers do not belong to the network.
        Exception: The pruned network does not run; a user's network may raise any exception.
    """
    images = torch.randn(
        1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(_SEED)
    ).to(dtype)
    masked = copy.deepcopy(model).cpu().to(dtype).eval()
    pruned = copy.deepcopy(masked)
    replay(pruned, layers)
    mask_channels(masked, layers)
    error = 0.0
    for stir in (False, True) if thorough else (True,):
        if stir:
            _stir_batchnorms(masked, pruned, layers)
        for number, _ in enumerate(model.get_modes()):
            found = _compute(pruned, images, number)
            wanted = _compute(masked, images, number)
            if number and not _agree(wanted, _compute(masked, images, number, seed=1)):
                continue  # dropout: the outputs cannot be compared, only that it runs
            error = max(error, _difference(found, wanted))
    return error


def _compute(
    model: SegmentationNetwork, images: torch.Tensor, mode: int, seed: int = 0
) -> tuple[torch.Tensor, ...]:
    with torch.random.fork_rng(devices=[]), model.get_modes()[mode]():
        torch.manual_seed(seed)
        return model.compute_outputs(images, with_auxiliary=True)


def _agree(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def _difference(found: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> float:
    error = 0.0
    for f, w in zip(found, wanted, strict=True):
        if f.shape != w.shape:
            return float("inf")
        difference = ((f - w).abs().max() / w.abs().max().clamp_min(1e-30)).item()
        error = max(error, difference if difference == difference else float("inf"))
    return error


def _stir_batchnorms(
    masked: nn.Module, pruned: nn.Module, layers: Mapping[str, KeptChannels]
) -> None:
    """Draw the affine parameters of the BatchNorms and InstanceNorms anew, the same for both."""
    generator = torch.Generator().manual_seed(_SEED)
    for name, layer in masked.named_modules():
        if not isinstance(layer, nn.BatchNorm2d | nn.InstanceNorm2d) or not layer.affine:
            continue
        kept = torch.tensor(layers[name].outputs if name in layers else range(layer.num_features))
        narrow = pruned.get_submodule(name)
        drawn = {
            "weight": torch.empty_like(layer.weight).uniform_(0.5, 1.5, generator=generator),
            "bias": torch.empty_like(layer.weight).normal_(0.0, 0.1, generator=generator),
        }
        for parameter, values in drawn.items():
            if getattr(layer, parameter) is not None:
                getattr(layer, parameter).zero_()[kept] = values[kept]
                getattr(narrow, parameter).copy_(values[kept])
