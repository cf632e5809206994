"""Colours of the classes in pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from trainables.data import SegmentationDataset
from trainables.data.camvid import CAMVID_CLASSES
from trainables.data.cityscapes import CITYSCAPES_CLASSES

Color = tuple[int, int, int]

IGNORED: Color = (0, 0, 0)
"""Colour of pixels without a label."""

# Source: the published colours of both data sets.
CAMVID: tuple[Color, ...] = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
CITYSCAPES: tuple[Color, ...] = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
    (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
    (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
    (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
PUBLISHED = {CAMVID_CLASSES: CAMVID, CITYSCAPES_CLASSES: CITYSCAPES}
"""Colours of the classes, by their names."""
GOLDEN_ANGLE = 0.618034  # of a full turn, so that hues differ for any number of classes


def get_class_colors(dataset: SegmentationDataset) -> tuple[Color, ...]:
    """Return one colour per class: the data set's own, the published ones, or a colour wheel.

    Args:
        dataset: Data set; its attribute `colors`, with an RGB triple per class, is used if it
            exists.

    Returns:
        An RGB triple in 0..255 for each class.
    """
    own: Sequence[Color] | None = getattr(dataset, "colors", None)
    known = own or PUBLISHED.get(tuple(dataset.classes), ())
    if len(known) == dataset.num_classes:
        return tuple((int(r), int(g), int(b)) for r, g, b in known)
    return tuple(_turn_wheel(index) for index in range(dataset.num_classes))


def _turn_wheel(index: int) -> Color:
    value = (0.85, 0.6, 1.0)[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN_ANGLE % 1.0, 0.65, value)
    return round(255 * red), round(255 * green), round(255 * blue)
