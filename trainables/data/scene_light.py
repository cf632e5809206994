"""Adds texture, shadow, light and sensor noise to a painted synthetic scene."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainables.data.scene import BUILDING, FENCE, PAVEMENT, ROAD, SKY, TERRAIN, VEGETATION, WALL

Float = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

# Noise amplitude of each class: per pixel, in blotches, along rows and along columns.
_GRAIN = np.full((4, 256), 3.0, dtype=np.float32)
_GRAIN[:, ROAD] = (6, 5, 4, 0)
_GRAIN[:, PAVEMENT] = (5, 6, 6, 0)
_GRAIN[:, BUILDING] = (3, 5, 6, 3)
_GRAIN[:, WALL] = (5, 7, 9, 0)
_GRAIN[:, FENCE] = (6, 4, 0, 9)
_GRAIN[:, VEGETATION] = (14, 13, 0, 0)
_GRAIN[:, TERRAIN] = (9, 7, 7, 0)
_GRAIN[:, SKY] = (1, 5, 3, 0)


def light_scene(picture: Image.Image, generator: np.random.Generator) -> tuple[UInt8, UInt8]:
    """Halve the resolution and add texture, a cast shadow, coloured light and sensor noise.

    Args:
        picture: Picture of 2W x 2H pixels with four channels: red, green, blue, class.
        generator: Source of every draw.

    Returns:
        image (3, H, W) and target (H, W), both uint8.
    """
    labels = np.asarray(picture.getchannel(3))[1::2, 1::2].copy()
    colours = (
        np.asarray(picture.reduce(2))[..., :3].transpose(2, 0, 1).astype(np.float32, order="C")
    )
    height, width = labels.shape
    texture = _texture(generator, labels)
    texture *= np.float32(generator.uniform(0.6, 1.5))
    colours += texture
    light = _shadow(generator, labels)
    light *= _slope(generator, height, width)
    colours *= light
    gains = generator.uniform(0.86, 1.14, size=(3, 1, 1)).astype(np.float32)
    gains *= np.float32(generator.uniform(0.6, 1.15))
    colours *= gains
    noise = generator.standard_normal((3, height, width), dtype=np.float32)
    noise *= np.float32(generator.uniform(2, 9))
    colours += noise
    colours += np.float32(generator.uniform(-8, 14))
    return np.clip(colours, 0, 255, out=colours).astype(np.uint8), labels


def _texture(generator: np.random.Generator, labels: UInt8) -> Float:
    """Make noise whose grain depends on the class: pixels, blotches, streaks in both directions."""
    height, width = labels.shape
    texture = generator.standard_normal((height, width), dtype=np.float32)
    texture *= _GRAIN[0].take(labels)
    for amplitudes, (tall, wide) in zip(_GRAIN[1:], ((4, 4), (2, 12), (12, 2)), strict=True):
        rows, columns = -(-height // tall), -(-width // wide)
        coarse = generator.standard_normal((rows, columns), dtype=np.float32)
        field = coarse.repeat(tall, axis=0).repeat(wide, axis=1)[:height, :width]
        texture += field * amplitudes.take(labels)
    return texture


def _shadow(generator: np.random.Generator, labels: UInt8) -> Float:
    """Make slanted shadows that fall only on the ground; 1 where there is none."""
    light = np.ones(labels.shape, dtype=np.float32)
    if generator.random() < 0.4:
        return light
    height, width = labels.shape
    ground = (labels <= PAVEMENT) | (labels == TERRAIN)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    start, slant, period = generator.uniform((0, -1.5, 40), (width, 1.5, 2 * width))
    across = (columns + slant * rows - start) % period
    dark = np.float32(generator.uniform(0.45, 0.8))
    light[ground & (across < period * generator.uniform(0.2, 0.6))] = dark
    return light


def _slope(generator: np.random.Generator, height: int, width: int) -> Float:
    """Make light that changes linearly from side to side and from top to bottom."""
    left, top = generator.uniform(-0.15, 0.15, size=2)
    rows = np.linspace(1 - top, 1 + top, height, dtype=np.float32)[:, None]
    columns = np.linspace(1 - left, 1 + left, width, dtype=np.float32)[None, :]
    return rows * columns
