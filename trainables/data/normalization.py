"""From uint8 images to the numbers that ImageNet backbones expect."""

from __future__ import annotations

import torch
from torch import Tensor

# Source: torchvision model documentation, statistics of ImageNet in RGB on the scale 0 to 1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor) -> Tensor:
    """Normalise by the ImageNet mean and standard deviation, on the images' own device.

    Normalising whole batches here, not single samples in the loader, sends a quarter of the bytes
    between processes and to the GPU.

    Args:
        images: (N, 3, H, W) uint8, RGB.

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
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).mul_(255.0).view(1, 3, 1, 1)
    inverse_std = torch.tensor(IMAGENET_STD, device=images.device).mul_(255.0).reciprocal_()
    values = images.to(torch.float32, memory_format=torch.channels_last)
    return values.sub_(mean).mul_(inverse_std.view(1, 3, 1, 1))
