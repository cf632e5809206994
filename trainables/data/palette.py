"""Default colours of classes: of high contrast, and the same in every picture."""

from __future__ import annotations

import colorsys

Colour = tuple[int, int, int]

# Source: Kelly, "Twenty-two colors of maximum contrast", Color Engineering 3(6), 1965, in the RGB
# values of Green-Armytage, "A colour alphabet", Colour: Design & Creativity 5, 2010; grey comes
# last.
_CONTRASTING: tuple[Colour, ...] = (
    (0, 117, 220), (255, 164, 5), (43, 206, 72), (255, 0, 16), (240, 163, 255), (94, 241, 242),
    (153, 63, 0), (255, 255, 128), (116, 10, 255), (0, 92, 49), (255, 168, 187), (157, 204, 0),
    (194, 0, 136), (0, 51, 128), (143, 124, 0), (0, 153, 143), (255, 80, 5), (76, 0, 92),
    (148, 255, 181), (153, 0, 0), (255, 225, 0), (128, 128, 128),
)  # fmt: skip
_GOLDEN_RATIO = 0.6180339887


def default_palette(num_classes: int) -> tuple[Colour, ...]:
    """Return one RGB colour per class, 0 to 255 each; the first 22 are chosen for contrast.

    Args:
        num_classes: Number of classes.
    """
    further = range(len(_CONTRASTING), num_classes)
    return (*_CONTRASTING[:num_classes], *(_turn_hue(index) for index in further))


def name_colour(colour: Colour) -> str:
    """Return a colour as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _turn_hue(index: int) -> Colour:
    shade = (0.95, 0.75, 0.55)[index % 3]
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.85, shade)
    return round(255 * red), round(255 * green), round(255 * blue)
