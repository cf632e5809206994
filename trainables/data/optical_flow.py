"""Motion between consecutive frames: known for data sets that draw them, else estimated."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.data.dataset import SegmentationDataset

# Largest error of the flow there and back, in pixels and relative to the flow's length.
_SLACK, _SLACK_SHARE = 1.0, 0.05

# (index of a frame, index of the next) -> (2, H, W) motion, see `estimate_motion`
MotionFunction = Callable[[int, int], Tensor]


def find_motion(dataset: SegmentationDataset) -> MotionFunction:
    """Return a function that computes the motion of each pixel of a frame to the next frame.

    Args:
        dataset: Data set without augmentation; one that draws its frames knows their motion.

    Raises:
        ValueError: The motion must be estimated, and OpenCV is not installed.
    """
    known = getattr(dataset, "motion", None)
    if known is not None:
        return lambda first, second: known(first)
    _import_opencv()
    return lambda first, second: estimate_motion(dataset[first].image, dataset[second].image)


def estimate_motion(first: Tensor, second: Tensor) -> Tensor:
    """Estimate the optical flow from one image to another, without occluded pixels.

    Source: Kroeger et al., "Fast optical flow using dense inverse search", ECCV 2016, as in OpenCV
        (preset medium); a pixel is kept if the backward flow leads back to it.

    Args:
        first: First image, (3, H, W) uint8, RGB, at least 16 x 16.
        second: Second image, likewise.

    Returns:
        (2, H, W) float32: motion to the right and down in pixels; NaN where there is no
        counterpart.

    Raises:
        ValueError: OpenCV is not installed.
    """
    cv2 = _import_opencv()
    greys = [
        cv2.cvtColor(image.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
        for image in (first, second)
    ]
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there, back = search.calc(*greys, None), search.calc(*greys[::-1], None)
    height, width = greys[0].shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = columns + there[..., 0], rows + there[..., 1]
    returned = cv2.remap(back, x, y, cv2.INTER_LINEAR)
    missed = np.linalg.norm(there + returned, axis=2)
    is_good = missed <= _SLACK + _SLACK_SHARE * np.linalg.norm(there, axis=2)
    is_good &= (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    motion = np.where(is_good[..., None], there, np.nan)
    return torch.from_numpy(motion.transpose(2, 0, 1).astype(np.float32))


def _import_opencv() -> Any:
    try:
        return importlib.import_module("cv2")  # an optional dependency
    except ImportError:
        raise ValueError(
            "the motion between these frames must be estimated, which needs OpenCV: "
            "pip install -e '.[flow]'"
        ) from None
