"""The layout of a synthetic street: sky, ground, houses and plants, traffic and people."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainables.data import scene_things as things
from trainables.data.scene import (
    BUILDING,
    FENCE,
    PAVEMENT,
    ROAD,
    SKY,
    TERRAIN,
    VEGETATION,
    WALL,
    Camera,
    Canvas,
    Colour,
    Dice,
    blend,
    shade,
)

FAR_M = 120.0
# Shared by buildings, walls and pavements, so that only windows, height and place differ.
STONES: tuple[Colour, ...] = (
    (150, 80, 65), (185, 165, 130), (135, 132, 128), (205, 200, 190), (110, 85, 70), (90, 92, 98),
    (170, 150, 145), (215, 190, 140),
)  # fmt: skip
GRASS: tuple[Colour, ...] = ((95, 110, 55), (120, 120, 70), (80, 95, 60), (135, 115, 85))
# Each scene contains one of these, so that a small split still shows every class.
GUESTS = ("train", "bus", "truck", "motorcycle", "bicycle", "wall", "fence", "light", "terrain")


class Street(NamedTuple):
    """Widths of a street, in metres from its vanishing line.

    Attributes:
        left: Edge of the road on the left; negative.
        right: Edge of the road on the right.
        pavement: Width of the pavement on both sides.
        verge: Width of a strip of terrain behind the pavement.
    """

    left: float
    right: float
    pavement: float
    verge: float

    def kerb(self, side: int) -> float:
        """Edge of the road on one side (-1 or 1)."""
        return self.left if side < 0 else self.right

    def frontage(self, side: int) -> float:
        """Line of the buildings on one side (-1 or 1)."""
        return self.kerb(side) + side * (self.pavement + self.verge)


def paint_street(
    dice: Dice,
    height: int,
    width: int,
    guest: str,
    *,
    make_canvas: Callable[..., Canvas] = Canvas,
) -> Canvas:
    """Paint one street, without texture and light.

    Args:
        dice: Source of every choice.
        height: Rows of the canvas in pixels.
        width: Columns of the canvas in pixels.
        guest: One of ``GUESTS``, which this scene will contain.
        make_canvas: Constructor with the arguments of `Canvas`; the canvas must not affect the
            random draws.

    Returns:
        The painted canvas.
    """
    zenith, low_sky = _sky_colours(dice)
    camera = Camera(
        focal=height * dice.uniform(0.95, 1.2),
        horizon=height * dice.uniform(0.36, 0.5),
        centre=width * dice.uniform(0.36, 0.64),
        height_m=dice.uniform(1.25, 2.1),
    )
    canvas = make_canvas(
        camera,
        Image.new("CMYK", (width, height)),
        haze=low_sky,
        haze_m=dice.uniform(90, 400),
        left_light=dice.uniform(0.68, 1.45),
    )
    street = Street(
        left=-dice.uniform(3.2, 7.5),
        right=dice.uniform(3.2, 6.5),
        pavement=dice.uniform(1.6, 4.5),
        verge=dice.uniform(1.5, 6) if guest == "terrain" or dice.chance(0.3) else 0.0,
    )
    _paint_sky(canvas, zenith, low_sky)
    _paint_skyline(canvas, dice)
    _paint_ground(canvas, dice, street)
    for side in (-1, 1):
        _line_street(canvas, dice, street, side, guest)
    _populate(canvas, dice, street, guest)
    if dice.chance(0.25):
        canvas.bonnet(dice.grey(20, 90), int(height * dice.uniform(0.03, 0.09)))
    return canvas


def _sky_colours(dice: Dice) -> tuple[Colour, Colour]:
    zenith, low = dice.choice(
        (
            ((95, 145, 215), (190, 210, 230)),
            ((150, 160, 172), (190, 195, 198)),
            ((205, 208, 210), (225, 224, 220)),
            ((120, 130, 165), (225, 185, 150)),
        )
    )
    return dice.vary(zenith, 12), dice.vary(low, 10)


def _paint_sky(canvas: Canvas, zenith: Colour, low: Colour) -> None:
    width, height = canvas.picture.size
    rows = np.linspace(0, 1, height)[:, None] / (canvas.camera.horizon / height)
    colours = np.asarray(zenith) + (np.asarray(low) - np.asarray(zenith)) * np.minimum(rows, 1)
    column = np.concatenate([colours, np.full((height, 1), SKY)], axis=1).astype(np.uint8)
    strip = Image.frombytes("CMYK", (1, height), column.tobytes())
    canvas.picture.paste(strip.resize((width, height), Image.Resampling.NEAREST))


def _paint_skyline(canvas: Canvas, dice: Dice) -> None:
    """Paint distant houses and trees at the end of the street."""
    x = -FAR_M * 1.5
    while x < FAR_M * 1.5:
        wide = dice.uniform(8, 30)
        stone = dice.vary(dice.choice(STONES), 15)
        if dice.chance(0.55):
            canvas.plate(BUILDING, stone, (x, x + wide), (0, dice.uniform(6, 24)), FAR_M)
        else:
            leaves = dice.vary(dice.choice(things.LEAVES), 15)
            canvas.disc(
                VEGETATION, leaves, (x + wide / 2, 1, FAR_M), (wide * 0.7, dice.uniform(4, 14))
            )
        x += wide * dice.uniform(0.7, 1.2)


def _paint_ground(canvas: Canvas, dice: Dice, street: Street) -> None:
    asphalt = dice.grey(65, 150, 6)
    paving = (
        dice.vary(shade(dice.choice(STONES), 0.85), 10)
        if dice.chance(0.4)
        else dice.grey(80, 175, 8)
    )
    soil = dice.vary(dice.choice(GRASS), 15)
    base = (TERRAIN, soil) if street.verge or dice.chance(0.3) else (PAVEMENT, paving)
    _band(canvas, base[0], base[1], -400, 400)
    walk = (street.left - street.pavement, street.right + street.pavement)
    _band(canvas, PAVEMENT, paving, *walk)
    if street.verge:
        for side in (-1, 1):
            edge = street.kerb(side) + side * street.pavement
            _band(canvas, TERRAIN, soil, *sorted((edge, edge + side * street.verge)))
    kerb = shade(paving, 1.2)
    _band(canvas, PAVEMENT, kerb, street.left - 0.2, street.right + 0.2)
    _band(canvas, ROAD, asphalt, street.left, street.right)
    _paint_marks(canvas, dice, street, asphalt)


def _band(canvas: Canvas, label: int, colour: Colour, left: float, right: float) -> None:
    for near, far in ((0.7, 6.0), (6.0, 25.0), (25.0, FAR_M)):
        ground = [(left, 0.0, near), (right, 0.0, near), (right, 0.0, far), (left, 0.0, far)]
        canvas.polygon(label, colour, ground)


def _paint_marks(canvas: Canvas, dice: Dice, street: Street, asphalt: Colour) -> None:
    paint = blend(asphalt, (225, 225, 218), dice.uniform(0.35, 1.0))
    middle = dice.uniform(-1.0, 0.4) * 1.5
    start = dice.uniform(0, 6)
    for index in range(8):
        near = 1.5 + start + index * 6
        stripe = [(middle - 0.08, 0.0, near), (middle + 0.08, 0.0, near)]
        canvas.polygon(
            ROAD, paint, [*stripe, (middle + 0.08, 0.0, near + 3), (middle - 0.08, 0.0, near + 3)]
        )
    if dice.chance(0.5):
        for side in (-1, 1):
            edge = street.kerb(side) - side * dice.uniform(0.3, 2.2)
            _band(canvas, ROAD, paint, edge - 0.06, edge + 0.06)
    if dice.chance(0.25):
        near = dice.uniform(6, 20)
        x = street.left + 0.4
        while x < street.right - 0.5:
            bar = [
                (x, 0.0, near),
                (x + 0.5, 0.0, near),
                (x + 0.5, 0.0, near + 3),
                (x, 0.0, near + 3),
            ]
            canvas.polygon(ROAD, paint, bar)
            x += 1.0


def _line_street(canvas: Canvas, dice: Dice, street: Street, side: int, guest: str) -> None:
    """Line one side with houses, trees, walls, fences and gaps, from far to near."""
    front = street.frontage(side)
    z, kinds = dice.uniform(1.5, 4), []
    dense = dice.uniform(0.3, 0.75)
    while z < 90:
        length = dice.uniform(7, 20)
        roll = dice.unit()
        kind = (
            "house"
            if roll < dense
            else ("trees", "wall", "fence", "gap")[int(4 * (roll - dense) / (1 - dense))]
        )
        kinds.append((z, z + length, kind))
        z += length * (1.0 if dice.chance(0.7) else 1.25)
    if guest in ("wall", "fence"):
        at = min(1, len(kinds) - 1)
        kinds[at] = (kinds[at][0], kinds[at][1], guest)
    for near, far, kind in reversed(kinds):
        if kind == "house":
            _paint_house(canvas, dice, front, side, near, far)
        elif kind == "trees":
            _paint_trees(canvas, dice, front + side * 1.5, near, far)
        elif kind != "gap":
            if dice.chance(0.5):
                _paint_trees(canvas, dice, front + side * 4, near, far)
            else:
                _paint_house(canvas, dice, front + side * dice.uniform(3, 9), side, near, far)
            (_paint_wall if kind == "wall" else _paint_fence)(canvas, dice, front, side, near, far)


def _paint_house(
    canvas: Canvas, dice: Dice, front: float, side: int, near: float, far: float
) -> None:
    stone = dice.vary(dice.choice(STONES), 15)
    storeys, storey = dice.integer(1, 7), dice.uniform(2.8, 3.6)
    top = storeys * storey + 0.8
    across = sorted((front, front + side * 14))
    canvas.box(BUILDING, stone, (across[0], across[1]), (0, top), (near, far))
    light = canvas.left_light if side > 0 else 1 / canvas.left_light
    glass = dice.vary(
        dice.choice(((50, 58, 70), (95, 110, 128), (170, 185, 200), (70, 55, 45))), 15
    )
    bays = max(2, round((far - near) / dice.uniform(2.2, 4.0)))
    bay = (far - near) / bays
    wide, tall = dice.uniform(0.35, 0.65), dice.uniform(0.4, 0.7)
    detail = canvas.camera.focal * bay * abs(front) / (near * near)
    if dice.chance(0.4):
        canvas.side_panes(BUILDING, shade(stone, light * 0.65), front, [(0, storey)], [(near, far)])
    rows = [(row * storey + 0.9, row * storey + 0.9 + tall * storey) for row in range(storeys)]
    if detail < 4:
        canvas.side_panes(BUILDING, blend(stone, glass, wide), front, rows, [(near, far)])
        return
    starts = (near + (column + 0.5 - wide / 2) * bay for column in range(bays))
    spans = [(start, start + wide * bay) for start in starts if dice.chance(0.93)]
    for part in (spans[::2], spans[1::2]):
        tone = shade(glass, dice.uniform(0.85, 1.15))
        canvas.side_panes(BUILDING, tone, front, rows, part)
    for row in rows[: 5 if near > 3 else 0]:
        _paint_end_windows(canvas, glass, front, side, row, near, tall)


def _paint_end_windows(
    canvas: Canvas,
    glass: Colour,
    front: float,
    side: int,
    y: tuple[float, float],
    near: float,
    wide: float,
) -> None:
    """Paint the windows of the face that looks along the street."""
    for column in range(3):
        x = front + side * (1.2 + 3.1 * column)
        canvas.plate(BUILDING, glass, (x, x + side * 1.8 * wide), y, near)


def _paint_trees(canvas: Canvas, dice: Dice, x: float, near: float, far: float) -> None:
    leaves = dice.vary(dice.choice(things.LEAVES), 15)
    tall = dice.uniform(1.5, 5.5)
    z = far
    while z > near:
        radius = dice.uniform(1.2, 2.8)
        middle = tall * dice.uniform(0.7, 1.2)
        _blob(canvas, shade(leaves, dice.uniform(0.65, 1.0)), x, tall * 0.35, z, radius, tall * 0.5)
        _blob(canvas, shade(leaves, dice.uniform(0.8, 1.3)), x, middle, z, radius, radius * 1.1)
        z -= radius * dice.uniform(0.7, 1.1)


def _blob(
    canvas: Canvas, colour: Colour, x: float, y: float, z: float, radius: float, tall: float
) -> None:
    canvas.disc(VEGETATION, colour, (x, y, max(z, 1.5)), (radius, tall))


def _paint_wall(canvas: Canvas, dice: Dice, x: float, side: int, near: float, far: float) -> None:
    stone = dice.vary(dice.choice(STONES), 15)
    top = dice.uniform(1.7, 3.6)
    across = sorted((x, x + side * 0.4))
    canvas.box(WALL, stone, (across[0], across[1]), (0, top), (near, far))
    light = canvas.left_light if side > 0 else 1 / canvas.left_light
    canvas.side_panes(WALL, shade(stone, light * 1.15), x, [(top - 0.2, top)], [(near, far)])


def _paint_fence(canvas: Canvas, dice: Dice, x: float, side: int, near: float, far: float) -> None:
    """Paint bars over a background like that of the surroundings."""
    behind = dice.vary(dice.choice(things.LEAVES + STONES), 20)
    bars = dice.vary(dice.choice(((60, 62, 60), (150, 150, 148), (120, 90, 65))), 15)
    top = dice.uniform(1.1, 2.2)
    canvas.side_panes(FENCE, blend(behind, bars, 0.25), x, [(0, top)], [(near, far)])
    step = max(0.5, (far - near) / 28)
    z = far
    while z > near:
        canvas.line(FENCE, bars, (x, 0, z), (x, top, z), 0.12)
        z -= step * (0.35 + 0.65 * z / far)
    for y in (0.25, top):
        canvas.line(FENCE, bars, (x, y, near), (x, y, far), 0.1)


def _populate(canvas: Canvas, dice: Dice, street: Street, guest: str) -> None:
    """Paint everything that stands or moves on the street, distant things first."""
    placed: list[tuple[float, Callable[[], None]]] = []

    def put(z: float, draw: Callable[..., None], *args: object, **options: object) -> None:
        placed.append((z, lambda: draw(canvas, dice, *args, **options)))

    _place_traffic(put, dice, street, guest)
    _place_people(put, dice, street, guest)
    _place_furniture(put, dice, street, guest)
    for _, draw in sorted(placed, key=lambda item: -item[0]):
        draw()


def _place_traffic(put: Callable[..., None], dice: Dice, street: Street, guest: str) -> None:
    vehicles = {"bus": things.draw_bus, "truck": things.draw_truck, "train": things.draw_train}
    for side in (-1, 1):
        lane = street.kerb(side) * 0.5
        z = dice.uniform(5, 16)
        if guest in vehicles and side == (1 if dice.chance(0.5) else -1):
            z = dice.uniform(7, 18)
            put(z, vehicles[guest], lane, z)
            z += 45 if guest == "train" else 16
        while z < 80:
            roll = dice.unit()
            draw = (
                things.draw_truck
                if roll < 0.1
                else things.draw_bus
                if roll < 0.17
                else things.draw_car
            )
            if roll < 0.7:
                put(z, draw, lane + dice.uniform(-0.5, 0.5), z)
            z += dice.uniform(9, 26)
        if dice.chance(0.5):
            _place_parked(put, dice, street.kerb(side) - side * 1.1)
    if guest in vehicles:
        z = dice.uniform(14, 28)
        put(z, vehicles[guest], street.kerb(dice.choice((-1, 1))) * 0.55, z)
    if dice.chance(0.25):
        z = dice.uniform(12, 35)
        put(z, things.draw_crossing_car, dice.uniform(street.left, street.right), z)


def _place_parked(put: Callable[..., None], dice: Dice, x: float) -> None:
    z = dice.uniform(5, 12)
    for _ in range(dice.integer(1, 5)):
        put(z, things.draw_car, x, z)
        z += dice.uniform(5.5, 9)


def _place_people(put: Callable[..., None], dice: Dice, street: Street, guest: str) -> None:
    for _ in range(dice.integer(1, 7)):
        z = dice.uniform(4.5, 26)
        put(z, things.draw_person, _on_pavement(dice, street), z)
    if dice.chance(0.2):
        z = dice.uniform(8, 22)
        for _ in range(dice.integer(1, 4)):
            put(z, things.draw_person, dice.uniform(street.left, street.right), z)
    cycles = dice.integer(0, 2) + 2 * (guest in ("motorcycle", "bicycle"))
    for _ in range(cycles):
        z = dice.uniform(4, 15)
        motor = guest == "motorcycle" or (guest != "bicycle" and dice.chance(0.4))
        ridden = dice.chance(0.65)
        on_road = street.kerb(dice.choice((-1, 1))) * dice.uniform(0.3, 0.9)
        x = on_road if ridden else _on_pavement(dice, street)
        put(z, things.draw_cycle, x, z, ridden=ridden, motor=motor)


def _on_pavement(dice: Dice, street: Street) -> float:
    side = dice.choice((-1, 1))
    return street.kerb(side) + side * dice.uniform(0.4, street.pavement)


def _place_furniture(put: Callable[..., None], dice: Dice, street: Street, guest: str) -> None:
    for side in (-1, 1):
        x = street.kerb(side) + side * dice.uniform(0.3, 0.9)
        z = dice.uniform(5, 14)
        while z < 60:
            carries = (
                "light"
                if guest == "light"
                else dice.choice(("lamp", "lamp", "light", "sign", "sign"))
            )
            put(z, things.draw_pole, x, z, carries)
            z += dice.uniform(7, 20)
        if dice.chance(0.35):
            z = dice.uniform(6, 14)
            while z < 50:
                put(z, things.draw_tree, x + side * dice.uniform(0.3, 1.2), z)
                z += dice.uniform(6, 12)
