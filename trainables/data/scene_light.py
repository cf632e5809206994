"""Texture, shadow, light and sensor noise over a painted synthetic scene."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainables.data.scene import PAVEMENT, ROAD, TERRAIN, VEGETATION

Float = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

# Amplitude per class of noise that varies by pixel, by some pixels, along rows and along columns.
_GRAIN = np.full((256, 4), 3.0, dtype=np.float32)
_GRAIN[ROAD] = (6, 5, 4, 0)
_GRAIN[PAVEMENT] = (5, 6, 6, 0)
_GRAIN[2] = (3, 5, 6, 3)
_GRAIN[3] = (5, 7, 9, 0)
_GRAIN[4] = (6, 4, 0, 9)
_GRAIN[VEGETATION] = (14, 13, 0, 0)
_GRAIN[TERRAIN] = (9, 7, 7, 0)
_GRAIN[10] = (1, 5, 3, 0)


def light_scene(pixels: UInt8, generator: np.random.Generator) -> tuple[UInt8, UInt8]:
    """Halve the resolution and add texture, a cast shadow, coloured light and sensor noise.

    Args:
        pixels: (2H, 2W, 4) uint8: red, green, blue, class.
        generator: Source of every draw.

    Returns:
        image (3, H, W) and target (H, W), both uint8.
    """
    labels = np.ascontiguousarray(pixels[1::2, 1::2, 3])
    colours = _halve(pixels[..., :3])
    height, width = labels.shape
    fields = _noise_fields(generator, height, width)
    texture = np.einsum(
        "fhw,hwf->hw", fields, _GRAIN[labels] * np.float32(generator.uniform(0.6, 1.5))
    )
    light = _shadow(generator, labels) * _vignette(generator, height, width)
    gains = generator.uniform(0.86, 1.14, size=(3, 1, 1)).astype(np.float32)
    gains *= np.float32(generator.uniform(0.6, 1.15))
    image = (colours + texture) * light * gains
    noise = generator.standard_normal((3, height, width), dtype=np.float32)
    image += noise * np.float32(generator.uniform(2, 9))
    image += np.float32(generator.uniform(-8, 14))
    return np.clip(image, 0, 255).astype(np.uint8), labels


def _halve(pixels: UInt8) -> Float:
    """Mean of 2 x 2 pixels, channels first."""
    total = pixels[0::2].astype(np.uint16)
    total += pixels[1::2]
    total = total[:, 0::2] + total[:, 1::2]
    halved: Float = total.transpose(2, 0, 1).astype(np.float32)
    halved *= np.float32(0.25)
    return halved


def _noise_fields(generator: np.random.Generator, height: int, width: int) -> Float:
    """(4, H, W): per pixel, in 4 x 4 blotches, in horizontal and in vertical streaks."""
    fields = np.empty((4, height, width), dtype=np.float32)
    generator.standard_normal(out=fields[0], dtype=np.float32)
    for field, (tall, wide) in zip(fields[1:], ((4, 4), (2, 12), (12, 2)), strict=True):
        rows, columns = -(-height // tall), -(-width // wide)
        coarse = generator.standard_normal((rows, columns), dtype=np.float32)
        field[:] = coarse.repeat(tall, axis=0).repeat(wide, axis=1)[:height, :width]
    return fields


def _shadow(generator: np.random.Generator, labels: UInt8) -> Float:
    """Slanted shadows that fall on the ground only; 1 where there is none."""
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


def _vignette(generator: np.random.Generator, height: int, width: int) -> Float:
    """Light that changes from side to side and from top to bottom."""
    left, top = generator.uniform(-0.15, 0.15, size=2)
    rows = np.linspace(1 - top, 1 + top, height, dtype=np.float32)[:, None]
    columns = np.linspace(1 - left, 1 + left, width, dtype=np.float32)[None, :]
    return rows * columns
