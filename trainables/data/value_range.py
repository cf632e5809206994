"""Scales images of more than 8 bits to 0..255."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

ValueRange = tuple[float, float]


def choose_range(ranges: Iterable[ValueRange], *, is_float: bool) -> ValueRange:
    """Choose the values that become 0 and 255, the same ones for all images of a data set.

    If the largest value is in the upper half of 0 to 255, or for floats of 0 to 1, that scale is
    used. Otherwise the range is from the smallest to the largest value, so that 12-bit images and
    thermal images, which use a small part of 16 bits, keep their contrast.

    Args:
        ranges: Smallest and largest value of each image.
        is_float: True for floating-point images.
    """
    lows, highs = zip(*ranges, strict=True)
    low, high = float(min(lows)), float(max(highs))
    usual = (1.0, 255.0) if is_float else (255.0,)
    for scale in usual:
        if low >= 0 and scale / 2 <= high <= scale:
            return 0.0, scale
    return (low, high) if high > low else (low, low + 1)


def to_uint8(pixels: npt.NDArray[Any], value_range: ValueRange) -> npt.NDArray[np.uint8]:
    """Map the values of a range linearly to 0..255; values outside are clipped.

    Args:
        pixels: Pixels of any dtype, (H, W) or (H, W, 3).
        value_range: Values that become 0 and 255.

    Returns:
        (H, W, 3) uint8; a single channel is repeated three times.
    """
    low, high = value_range
    scaled = (pixels.astype(np.float32) - low) * (255 / (high - low))
    levels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)
