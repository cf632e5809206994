"""Brings two maps to a common size and width, and finds the positions that count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.distillers.layers import Layer

IGNORE_INDEX = 255
FINEST_STRIDE = 4


def shrink_to_common(
    first: Tensor, second: Tensor, image_size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Average both maps down to the smaller of their sizes, and to a quarter of the image at most.

    Networks compute no map at a finer stride than 4 but by interpolation or at great cost, and a
    comparison of such maps costs sixteen times as much (`benchmarks/distill_losses.py`).

    Args:
        first: First map, (N, c, h, w).
        second: Second map, (N, C, H, W).
        image_size: Height and width of the images.

    Returns:
        Maps of equal height and width, (N, c, ., .) and (N, C, ., .), at least float32.
    """
    size = [
        min(sides[0], sides[1], math.ceil(sides[2] / FINEST_STRIDE))
        for sides in zip(first.shape[-2:], second.shape[-2:], image_size, strict=True)
    ]
    return _shrink(first, (size[0], size[1])), _shrink(second, (size[0], size[1]))


def cut_padding(values: Tensor, stride: int, image_size: Sequence[int]) -> Tensor:
    """Leave out the cells of a map beyond the image.

    Some networks pad their images at the right and at the bottom.

    Args:
        values: Map, (..., h, w).
        stride: Pixels of the image per cell.
        image_size: Height and width of the image.
    """
    height, width = (math.ceil(side / stride) for side in image_size)
    return values[..., :height, :width]


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
