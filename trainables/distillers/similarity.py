"""Cosine similarities between positions of maps, which can be compared at any width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.process.distributed import sum_over_processes


def similarity_loss(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the mean squared difference of the similarities between positions of two maps.

    The similarities of a network do not change when its map is multiplied by a number or its
    channels are rotated.

    Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019,
        https://arxiv.org/abs/1903.04197, equation 3, where both maps are the same.

    Args:
        student: Two maps of the student, (N, c, h, w) float.
        teacher: Two maps of the teacher, (N, C, h, w) float, at the same positions.
        valid: Positions that count in each of the two, (N, h, w) bool each.

    Returns:
        Scalar in 0..4; 0 if no pair of positions counts.
    """
    gaps = (similarities(*student) - similarities(*teacher).detach()).square()
    counts = valid[0].flatten(1).unsqueeze(2) & valid[1].flatten(1).unsqueeze(1)
    return torch.where(counts, gaps, 0.0).sum() / sum_over_processes(counts.sum()).clamp(min=1)


def similarities(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosines (N, hw, hw) between the positions of two maps (N, C, h, w)."""
    rows, columns = (F.normalize(m.flatten(2), dim=1, eps=1e-6) for m in (first, second))
    return rows.transpose(1, 2) @ columns
