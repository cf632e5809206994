"""A canvas whose camera has moved ahead, and which knows the distance of each pixel."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from trainables.data.scene import NEAREST_M, Camera, Canvas, Colour, Point

# a X + b Y + c Z = d, in metres to the right, up and ahead
Plane = tuple[float, float, float, float]
_SAME_SURFACE = 0.02  # largest relative difference of two distances to one point


class DrivenCanvas(Canvas):
    """Paints a street scene as seen from some metres further ahead.

    Every shape also writes the number of its plane into a second picture. The distance of a pixel
    is the distance of its plane along the pixel's ray.

    Args:
        camera: Projection from the original position.
        picture: Picture as for `Canvas`.
        ahead_m: Metres that the camera has moved; few enough that it hits nothing.
        **options: Options as for `Canvas`.
    """

    def __init__(
        self, camera: Camera, picture: Image.Image, *, ahead_m: float, **options: Any
    ) -> None:
        super().__init__(camera, picture, **options)
        self.ahead_m = ahead_m
        self.planes: list[Plane | None] = [None]  # the sky has no plane
        self.surfaces = Image.new("I", picture.size, 0)
        self._draw = _TwoPictures(self._draw, ImageDraw.Draw(self.surfaces))  # type: ignore[assignment]

    def polygon(self, label: int, colour: Colour, points: Sequence[Point]) -> None:
        """See `Canvas`; parts behind the camera are clipped."""
        seen = _cut_off(self._move(points))
        if len(seen) >= 3 and (plane := _plane_of(seen)) is not None:
            self._use(plane)
            super().polygon(label, colour, seen)

    def side_panes(
        self,
        label: int,
        colour: Colour,
        x: float,
        rows: Sequence[tuple[float, float]],
        spans: Sequence[tuple[float, float]],
    ) -> None:
        """See `Canvas`."""
        moved = [(near - self.ahead_m, far - self.ahead_m) for near, far in spans]
        self._use((1.0, 0.0, 0.0, x))
        super().side_panes(label, colour, x, rows, [s for s in moved if s[1] > NEAREST_M])

    def bonnet(self, colour: Colour, rise: int) -> None:
        """See `Canvas`; it moves with the camera."""
        self._use(None)
        super().bonnet(colour, rise)

    def plate(
        self, label: int, colour: Colour, x: tuple[float, float], y: tuple[float, float], z: float
    ) -> None:
        """See `Canvas`."""
        if z - self.ahead_m > NEAREST_M:
            self._use((0.0, 0.0, 1.0, z - self.ahead_m))
            super().plate(label, colour, x, y, z - self.ahead_m)

    def disc(
        self,
        label: int,
        colour: Colour,
        centre: Point,
        radii: tuple[float, float],
        width_m: float = 0.0,
    ) -> None:
        """See `Canvas`."""
        x, y, z = centre
        if z - self.ahead_m > NEAREST_M:
            self._use((0.0, 0.0, 1.0, z - self.ahead_m))
            super().disc(label, colour, (x, y, z - self.ahead_m), radii, width_m)

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
        """See `Canvas`."""
        first, last = self._move((start, end))
        if max(first[2], last[2]) <= NEAREST_M:
            return
        # A bar along the street lies in the plane of its side; any other faces the camera.
        along = first[2] != last[2]
        self._use((1.0, 0.0, 0.0, first[0]) if along else (0.0, 0.0, 1.0, first[2]))
        super().line(label, colour, first, last, width_m, least=least)

    def measure_depth(self) -> npt.NDArray[np.float64]:
        """Return each pixel's distance ahead in metres (halved picture); infinite in the sky."""
        numbers = np.asarray(self.surfaces)[1::2, 1::2]
        normals = np.array([plane or (0.0, 0.0, 0.0, 0.0) for plane in self.planes])[numbers]
        right, up = self._rays(numbers.shape)
        along = normals[..., 0] * right + normals[..., 1] * up + normals[..., 2]
        offset = normals[..., 3] - normals[..., 1] * self.camera.height_m
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = offset / along
        return np.where((along != 0) & (depth > 0), depth, np.inf)

    def find_motion(self, later: DrivenCanvas, step_m: float) -> npt.NDArray[np.float32]:
        """Find the motion of each pixel to a picture taken `step_m` further ahead.

        Returns:
            (2, H, W) motion to the right and down, in pixels of the halved picture; NaN where the
            point of a pixel is hidden or outside in the other picture.
        """
        depth, depth_there = self.measure_depth(), later.measure_depth()
        height, width = depth.shape
        rows, columns = np.mgrid[:height, :width]
        # All points move away from the vanishing point in proportion to 1 / distance; the sky does
        # not move.
        with np.errstate(invalid="ignore"):
            growth = np.where(np.isfinite(depth), depth / (depth - step_m), 1.0)
        column_there = _about(columns, self.camera.centre / 2, growth)
        row_there = _about(rows, self.camera.horizon / 2, growth)
        nearest_row, nearest_column = _round(row_there), _round(column_there)
        inside = (nearest_row >= 0) & (nearest_row < height)
        inside &= (nearest_column >= 0) & (nearest_column < width)
        shown = depth_there[nearest_row.clip(0, height - 1), nearest_column.clip(0, width - 1)]
        expected = depth - step_m
        with np.errstate(invalid="ignore"):
            close = np.abs(shown - expected) <= _SAME_SURFACE * np.abs(expected)
        same = np.where(np.isfinite(depth), close, np.isinf(shown)) & (expected > NEAREST_M)
        motion = np.stack([column_there - columns, row_there - rows]).astype(np.float32)
        motion[:, ~(inside & same)] = np.nan
        return motion

    def _rays(self, shape: tuple[int, int]) -> tuple[npt.NDArray[np.float64], ...]:
        """Return each pixel's ray: metres to the right and up per metre ahead."""
        # Pixel i of the halved picture is pixel 2 i + 1 of the canvas.
        columns = 2.0 * np.arange(shape[1])[None, :] + 1
        rows = 2.0 * np.arange(shape[0])[:, None] + 1
        right = (columns - self.camera.centre) / self.camera.focal
        up = (self.camera.horizon - rows) / self.camera.focal
        return np.broadcast_to(right, shape), np.broadcast_to(up, shape)

    def _move(self, points: Sequence[Point]) -> list[Point]:
        return [(x, y, z - self.ahead_m) for x, y, z in points]

    def _use(self, plane: Plane | None) -> None:
        self.planes.append(plane)
        self._draw.number = len(self.planes) - 1  # type: ignore[attr-defined]


