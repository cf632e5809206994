"""Coarse maps of logits: how they are sampled, cropped with the image, and enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2


class LogitMap(tv_tensors.TVTensor):  # type: ignore[misc]
    """Logits of one image, (C, h, w), as a tensor type of torchvision's transforms.

    The height H is divided evenly into h = ceil(H / cell_stride) cells. Cell i holds the logits at
    the pixel coordinate (i + 1/2) H / h, where pixel p covers p to p + 1; likewise along the width.

    Attributes:
        size_in_pixels: (H, W) of the image in pixels.
        cell_stride: Largest distance of two neighbouring cells in pixels.
    """

    size_in_pixels: tuple[int, int]
    cell_stride: int

    def __new__(
        cls, logits: Tensor, *, size_in_pixels: tuple[int, int], cell_stride: int
    ) -> LogitMap:
        """Make a map from a tensor without copying it."""
        self: LogitMap = logits.as_subclass(cls)
        self.size_in_pixels = size_in_pixels
        self.cell_stride = cell_stride
        return self


class Window(NamedTuple):
    """An interval of the image and its position in the crop, along one axis, in pixels.

    Attributes:
        begin: First pixel in the image.
        length: Number of pixels of the image.
        place: First pixel in the crop.
        covered: Number of pixels of the crop that the interval is scaled to.
    """

    begin: int
    length: int
    place: int
    covered: int


def num_cells(num_pixels: int, stride: int) -> int:
    """Return the number of cells along an axis."""
    return -(-num_pixels // stride)


def shrink(logits: Tensor, stride: int) -> Tensor:
    """Sample logits bilinearly at the cells of a coarse map.

    Args:
        logits: Logits at full size, (N, C, H, W) float.
        stride: Stride of the map, at least 1.

    Returns:
        (N, C, ceil(H / stride), ceil(W / stride)) float32.
    """
    size = (num_cells(logits.shape[-2], stride), num_cells(logits.shape[-1], stride))
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def enlarge(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate a coarse map bilinearly at every pixel.

    Args:
        logits: Coarse map, (N, C, h, w) float.
        size: Height and width in pixels, (H, W).

    Returns:
        (N, C, H, W) float32.
    """
    return F.interpolate(logits.float(), size=list(size), mode="bilinear", align_corners=False)


def crop(logits: LogitMap, rows: Window, columns: Window, crop_size: tuple[int, int]) -> LogitMap:
    """Crop, scale and paste a map in the same way as its image.

    Each cell of the crop is sampled at the image position that its centre shows, with a triangle
    filter that is widened (antialiasing) where the image is made smaller. Cells just outside the
    image repeat its edge; cells further outside are 0.

    The sums are computed tap by tap, without BLAS, so that the number of threads cannot change any
    bit of a sample.

    Args:
        logits: Map of the image, (C, h, w) float.
        rows: Window along the height.
        columns: Window along the width.
        crop_size: (height, width) of the crop in pixels.

    Returns:
        (C, ceil(height / cell_stride), ceil(width / cell_stride)), of the same dtype.
    """
    values = logits.as_subclass(Tensor)
    height, width = logits.size_in_pixels
    vertical = _find_taps(height, rows, crop_size[0], logits.cell_stride)
    horizontal = _find_taps(width, columns, crop_size[1], logits.cell_stride)
    top, left = int(vertical.cells.min()), int(horizontal.cells.min())
    bottom, right = int(vertical.cells.max()) + 1, int(horizontal.cells.max()) + 1
    # Slice first, so that only the needed part is read from the disk.
    part = values[:, top:bottom, left:right].float()
    part = _sum_taps(part, 1, _Taps(vertical.cells - top, vertical.weight))
    part = _sum_taps(part, 2, _Taps(horizontal.cells - left, horizontal.weight))
    return LogitMap(part.to(values.dtype), size_in_pixels=crop_size, cell_stride=logits.cell_stride)


class _Taps(NamedTuple):
    """The cells, and their weights, that are summed for each cell along one axis.

    Attributes:
        cells: Indices of the cells, (taps, length) int64.
        weight: Weights, (taps, length) float32; a column sums to 1, or to 0 for padding.
    """

    cells: Tensor
    weight: Tensor


def _find_taps(num_pixels: int, window: Window, crop_pixels: int, stride: int) -> _Taps:
    """Find the cells of the map, and their weights, for each cell of the crop."""
    length, crop_length = num_cells(num_pixels, stride), num_cells(crop_pixels, stride)
    pitch, crop_pitch = num_pixels / length, crop_pixels / crop_length
    scale = window.length / window.covered
    support = max(1.0, scale * crop_pitch / pitch)
    centre = (torch.arange(crop_length, dtype=torch.float64) + 0.5) * crop_pitch - window.place
    needed = (centre > -crop_pitch) & (centre < window.covered + crop_pitch)
    position = ((window.begin + centre * scale) / pitch).clamp(0, length)
    first = (position - 0.5 - support).ceil()
    taps = torch.arange(int(2 * support) + 1, dtype=torch.float64).unsqueeze(1)
    index = first + taps
    weight = (1 - (index + 0.5 - position).abs() / support).clamp(min=0)
    weight = weight * ((index >= 0) & (index < length))
    weight = weight / weight.sum(dim=0) * needed
    return _Taps(index.clamp(0, length - 1).long(), weight.float())


def _sum_taps(values: Tensor, dim: int, taps: _Taps) -> Tensor:
    """Return the weighted sum along one axis of a (C, h, w) map."""
    shape = [1, 1, 1]
    shape[dim] = -1
    total = torch.zeros(())
    for cells, weight in zip(taps.cells, taps.weight, strict=True):
        total = total + values.index_select(dim, cells) * weight.view(shape)
    return total


@v2.functional.register_kernel(  # type: ignore[untyped-decorator]
    functional=v2.functional.horizontal_flip, tv_tensor_cls=LogitMap
)
def _flip(logits: LogitMap, *args: Any, **kwargs: Any) -> LogitMap:
    mirrored = logits.as_subclass(Tensor).flip(-1)
    return LogitMap(mirrored, size_in_pixels=logits.size_in_pixels, cell_stride=logits.cell_stride)
