"""Max-pooling that remembers where its maxima lay, and the unpooling that puts values there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooled:
    """The maxima of 2x2 windows.

    Attributes:
        maxima: (N, C, ceil(H / 2), ceil(W / 2)) float.
        indices: As many int64: where each maximum lay in its map of H x W.
        size: H and W.
    """

    maxima: Tensor
    indices: Tensor
    size: tuple[int, int]


def max_pool(features: Tensor) -> Pooled:
    """Pool (N, C, H, W) over 2x2 windows of stride 2; at an odd border the windows are smaller."""
    maxima, indices = F.max_pool2d(features, 2, ceil_mode=True, return_indices=True)
    height, width = features.shape[-2:]
    return Pooled(maxima=maxima, indices=indices, size=(height, width))


def max_unpool(features: Tensor, pooled: Pooled) -> Tensor:
    """Put every value where the maximum of its window had been, among zeros.

    Source: Badrinarayanan et al., "SegNet", https://arxiv.org/abs/1511.00561, section 3.
    Differs: while gradients are recorded, zero times the maxima is added. Indices carry no
        gradient, so without it pruning would not see that the c-th channel of the features needs
        the c-th channel of the indices, and that both must go together.

    Args:
        features: (N, C, ceil(H / 2), ceil(W / 2)) float, with as many channels as were pooled.
        pooled: What `max_pool` returned for (N, C, H, W).

    Returns:
        (N, C, H, W).
    """
    if torch.is_grad_enabled():
        features = features + 0 * pooled.maxima
    return F.max_unpool2d(features, pooled.indices, (2, 2), output_size=pooled.size)
