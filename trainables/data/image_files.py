"""Data sets of pairs of image and label files: reading, checking and scaling."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from trainables.data.file_records import (
    FileRecord,
    Identity,
    are_settled,
    identify_all,
    measure_ranges,
    read_file,
    record_of,
    records_of,
)
from trainables.data.image_decoding import (
    SWAPPING_TURNS,
    DrawnPixels,
    ImageHeader,
    UInt8Array,
    decode_pixels,
    find_drawn_pixels,
    turn_upright,
)
from trainables.data.label_files import decode_mask
from trainables.data.label_table import LabelTable
from trainables.data.palette import Colour
from trainables.data.value_range import ValueRange, choose_range, to_uint8

READING_VERSION = 2
"""Version of the decoding; raise it when the same files give different samples."""
_RANGE_LOCK = threading.Lock()


class ImagePair(NamedTuple):
    """One image file with its label file."""

    name: str
    image_path: Path
    mask_path: Path


class ImagePairDataset(SegmentationDataset):
    """Samples decoded from pairs of files, with a table from label values to train ids.

    Images and masks are turned according to their EXIF orientation. If the sizes show that the mask
    was drawn on the stored pixels, neither is turned. If sizes fit both ways, the other pairs of
    the split decide. Images of more than 8 bits are scaled to 0..255 by one range of values for all
    splits.

    Args:
        pairs: Image and label file of every sample, in order.
        classes: Class names, in the order of their train ids.
        split: Name of the split.
        train_ids: Train id of each label value in the files, or 255 for ignored. Other values are
            errors.
        size: (height, width) that every sample is scaled to (image bilinear, labels nearest); None
            keeps the size of the files.
        mask_colours: Train id of each RGB colour in the masks, or 255 for ignored, if the classes
            declare colours; None: masks contain labels.
        colours: RGB of each class for pictures; None: a default palette.
        image_range: Values that become 0 and 255 in images of more than 8 bits; None: chosen from
            the values in the images.
        find_all_images: Function that returns the image files of all splits, from which that range
            is chosen; called only if an image has more than 8 bits. Default: those of this split.
        sources: Lists and folders that name the files; if empty, the data set never counts as
            unchanged.
        warnings: Warnings from finding the files.

    Raises:
        DataError: A file is missing.
    """

    def __init__(
        self,
        pairs: Iterable[ImagePair],
        classes: Iterable[str],
        *,
        split: str,
        train_ids: Mapping[int, int],
        size: tuple[int, int] | None = None,
        mask_colours: Mapping[Colour, int] | None = None,
        colours: tuple[Colour, ...] | None = None,
        image_range: ValueRange | None = None,
        find_all_images: Callable[[], Sequence[Path]] | None = None,
        sources: Sequence[Path] = (),
        warnings: Iterable[str] = (),
    ) -> None:
        self.pairs = tuple(pairs)
        self.classes = tuple(classes)
        self.split = split
        self.size = None if size is None else check_positive_size("size", size)
        self.train_ids = dict(train_ids)
        self.mask_colours = None if mask_colours is None else dict(mask_colours)
        self.image_range = image_range
        self._labels = LabelTable(self.classes, self.train_ids, self.mask_colours)
        self._colours = colours
        self._found_warnings = tuple(warnings)
        self._find_all_images = find_all_images
        self._files = [path for pair in self.pairs for path in (pair.image_path, pair.mask_path)]
        self._sources = tuple(sources)
        self._identities: dict[Path, Identity] = {}
        self._is_settled = True
        self._note_identities([*self._files, *self._sources])

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.pairs)

    def sample_name(self, index: int) -> str:
        """Return the name of sample ``index``: its image file without the suffix."""
        return self.pairs[index].name

    def sample_size(self, index: int) -> tuple[int, int]:
        """Return height and width of sample ``index``, from the headers of its files."""
        if self.size is not None:
            return self.size
        pair = self.pairs[index]
        image = record_of(pair.image_path).require_header()
        if image.turn not in SWAPPING_TURNS:
            return image.upright_size
        mask = record_of(pair.mask_path).require_header()
        is_stored = find_drawn_pixels(image, mask) == "stored"
        return image.stored_size if is_stored else image.upright_size

    @property
    def colours(self) -> tuple[Colour, ...]:
        """See the base class."""
        return super().colours if self._colours is None else self._colours

    def is_unchanged(self) -> bool:
        """See the base class."""
        if not self._sources or not self._is_settled:
            return False
        try:
            known = self._identities
            return identify_all(known) == tuple(known.values())
        except DataError:  # a file is missing; opening the data set will name it
            return False

    def _note_identities(self, paths: Iterable[Path]) -> None:
        """Note the identities of further files and folders, for `is_unchanged`."""
        new = [path for path in dict.fromkeys(paths) if path not in self._identities]
        identities = identify_all(new)
        self._identities = {**self._identities, **dict(zip(new, identities, strict=True))}
        self._is_settled = self._is_settled and are_settled(identities)

    @functools.cached_property
    def _records(self) -> list[tuple[FileRecord, FileRecord]]:
        """Records of image and mask of every sample; reads every file without a record."""
        records = records_of(self._files)
        return list(zip(records[::2], records[1::2], strict=True))

    @functools.cached_property
    def _turned(self) -> dict[DrawnPixels, list[str]]:
        """Names of the samples whose mask has another EXIF orientation, by `find_drawn_pixels`."""
        names: dict[DrawnPixels, list[str]] = {"upright": [], "stored": [], "unclear": []}
        for pair, (image, mask) in zip(self.pairs, self._records, strict=True):
            if image.header and mask.header and image.header.turn != mask.header.turn:
                names[find_drawn_pixels(image.header, mask.header)].append(pair.name)
        return names

    def _is_upright(self, image: ImageHeader, mask: ImageHeader) -> bool:
        """Return whether to turn a sample; if its sizes do not show it, other samples decide."""
        drawn = find_drawn_pixels(image, mask)
        return drawn == "upright" or (drawn == "unclear" and not self._turned["stored"])

    @functools.cached_property
    def _is_deep(self) -> bool:
        """Whether an image has more than 8 bits per channel."""
        headers = (image.header for image, _ in self._records)
        return any(header is not None and header.is_deep for header in headers)

    @functools.cached_property
    def value_range(self) -> ValueRange | None:
        """Values that become 0 and 255; None if all images have 8 bits."""
        if not self._is_deep:
            return None
        if self.image_range is not None:
            return self.image_range
        with _RANGE_LOCK:
            found = () if self._find_all_images is None else self._find_all_images()
            images = found or [pair.image_path for pair in self.pairs]
            self._note_identities(images)
            ranges, is_float = measure_ranges(images)
        return choose_range(ranges, is_float=is_float) if ranges else (0.0, 255.0)

    @property
    def warnings(self) -> tuple[str, ...]:
        """See the base class; reads every file without a record."""
        return (*self._found_warnings, *self._reading_warnings())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the files' bytes, the samples' names and all settings of reading.

        Raises:
            DataError: A file is missing or cannot be read.
        """
        files = [
            (pair.name, image.digest, mask.digest)
            for pair, (image, mask) in zip(self.pairs, self._records, strict=True)
        ]
        colours = None if self.mask_colours is None else sorted(self.mask_colours.items())
        # Only where it matters, so that other data sets keep their fingerprints.
        unturned = self._turned["unclear"] if self._turned["stored"] else []
        return hash_content(
            {
                "name": self.name,
                "reading": READING_VERSION,
                "split": self.split,
                "classes": self.classes,
                "train_ids": sorted(self.train_ids.items()),
                "colours": colours,
                "size": self.size,
                "range": self.value_range,
                "files": files,
                **({"unturned": unturned} if unturned else {}),
            }
        )

    def __getitem__(self, index: int) -> Sample:
        """Decode sample ``index``; see the base class."""
        pair = self.pairs[index]
        image, target = self._decode(pair, self._expected_digests(index))
        if self.size is not None and self.size != target.shape:
            height, width = self.size
            scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            image = np.asarray(scaled)
            target = np.asarray(
                Image.fromarray(target).resize((width, height), Image.Resampling.NEAREST)
            )
        planes = np.array(image.transpose(2, 0, 1), order="C")
        return Sample(torch.from_numpy(planes), torch.from_numpy(np.array(target, order="C")))

    def _decode(
        self, pair: ImagePair, expected: tuple[str, str] | None
    ) -> tuple[UInt8Array, UInt8Array]:
        """Return image (H, W, 3) and target (H, W) at the size of the files."""
        image_bytes, image_record = read_file(pair.image_path)
        mask_bytes, mask_record = read_file(pair.mask_path)
        digests = (image_record.digest, mask_record.digest)
        if expected is not None and digests != expected:
            path = pair.image_path if digests[0] != expected[0] else pair.mask_path
            raise DataError(
                f"{path}: changed since the data set was opened; start again with the data as they "
                "are now"
            )
        image_header, mask_header = image_record.require_header(), mask_record.require_header()
        upright = self._is_upright(image_header, mask_header)
        pixels = decode_pixels(image_bytes, pair.image_path)
        if image_header.is_deep:
            pixels = to_uint8(pixels, self.value_range or (0.0, 255.0))
        image = turn_upright(pixels, image_header.turn) if upright else pixels
        by_colour = self.mask_colours is not None
        mask = decode_mask(mask_bytes, pair.mask_path, by_colour=by_colour, upright=upright)
        if image.shape[:2] != mask.values.shape[:2]:
            raise DataError(
                f"{pair.mask_path}: is {_spell(mask.values.shape[:2])} (height x width) but its "
                f"image {pair.image_path} is {_spell(image.shape[:2])}; both must have one size"
            )
        return image, self._labels.to_train_ids(mask, pair.mask_path)

    def _expected_digests(self, index: int) -> tuple[str, str] | None:
        """Return the digests in the fingerprint; None before it was computed."""
        if "_records" not in self.__dict__:
            return None
        image, mask = self._records[index]
        return image.digest, mask.digest

    def _reading_warnings(self) -> Iterator[str]:
        if self.value_range is not None:
            low, high = self.value_range
            flag = f" (--pipeline.data.image-range {low:g} {high:g})"
            yield (
                f"images have more than 8 bits: values from {low:g} to {high:g} were scaled to 0 "
                "to 255; a deployed network needs images that are scaled in the same way"
                + (flag if self.name == "folder" else "")
            )
        yield from self._turning_warnings()

    def _turning_warnings(self) -> Iterator[str]:
        unclear = self._turned["unclear"]
        stored = self._turned["stored"]
        if stored:
            likewise = f" ({len(unclear)} of them have sizes that fit both ways)" if unclear else ""
            yield (
                f"{len(stored) + len(unclear)} of {len(self)} images of {self.split!r} have an "
                "EXIF orientation, but their masks were drawn without it, such as "
                f"{stored[0]!r}: they are read unturned{likewise}"
            )
        elif unclear and not self._turned["upright"]:
            yield (
                f"{len(unclear)} of {len(self)} images of {self.split!r} have an EXIF orientation "
                f"and are turned, such as {unclear[0]!r}; their masks are not, because their sizes "
                "do not show on which pixels they were drawn: look at the preview that --check "
                "writes, and if the masks do not fit, remove the orientation from the images"
            )


def read_image(path: Path) -> UInt8Array:
    """Decode an image file, upright; more than 8 bits are scaled to 8 by the file's own range.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        DataError: The file is missing, truncated or not an image.
    """
    content, record = read_file(path)
    header = record.require_header()
    pixels = decode_pixels(content, path)
    if header.is_deep:
        values = (float(pixels.min()), float(pixels.max()))
        pixels = to_uint8(pixels, choose_range([values], is_float=pixels.dtype.kind == "f"))
    return np.ascontiguousarray(turn_upright(pixels, header.turn))


def read_mask(path: Path) -> npt.NDArray[np.integer]:
    """Decode a label file: a single channel, equal channels, or a palette's indices.

    Returns:
        (H, W) of integers.

    Raises:
        DataError: The file is missing, truncated, not an image or in colours.
    """
    content, _ = read_file(path)
    return decode_mask(content, path, by_colour=False).values


def _spell(shape: tuple[int, ...]) -> str:
    return " x ".join(str(value) for value in shape)
