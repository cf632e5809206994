"""Decodes the bytes of a mask file to labels or to colours of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainables.data.dataset import DataError
from trainables.data.image_decoding import (
    DEEP_MODES,
    decode_deep_png,
    open_whole,
    read_header,
    turn_of,
    turn_upright,
)

LABEL_MODES = ("L", "P", "1", *DEEP_MODES)
COLOUR_MODES = ("RGB", "RGBA", "LA", "PA")
_LOSSY_FORMATS = ("JPEG", "MPO")
_LOSSLESS_WEBP = b"VP8L"  # name of the part of the file that holds the image
_MAX_NAMED = 5


class Mask(NamedTuple):
    """Decoded mask.

    Attributes:
        values: Labels, (H, W) integers, or colours, (H, W, 3) uint8 RGB.
        is_palette: True if RGB values were looked up in the file's palette.
    """

    values: npt.NDArray[Any]
    is_palette: bool = False


def decode_mask(content: bytes, path: Path, *, by_colour: bool, upright: bool = True) -> Mask:
    """Decode a mask.

    Args:
        content: Bytes of the file.
        path: Path of the file, for error messages.
        by_colour: True if the classes declare colours. Palette indices are then replaced by their
            colours, and channels are kept. Otherwise palette indices are the labels, and three
            equal channels are one channel of labels.
        upright: False to ignore the EXIF orientation of the file.

    Raises:
        UnreadableFileError: The bytes are truncated or not an image.
        DataError: The format is lossy, or the mask contains colours that are not declared, or
            numbers that are not labels.
    """
    image = open_whole(content, path)
    is_lossy_webp = image.format == "WEBP" and _LOSSLESS_WEBP not in content
    is_jpeg_in_tiff = image.format == "TIFF" and image.info.get("compression") == "jpeg"
    if image.format in _LOSSY_FORMATS or is_lossy_webp or is_jpeg_in_tiff:
        kind = "JPEG-compressed TIFF" if is_jpeg_in_tiff else image.format
        raise DataError(
            f"{path}: is a {kind} mask; lossy formats change the values of masks: make it "
            "again from the original labels and save it as PNG"
        )
    mode, turn = image.mode, turn_of(image) if upright else 1
    if mode not in LABEL_MODES + COLOUR_MODES:
        raise DataError(
            f"{path}: is a label file of mode {mode!r}; allowed is one channel of labels (modes "
            f"{', '.join(LABEL_MODES)}) or RGB"
        )
    if mode == "F":
        return Mask(turn_upright(_whole_numbers(np.asarray(image), path), turn))
    if mode == "P" and by_colour:
        opaque = image.convert("RGBA") if "transparency" in image.info else image
        return Mask(turn_upright(np.asarray(opaque.convert("RGB")), turn), is_palette=True)
    if mode in LABEL_MODES:
        values = np.asarray(image)
        if values.dtype == np.bool_:
            values = values.astype(np.uint8) * (255 if by_colour else 1)
        return Mask(turn_upright(values, turn))
    is_deep = read_header(content, path).is_deep
    channels = decode_deep_png(content, path) if is_deep else np.asarray(image)
    channels = channels[..., : 3 if channels.shape[2] > 2 else 1]  # without opacity
    channels = turn_upright(channels, turn)
    if channels.shape[2] == 1:
        return Mask(channels[..., 0])
    if by_colour:
        return Mask(channels)
    first = channels[..., 0]
    if (first == channels[..., 1]).all() and (first == channels[..., 2]).all():
        return Mask(first)
    raise DataError(
        f"{path}: is a label file of mode {mode!r} whose channels differ, so it contains colours: "
        f"{name_colours(channels)}; write the colour of each class after its name in the file of "
        "classes, as in 'crop 0 255 0', or save one channel of labels"
    )


def name_colours(pixels: npt.NDArray[Any]) -> str:
    """Return the most frequent colours and their numbers of pixels as text.

    Args:
        pixels: RGB colours, (..., 3).
    """
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    frequent = np.argsort(counts)[::-1]
    named = [f"{' '.join(map(str, colours[i]))} ({counts[i]} pixels)" for i in frequent]
    more = len(named) - _MAX_NAMED
    return ", ".join(named[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _whole_numbers(values: npt.NDArray[Any], path: Path) -> npt.NDArray[np.int64]:
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise DataError(
            f"{path}: holds fractions or numbers that are not finite; labels are whole numbers"
        )
    return values.astype(np.int64)
