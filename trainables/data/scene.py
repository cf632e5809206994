"""Camera, canvas and random draws for painting synthetic street scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageDraw

T = TypeVar("T")
Colour = tuple[float, float, float]
Point = tuple[float, float, float]

NEAREST_M = 0.6
VOID = 255
(
    ROAD, PAVEMENT, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY,
    PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE,
) = range(19)  # fmt: skip


class Dice:
    """Cheap scalar draws from one numpy generator.

    Args:
        generator: Source of every draw.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self._pool: list[float] = []

    def unit(self) -> float:
        """Draw uniformly from [0, 1)."""
        if not self._pool:
            self._pool = self.generator.random(512).tolist()
        return self._pool.pop()

    def uniform(self, low: float, high: float) -> float:
        """Draw uniformly from [low, high)."""
        return low + (high - low) * self.unit()

    def integer(self, low: int, high: int) -> int:
        """Draw an integer uniformly from low to high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.unit() < probability

    def choice(self, values: Sequence[T]) -> T:
        """Return one of the values at random."""
        return values[int(self.unit() * len(values))]

    def vary(self, colour: Colour, spread: float) -> Colour:
        """Return the colour with each channel changed by up to ``spread``."""
        r, g, b = colour
        return (
            r + self.uniform(-spread, spread),
            g + self.uniform(-spread, spread),
            b + self.uniform(-spread, spread),
        )

    def grey(self, low: float, high: float, tint: float = 8) -> Colour:
        """Draw a nearly neutral colour of brightness ``low`` to ``high``."""
        value = self.uniform(low, high)
        return self.vary((value, value, value), tint)


class Camera(NamedTuple):
    """A pinhole camera looking along a street; world axes are right, up and ahead, in metres.

    Attributes:
        focal: Focal length in canvas pixels.
        horizon: Row of the horizon on the canvas.
        centre: Column of the vanishing point on the canvas.
        height_m: Height of the camera above the road.
    """

    focal: float
    horizon: float
    centre: float
    height_m: float

    def project(self, point: Point) -> tuple[int, int]:
        """Return column and row of a point, rounded so that every machine draws the same."""
        x, y, z = point
        scale = self.focal / (z if z > NEAREST_M else NEAREST_M)
        # Round half up by truncation, which is cheaper than round(); values are nearly always
        # positive.
        return (
            int(self.centre + scale * x + 0.5),
            int(self.horizon + scale * (self.height_m - y) + 0.5),
        )


@dataclass(slots=True)
class Canvas:
    """Paints colour and class together; the class is the fourth channel of the picture.

    Attributes:
        camera: Camera of the projection.
        picture: Four-channel image at twice the final resolution.
        haze: Colour that distant objects fade to.
        haze_m: Length scale of the fading, in metres.
        left_light: Brightness of faces that look left; faces that look right have the reciprocal.
    """

    camera: Camera
    picture: Image.Image
    haze: Colour
    haze_m: float
    left_light: float
    _draw: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        """Open the picture for drawing."""
        self._draw = ImageDraw.Draw(self.picture)

    def ink(self, label: int, colour: Colour, z: float = 0.0) -> tuple[int, int, int, int]:
        """Return the colour at a distance together with the class."""
        fade = z / (z + self.haze_m)
        r, g, b = colour
        far_r, far_g, far_b = self.haze
        r, g, b = r + (far_r - r) * fade, g + (far_g - g) * fade, b + (far_b - b) * fade
        return _byte(r), _byte(g), _byte(b), label

    def polygon(self, label: int, colour: Colour, points: Sequence[Point]) -> None:
        """Fill a polygon given in metres."""
        ink = self.ink(label, colour, max(NEAREST_M, sum(p[2] for p in points) / len(points)))
        self._draw.polygon([self.camera.project(point) for point in points], fill=ink)

    def side_panes(
        self,
        label: int,
        colour: Colour,
        x: float,
        rows: Sequence[tuple[float, float]],
        spans: Sequence[tuple[float, float]],
    ) -> None:
        """Fill a grid of rectangles on a plane along the street, one for each row and span.

        Args:
            label: Class of the rectangles.
            colour: Colour before haze.
            x: Position of the plane in metres to the right.
            rows: Lower and upper end of each row in metres.
            spans: Near and far end of each span in metres.
        """
        camera = self.camera
        for near, far in spans:
            ink = self.ink(label, colour, (near + far) / 2)
            a = camera.focal / max(near, NEAREST_M)
            b = camera.focal / max(far, NEAREST_M)
            left, right = int(camera.centre + a * x + 0.5), int(camera.centre + b * x + 0.5)
            if max(left, right) < 0 or min(left, right) > self.picture.width:
                continue
            for low, high in rows:
                low, high = camera.height_m - low, camera.height_m - high
                corners = (
                    (left, int(camera.horizon + a * low + 0.5)),
                    (left, int(camera.horizon + a * high + 0.5)),
                    (right, int(camera.horizon + b * high + 0.5)),
                    (right, int(camera.horizon + b * low + 0.5)),
                )
                self._draw.polygon(corners, fill=ink)

    def bonnet(self, colour: Colour, rise: int) -> None:
        """Paint the bonnet of the camera's own car along the lower edge, as void."""
        width, height = self.picture.size
        box = (-width // 4, height - rise, width + width // 4, height + 3 * rise)
        self._draw.ellipse(box, fill=self.ink(VOID, colour))

    def plate(
        self, label: int, colour: Colour, x: tuple[float, float], y: tuple[float, float], z: float
    ) -> None:
        """Fill an upright rectangle that faces the camera, from its extents in metres."""
        left, top = self.camera.project((min(x), max(y), z))
        right, bottom = self.camera.project((max(x), min(y), z))
        self._draw.rectangle((left, top, right, bottom), fill=self.ink(label, colour, z))

    def disc(
        self,
        label: int,
        colour: Colour,
        centre: Point,
        radii: tuple[float, float],
        width_m: float = 0.0,
    ) -> None:
        """Fill an ellipse that faces the camera, or draw its rim if ``width_m`` is given."""
        x, y, z = centre
        left, top = self.camera.project((x - radii[0], y + radii[1], z))
        right, bottom = self.camera.project((x + radii[0], y - radii[1], z))
        box = (left, top, max(left + 1, right), max(top + 1, bottom))
        ink = self.ink(label, colour, z)
        if width_m:
            width = max(1, round(width_m * self.camera.focal / z))
            self._draw.ellipse(box, outline=ink, width=width)
        else:
            self._draw.ellipse(box, fill=ink)

    def line(
        self,
        label: int,
        colour: Colour,
        start: Point,
        end: Point,
        width_m: float,
        *,
        least: int = 1,
    ) -> None:
        """Draw a bar of a given thickness in metres, at least ``least`` canvas pixels wide."""
        z = (start[2] + end[2]) / 2
        width = max(least, round(width_m * self.camera.focal / max(z, NEAREST_M)))
        points = [self.camera.project(start), self.camera.project(end)]
        self._draw.line(points, fill=self.ink(label, colour, z), width=width)

    def box(
        self,
        label: int,
        colour: Colour,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
    ) -> None:
        """Fill the visible faces of a box: the one towards the axis, the top and the front."""
        left, right = x
        low, high = y
        near, far = max(z[0], NEAREST_M), z[1]
        if high < self.camera.height_m:
            top = [(left, high, near), (right, high, near), (right, high, far), (left, high, far)]
            self.polygon(label, shade(colour, 1.15), top)
        if left > 0 or right < 0:
            side = left if left > 0 else right
            light = self.left_light if left > 0 else 1 / self.left_light
            face = [(side, low, near), (side, high, near), (side, high, far), (side, low, far)]
            self.polygon(label, shade(colour, light), face)
        self.plate(label, colour, x, y, near)


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour, brighter or darker by a factor."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """Return a mixture with the fraction ``share`` of the second colour."""
    r, g, b = (a + (c - a) * share for a, c in zip(first, second, strict=True))
    return r, g, b


def _byte(value: float) -> int:
    # This is called most often, and two comparisons are faster than min and max.
    return 0 if value < 0 else 255 if value > 255 else int(value)
