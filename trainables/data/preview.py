"""A preview picture that shows whether images, masks and classes fit together."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from trainables.data.dataset import IGNORE_INDEX, SegmentationDataset
from trainables.data.palette import Colour

NUM_COLUMNS = 4
CELL_WIDTH = 320
LARGEST_CELL_HEIGHT = 400
MASK_OPACITY = 0.5
_GAP = 8
_TEXT = (20, 20, 20)
_PAPER = (255, 255, 255)
_FONT_SIZE = 14
_LINE_HEIGHT = 20
_LEGEND_WIDTH = 210

UInt8Array = npt.NDArray[np.uint8]


def write_preview(dataset: SegmentationDataset, path: Path, *, num_samples: int = 8) -> None:
    """Write a PNG of samples and of their masks in the classes' colours.

    Each sample is drawn above the same sample with its mask. A legend names the classes; ignored
    pixels are striped.

    Args:
        dataset: Training samples, preferably from the cache.
        path: Path of the PNG.
        num_samples: Number of samples, taken evenly from the data set; fewer if it has fewer.

    Raises:
        DataError: A sample cannot be read.
        OSError: The file cannot be written.
    """
    count = min(num_samples, len(dataset))
    shown = [index * len(dataset) // count for index in range(count)]
    cells = [_draw_cell(dataset, index) for index in shown]
    legend = _draw_legend(dataset.classes, dataset.colours)
    rows = [cells[start : start + NUM_COLUMNS] for start in range(0, count, NUM_COLUMNS)]
    parts = [_beside(row) for row in rows] + [legend]
    height = sum(part.height for part in parts) + _GAP * (len(parts) + 1)
    sheet = Image.new("RGB", (max(part.width for part in parts) + 2 * _GAP, height), _PAPER)
    top = _GAP
    for part in parts:
        sheet.paste(part, (_GAP, top))
        top += part.height + _GAP
    sheet.save(path, format="PNG")


def draw_mask(image: UInt8Array, target: UInt8Array, colours: Sequence[Colour]) -> UInt8Array:
    """Draw a mask over an image.

    Args:
        image: Image, (H, W, 3) uint8, RGB.
        target: Train id of each pixel, (H, W) uint8; 255 where no class applies.
        colours: RGB of each class.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colours)] = colours
    mixed = (1 - MASK_OPACITY) * image + MASK_OPACITY * table[target]
    rows, columns = np.indices(target.shape)
    is_stripe = (rows + columns) % 8 < 2
    mixed[(target == IGNORE_INDEX) & is_stripe] = 255
    # Mark the pixels where the class changes to the right or below, so that thin objects are
    # visible.
    edge = np.zeros(target.shape, dtype=bool)
    edge[:, :-1] |= target[:, :-1] != target[:, 1:]
    edge[:-1] |= target[:-1] != target[1:]
    mixed[edge] = 255
    return mixed.astype(np.uint8)


def _draw_cell(dataset: SegmentationDataset, index: int) -> Image.Image:
    """Draw one sample: its name, the image, and below it the image with its mask."""
    image, target = dataset[index]
    pixels = image.permute(1, 2, 0).numpy()
    height, width = target.shape
    scale = min(CELL_WIDTH / width, LARGEST_CELL_HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    labels = np.asarray(Image.fromarray(target.numpy()).resize(size, Image.Resampling.NEAREST))
    cell = Image.new("RGB", (CELL_WIDTH, _LINE_HEIGHT + 2 * size[1] + 2), _PAPER)
    title = textwrap.shorten(f"{dataset.sample_name(index)}  ({height} x {width})", 44)
    ImageDraw.Draw(cell).text((0, 0), title, fill=_TEXT, font=_font())
    cell.paste(Image.fromarray(small), (0, _LINE_HEIGHT))
    drawn = draw_mask(small, labels, dataset.colours)
    cell.paste(Image.fromarray(drawn), (0, _LINE_HEIGHT + size[1] + 2))
    return cell


def _beside(cells: Sequence[Image.Image]) -> Image.Image:
    width = len(cells) * (CELL_WIDTH + _GAP) - _GAP
    row = Image.new("RGB", (width, max(cell.height for cell in cells)), _PAPER)
    for place, cell in enumerate(cells):
        row.paste(cell, (place * (CELL_WIDTH + _GAP), 0))
    return row


def _draw_legend(classes: Sequence[str], colours: Sequence[Colour]) -> Image.Image:
    entries = [
        (f"{number} {name}", colour)
        for number, (name, colour) in enumerate(zip(classes, colours, strict=True))
    ]
    width = NUM_COLUMNS * (CELL_WIDTH + _GAP) - _GAP
    columns = width // _LEGEND_WIDTH
    lines = -(-(len(entries) + 1) // columns)
    legend = Image.new("RGB", (width, lines * _LINE_HEIGHT), _PAPER)
    draw = ImageDraw.Draw(legend)
    for place, (text, colour) in enumerate([*entries, ("255 ignored (striped)", None)]):
        left, top = place % columns * _LEGEND_WIDTH, place // columns * _LINE_HEIGHT
        box = (left, top + 2, left + 22, top + _LINE_HEIGHT - 4)
        draw.rectangle(box, fill=colour or _PAPER, outline=_TEXT)
        if colour is None:
            for offset in range(0, 22, 6):
                draw.line((left + offset, box[3], left + offset + 6, box[1]), fill=_TEXT)
        draw.text((left + 28, top), textwrap.shorten(text, 24), fill=_TEXT, font=_font())
    return legend


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_SIZE)
