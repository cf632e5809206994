"""Brings two maps to a common size and width, and finds the positions that count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.distillers.layers import Layer

IGNORE_INDEX = 255


def shrink_to_common(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average both maps down to the smaller height and the smaller width of the two.

    Args:
        first: First map, (N, c, h, w).
        second: Second map, (N, C, H, W).

    Returns:
        (N, c, min(h, H), min(w, W)) and (N, C, min(h, H), min(w, W)), at least float32.
    """
    size = min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1])
    return _shrink(first, size), _shrink(second, size)


def shrink_to_nodes(values: Tensor, longest: int) -> Tensor:
    """Average a map down until neither side has more than `longest` cells."""
    return _shrink(values, (min(values.shape[-2], longest), min(values.shape[-1], longest)))


def valid_cells(target: Tensor, size: Sequence[int]) -> Tensor:
    """Return the cells of a coarse map with at least one labelled pixel, (N, h, w) bool.

    Args:
        target: Labels, (N, H, W) integer; 255 is ignored.
        size: Height and width of the map, (h, w).
    """
    valid = (target != IGNORE_INDEX).unsqueeze(1).float()
    return F.adaptive_max_pool2d(valid, (size[0], size[1])).squeeze(1) > 0


class Projections(nn.ModuleDict):
    """A 1x1 convolution for each pair of layers whose widths differ, from student to teacher.

    Args:
        pairs: Pairs of a layer of the student and a layer of the teacher.
    """

    def __init__(self, pairs: Sequence[tuple[Layer, Layer]]) -> None:
        super().__init__()
        for index, (own, other) in enumerate(pairs):
            if own.channels != other.channels:
                self[str(index)] = nn.Conv2d(own.channels, other.channels, 1, bias=False)

    def project(self, index: int, values: Tensor) -> Tensor:
        """Project the student's map of pair `index` to the teacher's width."""
        if str(index) not in self:
            return values
        projected: Tensor = self[str(index)](values)
        return projected


def widen(values: Tensor) -> Tensor:
    """Convert to at least float32, so that sums are not rounded to bfloat16."""
    return values if values.dtype == torch.float64 else values.float()


def _shrink(values: Tensor, size: tuple[int, int]) -> Tensor:
    values = widen(values)
    return values if tuple(values.shape[-2:]) == size else F.adaptive_avg_pool2d(values, size)
