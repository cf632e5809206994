"""Max-pooling that keeps the positions of its maxima, and unpooling to those positions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooled:
    """Result of max-pooling over 2x2 windows.

    Attributes:
        maxima: Maxima, (N, C, ceil(H / 2), ceil(W / 2)) float.
        indices: Flat position of each maximum in its map of H x W, int64 of the same shape.
        size: H and W of the pooled map.
    """

    maxima: Tensor
    indices: Tensor
    size: tuple[int, int]


def max_pool(features: Tensor) -> Pooled:
    """Pool (N, C, H, W) over 2x2 windows of stride 2; windows at an odd border are smaller."""
    maxima, indices = F.max_pool2d(features, 2, ceil_mode=True, return_indices=True)
    height, width = features.shape[-2:]
    return Pooled(maxima=maxima, indices=indices, size=(height, width))


def max_unpool(features: Tensor, pooled: Pooled) -> Tensor:
    """Put every value at the position of its window's maximum; all other positions are zero.

    Source: Badrinarayanan et al., "SegNet", https://arxiv.org/abs/1511.00561, section 3.

    Args:
        features: Values to place, (N, C, ceil(H / 2), ceil(W / 2)) float, with as many channels as
            were pooled.
        pooled: Result of `max_pool` on a map of (N, C, H, W).

    Returns:
        (N, C, H, W).
    """
    return F.max_unpool2d(features, pooled.indices, (2, 2), output_size=pooled.size)
