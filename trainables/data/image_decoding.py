"""Decodes the bytes of an image file to pixels: depth, channels and EXIF orientation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, TiffImagePlugin
from torchvision.io import ImageReadMode, decode_png

from trainables.data.dataset import DataError, UnreadableFileError

Pixels = npt.NDArray[Any]
UInt8Array = npt.NDArray[np.uint8]
DrawnPixels = Literal["upright", "stored", "unclear"]

ORIENTATION = ExifTags.Base.Orientation
UPRIGHT = 1
SWAPPING_TURNS = (5, 6, 7, 8)
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# Markers of an EXIF orientation in a PNG; Pillow would decode the whole image to find it.
_PNG_TURN_MARKS = (b"eXIf", b"Raw profile type", b"tiff:Orientation")
_PNG_COLOUR_TYPES_READ_AS_8_BIT = (2, 4, 6)
_GREY_WITH_ALPHA = 4
_FROM_UPPER_BITS = 257


class ImageHeader(NamedTuple):
    """The header of an image file.

    Attributes:
        height: Height of the stored pixels.
        width: Width of the stored pixels.
        turn: EXIF orientation, 1 to 8; 1 is upright.
        is_deep: True if a pixel has more than 8 bits per channel.
    """

    height: int
    width: int
    turn: int
    is_deep: bool

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width of the stored pixels."""
        return self.height, self.width

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width of the image after applying its orientation."""
        if self.turn in SWAPPING_TURNS:
            return self.width, self.height
        return self.height, self.width


def find_drawn_pixels(image: ImageHeader, mask: ImageHeader) -> DrawnPixels:
    """Return the pixels of an image that its mask was drawn on, as far as the sizes show it.

    Returns:
        "upright" if it was drawn on the turned image, or if the mask is turned too; "stored" if it
        was drawn on the unturned image; "unclear" if both have the mask's size.
    """
    fits_upright = image.upright_size == mask.upright_size
    fits_stored = image.stored_size == mask.stored_size
    if fits_stored and not fits_upright:
        return "stored"
    is_unclear = fits_stored and image.turn != UPRIGHT and mask.turn == UPRIGHT
    return "unclear" if is_unclear else "upright"


def read_header(content: bytes, path: Path) -> ImageHeader:
    """Read size, orientation and depth without decoding.

    Args:
        content: Bytes of the file.
        path: Path of the file, for error messages.

    Raises:
        UnreadableFileError: The bytes are not an image.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            may_be_turned = image.format != "PNG" or any(m in content for m in _PNG_TURN_MARKS)
            turn = _turn_of(image) if may_be_turned and image.format != "TIFF" else UPRIGHT
            is_deep = image.mode in DEEP_MODES or _is_deep_png(content) or _is_cut(image)
            return ImageHeader(image.height, image.width, turn, is_deep)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def open_whole(content: bytes, path: Path) -> Image.Image:
    """Decode an image; TIFF images are turned upright.

    Raises:
        UnreadableFileError: The bytes are truncated or not an image.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return image
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def decode_pixels(content: bytes, path: Path) -> Pixels:
    """Decode the stored pixels of a photo, without applying its orientation.

    Returns:
        (H, W, 3) uint8 RGB, or, if the file is deep, (H, W) or (H, W, 3) of its own dtype.

    Raises:
        UnreadableFileError: The bytes are truncated or not an image.
        DataError: A pixel is not a finite number.
    """
    if _is_deep_png(content) and content[25] in _PNG_COLOUR_TYPES_READ_AS_8_BIT:
        values = decode_deep_png(content, path)
        return values[..., 0] if content[25] == _GREY_WITH_ALPHA else values[..., :3]
    image = open_whole(content, path)
    if image.mode in DEEP_MODES:
        pixels = np.asarray(image)
        if not np.isfinite(pixels).all():
            raise DataError(f"{path}: has pixels that are not finite; replace them by a number")
        return pixels
    if _is_cut(image):
        return np.asarray(image.convert("RGB")).astype(np.uint16) * _FROM_UPPER_BITS
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def decode_deep_png(content: bytes, path: Path) -> Pixels:
    """Decode a PNG of 16 bits per channel, of which Pillow keeps 8.

    Returns:
        (H, W, C) uint16.

    Raises:
        UnreadableFileError: The bytes are truncated.
    """
    try:
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        planes = decode_png(encoded, ImageReadMode.UNCHANGED)
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    return np.asarray(planes.permute(1, 2, 0).numpy())


def turn_upright(pixels: Pixels, turn: int) -> Pixels:
    """Turn stored pixels according to the EXIF orientation.

    Source: EXIF 2.32, tag 0x0112.

    Args:
        pixels: Stored pixels, (H, W) or (H, W, C).
        turn: EXIF orientation, 1 to 8.

    Returns:
        The upright pixels, as a view.
    """
    if turn in SWAPPING_TURNS:
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def turn_of(image: Image.Image) -> int:
    """Return the EXIF orientation of a decoded image, 1 to 8; 1 if it is damaged or unknown."""
    return UPRIGHT if image.format == "TIFF" else _turn_of(image)


def _unreadable(path: Path, error: Exception) -> UnreadableFileError:
    is_too_large = isinstance(error, Image.DecompressionBombError)
    remedy = "; cut it into tiles" if is_too_large else ""
    return UnreadableFileError(f"{path}: cannot be read as an image ({error}){remedy}")


def _turn_of(image: Image.Image) -> int:
    try:
        turn = image.getexif().get(ORIENTATION, UPRIGHT)
    except (OSError, SyntaxError, ValueError, KeyError):  # damaged EXIF has no orientation
        return UPRIGHT
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else UPRIGHT


def _is_cut(image: Image.Image) -> bool:
    """Return whether this is a 16-bit colour TIFF, of which Pillow keeps only the upper 8 bits."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or image.mode in DEEP_MODES:
        return False
    bits: tuple[int, ...] = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))
    return max(bits) > 8


def _is_deep_png(content: bytes) -> bool:
    return content.startswith(b"\x89PNG\r\n\x1a\n") and content[24:25] == b"\x10"
