"""From uint8 images to the numbers that a network expects."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.normalization import IMAGENET, Normalization

IMAGENET_MEAN, IMAGENET_STD = IMAGENET.mean, IMAGENET.std


def normalize(images: Tensor, normalization: Normalization = IMAGENET) -> Tensor:
    """Normalise as a network wants it, on the images' own device.

    Normalising whole batches here, not single samples in the loader, sends a quarter of the bytes
    between processes and to the GPU.

    Args:
        images: (N, 3, H, W) uint8, RGB.
        normalization: Of the network, see `normalization_of`.

    Returns:
        (N, 3, H, W) float32 in channels_last memory format.

    Raises:
        ValueError: Another shape or dtype.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must be uint8 of shape (N, 3, H, W); "
            f"got {images.dtype} of {tuple(images.shape)}"
        )
    return normalization(images).contiguous(memory_format=torch.channels_last)


def normalization_of(model: nn.Module) -> Normalization:
    """Return how a network wants its pixels; ImageNet's way if it says nothing."""
    found: Normalization = getattr(model, "normalization", IMAGENET)
    return found
