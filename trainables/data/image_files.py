"""Data sets made of image files and label files in pairs: reading, checking and scaling them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from trainables.data.dataset import (
    DataError,
    Sample,
    SegmentationDataset,
    check_positive_size,
    hash_content,
)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
MASK_MODES = ("L", "P", "1", "I", "I;16")

UInt8Array = npt.NDArray[np.uint8]


class ImagePair(NamedTuple):
    """One image file with its label file."""

    name: str
    image_path: Path
    mask_path: Path


class ImagePairDataset(SegmentationDataset):
    """Samples decoded from pairs of files, with a table from label values to train ids.

    Args:
        pairs: Image and label file of every sample, in order.
        classes: Class names; position = train id.
        split: Name of the split.
        train_ids: Label value in the file -> train id, or 255 for ignored. Other values are errors.
        size: (height, width) to which every sample is scaled (image bilinear, labels nearest); None
            keeps the size of the files.

    Raises:
        DataError: No pair at all, or a file that is not there.
    """

    def __init__(
        self,
        pairs: Iterable[ImagePair],
        classes: Iterable[str],
        *,
        split: str,
        train_ids: Mapping[int, int],
        size: tuple[int, int] | None = None,
    ) -> None:
        self.pairs = tuple(pairs)
        self.classes = tuple(classes)
        self.split = split
        self.size = None if size is None else check_positive_size("size", size)
        self.train_ids = dict(train_ids)
        self._table = np.full(256, -1, dtype=np.int16)
        for label, train_id in self.train_ids.items():
            self._table[label] = train_id
        self._file_bytes = [
            (_file_bytes(p.image_path), _file_bytes(p.mask_path)) for p in self.pairs
        ]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.pairs)

    def sample_name(self, index: int) -> str:
        """Name of sample ``index``: its image file without the suffix."""
        return self.pairs[index].name

    def sample_size(self, index: int) -> tuple[int, int]:
        """Height and width of sample ``index``, from the header of its image file."""
        return self.size or _header_size(self.pairs[index].image_path)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of name, split, classes, label table, size, file names and file sizes in bytes."""
        files = [
            (pair.name, pair.image_path.name, pair.mask_path.name, *num_bytes)
            for pair, num_bytes in zip(self.pairs, self._file_bytes, strict=True)
        ]
        return hash_content(
            {
                "name": self.name,
                "split": self.split,
                "classes": self.classes,
                "train_ids": sorted(self.train_ids.items()),
                "size": self.size,
                "files": files,
            }
        )

    def __getitem__(self, index: int) -> Sample:
        """Decode sample ``index``; see the base class."""
        pair = self.pairs[index]
        image = read_image(pair.image_path)
        mask = read_mask(pair.mask_path)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{pair.mask_path}: is {_spell(mask.shape)} (height x width) but its image "
                f"{pair.image_path} is {_spell(image.shape[:2])}; both must have one size"
            )
        target = self._to_train_ids(mask, pair.mask_path)
        if self.size is not None and self.size != target.shape:
            height, width = self.size
            scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            image = np.asarray(scaled)
            target = np.asarray(
                Image.fromarray(target).resize((width, height), Image.Resampling.NEAREST)
            )
        planes = np.array(image.transpose(2, 0, 1), order="C")
        return Sample(torch.from_numpy(planes), torch.from_numpy(np.array(target, order="C")))

    def _to_train_ids(self, mask: npt.NDArray[np.integer], path: Path) -> UInt8Array:
        bounded = mask if mask.dtype == np.uint8 else np.clip(mask, 0, 255)
        train_ids = self._table[bounded]
        wrong = (train_ids < 0) | (bounded != mask)
        if wrong.any():
            values, counts = np.unique(mask[wrong], return_counts=True)
            found = ", ".join(
                f"{v} ({n} pixels)" for v, n in zip(values[:5], counts[:5], strict=True)
            )
            raise DataError(
                f"{path}: holds label {found} outside the {len(self.classes)} classes; "
                f"allowed are {_spell_labels(self.train_ids)}"
            )
        checked: UInt8Array = train_ids.astype(np.uint8)
        return checked


def read_image(path: Path) -> UInt8Array:
    """Decode an image file.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataError: The file is missing, truncated or no image.
    """
    pixels: UInt8Array = np.asarray(_open(path).convert("RGB"))
    return pixels


def read_mask(path: Path) -> npt.NDArray[np.integer]:
    """Decode a label file: a single channel, or a palette whose indices are the labels.

    Returns:
        (H, W) of integers.

    Raises:
        DataError: The file is missing, truncated, no image or has several channels.
    """
    image = _open(path)
    if image.mode not in MASK_MODES:
        raise DataError(
            f"{path}: is a label file of mode {image.mode!r}; allowed is one channel of labels "
            f"(modes {', '.join(MASK_MODES)}), not colours"
        )
    values: npt.NDArray[np.integer] = np.asarray(image)
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def list_images(folder: Path, *, hint: str = "") -> list[Path]:
    """Image files of a folder, sorted by name.

    Raises:
        DataError: The folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: folder is missing{hint}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DataError(f"{folder}: holds no image ({', '.join(IMAGE_SUFFIXES)}){hint}")
    return paths


def require_root(name: str, root: str | Path | None, *, advice: str = "") -> Path:
    """The data set's folder as a path.

    Raises:
        DataError: None was given, or it is not there; says how to name one.
    """
    if root is None:
        raise DataError(
            f"data set {name!r} needs its folder: give --data-root PATH (got none){advice}"
        )
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DataError(
            f"{path}: folder of data set {name!r} is missing: give another --data-root PATH{advice}"
        )
    return path


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise DataError(f"{path}: file is missing") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def _header_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: file is missing or cannot be read ({error.strerror})") from error


def _spell(shape: tuple[int, ...]) -> str:
    return " x ".join(str(value) for value in shape)


def _spell_labels(train_ids: Mapping[int, int]) -> str:
    kept = sorted(label for label, train_id in train_ids.items() if train_id != 255)
    ignored = sorted(label for label, train_id in train_ids.items() if train_id == 255)
    text = _spell_ranges(kept)
    return f"{text} and {_spell_ranges(ignored)} (ignored)" if ignored else text


def _spell_ranges(values: list[int]) -> str:
    """Write [0, 1, 2, 7] as "0 to 2, 7"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)
