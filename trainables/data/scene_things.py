"""Objects on a synthetic street: vehicles, people, cycles, poles with lights and signs, trees."""

from __future__ import annotations

from trainables.data.scene import (
    BICYCLE,
    BUS,
    CAR,
    LIGHT,
    MOTORCYCLE,
    PERSON,
    POLE,
    RIDER,
    SIGN,
    TRAIN,
    TRUCK,
    VEGETATION,
    Canvas,
    Colour,
    Dice,
    shade,
)

# One palette for all vehicles, so that only shape, size and place differ.
PAINTS: tuple[Colour, ...] = (
    (30, 32, 36), (60, 62, 66), (120, 122, 126), (180, 182, 185), (225, 225, 222), (140, 30, 30),
    (40, 60, 120), (50, 90, 70), (200, 170, 60), (110, 80, 60),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (35, 35, 42), (70, 75, 90), (130, 40, 45), (50, 70, 130), (190, 185, 175), (90, 100, 60),
    (160, 120, 70), (110, 110, 112),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((220, 175, 145), (180, 130, 100), (110, 75, 55))
LEAVES: tuple[Colour, ...] = (
    (60, 85, 40),
    (85, 105, 50),
    (45, 70, 45),
    (115, 115, 60),
    (95, 75, 45),
)
TYRE: Colour = (25, 25, 27)
GLASS: Colour = (55, 65, 75)


def draw_car(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw a car seen from behind or ahead, at x metres across and z metres along the street."""
    paint = dice.vary(dice.choice(PAINTS), 18)
    half, length = dice.uniform(0.8, 0.98), dice.uniform(3.6, 4.8)
    waist, roof = dice.uniform(0.75, 1.0), dice.uniform(1.4, 1.85)
    _shadow(canvas, x, half, z, length)
    glass = dice.vary(GLASS, 20)
    cabin = (z + 0.22 * length, z + 0.8 * length)
    canvas.box(CAR, paint, (x - half, x + half), (0.25, waist), (z, z + length))
    canvas.box(CAR, glass, (x - half * 0.86, x + half * 0.86), (waist, roof), cabin)
    canvas.plate(CAR, paint, (x - half * 0.86, x + half * 0.86), (roof - 0.1, roof), cabin[0])
    for side in (-1, 1):
        wheel = x + side * half * 0.82
        canvas.plate(CAR, TYRE, (wheel - 0.1, wheel + 0.1), (0.0, 0.35), z)
        lamp = (190, 40, 35) if x > 0 else (235, 230, 200)
        edge = x + side * half * 0.78
        canvas.plate(CAR, lamp, (edge - 0.13, edge + 0.13), (waist - 0.3, waist - 0.12), z)
    inner = -half if x > 0 else half
    for wheel_z in (z + 0.2 * length, z + 0.78 * length):
        canvas.disc(CAR, TYRE, (x + inner, 0.3, wheel_z), (0.12, 0.3))
    canvas.plate(CAR, (215, 212, 190), (x - 0.25, x + 0.25), (0.42, 0.54), z)


def draw_crossing_car(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw a car seen from its side."""
    paint = dice.vary(dice.choice(PAINTS), 18)
    length, roof = dice.uniform(3.8, 4.7), dice.uniform(1.35, 1.7)
    _shadow(canvas, x, length / 2, z, 1.6)
    a, b = x - length / 2, x + length / 2
    hood, boot = a + 0.24 * length, b - dice.uniform(0.02, 0.18) * length
    canvas.plate(CAR, paint, (a, b), (0.28, 0.85), z)
    cabin = [(hood, 0.85, z), (hood + 0.55, roof, z), (boot - 0.4, roof, z), (boot, 0.85, z)]
    canvas.polygon(CAR, paint, cabin)
    for low, high in ((hood + 0.25, x - 0.05), (x + 0.1, boot - 0.3)):
        canvas.plate(CAR, GLASS, (low, high), (0.9, roof - 0.12), z)
    for wheel in (a + 0.19 * length, b - 0.19 * length):
        canvas.disc(CAR, TYRE, (wheel, 0.32, z), (0.34, 0.34))


def draw_truck(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw a lorry: a plain load box behind a cab."""
    paint, cab = dice.vary(dice.choice(PAINTS), 18), dice.vary(dice.choice(PAINTS), 18)
    half, length, height = dice.uniform(1.1, 1.28), dice.uniform(6, 10), dice.uniform(2.9, 3.9)
    _shadow(canvas, x, half, z, length)
    away = dice.chance(0.5)
    cab_z = (z + length - 1.8, z + length) if away else (z, z + 1.8)
    load_z = (z, z + length - 2.0) if away else (z + 2.0, z + length)
    for near_part in (not away, away):
        if near_part:
            canvas.box(TRUCK, cab, (x - half, x + half), (0.5, 2.6), cab_z)
            canvas.plate(TRUCK, GLASS, (x - half * 0.88, x + half * 0.88), (1.6, 2.4), cab_z[0])
        else:
            canvas.box(TRUCK, paint, (x - half, x + half), (0.9, height), load_z)
    if away:
        canvas.line(TRUCK, shade(paint, 0.75), (x, 0.9, z), (x, height, z), 0.06)
        canvas.plate(TRUCK, (170, 50, 40), (x - half, x + half), (0.72, 0.88), z)
    canvas.plate(TRUCK, (38, 38, 40), (x - half * 0.95, x + half * 0.95), (0.35, 0.75), z)
    for side in (-1, 1):
        wheel = x + side * half * 0.75
        canvas.plate(TRUCK, TYRE, (wheel - 0.22, wheel + 0.22), (0.0, 0.6), z)
    _axles(canvas, TRUCK, x, half, z, length, 0.48)


def draw_bus(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw a bus: a front pane and one band of windows along the side."""
    paint = dice.vary(dice.choice(PAINTS), 18)
    half, length, height = 1.27, dice.uniform(9, 13), dice.uniform(2.9, 3.3)
    _shadow(canvas, x, half, z, length)
    canvas.box(BUS, paint, (x - half, x + half), (0.35, height), (z, z + length))
    _window_band(canvas, BUS, x, half, (1.3, height - 0.45), (z + 0.4, z + length - 0.4), 7)
    canvas.plate(BUS, GLASS, (x - half * 0.88, x + half * 0.88), (1.25, height - 0.55), z)
    canvas.plate(BUS, (230, 160, 40), (x - 0.7, x + 0.7), (height - 0.42, height - 0.15), z)
    for side in (-1, 1):
        wheel = x + side * half * 0.78
        canvas.plate(BUS, TYRE, (wheel - 0.18, wheel + 0.18), (0.0, 0.5), z)
    _axles(canvas, BUS, x, half, z, length, 0.48)


def draw_train(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw a tram or train: several long coaches without visible wheels."""
    paint = dice.vary(dice.choice(PAINTS), 18)
    stripe = dice.vary(dice.choice(PAINTS), 18)
    half, height = 1.4, dice.uniform(3.3, 3.8)
    coach = dice.uniform(11, 14)
    _shadow(canvas, x, half, z, coach)
    for index in (2, 1, 0):
        near = z + index * (coach + 0.5)
        canvas.box(TRAIN, paint, (x - half, x + half), (0.15, height), (near, near + coach))
        _window_band(
            canvas, TRAIN, x, half, (1.5, height - 0.8), (near + 0.5, near + coach - 0.5), 9
        )
        _window_band(canvas, TRAIN, x, half, (0.8, 1.15), (near, near + coach), 1, stripe)
    canvas.plate(TRAIN, stripe, (x - half, x + half), (0.5, 1.1), z)
    canvas.plate(TRAIN, GLASS, (x - half * 0.75, x + half * 0.75), (1.5, height - 0.6), z)
    canvas.plate(TRAIN, (240, 235, 210), (x - 0.15, x + 0.15), (height - 0.4, height - 0.2), z)


def draw_person(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw a person who stands or walks."""
    height, stride = dice.uniform(1.45, 1.95), dice.uniform(0.02, 0.3)
    trousers, coat = (dice.vary(dice.choice(CLOTHES), 15) for _ in range(2))
    hip, shoulder, half = 0.5 * height, 0.83 * height, dice.uniform(0.19, 0.28)
    canvas.line(PERSON, trousers, (x - stride, 0, z), (x, hip, z), 0.17)
    canvas.line(PERSON, trousers, (x + stride, 0, z), (x, hip, z), 0.17)
    _torso(canvas, PERSON, coat, x, half, (hip - 0.08, shoulder), z)
    for side in (-1, 1):
        hand = x + side * (half + stride * 0.5)
        canvas.line(
            PERSON, shade(coat, 0.85), (x + side * half, shoulder - 0.06, z), (hand, hip, z), 0.1
        )
    _head(canvas, dice, PERSON, x, shoulder + 0.14, z)


def draw_cycle(
    canvas: Canvas, dice: Dice, x: float, z: float, *, ridden: bool, motor: bool
) -> None:
    """Draw a bicycle or motorcycle, seen from its side or along it, with or without its rider."""
    label = MOTORCYCLE if motor else BICYCLE
    paint = dice.vary(dice.choice(PAINTS), 20)
    if dice.chance(0.65):
        _cycle_side(canvas, label, paint, x, z, motor)
    else:
        wide = 0.14 if motor else 0.05
        canvas.line(label, TYRE, (x, 0, z), (x, 0.68, z), wide, least=2)
        canvas.line(label, paint, (x, 0.5, z), (x, 1.0, z), 0.32 if motor else 0.09, least=2)
        canvas.line(label, TYRE, (x - 0.34, 1.02, z), (x + 0.34, 1.02, z), 0.08)
    if ridden:
        coat, trousers = (dice.vary(dice.choice(CLOTHES), 15) for _ in range(2))
        lean = dice.uniform(-0.15, 0.15)
        canvas.line(RIDER, trousers, (x + lean, 0.95, z), (x + 0.12, 0.3, z), 0.16)
        _torso(canvas, RIDER, coat, x + lean, 0.23, (0.85, 1.45), z)
        canvas.line(RIDER, coat, (x + lean, 1.35, z), (x + lean + 0.4, 1.02, z), 0.1)
        _head(canvas, dice, RIDER, x + 1.2 * lean, 1.62, z, helmet=motor or dice.chance(0.5))


def draw_pole(canvas: Canvas, dice: Dice, x: float, z: float, carries: str) -> None:
    """Draw a post that carries a "lamp", a "light" (traffic light) or a "sign"."""
    metal = dice.grey(50, 165)
    inward = -1 if x > 0 else 1
    height = dice.uniform(5.5, 8.5) if carries == "lamp" else dice.uniform(2.9, 3.9)
    canvas.line(POLE, metal, (x, 0, z), (x, height, z), dice.uniform(0.12, 0.24), least=2)
    if carries == "lamp":
        arm = x + inward * dice.uniform(0.8, 2.0)
        canvas.line(POLE, metal, (x, height, z), (arm, height + 0.15, z), 0.12, least=2)
    elif carries == "light":
        _traffic_light(canvas, dice, x, height, z)
        if dice.chance(0.5):
            reach = x + inward * dice.uniform(2, 4)
            canvas.line(POLE, metal, (x, 5.2, z), (reach, 5.2, z), 0.14, least=2)
            canvas.line(POLE, metal, (x, height, z), (x, 5.2, z), 0.16, least=2)
            _traffic_light(canvas, dice, reach, 5.3, z)
    else:
        _sign(canvas, dice, x, height, z)


def draw_tree(canvas: Canvas, dice: Dice, x: float, z: float) -> None:
    """Draw a street tree; its trunk is vegetation too, as in Cityscapes."""
    height, crown = dice.uniform(4.5, 8), dice.uniform(1.2, 2.4)
    bark = dice.vary((85, 72, 58), 15)
    canvas.line(
        VEGETATION, bark, (x, 0, z), (x, height - crown, z), dice.uniform(0.2, 0.4), least=2
    )
    leaves = dice.vary(dice.choice(LEAVES), 18)
    for _ in range(7):
        dx, dy = dice.uniform(-crown, crown) * 0.7, dice.uniform(-crown, crown) * 0.6
        radius = crown * dice.uniform(0.45, 0.7)
        tone = shade(leaves, dice.uniform(0.7, 1.25))
        canvas.disc(VEGETATION, tone, (x + dx, height + dy, z), (radius, radius * 0.85))


def _shadow(canvas: Canvas, x: float, half: float, z: float, length: float) -> None:
    """Draw dark ground below a vehicle, labelled as road."""
    a, b, near, far = x - half - 0.15, x + half + 0.15, z - 0.25, z + length
    ground = [(a, 0.0, near), (b, 0.0, near), (b, 0.0, far), (a, 0.0, far)]
    canvas.polygon(0, (38, 38, 42), ground)


def _axles(
    canvas: Canvas, label: int, x: float, half: float, z: float, length: float, radius: float
) -> None:
    inner = x - half if x > 0 else x + half
    for share in (0.18, 0.8):
        canvas.disc(label, TYRE, (inner, radius, z + share * length), (0.15, radius))


def _window_band(
    canvas: Canvas,
    label: int,
    x: float,
    half: float,
    y: tuple[float, float],
    z: tuple[float, float],
    count: int,
    colour: Colour = GLASS,
) -> None:
    """Draw windows along the side that faces the camera's axis."""
    side = x - half if x > 0 else x + half
    if (x > 0) != (side > 0):
        return
    step = (z[1] - z[0]) / count
    pane = step * 0.86 if count > 1 else step
    spans = [(z[0] + index * step, z[0] + index * step + pane) for index in range(count)]
    canvas.side_panes(label, colour, side, [y], spans)


def _torso(
    canvas: Canvas,
    label: int,
    coat: Colour,
    x: float,
    half: float,
    y: tuple[float, float],
    z: float,
) -> None:
    low, high = y
    outline = [
        (x - half * 0.75, low, z), (x - half, high - 0.08, z), (x - half * 0.5, high, z),
        (x + half * 0.5, high, z), (x + half, high - 0.08, z), (x + half * 0.75, low, z),
    ]  # fmt: skip
    canvas.polygon(label, coat, outline)


def _head(
    canvas: Canvas, dice: Dice, label: int, x: float, y: float, z: float, *, helmet: bool = False
) -> None:
    canvas.disc(label, dice.choice(SKINS), (x, y, z), (0.11, 0.15))
    cover = dice.choice(PAINTS) if helmet else shade(dice.choice(CLOTHES), 0.6)
    canvas.disc(label, cover, (x, y + 0.08, z), (0.13, 0.1))


def _cycle_side(canvas: Canvas, label: int, paint: Colour, x: float, z: float, motor: bool) -> None:
    radius, base = (0.31, 0.68) if motor else (0.34, 0.54)
    for wheel in (x - base, x + base):
        canvas.disc(label, TYRE, (wheel, radius, z), (radius, radius), 0.13 if motor else 0.09)
    if motor:
        tank = [(x - 0.7, 0.75, z), (x - 0.1, 0.72, z), (x + 0.4, 0.98, z), (x + 0.55, 0.6, z)]
        canvas.polygon(label, paint, [*tank, (x + 0.2, 0.28, z), (x - 0.35, 0.28, z)])
        canvas.line(label, TYRE, (x + base, radius, z), (x + 0.45, 1.05, z), 0.1)
        return
    seat, bars, pedal = (x - 0.2, 0.9, z), (x + 0.42, 1.0, z), (x - 0.02, 0.3, z)
    rear, front = (x - base, radius, z), (x + base, radius, z)
    for start, end in (
        (rear, seat),
        (rear, pedal),
        (pedal, seat),
        (pedal, bars),
        (seat, bars),
        (bars, front),
    ):
        canvas.line(label, paint, start, end, 0.08, least=2)


def _traffic_light(canvas: Canvas, dice: Dice, x: float, top: float, z: float) -> None:
    case = dice.grey(20, 60, 6)
    canvas.plate(LIGHT, case, (x - 0.24, x + 0.24), (top - 1.15, top), z)
    lit = dice.integer(0, 2)
    for index, lamp in enumerate(((235, 50, 40), (240, 180, 50), (60, 220, 130))):
        colour = lamp if index == lit else shade(lamp, 0.25)
        canvas.disc(LIGHT, colour, (x, top - 0.2 - 0.37 * index, z), (0.15, 0.15))


def _sign(canvas: Canvas, dice: Dice, x: float, top: float, z: float) -> None:
    face = dice.vary(
        dice.choice(((190, 40, 40), (40, 80, 160), (225, 225, 220), (220, 180, 50))), 15
    )
    inner = dice.vary((225, 225, 220), 15)
    size = dice.uniform(0.36, 0.55)
    shape = dice.integer(0, 2)
    if shape == 0:
        canvas.disc(SIGN, face, (x, top, z), (size, size))
        canvas.disc(SIGN, inner, (x, top, z), (size * 0.6, size * 0.6))
    elif shape == 1:
        corners = [(x - size, top - size, z), (x, top + size, z), (x + size, top - size, z)]
        canvas.polygon(SIGN, face, corners)
        middle = [(x - size * 0.5, top - size * 0.7, z), (x, top + size * 0.4, z)]
        canvas.polygon(SIGN, inner, [*middle, (x + size * 0.5, top - size * 0.7, z)])
    else:
        wide = size * dice.uniform(0.9, 2.0)
        canvas.plate(SIGN, face, (x - wide, x + wide), (top - size, top + size), z)
        canvas.plate(SIGN, inner, (x - wide * 0.7, x + wide * 0.7), (top - 0.08, top + 0.08), z)
