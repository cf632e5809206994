"""Cosine similarities between the places of maps: the structure that no width can hide."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]
) -> Tensor:
    """Mean squared difference of the similarities of every place of one map with each of another.

    The similarities of a network do not change when its map is multiplied by a number or its
    channels are rotated.

    Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019,
        https://arxiv.org/abs/1903.04197, equation 3, where both maps are the same.

    Args:
        student: Two maps (N, c, h, w) float.
        teacher: Two maps (N, C, h, w) float of the same places.
        valid: (N, h, w) bool for each of the two, the places that count.

    Returns:
        Scalar within 0..4; 0 where no pair of places counts.
    """
    gaps = (similarities(*student) - similarities(*teacher).detach()).square()
    counts = valid[0].flatten(1).unsqueeze(2) & valid[1].flatten(1).unsqueeze(1)
    return torch.where(counts, gaps, 0.0).sum() / counts.sum().clamp(min=1)


def similarities(first: Tensor, second: Tensor) -> Tensor:
    """Cosines (N, hw, hw) between the places of two maps (N, C, h, w)."""
    rows, columns = (F.normalize(m.flatten(2), dim=1, eps=1e-6) for m in (first, second))
    return rows.transpose(1, 2) @ columns
