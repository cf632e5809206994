"""Configuration of the data set of a study, and of its augmentation."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from trainables.data import (
    DATASETS,
    AugmentationConfig,
    CachedDataset,
    DataError,
    DatasetName,
    SegmentationDataset,
    cache_dataset,
    create_dataset,
)
from trainables.data.folder import read_class_lines

_FOLDER_OPTIONS: dict[str, Any] = {
    "images": "images",
    "masks": "masks",
    "lists": "{}.txt",
    "classes": (),
    "image_suffix": "",
    "mask_suffix": "",
    "ignore": (),
    "encoding": "utf-8",
    "image_range": None,
}
"""Fields that only the data set "folder" accepts, with their defaults."""

_opened: dict[Hashable, SegmentationDataset] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A data set and its augmentation. docs/data.md describes layouts and errors.

    Attributes:
        name: Name of the data set: synthetic (built in), synthetic_drives (drives through its
            streets), camvid, cityscapes, or folder (your own images and masks).
        root: Folder of the data set (flag --data-root); default: the environment variable
            SEGFRONT_<NAME>. The synthetic data sets need none.
        size: Height and width that images are scaled to when they are cached, or drawn at for the
            synthetic data sets. None keeps the original size.
        num_samples: Number of training images of the synthetic data sets; validation has a quarter
            as many.
        images: Folder of the images below the root. This option and all that follow are for the
            data set "folder". It may contain {split}, as in {split}/images.
        masks: Folder of the masks below the root; may contain {split}.
        lists: Name of a split's list below the root, with {} for the split.
        classes: File with one class per line, followed by its colour if masks are in colours (crop
            0 255 0), or the lines themselves. Default: classes.txt below the root.
        image_suffix: Suffix of an image's name after the part that it shares with its mask, such as
            _image, or a pattern such as image_{}.
        mask_suffix: Suffix or pattern of a mask's name, such as _mask or mask_{}.
        ignore: Names of classes whose pixels count neither in a loss nor in a metric.
        encoding: Encoding of lists and classes that are not UTF-8 and have no byte order mark.
        image_range: Values that become 0 and 255 in images of more than 8 bits. Default: chosen
            from all images.
        augmentation: Augmentation of the training images: random scale, crop, flip and colour.
    """

    name: DatasetName = "synthetic"
    root: Annotated[Path | None, tyro.conf.arg(aliases=["--data-root"])] = None
    size: tuple[int, int] | None = None
    num_samples: int = 160
    images: str = "images"
    masks: str = "masks"
    lists: str = "{}.txt"
    classes: tuple[str, ...] = ()
    image_suffix: str = ""
    mask_suffix: str = ""
    ignore: tuple[str, ...] = ()
    encoding: str = "utf-8"
    image_range: tuple[float, float] | None = None
    augmentation: AugmentationConfig = field(
        default_factory=lambda: AugmentationConfig(crop_size=(128, 256))
    )

    def __post_init__(self) -> None:
        """Check the range of values.

        Raises:
            ValueError: The range is empty.
        """
        if self.image_range is not None and not self.image_range[0] < self.image_range[1]:
            raise ValueError(f"image_range must be two increasing values; got {self.image_range!r}")

    def resolve_root(self) -> Path | None:
        """Return the folder from the field or from the environment variable."""
        if self.root is not None or self.name.startswith("synthetic"):
            return self.root
        from_environment = os.environ.get(f"SEGFRONT_{self.name.upper()}")
        return Path(from_environment) if from_environment else None

    def settle(self) -> DataConfig:
        """Return a copy with an absolute root and the classes read, valid in any working directory.

        Raises:
            DataError: The file of classes is missing or is not text.
        """
        root = self._absolute_root()
        classes = self.classes
        if self.name == "folder" and classes:
            lines, _ = read_class_lines(root or Path(), classes, self.encoding)
            # An empty line at the end, so that a single class is not taken for the name of a file.
            classes = (*lines, "") if len(lines) < 2 else tuple(lines)
        return replace(self, root=root, classes=classes)

    def has_split(self, split: str) -> bool:
        """Return whether a split, such as "test", exists, judged by its folders and lists.

        Raises:
            DataError: The folder of the data is missing.
        """
        options = self._options(split)
        return DATASETS[self.name].has_split(self._absolute_root(), split, **options)

    def open(self, split: str) -> SegmentationDataset:
        """Open a split without decoding its images.

        The same object is returned again in a process as long as no file of the split changes.

        Raises:
            DataError: The folder, or a file of the layout, is missing.
            ValueError: An option is not one of this data set.
        """
        options = self._options(split)
        root = self._absolute_root()
        key = (self.name, root, split, tuple(sorted(options.items())))
        known = _opened.get(key)
        if known is not None and known.is_unchanged():
            return known
        _opened[key] = create_dataset(self.name, root, split, **options)
        return _opened[key]

    def find_value_range(self) -> tuple[float, float] | None:
        """Return the values that become 0 and 255 in deep training images; None: all have 8 bits.

        Raises:
            DataError: As for `open`.
        """
        found: tuple[float, float] | None = getattr(self.open("train"), "value_range", None)
        return found

    def open_cached(self, split: str, cache_dir: Path) -> CachedDataset:
        """Open a split that is decoded and checked once per node.

        Raises:
            DataError: A file is missing, unreadable or has labels outside the classes.
        """
        return cache_dataset(self.open(split), cache_dir)

    def open_all_cached(self, splits: Sequence[str], cache_dir: Path) -> list[CachedDataset]:
        """Open several splits as `open_cached` does.

        Raises:
            DataError: A split cannot be used; the message names every problem.
        """
        opened, problems = [], []
        for split in splits:
            try:
                opened.append(self.open_cached(split, cache_dir))
            except DataError as error:
                problems.append(str(error))
        if problems:
            raise DataError("\n".join(dict.fromkeys(problems)))
        return opened

    def _absolute_root(self) -> Path | None:
        root = self.resolve_root()
        return None if root is None else root.expanduser().absolute()

    def _options(self, split: str) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.size is not None:
            options["size"] = tuple(self.size)
        if self.name.startswith("synthetic"):
            is_train = split == "train"
            options["num_samples"] = self.num_samples if is_train else max(1, self.num_samples // 4)
        for name, default in _FOLDER_OPTIONS.items():
            value = getattr(self, name)
            if value == default:
                continue
            if self.name != "folder":
                flag = name.replace("_", "-")
                raise DataError(
                    f"--pipeline.data.{flag} needs --pipeline.data.name folder; the data "
                    f"set here is {self.name}"
                )
            options[name] = tuple(value) if isinstance(value, list) else value
        return options
