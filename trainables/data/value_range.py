"""Images of more than 8 bits: which of their values become 0 and 255."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

ValueRange = tuple[float, float]


def choose_range(ranges: Iterable[ValueRange], *, is_float: bool) -> ValueRange:
    """Choose the values that become 0 and 255, the same ones for all images of a data set.

    Numbers that fill at least half of 0 to 255, or floats that fill half of 0 to 1, are on that
    scale. All others are taken from the smallest to the largest value that occurs, so that neither
    a camera of 12 bits nor a thermal one, which uses a small part of its 16, comes out flat.

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
    """Map the values of a range linearly to 0..255; those beyond it become its ends.

    Args:
        pixels: (H, W) or (H, W, 3), any numbers.
        value_range: Values that become 0 and 255.

    Returns:
        (H, W, 3) uint8; a single channel stands in all three.
    """
    low, high = value_range
    scaled = (pixels.astype(np.float32) - low) * (255 / (high - low))
    levels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)
