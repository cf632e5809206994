"""Normalises uint8 images for a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.normalization import IMAGENET, Normalization

IMAGENET_MEAN, IMAGENET_STD = IMAGENET.mean, IMAGENET.std


def normalize(images: Tensor, normalization: Normalization = IMAGENET) -> Tensor:
    """Normalise images for a network, on their own device.

    Normalising whole batches here instead of single samples in the loader reduces the bytes sent
    between processes and to the GPU to a quarter.

    Args:
        images: Images, (N, 3, H, W) uint8, RGB.
        normalization: Normalisation of the network, see `normalization_of`.

    Returns:
        (N, 3, H, W) float32 in channels_last memory format.

    Raises:
        ValueError: The images have another shape or dtype.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must be uint8 of shape (N, 3, H, W); "
            f"got {images.dtype} of {tuple(images.shape)}"
        )
    return normalization(images).contiguous(memory_format=torch.channels_last)


def normalization_of(model: nn.Module) -> Normalization:
    """Return the normalisation of a network; that of ImageNet if it states none."""
    found: Normalization = getattr(model, "normalization", IMAGENET)
    return found