class _TwoPictures:
    """Draws each shape into the picture, and its plane's number into a second one."""

    def __init__(self, colours: ImageDraw.ImageDraw, surfaces: ImageDraw.ImageDraw) -> None:
        self.colours, self.surfaces = colours, surfaces
        self.number = 0

    def polygon(self, corners: Any, fill: Any) -> None:
        self.colours.polygon(corners, fill=fill)
        self.surfaces.polygon(corners, fill=self.number)

    def rectangle(self, box: Any, fill: Any) -> None:
        self.colours.rectangle(box, fill=fill)
        self.surfaces.rectangle(box, fill=self.number)

    def line(self, points: Any, fill: Any, width: int) -> None:
        self.colours.line(points, fill=fill, width=width)
        self.surfaces.line(points, fill=self.number, width=width)

    def ellipse(self, box: Any, fill: Any = None, outline: Any = None, width: int = 1) -> None:
        self.colours.ellipse(box, fill=fill, outline=outline, width=width)
        if fill is not None:
            self.surfaces.ellipse(box, fill=self.number)
        else:
            self.surfaces.ellipse(box, outline=self.number, width=width)


def _about(
    places: npt.NDArray[np.int64], centre: float, growth: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Scale positions about a point; pixel i of the halved picture is at i + 1/2."""
    moved: npt.NDArray[np.float64] = centre + (places + 0.5 - centre) * growth - 0.5
    return moved


def _round(places: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the nearest pixels; undefined or distant positions are outside of every picture."""
    nearest: npt.NDArray[np.int64] = np.rint(
        np.nan_to_num(places, nan=-1e6).clip(-1e6, 1e6)
    ).astype(np.int64)
    return nearest


def _cut_off(points: Sequence[Point]) -> list[Point]:
    """Return the part of a convex polygon that is at least `NEAREST_M` ahead."""
    kept: list[Point] = []
    for start, end in zip(points, [*points[1:], points[0]], strict=True):
        if start[2] >= NEAREST_M:
            kept.append(start)
        if (start[2] >= NEAREST_M) != (end[2] >= NEAREST_M):
            share = (NEAREST_M - start[2]) / (end[2] - start[2])
            x, y = (a + share * (b - a) for a, b in zip(start[:2], end[:2], strict=True))
            kept.append((x, y, NEAREST_M))
    return kept


def _plane_of(points: Sequence[Point]) -> Plane | None:
    """Return the plane of a flat polygon; None if it has no area."""
    corners = np.asarray(points)
    normal = np.zeros(3)
    for first, second in itertools.pairwise(corners[1:]):
        normal += np.cross(first - corners[0], second - corners[0])
    size = float(np.linalg.norm(normal))
    if size < 1e-9:
        return None
    a, b, c = (float(value) for value in normal / size)
    return a, b, c, float(normal @ corners[0]) / size
